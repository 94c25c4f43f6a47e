"""The folder of cached features: what is there, what is complete, what goes first when room is short."""

import shutil
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from frostline.common.files import locked, read_json, write_json
from frostline.config.paths import FEATURES

ARRAY, ENTRY = "features.npy", "entry.json"


@dataclass(frozen=True)
class Entry:
    """One array of features: of `layer`, for `count` images."""

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


def lock(cache: Path) -> AbstractContextManager[int]:
    """One process at a time computes or prunes; a second one waits and then finds the features there."""
    return locked(cache / "lock", "another process computes features; waiting for it.")


def entries(cache: Path = FEATURES) -> list[Entry]:
    """The complete entries of `cache`, least recently used first."""
    return [entry for entry in _entries(cache) if entry.count]


def _entries(cache: Path) -> list[Entry]:
    """All entries; one that is not complete counts no images."""
    found = []
    for folder in cache.glob("*/"):
        with suppress(FileNotFoundError):  # another process prunes
            fact = read_json(folder / ENTRY) if is_complete(folder) else {}
            size = sum(path.stat().st_size for path in folder.iterdir())
            found.append(Entry(folder, fact.get("layer", ""), fact.get("count", 0), size, folder.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.last_used)


def prune(limit_gib: float, cache: Path = FEATURES) -> list[Entry]:
    """Delete least recently used entries until at most `limit_gib` GiB are left; return what was deleted.

    Those that an interrupted run left unfinished are deleted likewise.
    """
    if not cache.is_dir():
        return []
    with lock(cache):
        kept = _entries(cache)
        total, deleted = sum(entry.bytes for entry in kept), []
        for entry in kept:
            if total <= limit_gib * 2**30:
                break
            (entry.folder / ENTRY).unlink(missing_ok=True)  # first: what is cut off here must not look complete
            shutil.rmtree(entry.folder)
            deleted.append(entry)
            total -= entry.bytes
    return deleted
