"""How good the probabilities of one model are: its figures, its confusion matrix, and the images to look at.

Throughout, `labels` are class indices, (N,) int, and `probabilities` (N, classes) float64.
"""

from collections.abc import Sequence

import numpy as np
from sklearn import metrics

from frostline.common.thresholds import Threshold
from frostline.metrics.log_loss import log_losses
from frostline.metrics.predicted import between_two, costs_in, predicted_classes, scores


def figures(
    labels: np.ndarray, probabilities: np.ndarray, threshold: Threshold, bins: int, calibrated: np.ndarray | None = None
) -> dict[str, float]:
    """Return log_loss, accuracy, balanced_accuracy, lowest_recall, roc_auc, average_precision, f1, brier and ece; where
    costs decide, cost, too.

    - log_loss clips probabilities to [1e-7, 1 - 1e-7], as Keras does.
    - cost is the mean of the `mistake_costs`.
    - balanced_accuracy is the mean of the `recalls` (Brodersen et al. 2010, "The balanced accuracy and its posterior
      distribution"), lowest_recall the least of them.
    - roc_auc, average_precision and f1 are those of the second of two classes; of more, the mean of each class' against
      the rest (macro average). They are absent where `class_figures` has them for no class.
    - brier is the mean of `squared_errors`.
    - ece is the expected calibration error (Naeini, Cooper & Hauskrecht 2015, "Obtaining well calibrated probabilities
      using Bayesian binning"; Guo et al. 2017, "On calibration of modern neural networks") of the `reliability`.

    Args:
        labels: (N,) class indices.
        probabilities: (N, classes) float64.
        threshold: for two classes, from 0 to 1; see `predicted_classes`.
        bins: of equal width over [0, 1], for the calibration error.
        calibrated: as `probabilities`, where classes are predicted by others than are judged; None: by the same.
    """
    decided_by = probabilities if calibrated is None else calibrated
    predicted = predicted_classes(decided_by, threshold)
    found = {
        "log_loss": float(np.mean(log_losses(labels, probabilities))),
        "accuracy": float(np.mean(predicted == labels)),
    }
    if costs_in(threshold) is not None:
        found["cost"] = float(np.mean(mistake_costs(labels, decided_by, threshold)))
    by_actual = recalls(confusion_matrix(labels, decided_by, threshold))
    found["balanced_accuracy"] = float(np.nanmean(by_actual))
    found["lowest_recall"] = float(np.nanmin(by_actual))
    by_class = class_figures(labels, probabilities, predicted)
    for name in ("roc_auc", "average_precision", "f1"):
        values = [each[name] for each in by_class.values() if name in each]
        if values:
            found[name] = float(np.mean(values))
    found["brier"] = float(np.mean(squared_errors(labels, probabilities)))
    confidence, observed, counts = reliability(labels, probabilities, bins)
    found["ece"] = float(np.sum(counts * np.abs(observed - confidence)) / len(labels))
    return found


def class_figures(labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray) -> dict[int, dict[str, float]]:
    """Return roc_auc, average_precision and f1 of each of the `scored_classes` against the rest.

    The first two are absent where `labels` holds no other class or not this one, f1 where no image is of the class or
    `predicted` (N,) to be.
    """
    ranked = ranked_classes(labels, probabilities)
    found: dict[int, dict[str, float]] = {}
    for number in scored_classes(probabilities):
        actual, scores = labels == number, probabilities[:, number]
        one = found[number] = {}
        if number in ranked:
            one["roc_auc"] = float(metrics.roc_auc_score(actual, scores))
            one["average_precision"] = float(metrics.average_precision_score(actual, scores))
        if np.any(actual) or np.any(predicted == number):
            one["f1"] = float(metrics.f1_score(actual, predicted == number))
    return found


def scored_classes(probabilities: np.ndarray) -> list[int]:
    """The classes that are judged against the rest: each; but of two only the second, as the first says no more."""
    count = probabilities.shape[1]
    return [1] if count == 2 else list(range(count))


def ranked_classes(labels: np.ndarray, probabilities: np.ndarray) -> list[int]:
    """Those of the `scored_classes` that `labels` holds, but not alone: they have ROC and precision–recall curves."""
    return [number for number in scored_classes(probabilities) if 0 < np.sum(labels == number) < len(labels)]


def squared_errors(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Brier's score of each image, (N,): the squared error of P(second), for more classes the sum of each one's."""
    scored = scored_classes(probabilities)
    errors: np.ndarray = np.sum((probabilities[:, scored] - (labels[:, None] == scored)) ** 2, axis=1)
    return errors


def mistake_costs(labels: np.ndarray, probabilities: np.ndarray, threshold: Threshold) -> np.ndarray:
    """What the prediction of each image costs, (N,) float64, by the costs that `threshold` must be."""
    costs = costs_in(threshold)
    assert costs is not None
    found: np.ndarray = costs[labels, predicted_classes(probabilities, threshold)]
    return found


def margins(probabilities: np.ndarray, threshold: Threshold) -> np.ndarray:
    """How far each prediction is from being another one, (N,) float64, not below 0.

    Of two classes the distance of P(second) from `threshold`; of more, that of the highest probability from the next,
    where there are thresholds of both divided by them. By costs, how much more the next class would cost.
    """
    if probabilities.shape[1] == 2 and costs_in(threshold) is None:
        return np.abs(probabilities[:, 1] - between_two(threshold))
    next_best, best = np.partition(scores(probabilities, threshold), (-2, -1), axis=1)[:, -2:].T
    gaps: np.ndarray = best - next_best
    return gaps


def confidences(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities whose calibration is judged, (N,), and whether each came true, (N,) bool.

    They are those of the most probable class (Guo et al. 2017); of two classes, those of the second.
    """
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], labels == 1
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort the `confidences` into `bins` of equal width over [0, 1], for the reliability diagram.

    A value on an edge counts in the bin below it (Guo et al. 2017), and 0 in the first.

    Returns:
        For each bin that is not empty, all (B,): the mean confidence, the share that came true, the number of images.
    """
    edges = np.linspace(0, 1, bins + 1)
    confidence, came_true = confidences(labels, probabilities)
    index = np.searchsorted(edges[1:-1], confidence)
    counts = np.bincount(index, minlength=bins)
    filled = counts > 0
    predicted = np.bincount(index, confidence, minlength=bins)[filled] / counts[filled]
    observed = np.bincount(index, came_true, minlength=bins)[filled] / counts[filled]
    return predicted, observed, counts[filled]


def confusion_matrix(labels: np.ndarray, probabilities: np.ndarray, threshold: Threshold) -> np.ndarray:
    """Count images, (classes, classes) int64: rows are the actual class, columns the predicted one."""
    count = probabilities.shape[1]
    pairs = count * np.asarray(labels, np.int64) + predicted_classes(probabilities, threshold)
    return np.bincount(pairs, minlength=count**2).reshape(count, count)


def recalls(counts: np.ndarray) -> np.ndarray:
    """The share of each class' images that is predicted to be of it, (classes,); NaN for a class without images.

    `counts`: a `confusion_matrix`.
    """
    images = counts.sum(axis=1)
    found = np.full(len(counts), np.nan)
    np.divide(counts.diagonal(), images, out=found, where=images > 0)
    return found


def threshold_counts(labels: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """The confusion matrix of two classes at each of the T `thresholds`, (T, 2, 2) int64."""
    return np.stack([confusion_matrix(labels, probabilities, threshold) for threshold in thresholds])


def top_losses(labels: np.ndarray, probabilities: np.ndarray, threshold: Threshold) -> np.ndarray:
    """The rows, (K,) int, of the images predicted wrong, the highest loss (the least P(actual class)) first."""
    order = np.argsort(actual_probabilities(labels, probabilities), kind="stable")
    mistakes: np.ndarray = order[(predicted_classes(probabilities, threshold) != labels)[order]]
    return mistakes


def smallest_margins(labels: np.ndarray, probabilities: np.ndarray, threshold: Threshold) -> np.ndarray:
    """The rows, (K,) int, of the images predicted right, the smallest of their `margins` first."""
    order = np.argsort(margins(probabilities, threshold), kind="stable")
    hits: np.ndarray = order[(predicted_classes(probabilities, threshold) == labels)[order]]
    return hits


def actual_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The probability of each image's actual class, (N,) float64."""
    actual: np.ndarray = probabilities[np.arange(len(labels)), labels]
    return actual
