import io

import numpy as np
import pytest
from PIL import Image

from frostline.explain.heat_map import heat_png, where


def test_the_overlay_is_red_where_the_class_is_seen_and_transparent_where_it_is_not():
    heat = np.zeros((6, 6), np.float32)
    heat[:, :3] = 1
    image = Image.open(io.BytesIO(heat_png(heat, (40, 60))))
    assert image.size == (60, 40)
    pixels = np.asarray(image.convert("RGBA"))
    red, green, blue, alpha = pixels[20, 5]
    assert red > green
    assert red > blue
    assert 150 < alpha < 255
    assert pixels[20, 55, 3] == 0


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [(0, 0, "top left"), (0, 3, "top"), (3, 3, "centre"), (3, 6, "right"), (6, 3, "bottom"), (6, 6, "bottom right")],
)
def test_a_place_is_named_by_thirds(row, column, words):
    heat = np.zeros((7, 7), np.float32)
    heat[row, column] = 1
    assert where(heat) == f"mostly at the {words}"


def test_no_heat_is_nowhere():
    assert where(np.zeros((7, 7), np.float32)) == "nowhere"
