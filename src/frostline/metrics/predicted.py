"""From probabilities to classes: for the figures, the report and every way in which a model is used."""

from collections.abc import Sequence

import numpy as np

Threshold = float | Sequence[float] | None
"""Of two classes, the P(second) from 0 to 1 above which the second is predicted. Of more, None; or one number for each,
by which its P is divided before the highest is predicted."""


def predicted_classes(probabilities: np.ndarray, threshold: Threshold) -> np.ndarray:
    """The predicted class of each image, (N,) int64: the most probable one; of two, the second above `threshold`.

    Args:
        probabilities: (N, classes) float.
        threshold: of two classes, None stands for 0.5. Where P(second) equals it, the first class is predicted. Of
            more, a single number says nothing.
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] > (0.5 if threshold is None else threshold)).astype(np.int64)
    predicted: np.ndarray = np.argmax(beside_thresholds(probabilities, threshold), axis=1)
    return predicted


def beside_thresholds(probabilities: np.ndarray, threshold: Threshold) -> np.ndarray:
    """What decides between more than two classes, (N, classes): the highest is predicted."""
    return probabilities / np.asarray(threshold) if isinstance(threshold, Sequence) else probabilities
