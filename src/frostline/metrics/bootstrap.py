"""Paired bootstrap intervals of the figures of two models on the same images.

Every interval is a 95% percentile interval (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13). It
covers which images the test set happens to hold, not the luck of training: another seed gives another model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from frostline.common.seeds import generator
from frostline.common.thresholds import Threshold
from frostline.metrics.classification import mistake_costs, ranked_classes, squared_errors
from frostline.metrics.log_loss import log_losses
from frostline.metrics.predicted import predicted_classes

Part = Literal["baseline", "candidate", "difference"]

PARTS: tuple[Part, ...] = ("baseline", "candidate", "difference")
"""What intervals are drawn for: each of a `Pair`, and candidate - baseline."""

INTERVAL_FIGURES = ("log_loss", "accuracy", "roc_auc", "brier")
"""The figures that get a 95% interval; the verdict is by the first."""

_BOOTSTRAP_CELLS = 2_000_000  # resamples x images held at once: about 100 MB


@dataclass(frozen=True)
class Pair:
    """What two models say of the same images; the question is whether the candidate is better than the baseline."""

    labels: np.ndarray
    """(N,) class indices."""
    baseline: np.ndarray
    """Probabilities, (N, classes) float64."""
    candidate: np.ndarray
    """As `baseline`."""

    def __post_init__(self) -> None:
        for name, probabilities in (("baseline", self.baseline), ("candidate", self.candidate)):
            if probabilities.ndim != 2 or len(probabilities) != len(self.labels):
                raise ValueError(f"{name}: {probabilities.shape} probabilities for {self.labels.shape} labels")


def by_phase(pair: Pair) -> dict[str, np.ndarray]:
    """The probabilities of both phases: transfer is the baseline, finetune the candidate."""
    return {"transfer": pair.baseline, "finetune": pair.candidate}


@dataclass(frozen=True)
class Interval:
    """A 95% interval, in the unit of its figure."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


Intervals = dict[str, dict[str, Interval]]
"""``intervals[part][figure]``; undefined figures are absent."""


def bootstrap_intervals(
    pair: Pair,
    wanted: Sequence[str] = INTERVAL_FIGURES,
    parts: Sequence[Part] = PARTS,
    *,
    threshold: Threshold,
    resamples: int,
    seed: int,
) -> Intervals:
    """Return 95% percentile intervals of the figures `wanted` for the `parts` asked for.

    Each resample draws N images with replacement, the same for both models: the difference is paired. The resamples
    follow from `seed` and N alone, so an interval is the same, up to rounding, whatever else is asked for. Nothing
    else is computed: the areas below ROC curves take most of the time.

    roc_auc is the mean over the classes that a resample holds, but not alone; a resample of one class is left out. It
    is absent where the labels hold one class only.

    Args:
        pair: both models' probabilities for the same N images.
        wanted: of INTERVAL_FIGURES, and, where costs decide, "cost"; another name is a ValueError.
        parts: of PARTS.
        threshold: for two classes, from 0 to 1; see `predicted_classes`.
        resamples: how many, at least 1.
        seed: of the run.
    """
    labels, models = pair.labels, {"baseline": pair.baseline, "candidate": pair.candidate}
    means_of = [name for name in wanted if name != "roc_auc"]
    ranked = ranked_classes(labels, pair.baseline) if "roc_auc" in wanted else []
    per_image = {name: _per_image(labels, p, means_of, threshold) for name, p in models.items()}
    # The difference is taken per image: equal predictions then differ by exactly 0, free of rounding.
    per_image["difference"] = per_image["candidate"] - per_image["baseline"]
    columns = np.concatenate([per_image[part] for part in parts], axis=1)
    needed = [name for name in models if name in parts or "difference" in parts]

    means, areas = [], []
    for times in _resamples(len(labels), resamples, seed):
        means.append(times @ columns / len(labels))
        if ranked:
            drawn = np.ascontiguousarray(times.T)
            areas.append([_mean_roc_aucs(drawn, labels, models[name], ranked) for name in needed])

    mean = np.concatenate(means).reshape(resamples, len(parts), len(means_of))
    samples = {part: dict(zip(means_of, mean[:, i].T, strict=True)) for i, part in enumerate(parts)}
    if ranked:
        area = dict(zip(needed, np.concatenate(areas, axis=1), strict=True))
        if "difference" in parts:
            area["difference"] = area["candidate"] - area["baseline"]
        for part in parts:
            samples[part]["roc_auc"] = area[part][~np.isnan(area[part])]
    return {part: {name: _interval(drawn[name]) for name in wanted if name in drawn} for part, drawn in samples.items()}


def _per_image(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], threshold: Threshold) -> np.ndarray:
    """The terms, (N, names) float64, whose mean over the images is each of the figures `names`."""
    found = np.empty((len(labels), len(names)))
    for column, name in enumerate(names):
        match name:
            case "log_loss":
                found[:, column] = log_losses(labels, probabilities)
            case "accuracy":
                found[:, column] = predicted_classes(probabilities, threshold) == labels
            case "cost":
                found[:, column] = mistake_costs(labels, probabilities, threshold)
            case "brier":
                found[:, column] = squared_errors(labels, probabilities)
            case _:
                raise ValueError(f"no intervals of {name}")
    return found


def _resamples(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield, in chunks of resamples (R, N) float64, how often each of `count` images is drawn."""
    rng = generator(seed, "bootstrap")
    chunk = max(1, _BOOTSTRAP_CELLS // count)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        cells = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(cells.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def _mean_roc_aucs(
    drawn: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[int]
) -> np.ndarray:
    """The mean of `_roc_aucs` over those of `classes` for which they are defined; NaN where there is none."""
    areas = np.stack([_roc_aucs(drawn, labels == number, probabilities[:, number]) for number in classes])
    defined = np.sum(~np.isnan(areas), axis=0)
    means = np.full(areas.shape[1], np.nan)
    np.divide(np.nansum(areas, axis=0), defined, out=means, where=defined > 0)
    return means


def _roc_aucs(drawn: np.ndarray, actual: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Areas under the ROC curve, (R,), of R resamples that hold image i `drawn` (N, R) [i] times.

    The Mann-Whitney form: the share of pairs, one of the `actual` (N,) bool and one of the others, whose
    `probabilities` (N,) are in order; ties count half (Hanley & McNeil 1982). NaN where a resample holds no pair.
    """
    order = np.argsort(probabilities, kind="stable")
    ranked, rows = probabilities[order], order[actual[order]]
    below = np.zeros((len(order) + 1, drawn.shape[1]))  # row k: how often the k lowest images are drawn
    np.cumsum(drawn[order], axis=0, out=below[1:])
    lower, not_higher = (np.searchsorted(ranked, probabilities[rows], side) for side in ("left", "right"))
    times = drawn[rows]
    positives = times.sum(axis=0)
    # Pairs of two actual ones are counted, too, half of them as in order: these are taken off again.
    ordered = np.einsum("pr,pr->r", times, (below[lower] + below[not_higher]) / 2) - positives**2 / 2
    pairs = positives * (below[-1] - positives)
    areas = np.full(len(pairs), np.nan)
    np.divide(ordered, pairs, out=areas, where=pairs > 0)
    return areas


def _interval(samples: np.ndarray) -> Interval:
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(float(low), float(high))
