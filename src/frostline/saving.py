"""Keras model files whose bytes depend on the model alone."""

import json
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from frostline.errors import FrostlineError
from frostline.files import replacing, zip_entry
from frostline.quiet_tensorflow import keras

_CLASSES = "classes.json"


def save_model(model: keras.Model, path: Path, classes: Sequence[str]) -> None:
    """Save `model` and the names of its `classes` as a `.keras` file without a date or an address in memory.

    Keras writes the time of saving into metadata.json and into the archive's entries, and names objects that several
    layers share by their `id()`: the former is left out here, the latter are numbered by first appearance. The classes
    are one more entry of the archive, which Keras passes over.
    """
    with replacing(path) as temporary:
        dated = temporary.with_suffix(".keras")
        try:
            model.save(dated)
            with (
                zipfile.ZipFile(dated) as source,
                zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as target,
            ):
                for name in source.namelist():
                    entry = zip_entry(name)
                    if name == "metadata.json":
                        version = json.loads(source.read(name))["keras_version"]
                        target.writestr(entry, json.dumps({"keras_version": version}))
                    elif name == "config.json":
                        target.writestr(entry, _number_shared_objects(source.read(name).decode()))
                    else:
                        # known beforehand, zipfile writes ZIP64 only where it must: releases of Python differ in it
                        entry.file_size = source.getinfo(name).file_size
                        with source.open(name) as reader, target.open(entry, "w") as writer:
                            shutil.copyfileobj(reader, writer, 1 << 22)
                target.writestr(zipfile.ZipInfo(_CLASSES), json.dumps(list(classes)))
        finally:
            dated.unlink(missing_ok=True)


def _number_shared_objects(config: str) -> str:
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return match[1] + numbers.setdefault(match[2], str(len(numbers)))

    return re.sub(r'("shared_object_id": )(\d+)', number, config)


def load_model(path: Path) -> keras.Model:
    """Load a `.keras` file in Keras' safe mode (no code from the file is run), not compiled."""
    if not path.is_file():
        raise FrostlineError(f"{path} not found.\nTrain it first: dvc repro")
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and error.errno:  # the disk, and not the file
            raise
        reason = " ".join(str(error).split())[:200]
        raise FrostlineError(f"{path} is not a model that Keras can read: {reason}") from error


def load_classes(path: Path) -> list[str]:
    """The names of the classes of a model that `save_model` wrote, in the order of the labels."""
    try:
        with zipfile.ZipFile(path) as archive:
            return list(json.loads(archive.read(_CLASSES)))
    except KeyError as error:
        raise FrostlineError(f"{path} does not name its classes.\nGive a model that Frostline has trained.") from error
