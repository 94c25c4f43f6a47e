"""Grad-CAM's map as an image to lay over another, and in words."""

import io

import matplotlib
import numpy as np
from PIL import Image

_LEVELS = 16


def heat_png(heat: np.ndarray, size: tuple[int, int]) -> bytes:
    """Draw a map as a PNG file: red where the class is seen, transparent where it is not.

    Args:
        heat: (h, w) float from 0 to 1.
        size: height and width of the PNG, in pixels.
    """
    smooth = Image.fromarray(heat.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
    levels = np.rint(np.asarray(smooth).clip(0, 1) * (_LEVELS - 1)).astype(np.uint8)
    image = Image.fromarray(levels, "P")
    steps = np.linspace(0, 1, _LEVELS)
    colours = matplotlib.colormaps["turbo"](0.5 + 0.45 * steps, bytes=True)
    image.putpalette(colours[:, :3].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=(200 * steps).astype(np.uint8).tobytes())
    return buffer.getvalue()


def where(heat: np.ndarray) -> str:
    """Say where the centre of mass of the map `heat`, (h, w) float from 0 to 1, lies, by thirds of the image.

    For example ``mostly at the top left``; ``nowhere`` for a map that is 0 everywhere.
    """
    total = float(heat.sum())
    if not total:
        return "nowhere"
    rows, columns = ((np.arange(length) + 0.5) / length for length in heat.shape)
    y, x = float(heat.sum(axis=1) @ rows) / total, float(heat.sum(axis=0) @ columns) / total
    vertical, horizontal = ("top", "", "bottom")[int(3 * y)], ("left", "", "right")[int(3 * x)]
    return f"mostly at the {f'{vertical} {horizontal}'.strip() or 'centre'}"
