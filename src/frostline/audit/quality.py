"""Images that are too dark, too bright, blurred or nearly of one colour."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from frostline.audit.findings import BLURRED, LOOK, TOO_BRIGHT, TOO_DARK, UNIFORM, Finding
from frostline.audit.robust import FAR, modified_z
from frostline.common.files import release
from frostline.common.fit_names import SQUASH, Fit
from frostline.data.fitting import without_margins

_DARK, _BRIGHT = 0.32 * 255, 0.95 * 255
"""An image whose 99th percentile of luminance is below the one is too dark, one whose 5th is above the other too
bright: the limits of CleanVision 0.3."""
_UNIFORM = 4.0
"""Standard deviation of luminance, of 255, below which an image shows nothing: JPEG's noise on one colour has less."""
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_BLOCK = 64  # images


def measure(images: np.ndarray, fit: Fit = SQUASH) -> NDArray[np.float64]:
    """Return four figures of each of `images`, (N, size, size, 3) uint8, as (N, 4).

    The 5th and 99th percentile and the standard deviation of luminance, 0 to 255, and the variance of its Laplacian by
    its own, which is small where an image is blurred (Pech-Pacheco et al. 2000, "Diatom autofocusing"; the division
    makes low contrast no blur). Of the picture alone, without the margins that `fit` has put around it: with them no
    picture would be dark, or of one colour.
    """
    measured = np.empty((len(images), 4))
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        if fit == "pad":
            measured[start : start + _BLOCK] = np.concatenate([_figures(_inside(image)[None]) for image in block])
        else:
            measured[start : start + _BLOCK] = _figures(block)
        release(images)
    return measured


def _inside(image: np.ndarray) -> np.ndarray:
    picture = without_margins(image)
    return picture if min(picture.shape[:2]) >= 3 else image  # else there would be no Laplacian


def _figures(images: np.ndarray) -> NDArray[np.float64]:
    grey = images @ _LUMINANCE
    middle = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * middle
    figures = np.empty((len(images), 4))
    figures[:, :2] = np.percentile(grey, [5, 99], axis=(1, 2)).T
    figures[:, 2] = grey.std(axis=(1, 2))
    figures[:, 3] = laplacian.var(axis=(1, 2)) / np.maximum(figures[:, 2], 1e-3) ** 2
    return figures


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
