"""What a study says: each labelled image judged, under each of S seeds, by a model that never saw it.

A study trains once per seed and fold. A training's luck (its head, its order, its dropout) shifts the losses of all
images of its fold, so S x N losses hold much less than S x N facts. An interval here covers which images were labelled
and the luck of training. What the choice of the training images adds is left out: it cannot be estimated from one data
set (Bengio & Grandvalet 2004, "No unbiased estimator of the variance of k-fold cross-validation"), and is small where
learning is stable (Bayle, Bayle, Janson & Mackey 2020, "Cross-validation confidence intervals for test error"). Nadeau
& Bengio's (2003) correction would more than double the variance of the images, too: 98% to 99% instead of 95%.
`benchmarks/study_intervals.py` trains real classifiers, draws that choice, too, and measures the coverage.

Throughout, `folds` (N,) int says which fold each image is in, and trainings of one seed in several folds are
independent: their seeds must differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from frostline.metrics.bootstrap import Interval
from frostline.runtime.errors import FrostlineError

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate(Interval):
    """A mean over images and trainings with its 95% interval, in the unit of its figure."""

    mean: float
    standard_error: float
    degrees: float
    """Degrees of freedom of the standard error: how much it is to be trusted."""
    p_value: float
    """Two-sided, that the mean is 0: below 0.05 where the interval excludes it."""


@dataclass(frozen=True)
class Ranking:
    """P points of a study beside the one of the lowest mean loss."""

    best: int
    """The first point of the lowest mean."""
    means: list[Estimate]
    """The loss of each point, alone: mostly how hard the images are, so that no two may be compared by it."""
    differences: list[Estimate]
    """From the best, image by image; each interval as if no other point were there."""
    p_values: np.ndarray
    """(P,) float64: one-sided, that a point is no worse than the best, corrected for all comparisons."""
    within: np.ndarray
    """(P,) bool: the points that could be the best."""


def mean_difference(differences: np.ndarray, folds: np.ndarray) -> Estimate:
    """Estimate the expected difference of two models' losses, over images and the luck of training.

    The variance of the mean is the sum of its components, estimated by analysis of variance (Searle, Casella &
    McCulloch 1992, "Variance components", ch. 3), with Satterthwaite's (1946) degrees of freedom:

    - of images and of the noise per image and training, from images within their folds;
    - of the trainings' luck, from how the fold means change with the seed. With one seed, luck shows only in how the
      fold means differ, beyond what their images explain: k - 1 degrees of freedom, so the interval is wide.

    Losses are skewed: few images cost much, and a sample often holds too few of these. Where the differences have a
    long tail, the end on its side moves outwards as Johnson (1978), "Modified t tests and confidence intervals for
    asymmetrical populations", says. The other end stays, which costs a little length, never coverage.

    Args:
        differences: (S, N) float64: under each seed, the candidate's loss of each image minus the baseline's.
        folds: (N,) int.

    Raises:
        FrostlineError: a difference is not a number, or there are neither two folds nor two seeds.
    """
    differences = _checked(differences, folds)
    per_image = differences.mean(axis=0)
    mean = float(per_image.mean())
    variance, degrees = _variance_of_mean(differences, folds)
    if variance == 0:
        return Estimate(mean, mean, mean, 0.0, degrees, 1.0 if mean == 0 else 0.0)
    error, count = variance**0.5, len(per_image)
    skew = float(np.mean((per_image - mean) ** 3)) / count**2 / variance**1.5  # of the mean, not of one image
    quantile = float(stdtrit(degrees, (1 + LEVEL) / 2))
    lower, upper = (error * (quantile + max(0.0, tail) * (2 * quantile**2 + 1) / 6) for tail in (-skew, skew))
    p_value = 2 * float(stdtr(degrees, -_statistic(mean / error, skew)))
    return Estimate(mean - lower, mean + upper, mean, error, degrees, p_value)


def within_chance(losses: np.ndarray, folds: np.ndarray) -> Ranking:
    """Say which of P points could be the best: with 95% confidence, the truly best one is among those `within`.

    Multiple comparisons with the best (Hsu 1984, "Constrained simultaneous confidence intervals for multiple
    comparisons with the best"), with Bonferroni's correction: a point is out where it is worse than the best by mean at
    a level of 5% / (P - 1), one-sided, image by image. That the best was itself chosen by its luck is allowed for: the
    truly best point is left out only if it looks significantly worse than some other one, and all P - 1 of these
    together do so with a chance of 5%. Holm's steps would be valid only beside a best that was named beforehand.

    Args:
        losses: (P, S, N) float64: of each point, under each seed, for each image.
        folds: (N,) int.

    Raises:
        FrostlineError: a loss is not a number, or there are neither two folds nor two seeds.
    """
    best = int(np.argmin(losses.mean(axis=(1, 2))))
    differences = [mean_difference(each - losses[best], folds) for each in losses]
    one_sided = np.array([1 - each.p_value / 2 if each.mean < 0 else each.p_value / 2 for each in differences])
    p_values = np.minimum(1.0, one_sided * (len(losses) - 1))
    p_values[best] = 1.0
    means = [mean_difference(each, folds) for each in losses]
    return Ranking(best, means, differences, p_values, p_values >= 1 - LEVEL)


def is_better(differences: np.ndarray, folds: np.ndarray) -> bool:
    """Whether a candidate is better than what it would replace, by more than one standard error of the difference.

    By one fold, whose luck nothing shows, by more than two of what its images alone explain.

    Args:
        differences: (S, N) float64, as `mean_difference` takes them.
        folds: (N,) int.

    Raises:
        FrostlineError: a difference is not a number, in more than one fold.
    """
    if len(np.unique(folds)) > 1:
        found = mean_difference(differences, folds)
        return found.mean < -found.standard_error
    per_image = differences.mean(axis=0)
    return bool(per_image.mean() < -2 * per_image.std(ddof=1) / len(per_image) ** 0.5)


def shallowest_enough(losses: np.ndarray, folds: np.ndarray) -> int:
    """Return the first point whose mean loss is within one standard error of the best's.

    The rule of Breiman, Friedman, Olshen & Stone 1984, "Classification and regression trees", section 3.4.3, but with
    the standard error of the difference: both points are judged by the same images, and how hard these are, most of a
    mean's own error, does not tell them apart.

    Args:
        losses: (P, S, N) float64, the simplest point first.
        folds: (N,) int.

    Raises:
        FrostlineError: a loss is not a number, or there are neither two folds nor two seeds.
    """
    best = int(np.argmin(losses.mean(axis=(1, 2))))
    apart = (mean_difference(each - losses[best], folds) for each in losses)
    return next(point for point, each in enumerate(apart) if each.mean <= each.standard_error)


def _checked(losses: np.ndarray, folds: np.ndarray) -> np.ndarray:
    losses = np.asarray(losses, np.float64)
    if losses.ndim != 2 or losses.shape[1:] != folds.shape:
        raise ValueError(f"{losses.shape} losses for the folds of {folds.shape} images")
    bad = int(np.sum(~np.isfinite(losses).all(axis=0)))
    if bad:
        raise FrostlineError(
            f"The log loss is no number for {bad} of {losses.shape[1]} images: training diverged.\n"
            "Lower its learning rate and run the study again."
        )
    if len(losses) < 2 and len(np.unique(folds)) < 2:
        raise FrostlineError("A study needs images in at least two folds.\nAdd labelled images.")
    return losses


def _variance_of_mean(losses: np.ndarray, folds: np.ndarray) -> tuple[float, float]:
    """The variance of the mean of `losses` (S, N), and its degrees of freedom; see `mean_difference`."""
    seeds, images = losses.shape
    _, index, sizes = np.unique(folds, return_inverse=True, return_counts=True)
    count = len(sizes)
    per_image = losses.mean(axis=0)
    by_fold = np.bincount(index, per_image) / sizes
    between = float(np.sum(sizes * (by_fold - per_image.mean()) ** 2)) / max(1, count - 1) / images
    if images == count:  # one image per fold: its luck and its own loss are one
        return between, count - 1
    within = float(np.sum((per_image - by_fold[index]) ** 2)) / (images - count) / images
    if seeds == 1:
        # Folds that differ less than their images explain are chance, too.
        return (between, count - 1) if between > within else (within, images - count)
    by_training = np.stack([np.bincount(index, row) / sizes for row in losses])
    spread = float(np.sum(sizes * (by_training - by_fold) ** 2))
    noise = float(np.sum((losses - per_image - (by_training - by_fold)[:, index]) ** 2))
    # Mean squares as shares of the variance of the mean, each with its degrees of freedom.
    terms = [(within, images - count)]
    luck, luck_degrees = spread / (count * (seeds - 1)) / (images * seeds), count * (seeds - 1)
    rest, rest_degrees = noise / ((images - count) * (seeds - 1)) / (images * seeds), (images - count) * (seeds - 1)
    if luck > rest:
        terms += [(luck, luck_degrees), (-rest, rest_degrees)]
    return _satterthwaite(terms)


def _satterthwaite(terms: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The sum of mean squares, and its degrees of freedom (Satterthwaite 1946)."""
    total = sum(value for value, _ in terms)
    if total <= 0:
        return 0.0, float(terms[0][1])
    return total, total**2 / sum(value**2 / degrees for value, degrees in terms)


def _statistic(ratio: float, skew: float) -> float:
    """|mean / standard error| as the quantile at which the interval's end meets 0; see `mean_difference`."""
    tail = max(0.0, -skew if ratio > 0 else skew)
    beyond = abs(ratio) - tail / 6
    return 0.0 if beyond <= 0 else 2 * beyond / (1 + (1 + 4 / 3 * tail * beyond) ** 0.5)
