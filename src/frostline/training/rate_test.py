"""`transfer.learning_rate: auto`: a range test before the head is trained.

Smith 2017, "Cyclical learning rates for training neural networks", arXiv:1506.01186, section 3.3: the rate rises from
step to step, here exponentially, and the loss is watched until it diverges. The rate taken is that where the smoothed
loss falls steepest, as PyTorch Lightning's `lr_find` has it, and fastai's as one of its rules ("steep").

Batches differ, most of all small ones. So each step's loss is compared with that of the same batch, by the same masks
of dropout, where nothing has been learned (common random numbers, as in simulations). Fine-tuning has no such test:
what has converged learns too little in so few steps to be told from chance.

What is trained meanwhile gets its values back: the training that follows is the one that the number alone would give.
"""

import itertools
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from frostline.common.phase_names import PhaseName
from frostline.common.seeds import derive_seed, seed32
from frostline.runtime.errors import FrostlineError
from frostline.runtime.progress import track
from frostline.runtime.quiet_tensorflow import keras
from frostline.training import loop
from frostline.training.loop import Session, Task
from frostline.training.resolved import Resolved

_log = logging.getLogger(__name__)

FIRST, LAST, STEPS = 1e-6, 1.0, 50
"""The rates of the first and the last step, and the number of steps."""
_MEMORY = 0.9
"""Of the smoothed loss: the weight of what came before a step."""
_DIVERGED = 4
"""So many times the loss where nothing is learned; fastai and PyTorch Lightning have it of the lowest loss, which a few
hard images in a batch exceed, too, where the loss is small."""
_FALL, _RISE = 0.001, 0.01
"""Shares of the loss. What falls by less has not learned: at rates that change nothing a difference is nearly 0, as
batches and dropout are the same, but what is computed in bfloat16 has three digits. Where the loss rose by more, higher
rates are not looked at: what falls there, from a model that is worse, is the turn of other images.
"""
SUFFIX = ".rates.json"
"""Of the file beside a checkpoint that keeps the curve: a phase that was killed goes on with the rate that it found."""

Curve = list[dict[str, float]]
"""Of a range test, each step's `rate` and `loss`, smoothed."""


class _Rising(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras has no types
    """From FIRST to LAST in STEPS steps; or 0, where the variable `on` is."""

    def __init__(self) -> None:
        self.on = keras.Variable(0.0, trainable=False)

    def __call__(self, step: Any) -> Any:
        return self.on * _rate_at(keras.ops.cast(step, "float32"))


def _rate_at(step: Any) -> Any:
    """The rate of a step, counted from 0; a number or a tensor, as `step` is."""
    return FIRST * (LAST / FIRST) ** (step / (STEPS - 1))


def range_test(
    model: keras.Model, task: Task, options: Resolved, session: Session, weights: np.ndarray | None = None
) -> Curve:
    """Train `model` at rising rates on what `task` trains on, and set it back; return the curve, to where it diverges.

    Args:
        model: what the phase trains.
        task: of the phase; other random numbers than its own are drawn.
        options: those of the phase; their learning rate is not used.
        session: of the phase, for its strategy and parts.
        weights: of classes (see `class_weights`).

    Raises:
        BatchTooLargeError: see there.
        FrostlineError: the loss is no number before anything is learned.
    """
    values = [variable.numpy() for variable in model.variables]
    rising, count = _Rising(), len(task.training.labels)
    trainer = loop.trainer_of(model, options, count, session.strategy, weights, session.parts, rising)
    apart = replace(task, seed=derive_seed(task.seed, "range test"))

    def losses() -> Iterator[float]:
        keras.utils.set_random_seed(seed32(apart.seed, task.phase))
        epochs = (loop.batches(apart, options, number) for number in itertools.count(1))
        for load, rows in itertools.islice(itertools.chain.from_iterable(epochs), STEPS):
            yield float(trainer.on_batch(load, rows)[0])
            advance(1, "")

    def set_back() -> None:
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(value)
        trainer.begin_again()

    with (
        loop.told_if_too_large(task.phase, options.batch_size),
        track(f"{task.phase} range test", total=2 * STEPS, unit="steps") as advance,
    ):
        unlearned = list(losses())
        set_back()
        mean = sum(unlearned) / STEPS
        if not math.isfinite(mean):
            raise FrostlineError(
                f"{task.phase}.learning_rate is auto, but the loss is no number before anything is learned.\n"
                "The weights that the phase starts from, or the features of its images, hold NaN or infinity."
            )
        rising.on.assign(1)
        effect = _until((_DIVERGED - 1) * mean, (one - other for one, other in zip(losses(), unlearned, strict=True)))
        set_back()
    return [{"rate": _rate_at(step), "loss": mean + change} for step, change in enumerate(effect)]


def _until(limit: float, values: Iterable[float]) -> list[float]:
    """The exponential moving averages of `values`, up to where they exceed `limit` or are no numbers.

    Without the bias towards 0 that they begin with (as Kingma & Ba 2015).
    """
    means: list[float] = []
    mean = 0.0
    for number, value in enumerate(values, 1):
        mean = _MEMORY * mean + (1 - _MEMORY) * value
        smoothed = mean / (1 - _MEMORY**number)
        if not smoothed <= limit:
            break
        means.append(smoothed)
    return means


def read_off(curve: Curve, phase: PhaseName) -> float:
    """The rate for `phase`, to two digits: where, on a logarithmic scale, the loss falls steepest before its lowest.

    Rates beyond one that raised the loss do not count.

    Raises:
        FrostlineError: it does not fall, or by no more than rounding.
    """
    losses = np.array([point["loss"] for point in curve])
    raised = losses > (1 + _RISE) * losses[0]
    lowest = int(np.argmin(losses[: np.argmax(raised)] if raised.any() else losses))
    if losses[lowest] >= (1 - _FALL) * losses[0]:
        raise FrostlineError(
            f"{phase}.learning_rate is auto, but no rate from {FIRST:g} to {LAST:g} lowers the loss.\n"
            f"Give it a number: {phase}.learning_rate=1e-4."
        )
    steepest = int(np.argmin(np.gradient(losses)[: lowest + 1]))
    found = float(f"{curve[steepest]['rate']:.2g}")
    _log.info("%s: learning rate %g, from a range test of %d steps", phase, found, len(curve))
    return found
