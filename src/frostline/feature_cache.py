"""The folder of cached features: what is there, what is complete, what goes first when room is short."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from frostline.files import read_json, write_json
from frostline.paths import FEATURES

ARRAY, ENTRY = "features.npy", "entry.json"


@dataclass(frozen=True)
class Entry:
    """One complete array of features: of `layer`, for `count` pictures."""

    folder: Path
    layer: str
    count: int
    bytes: int
    last_used: float


def is_complete(folder: Path) -> bool:
    return (folder / ENTRY).is_file()


def complete(folder: Path, layer: str, count: int) -> None:
    """Say that the features in `folder` are all there: written last, so that a crash leaves nothing that looks so."""
    write_json(folder / ENTRY, {"layer": layer, "count": count})


@contextmanager
def lock(cache: Path) -> Iterator[None]:
    """One process at a time computes or prunes; a second one waits and then finds the features there."""
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def entries(cache: Path = FEATURES) -> list[Entry]:
    """The complete entries of `cache`, least recently used first."""
    found = []
    for path in cache.glob(f"*/{ENTRY}"):
        fact, folder = read_json(path), path.parent
        size = (folder / ARRAY).stat().st_size
        found.append(Entry(folder, fact["layer"], fact["count"], size, folder.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.last_used)


def prune(limit_gib: float, cache: Path = FEATURES) -> list[Entry]:
    """Delete least recently used entries until at most `limit_gib` GiB are left; return what was deleted."""
    if not cache.is_dir():
        return []
    with lock(cache):
        kept = entries(cache)
        total, deleted = sum(entry.bytes for entry in kept), []
        for entry in kept:
            if total <= limit_gib * 2**30:
                break
            shutil.rmtree(entry.folder)
            deleted.append(entry)
            total -= entry.bytes
    return deleted
