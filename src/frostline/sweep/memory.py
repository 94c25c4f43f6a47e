"""What a process keeps of the trials of a sweep that it has run: the next ones and the winner then take less time."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Memory:
    """The last transfer phase's model, and the weights of the best trial."""

    start: Path | None = None
    """The file of the transfer phase's model that the last trial went on from,"""
    model: Any = None
    """this model,"""
    values: list[np.ndarray] = field(default_factory=list)
    """and the values of its variables in the file."""
    best_key: str = ""
    """The first trial of lowest validation loss,"""
    best_loss: float = math.inf
    """its loss,"""
    best_values: list[np.ndarray] = field(default_factory=list)
    """and the values of all variables of its final model."""

    def __reduce__(self) -> tuple[type["Memory"], tuple[()]]:
        """Another process begins with nothing."""
        return Memory, ()

    def keep(self, start: Path | None, model: Any) -> None:
        """Keep `model`, which is in the file `start`; with None for both, let the last one go."""
        self.start, self.model, self.values = start, model, values_of(model) if model else []


def values_of(model: Any) -> list[np.ndarray]:
    """The values of all variables of a Keras model."""
    return [variable.numpy() for variable in model.variables]
