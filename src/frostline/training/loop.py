"""The training loop: seeded epochs over cached features."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.common.seeds import derive_seed, generator, seed32
from frostline.metrics.log_loss import score
from frostline.models.inference import as_floats, input_signature, predictor, read_rows
from frostline.runtime.errors import FrostlineError
from frostline.runtime.progress import CONSOLE, track
from frostline.runtime.quiet_tensorflow import keras, tf
from frostline.training import checkpoints, distribution
from frostline.training.adam import Adam
from frostline.training.distribution import Load
from frostline.training.fast_layers import copy_values, learner_of

Epoch = dict[str, float]
"""One epoch's figures, named as EPOCH_COLUMNS are."""
EPOCH_COLUMNS = ("epoch", "train/loss", "train/accuracy", "validation/loss", "validation/accuracy")


@dataclass(frozen=True)
class Examples:
    """What one split trains or validates on."""

    features: Sequence[np.ndarray]
    """The model's inputs, (N, …) each."""
    labels: np.ndarray
    """(N,) class indices."""
    mirrored: Sequence[np.ndarray] = ()
    """The features of the mirrored images: where given, each epoch takes one of the two views at random."""

    def batch(self, rows: np.ndarray | slice, mirror: np.ndarray | None = None) -> tuple[Any, np.ndarray]:
        """Rows as the model's float32 input(s) and (n, 1) float32 targets; only these rows are read from disk.

        `mirror` (n,) bool: which of the rows are taken from the mirrored images.
        """
        arrays = read_rows(self.features, rows)
        if mirror is not None:
            for array, other in zip(arrays, read_rows(self.mirrored, rows), strict=True):
                array[mirror] = other[mirror]
        return as_floats(arrays), self.labels[rows].astype(np.float32)[:, None]


Step = Callable[[Load, int], tuple[Any, Any]]
"""Trains on one batch, given how to read it and its number of rows; returns its mean loss and number of hits."""
Prepare = Callable[[Any], Callable[[slice], Any]]
"""Given a batch of `Examples`, returns what gives rows of it as the model's inputs."""
OnEpoch = Callable[[Epoch], None]


def train(
    model: keras.Model,
    training: Examples,
    validation: Examples,
    *,
    phase: str,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    schedule: str = "constant",
    patience: int | None = None,
    on_epoch: OnEpoch = lambda epoch: None,
    prepare: Callable[[int], Prepare] | None = None,
    checkpoint: Path | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> list[Epoch]:
    """Train `model`'s trainable weights with Adam on cross-entropy; return the figures of each epoch.

    Every epoch's order is a permutation seeded by (seed, phase, epoch). `train/…` figures are means over the
    epoch while the weights change, as in `keras.Model.fit`; `validation/…` figures are taken after it.
    `schedule`: "constant", or "cosine" by which the rate falls from `learning_rate` to 0 over the batches of all epochs
    (half a period: Loshchilov & Hutter 2017, arXiv:1608.03983). `patience`: so many epochs without a lower validation
    loss end the training; it leaves the weights of `kept_epoch`.
    `prepare`, given an epoch's seed, returns what turns a batch of `training` into the model's inputs (default:
    the batch is the inputs). `checkpoint`: a file that is written after each epoch; where it exists, training goes on
    from it, to the same weights. Its epochs are given to `on_epoch` again. `strategy`: see `distribution`; only the
    chief writes the checkpoint, and the other processes take over its state.
    """
    keras.utils.set_random_seed(seed32(seed, phase))
    with strategy.scope() if strategy else nullcontext():
        learner = distribution.replica_of(model) if strategy else learner_of(model)
        rate: Any = learning_rate
        if schedule == "cosine":
            steps = epochs * math.ceil(len(training.labels) / batch_size)
            rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        if strategy:
            optimizer = keras.optimizers.Adam(rate, name="adam")
            optimizer.build(learner.trainable_variables)
        else:
            optimizer = Adam(rate, learner.trainable_variables)
        best = [keras.Variable(item.value.read_value(), trainable=False) for item in learner.variables if patience]
    outcome = [*learner.variables, *best]
    state = [*outcome, *optimizer.variables]  # the optimizer's last: after the last epoch nothing needs them
    history, restored = checkpoints.load(checkpoint, state) if checkpoint else ([], 0)
    done = len(history)
    if strategy:
        done = distribution.take_from_chief(strategy, state, done)
    copy_values(learner, model)
    kept = _best_so_far(history, strategy) if patience else 0

    def is_last(number: int) -> bool:
        return number >= epochs or (patience is not None and number >= kept + patience)

    if history and restored < len(state) and not is_last(done):
        raise FrostlineError(f"{checkpoint} is of a training that has ended.\nDelete it; the phase then starts over.")
    for epoch in history:
        on_epoch(epoch)
    step, forward, count = _training_step(learner, optimizer, strategy), predictor(model), len(training.labels)
    for number in range(done + 1, epochs + 1):
        if is_last(number - 1):
            break
        order = generator(seed, "shuffle", phase, number).permutation(count)
        mirror = generator(seed, "mirror", phase, number).random(count) < 0.5 if training.mirrored else None
        prepared = prepare(derive_seed(seed, "augment", phase, number)) if prepare else None
        loss_sum = correct = 0.0
        with track(f"{phase} {number}/{epochs}", total=count, unit="images") as advance:
            for start in range(0, count, batch_size):
                rows = np.sort(order[start : start + batch_size])  # sorted: the memory map is read forwards
                batch_loss, batch_correct = step(_loading(training, rows, mirror, prepared), len(rows))
                loss_sum += float(batch_loss) * len(rows)
                correct += float(batch_correct)
                advance(len(rows))
        copy_values(learner, model)
        loss, accuracy = score(validation.labels, forward(validation.features))
        history.append(
            {
                "epoch": number,
                "train/loss": loss_sum / count,
                "train/accuracy": correct / count,
                "validation/loss": loss,
                "validation/accuracy": accuracy,
            }
        )
        if patience:
            kept = _best_so_far(history, strategy)
            if kept == number:
                _assign(best, learner.variables)
        if checkpoint and distribution.is_chief(strategy):
            checkpoints.save(checkpoint, outcome if is_last(number) else state, history)
        on_epoch(history[-1])
    if patience:
        CONSOLE.print(f"{phase}: epoch {kept} of {len(history)} is kept", highlight=False)
        _assign(learner.variables, best)
        copy_values(learner, model)
    return history


def kept_epoch(history: Sequence[Epoch], patience: int | None) -> Epoch:
    """The epoch whose weights `train` leaves: the last or, with `patience`, the first of lowest validation loss."""
    return min(history, key=lambda epoch: epoch["validation/loss"]) if patience else history[-1]


def with_kept_last(history: Sequence[Epoch], patience: int | None) -> list[Epoch]:
    """`history`, followed by the figures of `kept_epoch` once more where that is not its last.

    For trackers, which show a run's newest figures: they are to be those of the weights.
    """
    kept = kept_epoch(history, patience)
    return [*history, *([{**kept, "epoch": len(history) + 1}] if kept is not history[-1] else [])]


def _best_so_far(history: Sequence[Epoch], strategy: tf.distribute.Strategy | None) -> int:
    """The number of the epoch with the lowest validation loss, 0 before the first; the chief says it for all processes.

    They may round differently, and only the chief has the epochs before a kill.
    """
    number = int(kept_epoch(history, patience=1)["epoch"]) if history else 0
    return distribution.take_from_chief(strategy, [], number) if strategy else number


def _assign(targets: Sequence[Any], sources: Sequence[Any]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.assign(source.value.read_value())


def _loading(training: Examples, rows: np.ndarray, mirror: np.ndarray | None, prepared: Prepare | None) -> Load:
    if prepared:
        inputs, targets = training.batch(rows)
        share_of = prepared(inputs)
        return lambda own: (share_of(own), targets[own])

    def load(own: slice) -> tuple[Any, np.ndarray]:
        return training.batch(rows[own], mirror[rows[own]] if mirror is not None else None)

    return load


def _training_step(model: keras.Model, optimizer: Any, strategy: tf.distribute.Strategy | None = None) -> Step:
    """Return what trains `model` on one batch."""
    weights = model.trainable_variables
    if model.output_shape[1] == 1:
        cross_entropy, hits = keras.losses.BinaryCrossentropy(reduction="sum"), keras.metrics.binary_accuracy
    else:
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(reduction="sum")
        hits = keras.metrics.sparse_categorical_accuracy

    def step(inputs: Any, targets: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            probabilities = model(inputs, training=True)
            loss = cross_entropy(targets, probabilities) / rows
        optimizer.apply(tape.gradient(loss, [weight.value for weight in weights]), weights)
        return loss, tf.reduce_sum(hits(targets, probabilities))

    signature = [input_signature(model.inputs), tf.TensorSpec((None, 1))]
    if strategy:
        return distribution.on_all_replicas(step, strategy, signature)
    whole = tf.function(step, input_signature=[*signature, tf.TensorSpec(())], autograph=False)
    return lambda load, rows: whole(*load(slice(None)), np.float32(rows))
