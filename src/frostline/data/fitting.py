"""How a picture becomes a square: which part of it is scaled, to what size, and what lies around it."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.common.fit_names import Fit

MARGIN = 255
"""White, on which transparency is laid, too: a model meets one background, not two, and a drawing on a transparent or
white one has no edge where its margin begins."""


def scaled_to(whole: tuple[int, int], size: int, fit: Fit) -> tuple[int, int]:
    """Width and height, in pixels, at which a picture of the width and height `whole` stands in a square of `size`."""
    if fit != "pad":
        return size, size
    width, height = (max(1, round(side / max(whole) * size)) for side in whole)
    return width, height


def taken_of(whole: tuple[int, int], fit: Fit) -> tuple[float, float, float, float] | None:
    """The part of a picture that is scaled, as Pillow's box: left, top, right, bottom; None for all of it.

    To crop is to scale the largest centred square alone. The pixels are those of the whole picture, scaled until its
    shorter side fits and cropped then, without the cost of what is cut off: the filter looks over the square's edges.
    Where what is cut off is odd, the square begins at half a pixel.
    """
    if fit != "crop":
        return None
    side = min(whole)
    left, top = ((length - side) / 2 for length in whole)
    return left, top, left + side, top + side


def with_margins(image: Image.Image, size: int) -> Image.Image:
    """`image`, RGB, in the middle of a square of `size` pixels; what it leaves over is MARGIN."""
    if image.size == (size, size):
        return image
    square = Image.new("RGB", (size, size), (MARGIN, MARGIN, MARGIN))
    square.paste(image, (round((size - image.width) / 2), round((size - image.height) / 2)))
    return square


def without_margins(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture that `with_margins` has put in the middle of `image`, (size, size, 3), as a view.

    Margins of its own that are of the same colour cannot be told apart from these, and go with them.
    """
    inked = (image != MARGIN).any(axis=2)
    for axis in (0, 1):
        lines = np.flatnonzero(inked.any(axis=1 - axis))
        if not len(lines):
            break
        margin = min(lines[0], len(inked) - 1 - lines[-1])
        if margin:  # above and below, or to the left and right: never both
            return image[margin : len(inked) - margin] if axis == 0 else image[:, margin : len(inked) - margin]
    return image
