"""A phase's settings with numbers where they may say auto."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from frostline.config.settings import AUTO, Phase

_FOUND = ("learning_rate", "batch_size")
"""The settings that are found where they say auto."""
_BATCH_SIZES = (32, 16, 8)
_STEPS = 10
"""An epoch should have so many: the rates and epochs of our recipes were found with about as many, of 32 images."""


@dataclass
class Resolved(Phase):
    """The settings of a phase's training loop; what is thawed, and how, is not among them."""

    learning_rate: float
    batch_size: int


@dataclass(frozen=True)
class Found:
    """What `auto` was in a phase."""

    learning_rate: float | None = None
    """None: the setting is a number."""
    batch_size: int | None = None
    """Likewise."""
    rate_test: Sequence[Mapping[str, float]] = ()
    """The curve that the learning rate was read from: by step its `rate` and its `loss`, smoothed."""

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Found":
        """What `as_json` told, among other things or alone."""
        return cls(**{field.name: told[field.name] for field in fields(cls) if field.name in told})

    def numbers(self) -> dict[str, float]:
        """Those found, by the setting."""
        return {name: value for name, value in self.as_json().items() if name in _FOUND}

    def as_json(self) -> dict[str, Any]:
        """All that was found, for a phase's report."""
        return {name: value for name, value in asdict(self).items() if value}


def batch_size_for(images: int) -> int:
    """What `batch_size: auto` is for so many training images: the largest of 32, 16, 8 that makes ten steps an epoch.

    A phase has so many epochs. In batches of 32, a folder of 30 pictures would be trained on in one step each, and the
    phase would end before much is learned; in batches of fewer than 8, gradients and thawed batch norm are noisy.
    """
    return next((size for size in _BATCH_SIZES if math.ceil(images / size) >= _STEPS), _BATCH_SIZES[-1])


def batch_size_of(options: Phase, images: int) -> int:
    """The batch size of a phase that trains on so many images."""
    return batch_size_for(images) if options.batch_size == AUTO else options.batch_size


def resolved(options: Phase, batch_size: int, learning_rate: float) -> Resolved:
    """`options` with these numbers."""
    numbers = {"learning_rate": learning_rate, "batch_size": batch_size}
    return Resolved(**{field.name: getattr(options, field.name) for field in fields(Phase)} | numbers)
