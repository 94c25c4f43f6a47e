"""Images that are too dark, too bright, blurred or nearly of one colour."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from frostline.audit.findings import BLURRED, LOOK, TOO_BRIGHT, TOO_DARK, UNIFORM, Finding
from frostline.audit.robust import FAR, modified_z
from frostline.common.files import release

_DARK, _BRIGHT = 0.32 * 255, 0.95 * 255
"""An image whose 99th percentile of luminance is below the one is too dark, one whose 5th is above the other too
bright: the limits of CleanVision 0.3."""
_UNIFORM = 4.0
"""Standard deviation of luminance, of 255, below which an image shows nothing: JPEG's noise on one colour has less."""
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_BLOCK = 64  # images


def measure(images: np.ndarray) -> NDArray[np.float64]:
    """Return four figures of each of `images`, (N, size, size, 3) uint8, as (N, 4).

    The 5th and 99th percentile and the standard deviation of luminance, 0 to 255, and the variance of its Laplacian by
    its own, which is small where an image is blurred (Pech-Pacheco et al. 2000, "Diatom autofocusing"; the division
    makes low contrast no blur).
    """
    measured = np.empty((len(images), 4))
    for start in range(0, len(images), _BLOCK):
        grey = images[start : start + _BLOCK] @ _LUMINANCE
        middle = grey[:, 1:-1, 1:-1]
        laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * middle
        rows = measured[start : start + _BLOCK]
        rows[:, :2] = np.percentile(grey, [5, 99], axis=(1, 2)).T
        rows[:, 2] = grey.std(axis=(1, 2))
        rows[:, 3] = laplacian.var(axis=(1, 2)) / np.maximum(rows[:, 2], 1e-3) ** 2
        release(images)
    return measured


def poor_images(measured: np.ndarray) -> Iterator[Finding]:
    """What is found in what `measure` returned, each image under one kind; blurred is relative to the whole set."""
    low, high, spread, sharpness = measured.T
    blur = modified_z(-np.log(sharpness + 1e-6))
    for row in range(len(measured)):
        if spread[row] < _UNIFORM:
            yield Finding(UNIFORM, row, 1 - spread[row] / 255, LOOK, f"luminance varies by ±{spread[row]:.1f} of 255")
        elif high[row] < _DARK:
            yield Finding(TOO_DARK, row, 1 - high[row] / 255, LOOK, f"99% is darker than {high[row] / 255:.0%}")
        elif low[row] > _BRIGHT:
            yield Finding(TOO_BRIGHT, row, low[row] / 255, LOOK, f"95% is brighter than {low[row] / 255:.0%}")
        elif blur[row] > FAR:
            yield Finding(BLURRED, row, blur[row], LOOK, f"{blur[row]:.1f} deviations below the median sharpness")
