"""Which labels are probably wrong: where a model finds another class as probable as in images of that class."""

import numpy as np


def find_label_issues(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose label is probably wrong, the worst first, and the class that each probably is.

    Confident learning (Northcutt, Jiang & Chuang 2021, "Confident learning: estimating uncertainty in dataset labels",
    section 3.1): an image counts as of class j if P(j) is at least the mean P(j) of the images labelled j, and of
    several such classes as of the most probable one. Where that is not its label, the label is an issue. Sorted by
    P(label) - P(class it probably is), the paper's normalized margin.

    Args:
        labels: (N,) class indices.
        probabilities: (N, classes), of a model that was not trained on these rows.

    Returns:
        Rows (K,) int64, and the class of each, (K,) int64.
    """
    labels = np.asarray(labels, np.int64)
    own = probabilities[np.arange(len(labels)), labels]
    confident = np.full(probabilities.shape, -np.inf)
    for number in np.unique(labels):  # nothing can be said for a class that no row is labelled as
        likely = probabilities[:, number] >= own[labels == number].mean()
        confident[likely, number] = probabilities[likely, number]
    probable = confident.argmax(axis=1)
    issue = np.isfinite(confident.max(axis=1)) & (probable != labels)
    margin = own - probabilities[np.arange(len(labels)), probable]
    order = np.argsort(margin, kind="stable")
    rows = order[issue[order]]
    return rows, probable[rows]
