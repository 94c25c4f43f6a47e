"""From probabilities to classes: for the figures, the report and every way in which a model is used."""

import numpy as np


def decide(probabilities: np.ndarray, threshold: float | None) -> np.ndarray:
    """The decided class of each image, (N,) int64: the most probable one; of two, the second above `threshold`.

    `probabilities`: (N, classes). `threshold`: from 0 to 1; only two classes have one, None stands for 0.5. A
    probability that equals it is decided as the first class.
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] > (0.5 if threshold is None else threshold)).astype(np.int64)
    decided: np.ndarray = np.argmax(probabilities, axis=1)
    return decided
