"""A trained model as people use it: images in, classes and probabilities out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.common.fit_names import Fit
from frostline.common.thresholds import Threshold
from frostline.metrics.predicted import predicted_classes
from frostline.metrics.temperature import with_temperature
from frostline.models.inference import predictor
from frostline.models.saving import load_trained
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras


@dataclass(frozen=True)
class Classifier:
    """A model that is loaded, and what it takes to use it."""

    model: keras.Model
    classes: Sequence[str]
    threshold: Threshold
    """Of calibrated probabilities."""
    size: int
    """Side of the images it takes, in pixels."""
    fit: Fit
    """How pictures become such images."""
    probabilities: Callable[[np.ndarray], np.ndarray]
    """Images (N, size, size, 3) uint8 → (N, classes) float64, calibrated by the file's temperature; several threads
    may call it at once."""

    def predict(self, images: np.ndarray) -> list[dict[str, Any]]:
        """Say of each of `images`, (N, size, size, 3) uint8, what it is: see `answers`."""
        probabilities = self.probabilities(images)
        return answers(self.classes, probabilities, predicted_classes(probabilities, self.threshold))


def answers(classes: Sequence[str], probabilities: np.ndarray, predicted: np.ndarray) -> list[dict[str, Any]]:
    """What is said of each image, as JSON has it: "class", its "probability", and the "probabilities" of all by name.

    Args:
        classes: names, in the order of the columns.
        probabilities: (N, classes).
        predicted: (N,) int, see `predicted_classes`; by a threshold, this need not be the most probable class.
    """
    return [
        {
            "class": classes[number],
            "probability": float(row[number]),
            "probabilities": dict(zip(classes, map(float, row), strict=True)),
        }
        for row, number in zip(probabilities, predicted, strict=True)
    ]


def load_classifier(path: Path, threshold: float | None = None) -> Classifier:
    """Load a `.keras` file and run its model once, so that the first image does not wait for tracing.

    Args:
        path: the file, as `dvc repro` writes it.
        threshold: for two classes, from 0 to 1, in place of the file's.

    Raises:
        FrostlineError: something is wrong with the file, or more than two classes get a threshold.
    """
    model, metadata = load_trained(path)
    if threshold is not None and len(metadata.classes) > 2:
        raise FrostlineError(
            f"{path} tells {len(metadata.classes)} classes apart: one threshold does not decide between them.\n"
            "Leave the threshold out: it is for two."
        )
    forward, size = predictor(model), model.input_shape[1]

    def probabilities(images: np.ndarray) -> np.ndarray:
        return with_temperature(forward([images]), metadata.temperature)

    if not np.isfinite(probabilities(np.zeros((1, size, size, 3), np.uint8))).all():
        raise FrostlineError(f"{path} has weights that are no numbers (NaN or infinity).\nTrain it again.")
    used = metadata.threshold if threshold is None else threshold
    return Classifier(model, metadata.classes, used, size, metadata.fit, probabilities)
