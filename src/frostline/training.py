"""The training loop: seeded epochs over cached features."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline import checkpoints, distribution
from frostline.backbone import as_model_inputs
from frostline.distribution import Load
from frostline.files import release
from frostline.log_loss import log_losses
from frostline.progress import track
from frostline.quiet_tensorflow import keras, tf
from frostline.seeds import derive_seed, generator

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
    """The features of the mirrored pictures: where given, each epoch takes one of the two views at random."""

    def batch(self, rows: np.ndarray | slice, mirror: np.ndarray | None = None) -> tuple[Any, np.ndarray]:
        """Rows as the model's float32 input(s) and (n, 1) float32 targets; only these rows are read from disk.

        `mirror` (n,) bool: which of the rows are taken from the mirrored pictures.
        """
        arrays = _read(self.features, rows)
        if mirror is not None:
            for array, other in zip(arrays, _read(self.mirrored, rows), strict=True):
                array[mirror] = other[mirror]
        return as_model_inputs(arrays), self.labels[rows].astype(np.float32)[:, None]


def _read(features: Sequence[np.ndarray], rows: np.ndarray | slice) -> list[np.ndarray]:
    read = [np.array(array[rows], dtype=np.float32) for array in features]
    for array in features:
        release(array)
    return read


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
    on_epoch: OnEpoch = lambda epoch: None,
    prepare: Callable[[int], Prepare] | None = None,
    checkpoint: Path | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> list[Epoch]:
    """Train `model`'s trainable weights with Adam on cross-entropy; return the figures of each epoch.

    Every epoch's order is a permutation seeded by (seed, phase, epoch). `train/…` figures are means over the
    epoch while the weights change, as in `keras.Model.fit`; `validation/…` figures are taken after it.
    `prepare`, given an epoch's seed, returns what turns a batch of `training` into the model's inputs (default:
    the batch is the inputs). `checkpoint`: a file that is written after each epoch; where it exists, training goes on
    from it, to the same weights. Its epochs are given to `on_epoch` again. `strategy`: see `distribution`; only the
    chief writes the checkpoint, and the other processes take over its state.
    """
    keras.utils.set_random_seed(derive_seed(seed, phase))
    with strategy.scope() if strategy else nullcontext():
        learner = distribution.replica_of(model) if strategy else model
        optimizer = (keras.optimizers.Adam if strategy else _LoneAdam)(learning_rate, name="adam")
        optimizer.build(learner.trainable_variables)
    state = [*learner.variables, *optimizer.variables]
    history = checkpoints.load(checkpoint, state) if checkpoint else []
    done = len(history)
    if strategy:
        done = distribution.take_from_chief(strategy, state, done)
        distribution.copy_values(learner, model)
    for epoch in history:
        on_epoch(epoch)
    step, forward, count = _training_step(learner, optimizer, strategy), predictor(model), len(training.labels)
    for number in range(done + 1, epochs + 1):
        order = generator(seed, "shuffle", phase, number).permutation(count)
        mirror = generator(seed, "mirror", phase, number).random(count) < 0.5 if training.mirrored else None
        prepared = prepare(derive_seed(seed, "augment", phase, number)) if prepare else None
        loss_sum = correct = 0.0
        with track(f"{phase} {number}/{epochs}", total=count, unit="pictures") as advance:
            for start in range(0, count, batch_size):
                rows = np.sort(order[start : start + batch_size])  # sorted: the memory map is read forwards
                batch_loss, batch_correct = step(_loading(training, rows, mirror, prepared), len(rows))
                loss_sum += float(batch_loss) * len(rows)
                correct += float(batch_correct)
                advance(len(rows))
        if strategy:
            distribution.copy_values(learner, model)
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
        if checkpoint and distribution.is_chief(strategy):
            checkpoints.save(checkpoint, state, history)
        on_epoch(history[-1])
    return history


def _loading(training: Examples, rows: np.ndarray, mirror: np.ndarray | None, prepared: Prepare | None) -> Load:
    if prepared:
        inputs, targets = training.batch(rows)
        share_of = prepared(inputs)
        return lambda own: (share_of(own), targets[own])

    def load(own: slice) -> tuple[Any, np.ndarray]:
        return training.batch(rows[own], mirror[rows[own]] if mirror is not None else None)

    return load


class _LoneAdam(keras.optimizers.Adam):  # type: ignore[misc]  # Keras has no types
    """Adam where there is no other replica whose gradients would be added.

    TensorFlow's sum over replicas registers a gradient function that holds the step's graph, and so Adam's moments
    (300 MB for the default head), as long as the process lives: a sweep would grow by that with every point.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        return grads_and_vars


def _training_step(
    model: keras.Model, optimizer: keras.Optimizer, strategy: tf.distribute.Strategy | None = None
) -> Step:
    """Return what trains `model` on one batch.

    Only Adam's update is compiled by XLA, which fuses it into one pass over the weights: memory traffic is what a step
    on the head's 38.5 million weights costs. Compiling the whole step made fine-tuning's steps about a tenth faster on
    2 cores, but took about 5 s longer to compile (again for the last, smaller batch): a gain from some 200 steps on.
    With a `strategy` not even that is: Keras' optimizer sums the gradients of all replicas in the same call, for which
    TensorFlow allows no function of its own.
    """
    weights = model.trainable_variables
    if model.output_shape[1] == 1:
        cross_entropy, hits = keras.losses.BinaryCrossentropy(reduction="sum"), keras.metrics.binary_accuracy
    else:
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(reduction="sum")
        hits = keras.metrics.sparse_categorical_accuracy

    def update(gradients: list[tf.Tensor]) -> None:
        optimizer.apply(gradients, weights)

    if strategy is None:
        update = tf.function(update, jit_compile=True)

    def step(inputs: Any, targets: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            probabilities = model(inputs, training=True)
            loss = cross_entropy(targets, probabilities) / rows
        update(tape.gradient(loss, [weight.value for weight in weights]))
        return loss, tf.reduce_sum(hits(targets, probabilities))

    signature = [_signature(model.inputs), tf.TensorSpec((None, 1))]
    if strategy:
        return distribution.on_all_replicas(step, strategy, signature)
    whole = tf.function(step, input_signature=[*signature, tf.TensorSpec(())])
    return lambda load, rows: whole(*load(slice(None)), np.float32(rows))


def _signature(inputs: Sequence[Any]) -> Any:
    """`inputs` (anything with a shape, rows first) as tf.function sees what `as_model_inputs` makes of them."""
    return as_model_inputs([tf.TensorSpec((None, *item.shape[1:]), tf.float32) for item in inputs])


def predictor(model: keras.Model, batch_size: int = 64) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Return a function from features (arrays (N, …)) to the probabilities of `model`'s classes, (N, classes) float64.

    TensorFlow traces the model, about a second, only at the function's first call: keep it for further ones.
    """
    forward = tf.function(lambda inputs: model(inputs, training=False), input_signature=[_signature(model.inputs)])

    def predict(features: Sequence[np.ndarray]) -> np.ndarray:
        parts = [np.empty((0, model.output_shape[1]), np.float32)]
        for start in range(0, len(features[0]), batch_size):
            parts.append(forward(as_model_inputs(_read(features, slice(start, start + batch_size)))).numpy())
        return _by_class(np.concatenate(parts).astype(np.float64))

    return predict


def _by_class(output: np.ndarray) -> np.ndarray:
    """A model's `output`, the second class' probability (N, 1) or each class' (N, classes), as each class'."""
    return np.concatenate([1 - output, output], axis=1) if output.shape[1] == 1 else output


def score(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Cross-entropy (as Keras, with `probabilities` clipped to 1e-7 from 0 and 1) and accuracy.

    `labels` (N,) are class indices, `probabilities` (N, classes), of which the highest decides.
    """
    losses, hits = log_losses(labels, probabilities), probabilities.argmax(axis=1) == labels
    return float(np.mean(losses)), float(np.mean(hits))
