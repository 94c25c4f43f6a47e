"""Several networks as one backbone: the one file of their weights, and how their layers are called."""

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py

from frostline.runtime.errors import FrostlineError

JOINED = "joined"
"""The layer that joins the members' features: the cut of an ensemble."""


def write_members(path: Path, files: Mapping[str, Path]) -> None:
    """Write the weights files `files`, by member, as one to `path`; equal files give equal bytes."""
    content = io.BytesIO()  # HDF5's own writing crashes the process where the disk is full
    with h5py.File(content, "w") as file:
        for member, source in files.items():
            with h5py.File(source, "r") as opened:
                _copy(opened, file.create_group(member))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getbuffer())


@contextmanager
def copy_of_member(path: Path, member: str) -> Iterator[Path]:
    """Within, a weights file of `member` alone, out of what `write_members` wrote to `path`: Keras reads whole files.

    Raises FrostlineError where there are no weights of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder, f"{member}.h5")
        try:
            with h5py.File(path, "r") as file, h5py.File(alone, "w") as target:
                _copy(file[member], target)
        except (OSError, KeyError) as error:
            raise FrostlineError(f"{path} has no weights of {member}.\nFetch them: dvc repro fetch-weights") from error
        yield alone


def _copy(source: h5py.Group, target: h5py.Group) -> None:
    for name in source:
        source.copy(name, target)
    for name, value in source.attrs.items():
        target.attrs[name] = value
