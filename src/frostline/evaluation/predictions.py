"""Predictions as files: those of both phases for the test images, and the winner's for Kaggle's."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from frostline.common.files import write_csv
from frostline.data.dataset import UNLABELLED, Dataset
from frostline.metrics.bootstrap import Pair, by_phase
from frostline.metrics.classification import scored_classes
from frostline.metrics.predicted import predicted_classes


def prediction_column(phase: str, name: str, classes: int) -> str:
    """The column of predictions.csv with the probabilities of the class `name`; of two, only the second has one."""
    return phase if classes == 2 else f"{phase}/{name}"


def write_predictions(path: Path, data: Dataset, pair: Pair, threshold: float) -> None:
    """Write predictions.csv: one row per test image.

    Its columns are the path, the class, both phases' probabilities and, last, the class that each phase predicts, in
    "transfer_predicted" and "finetune_predicted". Of two classes, "transfer" and "finetune" are the probability of the
    second; of more there is a column for each, as "transfer/cat".

    Args:
        path: the file, written whole or not at all.
        data: the prepared images.
        pair: both phases' probabilities for the test images.
        threshold: for two classes, from 0 to 1; see `predicted_classes`.
    """
    columns: dict[str, Iterable[str]] = {
        "path": data.names("test"),
        "class": [data.classes[label] for label in pair.labels],
    }
    for phase, probabilities in by_phase(pair).items():
        for number in scored_classes(probabilities):
            name = prediction_column(phase, data.classes[number], len(data.classes))
            columns[name] = [f"{value:.6f}" for value in probabilities[:, number]]
    for phase, probabilities in by_phase(pair).items():
        columns[f"{phase}_predicted"] = [data.classes[number] for number in predicted_classes(probabilities, threshold)]
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    write_csv(path, tuple(columns), rows)


def probabilities_of(rows: Sequence[Mapping[str, str]], phase: str, classes: Sequence[str]) -> np.ndarray:
    """The probabilities, (N, classes) float64, of `phase` in rows of predictions.csv."""
    if len(classes) == 2:
        second = np.array([float(row[phase]) for row in rows])
        return np.stack([1 - second, second], axis=1)
    columns = [prediction_column(phase, name, len(classes)) for name in classes]
    return np.array([[float(row[column]) for column in columns] for row in rows])


def write_submission(path: Path, data: Dataset, probabilities: np.ndarray) -> None:
    """Write submission.csv in Kaggle's form: the number in the file's name, and the probability of the second class.

    Args:
        path: the file, written whole or not at all.
        data: the prepared images, of which the unlabelled ones are meant.
        probabilities: (N, 2), for these.
    """
    ids = [Path(name).stem for name in data.names(UNLABELLED)]
    rows = ({"id": name, "label": f"{value:.6f}"} for name, value in zip(ids, probabilities[:, 1], strict=True))
    write_csv(path, ("id", "label"), rows)
