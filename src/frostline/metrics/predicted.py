"""From probabilities to classes: for the figures, the report and every way in which a model is used."""

from collections.abc import Sequence

import numpy as np

from frostline.common.thresholds import Threshold
from frostline.metrics.formatting import six_digits


def predicted_classes(probabilities: np.ndarray, threshold: Threshold) -> np.ndarray:
    """The predicted class of each image, (N,) int64: the most probable one; of two, the second above `threshold`.

    By costs it is the class whose expected cost is the lowest, the first of several (Elkan 2001, "The foundations of
    cost-sensitive learning", eq. 1).

    Args:
        probabilities: (N, classes) float.
        threshold: of two classes, None stands for 0.5. Where P(second) equals it, the first class is predicted. Of
            more, a single number says nothing.
    """
    if probabilities.shape[1] == 2 and costs_in(threshold) is None:
        return (probabilities[:, 1] > between_two(threshold)).astype(np.int64)
    predicted: np.ndarray = np.argmax(scores(probabilities, threshold), axis=1)
    return predicted


def scores(probabilities: np.ndarray, threshold: Threshold) -> np.ndarray:
    """What decides between more than two classes, and by costs between two, (N, classes): the highest is predicted."""
    costs = costs_in(threshold)
    if costs is not None:
        expected: np.ndarray = probabilities @ costs
        return -expected
    return probabilities / np.asarray(threshold) if isinstance(threshold, Sequence) else probabilities


def costs_in(threshold: Threshold) -> np.ndarray | None:
    """The costs of mistakes by which `threshold` decides, (classes, classes) float64; None where it is none."""
    by_costs = isinstance(threshold, Sequence) and isinstance(threshold[0], Sequence)
    return np.asarray(threshold, np.float64) if by_costs else None


def between_two(threshold: Threshold) -> float:
    """The P(second) above which the second of two classes is predicted: by costs, that where both cost the same."""
    costs = costs_in(threshold)
    if costs is not None:
        return float(costs[0, 1] / (costs[0, 1] + costs[1, 0]))
    assert not isinstance(threshold, Sequence)  # which more classes have
    return 0.5 if threshold is None else threshold


def rule_in_words(threshold: Threshold, classes: Sequence[str]) -> str:
    """By what rule one of `classes`, named in the order of the labels, is predicted: a sentence or two, plain text."""
    by_costs = costs_in(threshold) is not None
    if len(classes) == 2:
        above = six_digits(between_two(threshold))
        rule = f"{classes[1]} is predicted where its calibrated probability is above {above}, else {classes[0]}."
        return f"{rule} That is where both answers are expected to cost the same." if by_costs else rule
    if by_costs:
        return (
            "The class is predicted whose expected cost is the lowest, by the calibrated probabilities; it need not be "
            "the most probable one."
        )
    if isinstance(threshold, Sequence):
        return "The class is predicted whose calibrated probability is highest divided by its share of training images."
    return "The class with the highest probability is predicted."
