"""The feature cache: what a frozen layer gives for a set of images is computed once.

A frozen layer gives the same output every epoch, so both phases, the evaluation and every trial of a sweep train from
features that one pass over the images left on disk. An entry is named by all that its content depends on
(images, layers and weights below the layer, code, library versions), so nothing stale is ever read.
"""

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from frostline.common.files import digest_of, release
from frostline.config.paths import FEATURES
from frostline.features.cache import ARRAY, complete, is_complete, lock
from frostline.models import hub
from frostline.models.inference import inference_copy, passes_of, within_memory
from frostline.runtime import ray_pool
from frostline.runtime.code_digest import code_digest
from frostline.runtime.progress import track
from frostline.runtime.quiet_tensorflow import keras, on_gpu, tf

_log = logging.getLogger(__name__)

BATCH, GPU_BATCH = 64, 256
"""Images in one forward pass: larger ones were no faster on 2 cores; an H200 took 0.4 of the time with 256."""
DTYPE = np.float16
"""On disk. Half of float32's size; features are read back with a relative error of at most 2**-11."""
_LARGEST = float(np.finfo(DTYPE).max)


class Extractor:
    """Computes what `layers` of a model give, once for each set of images; later calls read the files.

    `model` takes float32 images (N, size, size, 3) from 0 to 255. `precision`: what the layers compute in, "float32" or
    "bfloat16". `cache`: the folder of the files. `workers`: who computes them, "local" (this process) or "ray" (see
    `ray_pool.mapped`, and its errors); `deterministic`: with op determinism there, as this process may have it on.
    Either way the same bytes come from processors of one kind.
    """

    def __init__(
        self,
        model: keras.Model,
        layers: Sequence[str],
        precision: str = "float32",
        *,
        cache: Path = FEATURES,
        workers: str = "local",
        deterministic: bool = True,
    ) -> None:
        self._model, self._layers, self._precision = model, list(layers), precision
        self._cache, self._workers, self._deterministic = cache, workers, deterministic
        # On a CPU all kernels give the same bits each time.
        self._networks = [_digest(model, layer, precision, deterministic or not on_gpu()) for layer in layers]
        self._forwards: dict[tuple[str, ...], _Forward] = {}
        """By layers; building one takes as long as 200 images."""

    def __call__(self, images: np.ndarray, digest: str) -> list[np.ndarray]:
        """Return the layers' outputs for `images`, uint8, as read-only memory-mapped float16 arrays (N, …), one each.

        `digest` names the content of `images`. What is missing is computed in one pass for all layers (but see
        `passes_of`); a pass that is cut off goes on from its last whole batch.
        """
        self._cache.mkdir(parents=True, exist_ok=True)
        folders = [self._cache / digest_of([network, digest]) for network in self._networks]
        with lock(self._cache):
            missing = {
                layer: folder for layer, folder in zip(self._layers, folders, strict=True) if not is_complete(folder)
            }
            _log.debug("features of %s: %d of %d layers to compute", digest, len(missing), len(folders))
            for together in passes_of(self._model, list(missing)):
                some = {layer: missing[layer] for layer in together}
                _compute(self._forward(tuple(together)), images, some, self._workers)
            for folder in folders:
                os.utime(folder)  # used now
            return [np.load(folder / ARRAY, mmap_mode="r") for folder in folders]

    def _forward(self, layers: tuple[str, ...]) -> "_Forward":
        if layers not in self._forwards:
            part = inference_copy(self._model, layers, self._precision)
            self._forwards[layers] = _Forward(part, self._deterministic)
        return self._forwards[layers]


def _compute(forward: "_Forward", images: np.ndarray, missing: Mapping[str, Path], workers: str) -> None:
    """Write what `forward` gives for `images` to the folders of the layers that are `missing`."""
    batch_size = GPU_BATCH if on_gpu() else BATCH
    with ExitStack() as stack:
        outputs = [
            stack.enter_context(_Output(folder / ARRAY, (len(images), *shape)))
            for folder, shape in zip(missing.values(), forward.shapes, strict=True)
        ]
        done = min(output.rows for output in outputs) // batch_size * batch_size
        for output in outputs:
            output.go_to(done)
        advance = stack.enter_context(track("features", total=len(images), start=done, unit="images"))
        batches = _batches(images, done, batch_size)
        for values in stack.enter_context(closing(_computed(forward, batches, workers))):
            for output, rows in zip(outputs, values, strict=True):
                output.append(rows)
            advance(len(values[0]))
    for layer, folder in missing.items():
        complete(folder, layer, len(images))


def _batches(images: np.ndarray, start: int, batch_size: int) -> Generator[np.ndarray]:
    for first in range(start, len(images), batch_size):
        yield np.ascontiguousarray(images[first : first + batch_size])
        release(images)


def _computed(forward: "_Forward", batches: Iterable[np.ndarray], workers: str) -> Generator[list[np.ndarray]]:
    if workers == "ray":
        gpus = int(on_gpu())  # the entry's name says whether a GPU computed it
        yield from ray_pool.mapped(forward, batches, gpus=gpus)
    else:
        yield from map(forward, batches)


class _Forward:
    """A batch of images, (N, size, size, 3) uint8 → the outputs of `part`, float16.

    It goes to another process as JSON and arrays, from which Keras builds the model there.
    """

    def __init__(self, part: keras.Model, deterministic: bool) -> None:
        self._part, self._deterministic = part, deterministic
        self.shapes = [tuple(output.shape[1:]) for output in part.outputs]

        def outputs_of(batch: tf.Tensor) -> list[tf.Tensor]:
            outputs = keras.tree.flatten(part([tf.cast(batch, tf.float32)], training=False))
            return [
                tf.cast(tf.clip_by_value(tf.cast(output, tf.float32), -_LARGEST, _LARGEST), DTYPE) for output in outputs
            ]

        traced = tf.function(outputs_of, input_signature=[tf.TensorSpec(part.inputs[0].shape, tf.uint8)])
        self._outputs_of = within_memory(lambda images: [output.numpy() for output in traced(*images)])

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        return self._outputs_of([images])

    def __reduce__(self) -> tuple[Callable[..., "_Forward"], tuple[str, Mapping[str, list[np.ndarray]], bool]]:
        weights = {layer.name: layer.get_weights() for layer in self._part.layers if layer.weights}
        return _rebuilt, (self._part.to_json(), weights, self._deterministic)


def _rebuilt(config: str, weights: Mapping[str, list[np.ndarray]], deterministic: bool) -> _Forward:
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if hub.is_named_in(config):
        hub.keras_hub()
    part = keras.models.model_from_json(config)  # in safe mode, Keras' default: it runs no code from there
    for name, values in weights.items():
        part.get_layer(name).set_weights(values)
    return _Forward(part, deterministic)


class _Output:
    """A .npy file that grows by rows. Plain writes: pages of a writable memory map would count as memory in use."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        path.parent.mkdir(exist_ok=True)
        header = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(np.dtype(DTYPE))
        np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
        self._start, self._row = header.tell(), int(np.prod(shape[1:])) * np.dtype(DTYPE).itemsize
        self._file = path.open("r+b" if path.is_file() else "w+b")
        self._file.write(header.getvalue())
        self.rows = max(self._file.seek(0, os.SEEK_END) - self._start, 0) // self._row

    def __enter__(self) -> "_Output":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def go_to(self, row: int) -> None:
        self._file.truncate(self._start + row * self._row)
        self._file.seek(0, os.SEEK_END)

    def append(self, rows: np.ndarray) -> None:
        self._file.write(rows.data)
        self._file.flush()  # so that a killed process loses no whole batch


def _digest(model: keras.Model, layer: str, precision: str, deterministic: bool) -> str:
    """Of all that the output of `layer` depends on, but for the images."""
    below = keras.Model(model.input, model.get_layer(layer).output)
    layers = json.dumps([[type(each).__module__, type(each).__name__, each.get_config()] for each in below.layers])
    weights = hashlib.sha256()
    for variable in below.weights:
        weights.update(np.ascontiguousarray(variable.numpy()).data)
    facts = {
        "code": code_digest(__name__),
        "precision": precision,
        "weights": weights.hexdigest(),
        "layer": layer,
        "layers": re.sub(r'"trainable": (true|false)', "", layers),  # what is frozen gives the same
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "keras_hub": hub.keras_hub().__version__ if hub.is_named_in(layers) else None,
        "deterministic": deterministic,
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
    }
    return digest_of(facts)
