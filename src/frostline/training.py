"""The training loop: seeded epochs over cached features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline.progress import track
from frostline.quiet_tensorflow import keras, tf
from frostline.seeds import derive_seed, generator

Epoch = dict[str, float]
"""One epoch's figures, named as EPOCH_COLUMNS are."""
EPOCH_COLUMNS = ("epoch", "train/loss", "train/accuracy", "validation/loss", "validation/accuracy")


@dataclass(frozen=True)
class Examples:
    """What one split trains or validates on: `features`, the model's inputs (N, …) each; `labels` (N,) 0 or 1."""

    features: Sequence[np.ndarray]
    labels: np.ndarray

    def batch(self, rows: np.ndarray | slice) -> tuple[Any, np.ndarray]:
        """Rows as the model's float32 input(s) and (n, 1) float32 targets; only these rows are read from disk."""
        return _inputs(self.features, rows), self.labels[rows].astype(np.float32)[:, None]


def _inputs(features: Sequence[np.ndarray], rows: np.ndarray | slice) -> Any:
    """`rows` of `features` as float32: an array for a model of one input, a list for one of several."""
    arrays = [np.asarray(array[rows], dtype=np.float32) for array in features]
    return arrays if len(arrays) > 1 else arrays[0]


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
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Train `model`'s trainable weights with Adam on binary cross-entropy; return the figures of each epoch.

    Every epoch's order is a permutation seeded by (seed, phase, epoch). `train/…` figures are means over the
    epoch while the weights change, as in `keras.Model.fit`; `validation/…` figures are taken after it.
    """
    keras.utils.set_random_seed(derive_seed(seed, phase))
    # XLA fuses Adam's update of the head's 38.5 million weights: half the time per step on a CPU.
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss="binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=True,
    )
    count, history = len(training.labels), []
    for number in range(1, epochs + 1):
        order = generator(seed, "shuffle", phase, number).permutation(count)
        loss_sum = correct = 0.0
        with track(f"{phase} {number}/{epochs}", total=count, unit="pictures") as advance:
            for start in range(0, count, batch_size):
                rows = np.sort(order[start : start + batch_size])  # sorted: the memory map is read forwards
                inputs, targets = training.batch(rows)
                logs = model.train_on_batch(inputs, targets, return_dict=True)
                loss_sum += float(logs["loss"]) * len(rows)
                correct += float(logs["accuracy"]) * len(rows)
                advance(len(rows))
        loss, accuracy = score(validation.labels, predict(model, validation.features))
        history.append(
            {
                "epoch": number,
                "train/loss": loss_sum / count,
                "train/accuracy": correct / count,
                "validation/loss": loss,
                "validation/accuracy": accuracy,
            }
        )
        on_epoch(history[-1])
    return history


def predict(model: keras.Model, features: Sequence[np.ndarray], batch_size: int = 64) -> np.ndarray:
    """Return `model`'s probabilities of the second class, (N,) float64, for `features` (arrays (N, …))."""
    signature = [tf.TensorSpec((None, *array.shape[1:]), tf.float32) for array in features]
    forward = tf.function(
        lambda inputs: model(inputs, training=False),
        input_signature=[signature if len(signature) > 1 else signature[0]],
    )
    parts = []
    for start in range(0, len(features[0]), batch_size):
        parts.append(forward(_inputs(features, slice(start, start + batch_size))).numpy()[:, 0])
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)


def score(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Binary cross-entropy (probabilities clipped to 1e-7 from 0 and 1, as Keras does) and accuracy at 0.5."""
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    loss = -np.mean(np.where(labels == 1, np.log(clipped), np.log1p(-clipped)))
    return float(loss), float(np.mean((probabilities > 0.5) == (labels == 1)))
