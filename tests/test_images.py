"""Scaling, transparency, damage anywhere, contact sheets; the kinds of image are in tests/corpus.py."""

import numpy as np
import pytest
from PIL import Image

from corpus import S, encoded, plain, scene
from frostline.data.images import UnreadableImageError, contact_sheet, decode_image


def test_half_transparent_is_half_white():
    pixels = decode_image(plain("RGBA", (255, 0, 0, 51)), S // 2)  # 20% red
    assert np.abs(pixels.astype(int) - (255, 204, 204)).max() <= 1


def test_multi_image_jpeg_of_a_phone():
    data = encoded(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (S, S))], quality=100)
    assert np.abs(decode_image(data, S).astype(int) - np.asarray(scene())).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(("width", "height"), [(500, 360), (40, 700), (20, 9), (8 * S, 8 * S)])
def test_scaled_to_exactly_the_size_whatever_the_shape(kind, width, height):
    pixels = decode_image(encoded(scene(width, height), kind, quality=95, subsampling=0), S)
    assert np.abs(pixels.astype(int) - np.asarray(scene())).max() <= 16


def test_scaling_down_averages():
    """A fine checkerboard becomes even grey; without antialiasing it would become stripes or black."""
    board = (np.indices((16 * S, 16 * S)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for kind in ("PNG", "JPEG"):
        pixels = decode_image(encoded(Image.fromarray(board), kind), S)
        assert np.abs(pixels.astype(int) - 127.5).max() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damage_anywhere_gives_a_image_or_a_reason(kind, capfd):
    """Never another exception, never a word on the terminal."""
    options = {"TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    data = encoded(scene(60, 40), kind, **options)
    rng = np.random.default_rng(1)
    for _ in range(150):
        broken = bytearray(data[: rng.integers(1, len(data) + 1)])
        for position in rng.integers(0, len(broken), 4):
            broken[position] = rng.integers(0, 256)
        try:
            assert decode_image(bytes(broken), S).shape == (S, S, 3)
        except UnreadableImageError as error:
            assert len(str(error)) < 60
    assert capfd.readouterr() == ("", "")


def test_contact_sheet(tmp_path):
    images = np.stack([np.full((S, S, 3), 20 * number, np.uint8) for number in range(10)])
    for name in ("a.png", "b.png"):
        contact_sheet(images, ["cat", "dog"] * 5, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    width = sheet.shape[1] // 8
    height = sheet.shape[0] // 2
    assert (sheet[50, 3 * width + 50] == 60).all() and (sheet[height + 50, width + 50] == 180).all()
    captions = sheet[height - 14 : height, : 2 * width]
    assert (captions[:, :width] != captions[:, width:]).any()  # cat is not dog
