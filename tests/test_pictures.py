"""Every kind of picture, good and bad, and what becomes of it."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from frostline.pictures import UnreadablePictureError, contact_sheet, decode_picture

S = 32  # the size of everything here
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(width: int = S, height: int = S) -> Image.Image:
    """A smooth picture without symmetries."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return Image.fromarray((np.stack([x, y, x * y], axis=-1) * 255).astype(np.uint8))


def plain(mode: str, colour: Any, **options: Any) -> bytes:
    return encoded(Image.new(mode, (S, S), colour), **options)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # 1 bit grey: a bomb of a few bytes
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (S, S), colour) for colour in ("red", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def palette_with_hole() -> bytes:
    image = Image.new("P", (S, S), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, S, S // 2))
    return encoded(image, transparency=1)


def half_transparent(mode: str) -> bytes:
    image = Image.new("RGBA", (S, S), (255, 0, 0, 255) if mode == "RGBA" else (0, 0, 0, 255))
    image.paste((0, 0, 255, 0), (0, 0, S, S // 2))
    return encoded(image.convert(mode))


FLAT = {
    "bmp": (plain("RGB", RED, kind="BMP"), RED),
    "webp": (plain("RGB", RED, kind="WEBP", lossless=True), RED),
    "tiff": (plain("RGB", RED, kind="TIFF"), RED),
    "tiff lzw": (plain("RGB", RED, kind="TIFF", compression="tiff_lzw"), RED),
    "grey": (plain("L", 77), (77, 77, 77)),
    "black and white": (plain("1", 1), WHITE),
    "grey jpeg": (plain("L", 77, kind="JPEG"), (77, 77, 77)),
    "16-bit grey": (encoded(Image.fromarray(np.full((S, S), 40 * 257 - 100, np.uint16))), (40, 40, 40)),
    "16-bit grey tiff": (encoded(Image.fromarray(np.full((S, S), 40 * 257, np.uint16)), "TIFF"), (40, 40, 40)),
    "32-bit grey tiff": (encoded(Image.fromarray(np.full((S, S), 40 * 257, np.int32)), "TIFF"), (40, 40, 40)),
    "cmyk jpeg": (plain("CMYK", (0, 255, 255, 0), kind="JPEG", quality=100), RED),
    "cmyk tiff": (plain("CMYK", (0, 255, 255, 0), kind="TIFF"), RED),
    "lab tiff": (plain("LAB", (255, 128, 128), kind="TIFF"), WHITE),
    "1x1": (encoded(Image.new("RGB", (1, 1), RED)), RED),
    "animated gif": (animation("GIF"), RED),
    "animated png": (animation("PNG"), RED),
    "grey with a colour for transparent": (plain("L", 77, transparency=77), WHITE),
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_pictures_keep_their_colour(name: str) -> None:
    data, colour = FLAT[name]
    pixels = decode_picture(data, S)
    assert pixels.shape == (S, S, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - colour).max() <= 2


def test_first_frame_of_an_animated_webp() -> None:
    assert np.abs(decode_picture(animation("WEBP"), S).astype(int) - RED).max() < 12


@pytest.mark.parametrize(
    ("data", "colour"),
    [(palette_with_hole(), RED), (half_transparent("RGBA"), RED), (half_transparent("LA"), (0, 0, 0))],
    ids=["palette", "RGBA", "LA"],
)
def test_transparency_is_laid_on_white(data: bytes, colour: tuple[int, int, int]) -> None:
    pixels = decode_picture(data, S)
    assert (pixels[: S // 2] == 255).all()
    assert (pixels[S // 2 :] == colour).all()


def test_half_transparent_is_half_white() -> None:
    pixels = decode_picture(plain("RGBA", (255, 0, 0, 51)), S // 2)  # 20% red
    assert np.abs(pixels.astype(int) - (255, 204, 204)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    upright = scene(S, S)
    exif = Image.Exif()
    exif[0x0112] = orientation
    # made by Pillow's own exif_transpose; each orientation is its own inverse, but 6 and 8 are each other's
    marked = Image.Exif()
    marked[0x0112] = {6: 8, 8: 6}.get(orientation, orientation)
    stored = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(upright, "PNG", exif=marked))))
    clean = Image.fromarray(np.asarray(stored))
    data = encoded(clean, kind, exif=exif, quality=100, lossless=True, subsampling=0)
    pixels = decode_picture(data, S)
    assert np.abs(pixels.astype(int) - np.asarray(upright)).max() <= (6 if kind == "JPEG" else 0)


def test_broken_exif_does_not_spoil_the_picture() -> None:
    data = encoded(scene(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode_picture(data, S).shape == (S, S, 3)


def test_icc_profile_is_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert (decode_picture(encoded(scene(), icc_profile=profile), S) == np.asarray(scene())).all()


def test_multi_picture_jpeg_of_a_phone() -> None:
    data = encoded(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (S, S))], quality=100)
    assert np.abs(decode_picture(data, S).astype(int) - np.asarray(scene())).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(("width", "height"), [(500, 360), (40, 700), (20, 9), (8 * S, 8 * S)])
def test_scaled_to_exactly_the_size_whatever_the_shape(kind: str, width: int, height: int) -> None:
    pixels = decode_picture(encoded(scene(width, height), kind, quality=95, subsampling=0), S)
    assert np.abs(pixels.astype(int) - np.asarray(scene())).max() <= 16


def test_scaling_down_averages() -> None:
    """A fine checkerboard becomes even grey; without antialiasing it would become stripes or black."""
    board = (np.indices((16 * S, 16 * S)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for kind in ("PNG", "JPEG"):
        pixels = decode_picture(encoded(Image.fromarray(board), kind), S)
        assert np.abs(pixels.astype(int) - 127.5).max() < 3


PHOTO = encoded(scene(500, 360), "JPEG")
PNG = encoded(Image.effect_noise((200, 200), 80), "PNG")
TIFF = encoded(Image.effect_noise((200, 200), 80), "TIFF", compression="tiff_adobe_deflate")
NOT_A_PICTURE = "not a JPEG, PNG, GIF, WebP, BMP or TIFF picture"
BAD = {
    "no bytes": (b"", "empty file"),
    "text": (b"<html>404 Not Found</html>", NOT_A_PICTURE),
    "a film": (b"\0\0\0\x18ftypmp42" + bytes(64), NOT_A_PICTURE),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', NOT_A_PICTURE),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", NOT_A_PICTURE),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(64), "HEIC is not supported"),
    "avif": (encoded(scene(), "AVIF"), "AVIF is not supported"),
    "jpeg cut in half": (PHOTO[: len(PHOTO) // 2], "truncated"),
    "jpeg without its end": (PHOTO[:-200], "truncated"),
    "jpeg header alone": (PHOTO[:20], NOT_A_PICTURE),
    "png cut in half": (PNG[: len(PNG) // 2], "truncated"),
    "png with a flipped byte": (PNG[:100] + bytes([PNG[100] ^ 255]) + PNG[101:], "damaged"),
    "tiff with a damaged strip": (TIFF[:500] + b"\xff" * 500 + TIFF[1000:], "damaged"),  # libtiff is loud
    "bomb": (png_header(30_000, 30_000), "more than 100 megapixels"),
    "small bomb": (png_header(11_000, 11_000), "more than 100 megapixels"),
    "float tiff": (plain("F", 0.5, kind="TIFF"), "floating-point pixels are not supported"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_with_a_reason_and_without_noise(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, reason = BAD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadablePictureError) as caught:
            decode_picture(data, S)
    assert str(caught.value) == reason
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damage_anywhere_gives_a_picture_or_a_reason(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Never another exception, never a word on the terminal."""
    options = {"TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    data = encoded(scene(60, 40), kind, **options)
    rng = np.random.default_rng(1)
    for _ in range(150):
        broken = bytearray(data[: rng.integers(1, len(data) + 1)])
        for position in rng.integers(0, len(broken), 4):
            broken[position] = rng.integers(0, 256)
        try:
            assert decode_picture(bytes(broken), S).shape == (S, S, 3)
        except UnreadablePictureError as error:
            assert len(str(error)) < 60
    assert capfd.readouterr() == ("", "")


def test_a_text_bomb_in_a_png_is_refused() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * (100 << 20), zip=True)
    with pytest.raises(UnreadablePictureError):
        decode_picture(encoded(scene(), pnginfo=info), S)


def test_contact_sheet(tmp_path: Path) -> None:
    pictures = np.stack([np.full((S, S, 3), 20 * number, np.uint8) for number in range(10)])
    for name in ("a.png", "b.png"):
        contact_sheet(pictures, ["cat", "dog"] * 5, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    width = sheet.shape[1] // 8
    height = sheet.shape[0] // 2
    assert (sheet[50, 3 * width + 50] == 60).all() and (sheet[height + 50, width + 50] == 180).all()
    captions = sheet[height - 14 : height, : 2 * width]
    assert (captions[:, :width] != captions[:, width:]).any()  # cat is not dog
