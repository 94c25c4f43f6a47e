"""The training loop: seeded epochs over cached features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from frostline import checkpoints
from frostline.backbone import as_model_inputs
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


Step = Callable[[Any, Any], tuple[tf.Tensor, tf.Tensor]]
Prepare = Callable[[Any], Any]
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
) -> list[Epoch]:
    """Train `model`'s trainable weights with Adam on cross-entropy; return the figures of each epoch.

    Every epoch's order is a permutation seeded by (seed, phase, epoch). `train/…` figures are means over the
    epoch while the weights change, as in `keras.Model.fit`; `validation/…` figures are taken after it.
    `prepare`, given an epoch's seed, returns what turns a batch of `training` into the model's inputs (default:
    the batch is the inputs). `checkpoint`: a file that is written after each epoch; where it exists, training goes on
    from it, to the same weights. Its epochs are given to `on_epoch` again.
    """
    keras.utils.set_random_seed(derive_seed(seed, phase))
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(model.trainable_variables)
    state = [*model.variables, *optimizer.variables]
    history = checkpoints.load(checkpoint, state) if checkpoint else []
    for epoch in history:
        on_epoch(epoch)
    step, forward, count = _training_step(model, optimizer), predictor(model), len(training.labels)
    for number in range(len(history) + 1, epochs + 1):
        order = generator(seed, "shuffle", phase, number).permutation(count)
        mirror = generator(seed, "mirror", phase, number).random(count) < 0.5 if training.mirrored else None
        prepared = prepare(derive_seed(seed, "augment", phase, number)) if prepare else lambda inputs: inputs
        loss_sum = correct = 0.0
        with track(f"{phase} {number}/{epochs}", total=count, unit="pictures") as advance:
            for start in range(0, count, batch_size):
                rows = np.sort(order[start : start + batch_size])  # sorted: the memory map is read forwards
                inputs, targets = training.batch(rows, mirror[rows] if mirror is not None else None)
                batch_loss, batch_correct = step(prepared(inputs), targets)
                loss_sum += float(batch_loss) * len(rows)
                correct += float(batch_correct)
                advance(len(rows))
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
        if checkpoint:
            checkpoints.save(checkpoint, state, history)
        on_epoch(history[-1])
    return history


def _training_step(model: keras.Model, optimizer: keras.Optimizer) -> Step:
    """Return a function that trains `model` on one batch and returns the batch's mean loss and number of hits.

    Only Adam's update is compiled by XLA, which fuses it into one pass over the weights: memory traffic is what a step
    on the head's 38.5 million weights costs. Compiling the whole step made fine-tuning's steps about a tenth faster on
    2 cores, but took about 5 s longer to compile (again for the last, smaller batch): a gain from some 200 steps on.
    """
    weights = model.trainable_variables
    if model.output_shape[1] == 1:
        cross_entropy, hits = keras.losses.BinaryCrossentropy(), keras.metrics.binary_accuracy
    else:
        cross_entropy, hits = keras.losses.SparseCategoricalCrossentropy(), keras.metrics.sparse_categorical_accuracy

    def update(gradients: list[tf.Tensor]) -> None:
        optimizer.apply(gradients, weights)

    fused_update = tf.function(update, jit_compile=True)

    def step(inputs: Any, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            probabilities = model(inputs, training=True)
            loss = cross_entropy(targets, probabilities)
        fused_update(tape.gradient(loss, [weight.value for weight in weights]))
        return loss, tf.reduce_sum(hits(targets, probabilities))

    return cast(Step, tf.function(step, input_signature=[_signature(model.inputs), tf.TensorSpec((None, 1))]))


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
