"""How log loss falls with the number of training images, and what more of them would give."""

from dataclasses import dataclass

import numpy as np

from frostline.runtime.errors import FrostlineError

# Exponents that are found: 0.07 to 0.35 for deep networks trained from scratch (Hestness et al. 2017), 1 for the loss
# of a parametric model near its optimum, more where a curve is still steep (Viering & Loog 2022, "The shape of
# learning curves: a review").
_EXPONENTS = np.geomspace(0.1, 2, 25)
_STEPS = 49  # of the grid over levels and over drops
_REACH = 4  # standard errors that the grid goes beyond what was measured
_OWN_NOISE = 0.05  # of the level: noise of one run as assumed before any was seen, worth _OWN_DEGREES runs
_OWN_DEGREES = 2
_LEAST = 0.02  # of the measured loss at the largest size: where the grid's levels begin
HARDLY = 0.98
"""What is left of a loss that has hardly changed: so much of it, or more."""
_NEGLIGIBLE = 1e-5  # of the highest weight: curves below it are dropped


@dataclass(frozen=True)
class LearningCurve:
    """Power laws a + b * n^-c that fit the measured losses, M of them, the most probable one first."""

    a: np.ndarray
    """(M,) float64, at least 0: the loss that no number of images gets below."""
    b: np.ndarray
    """(M,) float64, at least 0."""
    c: np.ndarray
    """(M,) float64, from 0.1 to 2."""
    weights: np.ndarray
    """(M,) float64: how probable each is; they add up to 1."""

    def forecast(self, images: float) -> tuple[float, float, float]:
        """Return the median log loss with `images` training images, and the 80% interval's low and high.

        None of the three rises with `images`.
        """
        losses = self.a + self.b * float(images) ** -self.c
        order = np.argsort(losses, kind="stable")
        below = np.cumsum(self.weights[order])
        at = np.searchsorted(below, np.array([0.5, 0.1, 0.9]) * below[-1])
        median, low, high = losses[order[at]]
        return float(median), float(low), float(high)


def fit_learning_curve(sizes: np.ndarray, losses: np.ndarray) -> LearningCurve:
    """Fit a + b * n^-c to the mean loss at each size, and keep all curves that could be the true one.

    Three or four sizes never settle three parameters: a best curve with a bootstrap around it would be too sure of its
    exponent. So a grid of curves is weighted by how well each fits, by Bayes' rule. Before the data all are as probable
    that differ in the logarithms of c and of the loss at the largest size, or in the share of that loss that stays for
    good. Runs are noisy: their means' covariance is estimated, what a run has at all sizes apart, and the fit is by
    Student's t for it.

    Args:
        sizes: (K,) numbers of training images, rising, K at least 2.
        losses: (K, R) float64: of R runs at each size. A run is one fold, its images the same at every size: average
            over seeds first, as trainings of one fold share its images. With R = 1 a noise of 5% is assumed.

    Raises:
        FrostlineError: a loss is not a number.
        ValueError: the shapes do not fit, or the sizes do not rise.
    """
    sizes, losses = np.asarray(sizes, np.float64), np.asarray(losses, np.float64)
    if losses.ndim != 2 or sizes.shape != losses.shape[:1] or len(sizes) < 2 or not losses.shape[1]:
        raise ValueError(f"{losses.shape} losses for {sizes.shape} sizes")
    if sizes[0] <= 0 or np.any(np.diff(sizes) <= 0):
        raise ValueError(f"sizes must rise: {sizes}")
    if not np.all(np.isfinite(losses)):
        raise FrostlineError(
            "A log loss of the learning curve is no number: training diverged.\nLower the learning rate and run again."
        )
    means, covariance = losses.mean(axis=1), _covariance_of_means(losses)
    if means[-1] <= 0:  # nothing is left to learn
        return LearningCurve(np.zeros(1), np.zeros(1), np.ones(1), np.ones(1))

    reach = _REACH * float(covariance.diagonal().max()) ** 0.5
    levels = np.linspace(max(_LEAST * means[-1], means[-1] - reach), means[-1] + reach, _STEPS)
    drops = np.linspace(0, max(0.0, means[0] - means[-1]) + reach, _STEPS)
    level, drop, c = (axis.ravel() for axis in np.meshgrid(levels, drops, _EXPONENTS, indexing="ij"))
    b = drop / (sizes[0] ** -c - sizes[-1] ** -c)
    a = level - b * sizes[-1] ** -c
    before = -np.log(level * ((sizes[-1] / sizes[0]) ** c - 1))  # the grid is even over drops, not over shares
    a, b, c, before = (each[a >= 0] for each in (a, b, c, before))

    off = a + b * sizes[:, None] ** -c - means[:, None]
    distance = np.sum(off * np.linalg.solve(covariance, off), axis=0)
    degrees = max(_OWN_DEGREES, losses.shape[1] - 1)
    # More sizes than the three parameters say more of the shape, but not of the error that all sizes share.
    fit = before - (degrees + min(3, len(sizes))) / 2 * np.log1p(distance / degrees)
    order = np.argsort(-fit, kind="stable")
    weights = np.exp(fit[order] - fit[order[0]])
    kept = order[weights > _NEGLIGIBLE]
    weights = weights[: len(kept)]
    return LearningCurve(a[kept], b[kept], c[kept], weights / weights.sum())


def what_more_images_give(curve: LearningCurve, now: int, more: int) -> str:
    """Say what `more` training images beside `now` would give, as one clause without a full stop."""
    (before, *_), (after, low, high) = curve.forecast(now), curve.forecast(now + more)
    hardly = after >= HARDLY * before
    digits = 2 if after >= 0.1 else 3
    while not hardly and f"{before:.{digits}f}" == f"{after:.{digits}f}":
        digits += 1
    old, new, *ends = (f"{value:.{digits}f}" for value in (before, after, low, high))
    span = f"({ends[0]} to {ends[1]})"
    if hardly:
        return f"{more:,} more images would hardly change log loss: it would stay about {new} {span}"
    return f"{more:,} more images would lower log loss from about {old} to about {new} {span}"


def _covariance_of_means(losses: np.ndarray) -> np.ndarray:
    """Of the mean of `losses` (K, R) over the runs, (K, K): what each run has at all sizes, and its noise at each."""
    count, runs = losses.shape
    assumed = (_OWN_NOISE * float(losses.mean())) ** 2
    common, noise = 0.0, np.zeros(count)
    if runs > 1:
        found = np.cov(losses)
        own = found.diagonal()
        common = min(max(0.0, float((found.sum() - own.sum()) / (count * (count - 1)))), float(own.min()))
        noise = own - common
    noise = ((runs - 1) * noise + _OWN_DEGREES * assumed) / (runs - 1 + _OWN_DEGREES)
    covariance: np.ndarray = (common + np.diag(noise)) / runs
    return covariance
