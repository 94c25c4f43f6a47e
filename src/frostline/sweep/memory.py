"""What a process keeps of the trials of a sweep that it has run: the next ones and the winner then take less time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Memory:
    """The last trial's classifier, how it was built and trained, and the weights of the best trial."""

    several_go_on_from: frozenset[str] | None = None
    """The keys of the transfer phases that more than one trial of this sweep goes on from; None: not known."""
    model: Any = None
    """The last trial's classifier, whatever its weights are now,"""
    built: str = ""
    """what it was built as,"""
    untrained: list[np.ndarray] = field(default_factory=list)
    """its values then: those of the backbone's weights are needed again,"""
    trainers: dict[Any, Any] = field(default_factory=dict)
    """what trained it (see `Session.trainers`),"""
    predictors: dict[str, Any] = field(default_factory=dict)
    """and, by the frost line and the precision, what predicts with it through the feature cache."""
    start: Path | None = None
    """The file of the transfer phase's model that the last trial went on from,"""
    values: list[np.ndarray] = field(default_factory=list)
    """and the values of the classifier's variables in it."""
    best_key: str = ""
    """The first trial of lowest validation loss,"""
    best_loss: float = math.inf
    """its loss,"""
    best_values: list[np.ndarray] = field(default_factory=list)
    """and the values of all variables of its final model."""

    def __reduce__(self) -> tuple[type["Memory"], tuple[()]]:
        """Another process begins with nothing."""
        return Memory, ()

    def untrained_model(self, built: str, build: Callable[[], Any]) -> Any:
        """The classifier that `build` makes, a Keras model; `built` names all that it depends on, but for its head's
        values, which are those of the last trial where that was built as the same."""
        self.start = None
        if built == self.built:
            return set_values(self.model, self.untrained)
        self.keep(None, None)  # not in memory beside a new one
        self.model, self.built = build(), built
        self.untrained = values_of(self.model)
        return self.model

    def keep(self, start: Path | None, model: Any) -> None:
        """Keep `model`, which is in the file `start`; with None for both, let the last one go."""
        if model is not self.model:
            self.model, self.built, self.untrained = model, "", []
            self.trainers.clear()  # whoever holds them must not train the last model
            self.predictors.clear()
        self.start, self.values = start, values_of(model) if model else []


def values_of(model: Any) -> list[np.ndarray]:
    """The values of all variables of a Keras model."""
    return [variable.numpy() for variable in model.variables]


def set_values(model: Any, values: Sequence[np.ndarray]) -> Any:
    """`model`, with these values in its variables."""
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
    return model
