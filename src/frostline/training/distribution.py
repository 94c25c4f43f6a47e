"""Training on several devices: on all GPUs of this machine, or in several processes on one machine or more.

`tf.distribute` under the loop of `training`: each replica has a copy of what learns, and takes its share of each batch.
What one device computes of a whole batch, the replicas compute of the whole batch together: the loss, the gradients,
the statistics of thawed batch normalisation, the mask of dropout. So the result is that of one device, within rounding.
"""

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from frostline.runtime.errors import FrostlineError, brief
from frostline.runtime.quiet_tensorflow import keras, on_gpu, tf
from frostline.training.fast_layers import copy_values

_log = logging.getLogger(__name__)

NONE, MIRRORED, MULTI_WORKER = "none", "mirrored", "multi_worker"
_SUM = tf.distribute.ReduceOp.SUM
_HELP = "See docs/distributed.md."

Load = Callable[[slice], tuple[Any, Any]]
"""Reads the rows that a replica takes of a batch: the model's inputs and the targets, (n, 1) class indices, float32, or
with mixup as `mixup.mixed` gives them."""


def strategy_of(distribution: str) -> tf.distribute.Strategy | None:
    """Make the strategy that the setting names; None where this process trains alone, on one device.

    "multi_worker" must come before all else that TensorFlow does, once in a process, and waits for all processes that
    TF_CONFIG names.

    Raises FrostlineError where it comes too late, and where TF_CONFIG is missing or names no cluster.
    """
    if distribution == MIRRORED:
        return tf.distribute.MirroredStrategy()
    if distribution != MULTI_WORKER:
        return None
    try:
        if not tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec().as_dict():
            raise ValueError("it is not set, or has no cluster")
        _log.info("waiting until all processes that TF_CONFIG names have started.")
        with _ended_by_ctrl_c():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        where = "in the stages transfer and finetune, and not in a sweep"
        raise FrostlineError(f"distribution={MULTI_WORKER} works {where}: {brief(error)}.\n{_HELP}") from error
    except (ValueError, TypeError, KeyError, AttributeError, tf.errors.OpError) as error:
        problem = f"the variable TF_CONFIG names no cluster to join: {brief(error)}."
        raise FrostlineError(f"distribution is {MULTI_WORKER}, but {problem}\n{_HELP}") from error


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process meanwhile: Python does not get to hear of it while TensorFlow waits for the others.

    SIGTERM is put back: TensorFlow takes it, to tell all processes of machines that are about to be withdrawn.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def devices_of(strategy: tf.distribute.Strategy | None) -> list[str]:
    """The kind ("CPU" or "GPU") of each device that trains."""
    kind = "GPU" if on_gpu() else "CPU"
    return [kind] * (strategy.num_replicas_in_sync if strategy else 1)


def is_chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether this process is the one that writes: the only one, or worker 0."""
    return strategy is None or bool(strategy.extended.should_checkpoint)


def replica_of(model: keras.Model) -> keras.Model:
    """A copy of `model` for the replicas of the strategy in whose scope this is called."""

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = True
        kind = _Dropout if isinstance(layer, keras.layers.Dropout) else type(layer)
        return kind.from_config(config)

    copied = keras.models.clone_model(model, clone_function=copy)
    copy_values(model, copied)
    return copied


class _Dropout(keras.layers.Dropout):  # type: ignore[misc]  # Keras has no types
    """Dropout that draws the mask of the whole batch in each replica, which takes its rows of it."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or self.rate == 0:
            return inputs
        context, rows = tf.distribute.get_replica_context(), tf.shape(inputs)[0]
        total = tf.cast(context.all_reduce(_SUM, tf.cast(rows, tf.float32)), tf.int32)
        first = total * context.replica_id_in_sync_group // context.num_replicas_in_sync
        each = self.noise_shape[1:] if self.noise_shape else tf.shape(inputs)[1:]
        ones = tf.ones(tf.concat([[total], each], axis=0), inputs.dtype)
        mask = keras.random.dropout(ones, self.rate, seed=self.seed_generator)
        return inputs * mask[first : first + rows]


def on_all_replicas(
    step: Callable[[Any, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    strategy: tf.distribute.Strategy,
    signature: Sequence[Any],
) -> Callable[[Load, int], tuple[float, float]]:
    """Return a function that runs `step` in every replica on its share of a batch, and sums what they return.

    `step` takes inputs, targets (both as in `signature`) and the number of rows of the whole batch. A batch with fewer
    rows than replicas goes to each of them whole, as if it were repeated: TensorFlow's kernels do not take no rows.
    """
    replicas = strategy.num_replicas_in_sync
    ids = strategy.experimental_distribute_values_from_function(lambda context: context.replica_id_in_sync_group)
    local = strategy.experimental_local_results(ids)  # the replicas of this process

    def batch_step(shares: Sequence[tuple[Any, tf.Tensor]], rows: tf.Tensor) -> tf.Tensor:
        def in_replica() -> tf.Tensor:
            replica = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
            inputs, targets = shares[local.index(replica)]
            return tf.stack(step(inputs, targets, rows))

        return strategy.reduce(_SUM, strategy.run(in_replica), axis=None)

    together = tf.function(batch_step, input_signature=[[tuple(signature)] * len(local), tf.TensorSpec(())])

    def run(load: Load, rows: int) -> tuple[float, float]:
        copies = replicas if rows < replicas else 1

        def share_of(replica: int) -> tuple[Any, Any]:
            first, last = (rows * number // replicas for number in (replica, replica + 1))
            own = load(slice(first, last) if copies == 1 else slice(None))
            return cast(tuple[Any, Any], keras.tree.map_structure(tf.convert_to_tensor, own))

        with _all_are_there():
            with tf.device("CPU:0"):  # each share goes to its device from there
                shares = [share_of(replica) for replica in local]
            loss, hits = together(shares, np.float32(rows * copies)).numpy()
        return loss, hits / copies

    return run


def take_from_chief(strategy: tf.distribute.Strategy, variables: Sequence[Any], number: int) -> int:
    """Set `variables` to what they are in the chief, and return its `number`."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return number

    def of_chief(value: tf.Tensor) -> tf.Tensor:
        return strategy.reduce(_SUM, value if is_chief(strategy) else tf.zeros_like(value), axis=None)

    with _all_are_there():
        for variable in variables:
            variable.assign(of_chief(variable.value.read_value()))
        return int(of_chief(tf.constant(number)))


def wait_for_all(strategy: tf.distribute.Strategy | None) -> None:
    """Return when every process has come here."""
    if strategy is not None:
        take_from_chief(strategy, [], 0)


@contextmanager
def _all_are_there() -> Iterator[None]:
    """Turn what TensorFlow says of a process that is gone into a FrostlineError."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise FrostlineError(
            "another process of the training has ended, or is out of reach.\n"
            "Start the stage in all of them again; it goes on from its last epoch."
        ) from error
