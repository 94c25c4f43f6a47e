"""From probabilities to classes: for the figures, the report and every way in which a model is used."""

import numpy as np


def predicted_classes(probabilities: np.ndarray, threshold: float | None) -> np.ndarray:
    """The predicted class of each image, (N,) int64: the most probable one; of two, the second above `threshold`.

    Args:
        probabilities: (N, classes) float.
        threshold: from 0 to 1, for two classes; more classes have none. None stands for 0.5. Where P(second) equals
            it, the first class is predicted.
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] > (0.5 if threshold is None else threshold)).astype(np.int64)
    predicted: np.ndarray = np.argmax(probabilities, axis=1)
    return predicted
