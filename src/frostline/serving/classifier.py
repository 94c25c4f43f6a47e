"""A trained model as people use it: pictures in, classes and probabilities out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.models.inference import predictor
from frostline.models.saving import load_classes, load_model
from frostline.runtime.quiet_tensorflow import keras


@dataclass(frozen=True)
class Classifier:
    model: keras.Model
    classes: Sequence[str]
    size: int
    """Side of the pictures it takes, in pixels."""
    probabilities: Callable[[np.ndarray], np.ndarray]
    """Pictures (N, size, size, 3) uint8 → (N, classes) float64; threads may call it at once."""

    def decide(self, pictures: np.ndarray) -> list[dict[str, Any]]:
        """For each of `pictures`, (N, size, size, 3) uint8: the most probable class, its probability, and all."""
        return [decision(self.classes, row) for row in self.probabilities(pictures)]


def decision(classes: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    """The most probable of `classes` (the first of equals) by their `probabilities` (classes,), as JSON has it."""
    decided = int(probabilities.argmax())
    return {
        "class": classes[decided],
        "probability": float(probabilities[decided]),
        "probabilities": dict(zip(classes, map(float, probabilities), strict=True)),
    }


def load_classifier(path: Path) -> Classifier:
    """Load the `.keras` file at `path` and trace its model, once, so that no picture waits for that.

    Raises FrostlineError.
    """
    model = load_model(path)
    forward, size = predictor(model), model.input_shape[1]

    def probabilities(pictures: np.ndarray) -> np.ndarray:
        return forward([pictures])

    probabilities(np.zeros((1, size, size, 3), np.uint8))
    return Classifier(model, load_classes(path), size, probabilities)
