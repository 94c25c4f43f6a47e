"""A trained model as people use it: images in, classes and probabilities out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.metrics.predicted import predicted_classes
from frostline.models.inference import predictor
from frostline.models.saving import load_metadata, load_model
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras


@dataclass(frozen=True)
class Classifier:
    model: keras.Model
    classes: Sequence[str]
    threshold: float | None
    """Of two classes, the probability above which the second is predicted; more have none."""
    size: int
    """Side of the images it takes, in pixels."""
    probabilities: Callable[[np.ndarray], np.ndarray]
    """Images (N, size, size, 3) uint8 → (N, classes) float64; threads may call it at once."""

    def predict(self, images: np.ndarray) -> list[dict[str, Any]]:
        """For each of `images`, (N, size, size, 3) uint8: the predicted class, its probability, and all."""
        probabilities = self.probabilities(images)
        return answers(self.classes, probabilities, predicted_classes(probabilities, self.threshold))


def answers(classes: Sequence[str], probabilities: np.ndarray, predicted: np.ndarray) -> list[dict[str, Any]]:
    """What is said of each image, as JSON has it: the `predicted` class (N,), its probability, and all.

    `probabilities`: (N, classes). With a threshold, that of the predicted class need not be the highest.
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
    """Load the `.keras` file at `path` and trace its model, once, so that no image waits for that.

    `threshold`: takes the place of the file's.

    Raises FrostlineError for what is wrong with the file, and for a threshold of more than two classes.
    """
    model, metadata = load_model(path), load_metadata(path)
    if threshold is None:
        threshold = metadata.threshold
    elif len(metadata.classes) > 2:
        raise FrostlineError(
            f"{path} tells {len(metadata.classes)} classes apart: the most probable one is predicted.\n"
            "Leave out --threshold, which is for two."
        )
    forward, size = predictor(model), model.input_shape[1]

    def probabilities(images: np.ndarray) -> np.ndarray:
        return forward([images])

    probabilities(np.zeros((1, size, size, 3), np.uint8))
    return Classifier(model, metadata.classes, threshold, size, probabilities)
