"""Tables of what models say of images that they never saw: a row for each image and phase.

Columns: image (its path), class, phase, and for each class its probability, as `probability_column` names it.
"""

import numpy as np
import pandas as pd

OUT_OF_FOLD = "out_of_fold.parquet"
"""In a study's folder, the table of all its trainings, with the columns trial, seed and fold, too."""


def probability_column(name: str) -> str:
    """The column of the probabilities of the class `name`."""
    return f"P({name})"


def classes_of(table: pd.DataFrame) -> list[str]:
    return [column[2:-1] for column in table.columns if column.startswith("P(")]


def labels_of(table: pd.DataFrame) -> np.ndarray:
    """(N,) indices into `classes_of`."""
    labels: np.ndarray = table["class"].map({name: label for label, name in enumerate(classes_of(table))}).to_numpy()
    return labels


def probabilities_of(table: pd.DataFrame) -> np.ndarray:
    """(N, classes) float64."""
    probabilities: np.ndarray = table[[probability_column(name) for name in classes_of(table)]].to_numpy()
    return probabilities
