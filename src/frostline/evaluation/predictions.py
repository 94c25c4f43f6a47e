"""Predictions as files: those of both phases and of the model in use, and these for Kaggle's images."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from frostline.common.files import write_csv
from frostline.data.dataset import UNLABELLED, Dataset
from frostline.metrics.bootstrap import Pair, by_phase
from frostline.metrics.choice import Choice
from frostline.metrics.classification import scored_classes

IN_USE = "in_use"
"""Of the chosen model, as whoever uses it gets it."""


def prediction_column(model: str, name: str, classes: int) -> str:
    """The column of predictions.csv with a model's probabilities of the class `name`; of two, only the second has one.

    `model`: a phase or IN_USE.
    """
    return model if classes == 2 else f"{model}/{name}"


def write_predictions(path: Path, data: Dataset, split: str, pair: Pair, choice: Choice) -> None:
    """Write predictions.csv: one row per image of `split`.

    Its columns are the path, the class, the probabilities of both phases as they were trained and of the chosen one in
    use (calibrated), and, last, the class that each phase predicts, in "transfer_predicted" and "finetune_predicted".
    Of two classes, "transfer", "finetune" and "in_use" are the probability of the second; of more there is a column
    for each, as "transfer/cat".

    Args:
        path: the file, written whole or not at all.
        data: the prepared images.
        split: "validation" or "test".
        pair: both phases' probabilities for its images.
        choice: which phase is in use, and how.
    """
    predicted = {
        f"{phase}_predicted": [data.classes[number] for number in numbers]
        for phase, numbers in choice.predicted(pair).items()
    }
    write_answers(path, data, split, {**by_phase(pair), IN_USE: choice.in_use(pair)}, predicted)


def write_answers(
    path: Path,
    data: Dataset,
    split: str,
    models: Mapping[str, np.ndarray],
    more: Mapping[str, Iterable[str]] = MappingProxyType({}),
) -> None:
    """Write what `models` (phases, IN_USE) say of the images of `split`, (N, classes) each, as predictions.csv has it.

    `more`: further columns, of N values each.
    """
    columns: dict[str, Iterable[str]] = {
        "path": data.names(split),
        "class": [data.classes[label] for label in data.labels(split)],
    }
    for model, probabilities in models.items():
        for number in scored_classes(probabilities):
            name = prediction_column(model, data.classes[number], len(data.classes))
            columns[name] = [f"{value:.6f}" for value in probabilities[:, number]]
    columns |= more
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    write_csv(path, tuple(columns), rows)


def in_use_of(rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> np.ndarray:
    """The probabilities, (N, classes) float64, of the model in use in rows of predictions.csv, or KeyError."""
    if len(classes) == 2:
        second = np.array([float(row[IN_USE]) for row in rows])
        return np.stack([1 - second, second], axis=1)
    columns = [prediction_column(IN_USE, name, len(classes)) for name in classes]
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
