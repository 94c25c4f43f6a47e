"""The feature cache: what a frozen layer gives for a set of pictures is computed once.

A frozen layer gives the same output every epoch, so both phases, the evaluation and every point of a sweep train from
features that one pass over the pictures left on disk. An entry is named by all that its content depends on
(pictures, weights below the layer, layer, library versions), so nothing stale is ever read.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frostline.files import write_json
from frostline.paths import FEATURES
from frostline.progress import track
from frostline.quiet_tensorflow import keras, tf

BATCH = 64
"""Pictures in one forward pass; larger ones were no faster on 2 cores."""
FLUSH = 32
"""Batches after which the rows computed are known to be on disk: what a killed pass loses at most."""
DTYPE = np.float16
"""On disk. Half of float32's size; features are read back with a relative error of at most 2**-11."""


@dataclass(frozen=True)
class Entry:
    """One complete array of features: of `layer`, for `count` pictures."""

    folder: Path
    layer: str
    count: int
    bytes: int
    last_used: float


def extract(
    model: keras.Model, pictures: np.ndarray, layers: Sequence[str], cache: Path = FEATURES
) -> list[np.ndarray]:
    """Return the outputs of `layers` for `pictures` as read-only memory-mapped float16 arrays (N, …), one per layer.

    `model` takes float32 pictures (N, size, size, 3) from 0 to 255; `pictures` is uint8 of that shape. What is missing
    from `cache` is computed in one pass for all layers. A pass that is cut off goes on from its last batch.
    """
    cache.mkdir(parents=True, exist_ok=True)
    digest = _digest(np.ascontiguousarray(pictures))
    folders = [cache / _key(model, layer, digest) for layer in layers]
    with _lock(cache):
        missing = [(layer, folder) for layer, folder in zip(layers, folders, strict=True) if not _complete(folder)]
        if missing:
            _compute(model, pictures, missing)
    arrays = []
    for folder in folders:
        os.utime(folder)
        arrays.append(np.load(folder / "features.npy", mmap_mode="r"))
    return arrays


def _compute(model: keras.Model, pictures: np.ndarray, missing: Sequence[tuple[str, Path]]) -> None:
    part = keras.Model(model.input, [model.get_layer(layer).output for layer, _ in missing])
    shape = (None, *pictures.shape[1:])
    forward = tf.function(lambda x: part(x, training=False), input_signature=[tf.TensorSpec(shape, tf.float32)])

    outputs = [
        _open_output(folder, (len(pictures), *model.get_layer(layer).output.shape[1:])) for layer, folder in missing
    ]
    done = min(_rows_done(folder) for _, folder in missing)
    limit = float(np.finfo(DTYPE).max)
    with track("features", total=len(pictures), start=done, unit="pictures") as advance:
        for start in range(done, len(pictures), BATCH):
            stop = min(start + BATCH, len(pictures))
            values = keras.tree.flatten(forward(pictures[start:stop].astype(np.float32)))
            for output, value, (_, folder) in zip(outputs, values, missing, strict=True):
                output[start:stop] = np.clip(value.numpy(), -limit, limit)
                if stop % (BATCH * FLUSH) == 0:
                    output.flush()
                    (folder / "rows").write_text(str(stop))
            advance(stop - start)
    for output, (layer, folder) in zip(outputs, missing, strict=True):
        output.flush()
        (folder / "rows").unlink(missing_ok=True)
        write_json(folder / "entry.json", {"layer": layer, "count": len(pictures)})  # last: it makes the entry complete


def _open_output(folder: Path, shape: tuple[int, ...]) -> np.memmap:
    folder.mkdir(exist_ok=True)
    path = folder / "features.npy"
    if _rows_done(folder):
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=DTYPE, shape=shape)


def _rows_done(folder: Path) -> int:
    """Rows of an unfinished entry that are known to be on disk."""
    path = folder / "rows"
    return int(path.read_text()) if path.is_file() and (folder / "features.npy").is_file() else 0


def _complete(folder: Path) -> bool:
    return (folder / "entry.json").is_file()


def _key(model: keras.Model, layer: str, pictures: str) -> str:
    below = keras.Model(model.input, model.get_layer(layer).output)
    weights = hashlib.sha256()
    for variable in below.weights:
        weights.update(np.ascontiguousarray(variable.numpy()).data)
    facts = {
        "format": 1,
        "pictures": pictures,
        "weights": weights.hexdigest(),
        "layer": layer,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + hashlib.sha256(array.data).digest()).hexdigest()


@contextmanager
def _lock(cache: Path) -> Iterator[None]:
    """One process at a time computes or prunes; a second one waits and then finds the features there."""
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def entries(cache: Path = FEATURES) -> list[Entry]:
    """The complete entries of `cache`, least recently used first."""
    found = []
    for path in cache.glob("*/entry.json"):
        fact, folder = json.loads(path.read_text()), path.parent
        size = (folder / "features.npy").stat().st_size
        found.append(Entry(folder, fact["layer"], fact["count"], size, folder.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.last_used)


def prune(limit: int, cache: Path = FEATURES) -> list[Entry]:
    """Delete least recently used entries until at most `limit` bytes are left; return what was deleted."""
    if not cache.is_dir():
        return []
    with _lock(cache):
        kept = entries(cache)
        total, deleted = sum(entry.bytes for entry in kept), []
        for entry in kept:
            if total <= limit:
                break
            shutil.rmtree(entry.folder)
            deleted.append(entry)
            total -= entry.bytes
    return deleted
