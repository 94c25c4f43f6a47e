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
    """The last trial's classifier; its variables may have any values by now."""
    built: str = ""
    """What `model` was built as (see `untrained_model`); empty where it was read from a file."""
    untrained: list[np.ndarray] = field(default_factory=list)
    """The values of `model` when it was built: another trial needs those of the backbone again."""
    trainers: dict[Any, Any] = field(default_factory=dict)
    """What trained `model` (see `Session.trainers`)."""
    predictors: dict[str, Any] = field(default_factory=dict)
    """What predicts with `model` through the feature cache, by the frost line and the precision."""
    start: Path | None = None
    """The file of the transfer phase's model that the last trial went on from."""
    values: list[np.ndarray] = field(default_factory=list)
    """The values of the variables of `model` in the file `start`."""
    best_key: str = ""
    """The key of the first trial of lowest validation loss."""
    best_loss: float = math.inf
    """The validation loss of that trial."""
    best_values: list[np.ndarray] = field(default_factory=list)
    """The values of all variables of that trial's final model."""

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
