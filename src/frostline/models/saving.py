"""Keras model files whose bytes depend on the model alone."""

import errno
import json
import lzma
import re
import shutil
import struct
import sys
import textwrap
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from frostline.common.files import replacing, zip_entry
from frostline.common.fit_names import FITS, SQUASH, Fit
from frostline.common.thresholds import Threshold
from frostline.models import hub
from frostline.runtime.errors import FrostlineError, brief
from frostline.runtime.quiet_tensorflow import keras

_METADATA = "metadata.json"
_DAMAGED = (zipfile.BadZipFile, EOFError, RuntimeError, zlib.error, lzma.LZMAError, struct.error)
"""What zipfile raises, beside OSError, on what is no archive or one that it cannot read (encrypted, say), and json on
what is nested too deep."""


@dataclass(frozen=True)
class Metadata:
    """What a model file says of its classes, and of how it is used."""

    classes: list[str]
    """In the order of the labels."""
    threshold: Threshold
    """Of calibrated probabilities."""
    temperature: float = 1.0
    """That which calibrates the model's probabilities (`with_temperature`); 1 leaves them as they are."""
    fit: Fit = SQUASH
    """How pictures become the images that it takes, as those did that it was trained on."""


def save_model(model: keras.Model, path: Path, classes: Sequence[str], fit: Fit = SQUASH) -> None:
    """Save `model`, the names of its `classes` and the `fit` of its images as a `.keras` file.

    It has no date and no address in memory in it: `keras.Model.save` writes the time of saving into the archive, and
    names objects that several layers share by their `id()`; here there are no times, and these are numbered by first
    appearance. Classes and fit stand with the version of Keras, which passes over them; for one more entry it would
    unpack the whole archive wherever it loads one. A file that names no fit squashes pictures: all did before there was
    a choice, and their bytes stay as they were.
    """
    config = _number_shared_objects(json.dumps(keras.saving.serialize_keras_object(model)))
    with replacing(path) as temporary:
        weights = temporary.with_suffix(".weights.h5")
        try:
            model.save_weights(weights)
            entry = zip_entry("model.weights.h5")
            # known beforehand, zipfile writes ZIP64 only where it must: releases of Python differ in it
            entry.file_size = weights.stat().st_size
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                metadata = {"keras_version": keras.__version__, "classes": list(classes)}
                metadata |= {"fit": fit} if fit != SQUASH else {}
                archive.writestr(zip_entry(_METADATA), json.dumps(metadata))
                archive.writestr(zip_entry("config.json"), config)
                with weights.open("rb") as reader, archive.open(entry, "w") as writer:
                    shutil.copyfileobj(reader, writer, 1 << 22)
        finally:
            weights.unlink(missing_ok=True)


def save_for_use(source: Path, path: Path, *, threshold: Threshold, temperature: float) -> None:
    """Copy the model file `source` to `path`, with this `threshold` and `temperature` in its metadata (see `Metadata`).

    The model is not loaded; the same file and numbers give the same bytes.
    """
    use = {"threshold": threshold, "temperature": temperature}
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as new,
    ):
        for name in old.namelist():
            entry = zip_entry(name)
            if name == _METADATA:
                new.writestr(entry, json.dumps(json.loads(old.read(name)) | use))
                continue
            entry.file_size = old.getinfo(name).file_size
            with old.open(name) as reader, new.open(entry, "w") as writer:
                shutil.copyfileobj(reader, writer, 1 << 22)


def _number_shared_objects(config: str) -> str:
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return match[1] + numbers.setdefault(match[2], str(len(numbers)))

    return re.sub(r'("shared_object_id": )(\d+)', number, config)


def load_model(path: Path) -> keras.Model:
    """Load a `.keras` file in Keras' safe mode (no code from the file is run), not compiled.

    Raises FrostlineError where there is none, Keras cannot read it, or it needs KerasHub, which is not installed;
    OSError where the disk fails.
    """
    if not path.is_file():
        raise FrostlineError(f"{path} not found.\nTrain it first: dvc repro")
    if needs_keras_hub(path):
        hub.keras_hub()
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises errors of many kinds on what is no model, or one of another program
        if _is_the_disks(error):
            raise
        reason = brief(error)
        raise FrostlineError(f"{path} is not a model that Keras can read: {reason}") from error


def needs_keras_hub(path: Path) -> bool:
    """Whether the model file at `path` has layers or functions of KerasHub."""
    with suppress(OSError, KeyError, *_DAMAGED), zipfile.ZipFile(path) as archive:
        return hub.is_named_in(archive.read("config.json").decode(errors="replace"))
    return False  # what is wrong with it, loading says


def load_metadata(path: Path) -> Metadata:
    """The metadata of a model that `save_model` or `save_for_use` wrote.

    Without a threshold it is 0.5 for two classes, without a temperature 1, without a fit squash. Raises FrostlineError
    for a file without names of classes, for one whose fit this release does not know, and for one that says of a field
    what it cannot be.
    """
    advice = "Give a model that Frostline has trained."
    try:
        with zipfile.ZipFile(path) as archive:
            content = json.loads(archive.read(_METADATA))
    except FileNotFoundError as error:
        raise FrostlineError(f"{path} not found.\nTrain it first: dvc repro") from error
    except (KeyError, ValueError) as error:
        raise FrostlineError(f"{path} does not name its classes.\n{advice}") from error
    except (OSError, *_DAMAGED) as error:
        if _is_the_disks(error) and not isinstance(error, IsADirectoryError):
            raise
        raise FrostlineError(f"{path} is not a .keras file.\n{advice}") from error
    if not isinstance(content, dict) or "classes" not in content:
        raise FrostlineError(f"{path} does not name its classes.\n{advice}")
    classes, fit = content["classes"], content.get("fit", SQUASH)
    if fit not in FITS:
        raise FrostlineError(
            f"{path} takes pictures fitted by {fit!r}, which this release does not know: {', '.join(FITS)}.\n"
            "Use the release that trained it, or a later one."
        )
    if not (isinstance(classes, list) and all(isinstance(name, str) and name.strip() for name in classes)):
        raise _unusable(path, "classes", classes)
    if len(set(classes)) < len(classes):
        raise _unusable(path, "classes", classes)
    threshold, temperature = content.get("threshold", 0.5 if len(classes) == 2 else None), content.get("temperature", 1)
    if not _can_decide(threshold, len(classes)):
        raise _unusable(path, "threshold", threshold)
    if not _is_number(temperature) or temperature <= 0:
        raise _unusable(path, "temperature", temperature)
    return Metadata(classes, threshold, float(temperature), fit)


def _is_the_disks(error: Exception) -> bool:
    """Whether the system did not let a file be read. EINVAL says that a damaged archive led to no place in it."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def _unusable(path: Path, field: str, value: object) -> FrostlineError:
    said = textwrap.shorten(repr(value), 100, placeholder=" …")
    return FrostlineError(f"{path} says {field}={said}, which cannot be.\nGive a model that Frostline has trained.")


def _can_decide(threshold: Any, classes: int) -> bool:
    """Whether `threshold`, out of a file, is a Threshold for so many `classes`."""
    if threshold is None or _is_number(threshold):
        return threshold is None or 0 <= threshold <= 1
    if not isinstance(threshold, list) or len(threshold) != classes:
        return False
    if all(map(_is_number, threshold)):
        return classes > 2 and min(threshold) > 0
    if not all(isinstance(row, list) and len(row) == classes and all(map(_is_number, row)) for row in threshold):
        return False
    costs = [cost for row in threshold for cost in row]
    return not any(row[number] for number, row in enumerate(threshold)) and min(costs) >= 0 and max(costs) > 0


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def load_trained(path: Path) -> tuple[keras.Model, Metadata]:
    """Load a model that classifies images, as `save_model` or `save_for_use` wrote it, and its metadata.

    The model takes images (N, size, size, 3) and gives P(second class), (N, 1), or that of each of more classes.

    Raises FrostlineError for a file that is no model, and for a model of another kind.
    """
    metadata = load_metadata(path)
    model, count = load_model(path), len(metadata.classes)
    takes, gives = (getattr(model, name, None) for name in ("input_shape", "output_shape"))
    fits = isinstance(takes, tuple) and len(takes) == 4 and takes[1] and takes[1:] == (takes[1], takes[1], 3)
    if not fits or count < 2 or gives != (None, 1 if count == 2 else count):
        raise FrostlineError(
            f"{path} is no classifier of images of one size in {count} classes: it takes {takes} and gives {gives}.\n"
            "Give a model that Frostline has trained."
        )
    return model, metadata
