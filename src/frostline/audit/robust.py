"""Which values lie far from most others."""

import numpy as np
from numpy.typing import NDArray

FAR = 3.5
"""Iglewicz & Hoaglin 1993, "How to detect and handle outliers": modified z-scores above it are potential outliers."""


def modified_z(values: np.ndarray) -> NDArray[np.float64]:
    """How far each of `values`, (N,), lies above the median, in standard deviations that outliers do not inflate.

    0.6745 (x - median) / median(|x - median|), Iglewicz & Hoaglin 1993; all 0 where more than half are equal.
    """
    above = np.asarray(values, np.float64) - np.median(values)
    spread = np.median(np.abs(above))
    return 0.6745 * above / spread if spread else np.zeros_like(above)
