"""Which labels are probably wrong: those that a model contradicts as surely as it knows the other class."""

import numpy as np


def suspected_labels(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose label is suspect, the worst first, and the class that each probably is; both (K,).

    `labels` (N,) are class indices, `probabilities` (N, classes) those of a model that was not trained on these rows.
    Confident learning (Northcutt, Jiang & Chuang 2021, "Confident learning: estimating uncertainty in dataset labels",
    section 3.1): an image counts as of class j if P(j) is at least the mean P(j) of the images labelled j, and of
    several such classes as of the most probable one. Where that is not its label, the label is suspect. Sorted by
    P(label) - P(class it probably is), the paper's normalized margin.
    """
    labels = np.asarray(labels, np.int64)
    own = probabilities[np.arange(len(labels)), labels]
    confident = np.full(probabilities.shape, -np.inf)
    for number in np.unique(labels):  # nothing can be said for a class that no row is labelled as
        likely = probabilities[:, number] >= own[labels == number].mean()
        confident[likely, number] = probabilities[likely, number]
    probable = confident.argmax(axis=1)
    suspect = np.isfinite(confident.max(axis=1)) & (probable != labels)
    margin = own - probabilities[np.arange(len(labels)), probable]
    order = np.argsort(margin, kind="stable")
    rows = order[suspect[order]]
    return rows, probable[rows]
