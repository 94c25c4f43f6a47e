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
    square.paste(image, (_before(size - image.width), _before(size - image.height)))
    return square


def _before(left_over: int) -> int:
    """So many of the lines that a picture leaves over are above it, or to its left, as by Pillow's ImageOps.pad."""
    return round(left_over / 2)


def without_margins(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture that `with_margins` has put in the middle of `image`, (size, size, 3), as a view.

    What is of their colour along the picture's own edges cannot be told apart from margins, and goes with them.
    """
    inked = (image != MARGIN).any(axis=2)
    above, below = _margins(inked.any(axis=1))
    left, right = _margins(inked.any(axis=0))
    if above + below >= left + right:  # there never were both
        return image[above : len(image) - below]
    return image[:, left : len(image) - right]


def _margins(inked: NDArray[np.bool_]) -> tuple[int, int]:
    """The most lines before and after those that are `inked`, (size,), that a picture in the middle can have."""
    found = np.flatnonzero(inked)
    if not len(found):
        return 0, 0
    before, after = int(found[0]), len(inked) - 1 - int(found[-1])
    even = 2 * min(before, after)
    first = _before(even + 1)
    return (first, even + 1 - first) if first <= before and even + 1 - first <= after else (even // 2, even // 2)
