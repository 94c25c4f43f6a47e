"""Images: from the bytes of a file to an array of fixed size, or to a reason why not."""

import contextlib
import io
import logging
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from frostline.common.files import replacing
from frostline.common.fit_names import SQUASH, Fit
from frostline.data.fitting import scaled_to, taken_of, with_margins
from frostline.data.formats.bmp import is_bmp, open_bmp
from frostline.data.formats.gif import open_gif
from frostline.data.formats.jpeg import open_jpeg
from frostline.data.formats.picture import ImageTooLargeError, NotAImageError, Picture, UnreadableImageError
from frostline.data.formats.png import open_png
from frostline.data.formats.tiff import SIGNATURES as TIFF_SIGNATURES
from frostline.data.formats.tiff import open_tiff
from frostline.data.formats.webp import open_webp

__all__ = [
    "ImageTooLargeError",
    "NotAImageError",
    "UnreadableImageError",
    "as_png",
    "contact_sheet",
    "decode_image",
    "read_image",
]

_HEIF_BRANDS = {  # ISO/IEC 23008-12, after the "ftyp" that opens the file; phones write heic
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
ORIENTATION = 0x0112  # the EXIF tag; its values and what undoes them: CIPA DC-008, section 4.6.5.1
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_COLUMNS, _TILE, _CAPTION, _LETTERS = 8, 112, 16, 11  # the contact sheet: tiles in a row, pixels

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its complaints reach the terminal


def decode_image(data: bytes, size: int, fit: Fit = SQUASH) -> NDArray[np.uint8]:
    """Decode the file content `data` to RGB, as (size, size, 3) uint8.

    JPEG, PNG, GIF, WebP, BMP and TIFF are accepted, told by content. Only pixels count: transparency is laid on white,
    CMYK, grey, palette, and integers of other depths are converted, of an animation the first frame is taken, on its
    whole canvas. Of metadata the EXIF orientation is applied, and nothing else: values are taken as sRGB, as
    TensorFlow's decoders do, and what is damaged there does not matter.
    Pixels are scaled by an antialiasing bilinear filter; a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size where
    that still has as many pixels on both sides as it is scaled to.

    Args:
        data: the content of a file.
        size: side of the square, in pixels.
        fit: how a picture that is not square fills it. squash: width and height are scaled independently, as by Keras'
            ``image_dataset_from_directory``; crop: its largest centred square is taken (`taken_of`); pad: it keeps its
            shape, in the middle of white margins.

    Raises:
        UnreadableImageError: there is no such image in `data`.
    """
    if not data:
        raise UnreadableImageError("empty file")
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        raise NotAImageError(f"{_HEIF_BRANDS[data[8:12]]} is not supported: save it as JPEG")
    if data.startswith(_LFS_POINTER):
        raise NotAImageError("a pointer of Git LFS, the image itself was not fetched (`git lfs pull`)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = _open(data, size, fit)
            small = _to_rgb(picture.image, scaled_to(picture.whole or picture.image.size, size, fit), fit)
        except (UnreadableImageError, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise ImageTooLargeError from error
        except Exception as error:  # Pillow's decoders raise errors of many kinds on damaged data
            reason = "truncated" if "truncated" in str(error).lower() else "damaged"
            raise UnreadableImageError(reason) from error
        orientation = _orientation(picture)
    if orientation in _UPRIGHT:  # turning the small image is turning the large one, at a fraction of the cost
        small = small.transpose(_UPRIGHT[orientation])
    return np.array(with_margins(small, size))


def read_image(path: Path, size: int, fit: Fit = SQUASH) -> NDArray[np.uint8]:
    """Decode the file at `path` to RGB, as (size, size, 3) uint8; see `decode_image`.

    Raises UnreadableImageError, also where the system does not let the file be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():  # a pipe or a device would be waited for
            raise UnreadableImageError("not a regular file")
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    return decode_image(data, size, fit)


def _open(data: bytes, size: int, fit: Fit) -> Picture:
    if data.startswith(b"\xff\xd8\xff"):
        return open_jpeg(data, size, fit)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return open_png(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return open_gif(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return open_webp(data)
    if data.startswith(TIFF_SIGNATURES):
        return open_tiff(data)
    if is_bmp(data):
        return open_bmp(data)
    raise NotAImageError("not a JPEG, PNG, GIF, WebP, BMP or TIFF image")


def _orientation(picture: Picture) -> int:
    return orientation_in(picture.exif) if picture.exif else picture.orientation


def orientation_in(block: bytes) -> int:
    """What the EXIF `block` says of the side that is up; 1, as it lies, where it says nothing or is damaged."""
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # a broken EXIF block does not spoil the image
        exif.load(block)
        value = exif.get(ORIENTATION, 1)
        value = value[0] if isinstance(value, bytes) else value
        return value if isinstance(value, int) else 1
    return 1


def _to_rgb(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """Convert what `fit` takes of `image` to RGB of this width and height."""
    if image.has_transparency_data:
        # Pillow weighs colours by alpha while it scales, so laying the scaled image on white is exact
        rgba = _scale(_in_mode(image, "RGBA"), size, fit)
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return _scale(_in_mode(image, "RGB"), size, fit)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # which copies even where there is nothing to do


def _scale(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    return image.resize(size, Image.Resampling.BILINEAR, box=taken_of(image.size, fit), reducing_gap=2.0)


def as_png(image: NDArray[np.uint8]) -> bytes:
    """The file content, as PNG, of `image`, (height, width, 3) uint8 RGB."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def contact_sheet(images: NDArray[np.uint8], captions: Sequence[str], path: Path) -> None:
    """Write `images`, (N, S, S, 3) uint8 RGB, to the PNG file `path`: a grid with a caption under each."""
    rows = -(-len(images) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE, max(1, rows) * (_TILE + _CAPTION)), "white")
    for position, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(position, _COLUMNS)
        x, y = column * _TILE, row * (_TILE + _CAPTION)
        tile = Image.fromarray(np.asarray(image)).resize((_TILE - 2, _TILE - 2), Image.Resampling.BILINEAR)
        sheet.paste(tile, (x + 1, y + 1))
        _write(sheet, caption, (x + _TILE // 2, y + _TILE + _CAPTION // 2 - 1))
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")


def _write(sheet: Image.Image, caption: str, centre: tuple[int, int]) -> None:
    """Pillow's own font has Latin letters alone."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_LETTERS)
    if caption.isascii() and draw.textlength(caption, font) < _TILE:
        draw.text(centre, caption, "black", font, anchor="mm")
        return
    from frostline.fonts import lettering  # imports matplotlib

    ink = lettering.drawn(lettering.shortened(caption, (_TILE - 4) / _LETTERS), _LETTERS)
    sheet.paste("black", (centre[0] - ink.shape[1] // 2, centre[1] - ink.shape[0] // 2), Image.fromarray(ink))
