"""The training loop: seeded epochs over cached features."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.common.phase_names import PhaseName
from frostline.common.seeds import derive_seed, generator, seed32
from frostline.metrics.log_loss import score
from frostline.models.inference import as_floats, input_signature, predictor, read_rows
from frostline.runtime.durations import in_words
from frostline.runtime.errors import FrostlineError
from frostline.runtime.progress import track
from frostline.runtime.quiet_tensorflow import keras, memory_errors, on_gpu, tf
from frostline.training import checkpoints, distribution
from frostline.training.adam import Adam, decays
from frostline.training.class_weights import SAMPLED, drawn, weighted
from frostline.training.device_epoch import TensorStep, whole_epoch
from frostline.training.distribution import Load
from frostline.training.fast_layers import copy_values, with_fast_layers
from frostline.training.mixup import Partners, draw_partners, mixed, of_mixture, target_columns
from frostline.training.resolved import Found, Resolved
from frostline.training.schedule import learning_rate

_log = logging.getLogger(__name__)

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
OnFound = Callable[[Found], None]


@dataclass(frozen=True)
class Task:
    """What is trained on."""

    phase: PhaseName
    """Names its streams of random numbers, and its progress."""
    seed: int
    training: Examples
    validation: Examples
    prepare: Callable[[int], Prepare] | None = None
    """Given an epoch's seed, returns what turns a batch of `training` into the model's inputs; None: it is these."""


@dataclass(frozen=True)
class Session:
    """How a training runs, whatever it computes."""

    on_epoch: OnEpoch = lambda epoch: None
    """Gets each epoch's figures, those of a checkpoint's epochs again."""
    checkpoint: Path | None = None
    """A file that is written after epochs; where it exists, training goes on from it, to the same weights. Training in
    parts has its own, `checkpoint_in_parts`."""
    strategy: tf.distribute.Strategy | None = None
    """See `distribution`. Only the chief writes the checkpoint, and the other processes take over its state."""
    checkpoint_every: float = 0
    """Seconds since the last one, or the beginning, after which it is written."""
    trainers: dict[PhaseName, tuple[str, "Trainer"]] | None = None
    """Where given, what trains a model stays here by phase, with a digest of what it was made of, for the next training
    of that model. Whoever gives it empties it before another model is trained."""
    parts: int = 1
    """Into so many parts a batch is divided, where the memory does not hold it whole. Their gradients are added up, so
    a step stays one over the batch; but dropout draws anew for each part, and batch normalisation sees it alone."""
    on_found: OnFound = lambda found: None
    """Gets, before the first epoch, what settings that say auto were found to be."""

    @property
    def checkpoint_in_parts(self) -> Path | None:
        """The checkpoint of so many parts: in others, dropout draws other masks, and weights become others."""
        if self.checkpoint is None or self.parts == 1:
            return self.checkpoint
        return self.checkpoint.with_stem(f"{self.checkpoint.stem}-in-{self.parts}-parts")


ALONE = Session()


class BatchTooLargeError(FrostlineError):
    """The device's memory does not hold a step over one batch; the model is left somewhere in the middle of it.

    `beside_features`: all training features are held there, too (see `train`, `on_device`); without them it may do.
    """

    def __init__(self, phase: PhaseName, batch_size: int, beside_features: bool = False) -> None:
        instead = "Set feeding=batches, or lower" if beside_features else "Lower"
        super().__init__(
            f"{phase}: the memory does not hold a training step of {batch_size} images.\n"
            f"{instead} {phase}.batch_size or preprocess.image_size."
        )
        self.batch_size, self.beside_features = batch_size, beside_features


def _check_numbers(figures: Sequence[float], phase: PhaseName, epoch: int) -> None:
    """`figures`: as EPOCH_COLUMNS, but for the first."""
    if not all(map(math.isfinite, figures)):
        raise FrostlineError(
            f"{phase}: the loss is no number any more ({figures[0]:g}, in validation {figures[2]:g}) "
            f"after epoch {epoch}.\nA lower {phase}.learning_rate may help."
        )


@dataclass(frozen=True)
class Trainer:
    """What trains `model`, for one training or several: what TensorFlow traces of it is traced once."""

    model: keras.Model
    trained: keras.Model
    """What is trained in its place."""
    optimizer: Any
    best: list[Any]
    """With patience, variables for the values of the best epoch."""
    step: TensorStep
    on_batch: Step
    """`step`, traced."""
    forward: Callable[[Sequence[np.ndarray]], np.ndarray]
    """See `predictor`."""

    @property
    def outcome(self) -> list[Any]:
        """What a checkpoint after the last epoch holds."""
        return [*self.trained.variables, *self.best]

    @property
    def variables(self) -> list[Any]:
        """What a checkpoint after an earlier epoch holds: `outcome`, then those of the optimizer, last."""
        return [*self.outcome, *self.optimizer.variables]

    def score(self, examples: Examples) -> tuple[float, float]:
        """Log loss and accuracy of `model` on `examples`."""
        return score(examples.labels, self.forward(examples.features))

    def take_best(self) -> None:
        """Give `model` the weights of the best epoch."""
        _assign(self.trained.variables, self.best)
        copy_values(self.trained, self.model)

    def begin_again(self) -> None:
        """Make ready to train `model` from the values that it has now."""
        copy_values(self.model, self.trained)
        for variable in self.optimizer.variables:
            variable.assign(tf.zeros(variable.shape, variable.dtype))
        if self.best:
            _assign(self.best, self.trained.variables)


def trainer_of(
    model: keras.Model,
    options: Resolved,
    count: int,
    strategy: tf.distribute.Strategy | None = None,
    weights: np.ndarray | None = None,
    parts: int = 1,
    rate: Any = None,
) -> Trainer:
    """Return what trains `model` as `options` say, on `count` examples; `weights`: of classes (see `class_weights`).

    `parts`: see Session; with a strategy it has no effect, as each replica takes a part of the batch already.
    `rate`: what Adam takes as its rate in place of the schedule's.
    """
    with strategy.scope() if strategy else nullcontext():
        trained = distribution.replica_of(model) if strategy else with_fast_layers(model)
        rate = rate or learning_rate(options, math.ceil(count / options.batch_size))
        if strategy or on_gpu():
            optimizer = keras.optimizers.Adam(rate, weight_decay=options.weight_decay or None, name="adam")
            if options.weight_decay:
                kept_whole = [weight for weight in trained.trainable_variables if not decays(weight)]
                optimizer.exclude_from_weight_decay(kept_whole)
            optimizer.build(trained.trainable_variables)
        else:
            optimizer = Adam(rate, trained.trainable_variables, options.weight_decay)
        kept = trained.variables if options.patience else []
        best = [keras.Variable(item.value.read_value(), trainable=False) for item in kept]
    gradients_of = _gradients_of(trained, options, weights)
    step = _tensor_step(gradients_of, optimizer, trained)
    signature = [input_signature(trained.inputs), tf.TensorSpec((None, target_columns(options.mixup)))]
    if strategy:
        on_batch = distribution.on_all_replicas(step, strategy, signature)
    elif parts > 1:
        on_batch = _step_in_parts(gradients_of, optimizer, trained.trainable_variables, signature, parts)
    else:
        on_batch = _batch_step(step, signature)
    return Trainer(model, trained, optimizer, best, step, on_batch, predictor(model))


def train(
    trainer: Trainer, task: Task, options: Resolved, session: Session = ALONE, on_device: bool = False
) -> list[Epoch]:
    """Train the trainer's model with Adam on cross-entropy; return the figures of each epoch.

    Every epoch's order is a permutation seeded by (seed, phase, epoch). `train/…` figures are means over the
    epoch while the weights change, as in `keras.Model.fit`; `validation/…` figures are taken after it. In all of
    them each image counts the same, whatever the weights of classes.
    `options.schedule`: see `schedule`. `options.patience`: so many epochs without a lower validation loss end the
    training; it leaves the weights of `kept_epoch`.

    `on_device`: each epoch is one call (see `device_epoch`), where the task prepares nothing and no strategy is given;
    figures may differ from the others' by rounding.

    `trainer`: as `trainer_of` makes it with the same `options`, or after `begin_again`.

    Raises FrostlineError for a checkpoint that is damaged, or of a training that has ended, and where a loss is no
    number (NaN or infinity): from there on, neither are the weights. BatchTooLargeError: see there.
    """
    checkpoint, strategy = session.checkpoint_in_parts, session.strategy
    keras.utils.set_random_seed(seed32(task.seed, task.phase))
    count = len(task.training.labels)
    history, restored = checkpoints.load(checkpoint, trainer.variables) if checkpoint else ([], 0)
    done = distribution.take_from_chief(strategy, trainer.variables, len(history)) if strategy else len(history)
    copy_values(trainer.trained, trainer.model)
    kept = _best_so_far(history, strategy) if options.patience else 0

    def is_last(number: int) -> bool:
        return number >= options.epochs or (options.patience is not None and number >= kept + options.patience)

    if history and restored < len(trainer.variables) and not is_last(done):
        raise FrostlineError(f"{checkpoint} is of a training that has ended.\nDelete it; the phase then starts over.")
    for epoch in history:
        session.on_epoch(epoch)
    run_epoch = _epochs(trainer, task, options, on_device and not strategy)
    number, validated = done, ""
    begun = saved = time.monotonic()
    while not is_last(number):
        number += 1
        loss_sum, hits = run_epoch(number, validated)
        copy_values(trainer.trained, trainer.model)
        figures = loss_sum / count, hits / count, *trainer.score(task.validation)
        _check_numbers(figures, task.phase, number)
        history.append(dict(zip(EPOCH_COLUMNS, (number, *figures), strict=True)))
        if options.patience:
            kept = _best_so_far(history, strategy)
            if kept == number:
                _assign(trainer.best, trainer.trained.variables)
        validated = f", validation {figures[2]:.4f} {figures[3]:.3f}"
        left = "" if is_last(number) else _left((time.monotonic() - begun) / (number - done), number, options)
        _log.info("%s: epoch %d: %s%s%s", task.phase, number, _figures(*figures[:2]), validated, left)
        if checkpoint and distribution.is_chief(strategy) and time.monotonic() - saved >= session.checkpoint_every:
            checkpoints.save(checkpoint, trainer.outcome if is_last(number) else trainer.variables, history)
            saved = time.monotonic()
        session.on_epoch(history[-1])
    if options.patience:
        _log.info("%s: epoch %d of %d is kept", task.phase, kept, len(history))
        trainer.take_best()
    return history


@contextmanager
def told_if_too_large(phase: PhaseName, batch_size: int, beside_features: bool = False) -> Iterator[None]:
    """Raise BatchTooLargeError, within, where the memory does not hold a step."""
    try:
        with memory_errors():
            yield
    except tf.errors.ResourceExhaustedError as error:
        raise BatchTooLargeError(phase, batch_size, beside_features) from error


def _left(each: float, done: int, options: Resolved) -> str:
    """What the epochs that are left may take, where one takes `each`, in seconds."""
    return f"; {'at most' if options.patience else 'about'} {in_words(each * (options.epochs - done))} left"


def _figures(loss: float, accuracy: float) -> str:
    return f"loss {loss:.4f} accuracy {accuracy:.3f}"


def _epochs(
    trainer: Trainer, task: Task, options: Resolved, on_device: bool
) -> Callable[[int, str], tuple[float, float]]:
    """Return what trains one epoch, given its number and what its progress says beside loss and accuracy so far: → sum
    of losses, number of hits."""
    count = len(task.training.labels)
    whole = None
    if on_device and not task.prepare:
        try:
            of = task.training
            with memory_errors():
                whole = whole_epoch(trainer.step, of.features, of.mirrored, of.labels, options.batch_size)
        except tf.errors.ResourceExhaustedError:
            _log.info("the features do not fit the device's memory: they are read batch by batch")

    def run(number: int, validated: str) -> tuple[float, float]:
        with (
            told_if_too_large(task.phase, options.batch_size, beside_features=whole is not None),
            track(f"{task.phase} {number}/{options.epochs}", total=count, unit="images") as advance,
        ):
            if whole:
                totals = whole(*_draw(task, options, number))
                advance(count, _figures(totals[0] / count, totals[1] / count) + validated)
                return totals
            loss_sum = hits = seen = 0.0
            for load, rows in batches(task, options, number):
                loss, correct = trainer.on_batch(load, rows)
                loss_sum, hits, seen = loss_sum + float(loss) * rows, hits + float(correct), seen + rows
                advance(rows, _figures(loss_sum / seen, hits / seen) + validated)
            return loss_sum, hits

    return run


def _draw(task: Task, options: Resolved, number: int) -> tuple[np.ndarray, np.ndarray | None, Partners | None]:
    """Of epoch `number`, the order of its rows, which of them are mirrored, and what is mixed into them."""
    stream, count = (task.phase, number), len(task.training.labels)
    order = generator(task.seed, "shuffle", *stream).permutation(count)
    if options.class_weight == SAMPLED:
        order = drawn(order, task.training.labels, generator(task.seed, "drawn", *stream))
    mirror = generator(task.seed, "mirror", *stream).random(count) < 0.5 if task.training.mirrored else None
    partners = None
    if options.mixup:
        partners = draw_partners(order, options.mixup, generator(task.seed, "mixup", *stream))
    return order, mirror, partners


def batches(task: Task, options: Resolved, number: int) -> Iterator[tuple[Load, int]]:
    """Of epoch `number`, how to read each batch, and its number of rows: what a `Step` takes."""
    order, mirror, partners = _draw(task, options, number)
    prepared = task.prepare(derive_seed(task.seed, "augment", task.phase, number)) if task.prepare else None
    for start in range(0, len(order), options.batch_size):
        place = slice(start, start + options.batch_size)
        rows = np.sort(order[place])  # sorted: the memory map is read forwards
        load = _loading(task.training, rows, mirror, prepared)
        if partners:
            others = _loading(task.training, partners.rows[place], mirror, prepared)
            load = _mixing(load, others, partners.shares[place])
        yield load, len(rows)


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


def _mixing(load: Load, others: Load, shares: np.ndarray) -> Load:
    return lambda own: mixed(*load(own), *others(own), shares[own])


def cross_entropy_of(classes: int, smoothing: float) -> Any:
    """By image, (n,), of targets (n, 1) and a model's output, by Keras; `classes`: its width, 1 for two classes."""
    if classes == 1:
        return keras.losses.BinaryCrossentropy(label_smoothing=smoothing, reduction="none")
    if not smoothing:
        return keras.losses.SparseCategoricalCrossentropy(reduction="none")
    smoothed = keras.losses.CategoricalCrossentropy(label_smoothing=smoothing, reduction="none")
    return lambda targets, probabilities: smoothed(tf.one_hot(tf.cast(targets[:, 0], tf.int32), classes), probabilities)


GradientsOf = Callable[[Any, tf.Tensor, tf.Tensor], tuple[Any, tf.Tensor, tf.Tensor]]
"""Inputs, targets as `Load` gives them, number of rows to divide the loss by → the gradients, the loss and the number
of hits."""


def _gradients_of(model: keras.Model, options: Resolved, class_weights: np.ndarray | None) -> GradientsOf:
    """Return what gives the gradients by which `model` is trained as `options` say; `class_weights`: see there."""
    weights, classes, smoothing = model.trainable_variables, model.output_shape[1], options.label_smoothing
    sampled = options.class_weight == SAMPLED  # images come as often as the weights of their classes say
    cross_entropy = cross_entropy_of(classes, smoothing)
    hits_of = keras.metrics.binary_accuracy if classes == 1 else keras.metrics.sparse_categorical_accuracy

    def of_each(targets: tf.Tensor, probabilities: tf.Tensor) -> list[tf.Tensor]:
        """By image, (n,): what training lowers, the loss that is told, and whether it is a hit."""
        losses = cross_entropy(targets, probabilities)
        hits = tf.reshape(hits_of(targets, probabilities), [-1])  # Keras gives (n, 1) for two classes
        if class_weights is None:
            return [losses, losses, hits]
        adjusted, own = weighted(losses, targets, probabilities, class_weights, smoothing)
        return [adjusted, losses / own, hits / own] if sampled else [own * adjusted, losses, hits]

    def gradients_of(inputs: Any, targets: tf.Tensor, rows: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            probabilities = model(inputs, training=True)
            found = of_each(targets[:, :1], probabilities)
            if options.mixup:
                found = of_mixture(found, of_each(targets[:, 1:2], probabilities), targets)
            lowered, loss, hits = (tf.reduce_sum(values) for values in found)
            lowered = lowered / rows
        return tape.gradient(lowered, [weight.value for weight in weights]), loss / rows, hits

    return gradients_of


def _tensor_step(gradients_of: GradientsOf, optimizer: Any, model: keras.Model) -> TensorStep:
    """Return what trains `model` on one batch."""

    def step(inputs: Any, targets: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        gradients, loss, hits = gradients_of(inputs, targets, rows)
        optimizer.apply(gradients, model.trainable_variables)
        return loss, hits

    return step


def _batch_step(step: TensorStep, signature: Sequence[Any]) -> Step:
    """`step`, traced, for batches that are read when it is called; `signature`: of their inputs and targets."""
    traced = tf.function(step, input_signature=[*signature, tf.TensorSpec(())], autograph=False)
    return lambda load, rows: traced(*load(slice(None)), np.float32(rows))


def _step_in_parts(
    gradients_of: GradientsOf, optimizer: Any, weights: Sequence[Any], signature: Sequence[Any], parts: int
) -> Step:
    """What `_batch_step` gives, with the memory of one of `parts` of a batch, and that of the gradients' sums."""
    sums = [tf.Variable(tf.zeros(weight.shape)) for weight in weights]

    def add(inputs: Any, targets: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        gradients, loss, hits = gradients_of(inputs, targets, rows)
        for total, gradient in zip(sums, gradients, strict=True):
            total.assign_add(gradient)
        return loss, hits

    def take_step() -> None:
        optimizer.apply([total.read_value() for total in sums], weights)
        for total in sums:
            total.assign(tf.zeros(total.shape))

    add_part = tf.function(add, input_signature=[*signature, tf.TensorSpec(())], autograph=False)
    take_whole = tf.function(take_step, autograph=False)

    def on_batch(load: Load, rows: int) -> tuple[float, float]:
        loss = hits = 0.0
        size = math.ceil(rows / parts)
        for start in range(0, rows, size):
            own_loss, own_hits = add_part(*load(slice(start, start + size)), np.float32(rows))
            loss, hits = loss + float(own_loss), hits + float(own_hits)
        take_whole()
        return loss, hits

    return on_batch
