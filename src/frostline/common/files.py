"""Files that are either whole or absent, with bytes that depend on their content alone."""

import csv
import glob
import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # comes without types
from filelock import lock_descriptor

_log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success rename it to `path`, on any error remove it.

    Works for a file and for a folder; what stood at `path` stays until the new one is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    _remove_left_behind(path)
    try:
        yield temporary
        if temporary.is_dir():
            _remove(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def check_writable(path: Path) -> None:
    """Raise the OSError that making `path` would end in, before the work that would be lost with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
        pass


def _remove_left_behind(path: Path) -> None:
    """Remove the temporary files for `path` of processes that are gone (or that had this one's number)."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        owner, _, kind = left.name.removeprefix(f".{path.name}.").partition(".")
        ours = owner.isdigit() and kind in ("part", "weights.h5")  # the latter by `save_model`, as Keras asks for it
        if ours and (int(owner) == os.getpid() or not _is_writing(int(owner), left)):
            _remove(left)


def _is_writing(process: int, temporary: Path) -> bool:
    try:
        return is_running(process, temporary.stat().st_mtime)
    except FileNotFoundError:
        return False


def is_running(process: int, since: float) -> bool:
    """Whether `process` is alive, and not begun after the time `since`: another one would have its number.

    A killed process whose parent does not ask for its end, as in many containers, keeps its number: a zombie.
    """
    try:
        found = psutil.Process(process)
        return bool(found.status() != psutil.STATUS_ZOMBIE and found.create_time() <= since + 1)
    except psutil.NoSuchProcess:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def release(array: object) -> None:
    """Where the NumPy `array` is memory-mapped, let go of its pages that were read; its content stays.

    They would count as this process' memory until the system runs short.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)


def zip_entry(name: str) -> zipfile.ZipInfo:
    """The entry of a plain file called `name`, with a fixed date, mode and system: the same bytes every time."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o644 << 16  # Unix, wherever it is written
    return entry


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON with sorted keys: the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `rows` under a header of `columns`; line ends are ``\\n`` on every system."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@contextmanager
def locked(path: Path, notice: str) -> Iterator[int]:
    """Hold a lock on the file `path`; where another process does, say `notice` and wait.

    The lock is the kernel's: it ends with its process, however that ends. Yields its descriptor: a process that
    inherits it holds the lock, too, to its own end.
    """

    with path.open("w") as file:
        if not lock_descriptor(file.fileno(), blocking=False):
            _log.info(notice)
            lock_descriptor(file.fileno(), poll_interval=0.2)  # seconds
        yield file.fileno()


def digest_of(facts: object) -> str:
    """A name, 32 hexadecimal digits, for what depends on `facts` (anything that JSON can hold) and nothing else."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of(path: Path) -> str:
    """By it DVC, and who publishes weights, names a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
