"""By which probabilities classes are predicted, for the figure or the costs that a user cares for."""

from collections.abc import Mapping, Sequence

import numpy as np


def threshold_for(figure: str, probabilities: np.ndarray, share: float) -> float:
    """Return the threshold for which the expected `figure` is highest where `probabilities` mean what they say.

    Of balanced accuracy it is the share of the second class: to find one of its images is worth 1 / share, one of the
    first class 1 / (1 - share). F1 depends on all images together, so that of these is maximized (Lipton, Elkan &
    Naryanaswamy 2014, "Optimal Thresholding of Classifiers to Maximize F1 Measure"). Labels are not counted: of few
    images of the small class, which threshold is best is mostly luck.

    Args:
        figure: "balanced_accuracy" or "f1".
        probabilities: (N,), of the second class, calibrated, for the validation images.
        share: of the second class among the training images, between 0 and 1.
    """
    if figure == "balanced_accuracy":
        return _in_short(share)
    values = np.unique(np.concatenate([[0, 1], probabilities]))
    candidates = (values[1:] + values[:-1]) / 2
    falling = np.sort(probabilities)[::-1]
    above = np.searchsorted(-falling, -candidates)
    expected_hits = np.concatenate([[0], np.cumsum(falling)])[above]
    expected_f1 = 2 * expected_hits / np.maximum(above + falling.sum(), 1e-12)
    return _in_short(float(candidates[np.argmax(expected_f1)]))


def thresholds_of_many(shares: np.ndarray) -> tuple[float, ...]:
    """The thresholds of more than two classes for which the expected balanced accuracy is highest: the `shares`
    (classes,) of the training images, as to find one image of a class is worth 1 / share (as in `threshold_for`)."""
    return tuple(_in_short(float(share)) if share > 0 else 1.0 for share in shares)


def cost_matrix(costs: Mapping[str, Mapping[str, float]], classes: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """What each class costs that is taken for another one, (classes, classes), a row for each actual class: what
    `costs` has, by the names of the actual and the predicted class; else 1; and 0 for what is right."""
    return tuple(
        tuple(0.0 if said == actual else float(costs.get(actual, {}).get(said, 1)) for said in classes)
        for actual in classes
    )


def _in_short(threshold: float) -> float:
    """Six digits of it, as it is shown, where these are still between 0 and 1."""
    short = float(f"{threshold:.6g}")
    return short if 0 < short < 1 else threshold
