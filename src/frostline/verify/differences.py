"""What differs between two versions of a file or folder, said so that a person can act on it."""

import csv
import filecmp
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from frostline.common.files import read_json

_ABSENT = "(absent)"
_BLOCK = 1 << 22
"""Values compared at once, so that arrays larger than memory can be compared."""


def differences(old: Path, new: Path) -> list[str]:
    """Say how the file or folder `new` differs from `old`, in a few words a line; nothing where all bytes are the same.

    JSON: by key. CSV: by column. NumPy and HDF5 arrays, which Keras' weights are: by array, with the largest absolute
    difference. Archives and folders: by what they hold, likewise. All others: the first byte and the sizes.
    """
    if old.is_dir() != new.is_dir():
        return [f"{_kind(old)} -> {_kind(new)}"]
    if old.is_dir():
        return list(_folders(old, new))
    if filecmp.cmp(old, new, shallow=False):
        return []
    compare = _BY_SUFFIX.get(new.suffix)
    try:
        found = list(compare(old, new)) if compare else []
    except (OSError, ValueError, LookupError, RuntimeError, EOFError, zipfile.BadZipFile):
        found = []  # one of them is not what its name says
    return found or [_bytes(old, new)]


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "a file"


def _by_name(old: Iterable[str], new: Iterable[str], compare: Callable[[str], Iterable[str]]) -> Iterator[str]:
    """`compare` all that is in both; each line begins with the name of what it is about."""
    old, new = set(old), set(new)
    for name in sorted(old | new):
        if name not in new:
            yield f"{name}: is gone"
        elif name not in old:
            yield f"{name}: is new"
        else:
            yield from (f"{name}: {line}" for line in compare(name))


def _folders(old: Path, new: Path) -> Iterator[str]:
    def files(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    return _by_name(files(old), files(new), lambda name: differences(old / name, new / name))


def _zips(old: Path, new: Path) -> Iterator[str]:
    with zipfile.ZipFile(old) as first, zipfile.ZipFile(new) as second, tempfile.TemporaryDirectory() as folder:

        def compare(name: str) -> list[str]:
            before, after = first.getinfo(name), second.getinfo(name)
            if (before.CRC, before.file_size) == (after.CRC, after.file_size):
                return []
            copies = [Path(folder, version + Path(name).suffix) for version in ("old", "new")]
            for archive, copy in zip((first, second), copies, strict=True):
                with archive.open(name) as source, copy.open("wb") as target:
                    shutil.copyfileobj(source, target)
            return differences(*copies)

        yield from _by_name(first.namelist(), second.namelist(), compare)


def _json(old: Path, new: Path) -> Iterator[str]:
    before, after = dict(_leaves(read_json(old))), dict(_leaves(read_json(new)))
    for key in sorted(before.keys() | after.keys()):
        first, second = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if first != second:
            yield f"{key or 'value'}: {_short(first)} -> {_short(second)}"


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What lies in a JSON value, with dotted keys."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not inside:
        yield prefix, value
        return
    for key, item in inside:
        yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _csv(old: Path, new: Path) -> Iterator[str]:
    def columns(path: Path) -> tuple[int, dict[str, list[str]]]:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        return len(rows), {name: [row[index] for row in rows] for index, name in enumerate(header)}

    (count, before), (new_count, after) = columns(old), columns(new)
    if count != new_count:
        yield f"{count} rows -> {new_count} rows"

    def compare(name: str) -> Iterator[str]:
        both = zip(before[name], after[name], strict=False)
        changed = [(row, first, second) for row, (first, second) in enumerate(both, start=1) if first != second]
        if changed:
            row, first, second = max(changed, key=lambda item: _distance(item[1], item[2]))
            largest = _distance(first, second)
            by = f" by {largest:.6g} at most," if largest >= 0 else ""
            yield f"{len(changed)} rows differ,{by} e.g. row {row}: {_short(first)} -> {_short(second)}"

    yield from _by_name(before, after, compare)


def _distance(first: str, second: str) -> float:
    """The absolute difference of two numbers; -1 for what is none."""
    try:
        return abs(float(first) - float(second))
    except ValueError:
        return -1.0


def _npy(old: Path, new: Path) -> Iterator[str]:
    first, second = (np.load(path, mmap_mode="r", allow_pickle=False) for path in (old, new))
    yield from _arrays(first, second)


def _hdf5(old: Path, new: Path) -> Iterator[str]:
    with h5py.File(old) as first, h5py.File(new) as second:
        before, after = _arrays_in(first), _arrays_in(second)
        yield from _by_name(before, after, lambda name: _arrays(before[name], after[name]))


def _arrays_in(file: h5py.File) -> Mapping[str, Any]:
    """All data sets by their path, and all attributes as path@name."""
    found: dict[str, Any] = {f"@{key}": np.asarray(value) for key, value in file.attrs.items()}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item
        found.update({f"{name}@{key}": np.asarray(value) for key, value in item.attrs.items()})

    file.visititems(add)
    return found


def _arrays(old: Any, new: Any) -> Iterator[str]:
    """Compare two arrays or HDF5 data sets, read block by block along their first axis; NaN equals NaN."""
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        yield f"{old.dtype} {list(old.shape)} -> {new.dtype} {list(new.shape)}"
        return
    count, largest, place = 0, -1.0, ""
    rows = max(1, _BLOCK * (old.shape[0] if old.shape else 1) // max(1, old.size))
    for start in range(0, old.shape[0], rows) if old.shape else [0]:
        block = slice(start, start + rows) if old.shape else ()
        first, second = np.asarray(old[block]), np.asarray(new[block])
        differ = (first != second) & ~((first != first) & (second != second))
        if not differ.any():
            continue
        count += int(np.count_nonzero(differ))
        if old.dtype.kind in "biuf":
            distance = np.abs(first[differ].astype(np.float64) - second[differ].astype(np.float64))
            distance = np.nan_to_num(distance, nan=np.inf)
            if distance.max() > largest:
                largest = float(distance.max())
                index = np.argwhere(differ)[int(distance.argmax())]
                index[:1] += start
                place = f" at {index.tolist()}"
    if count:
        by = f" by {largest:.6g} at most{place}" if largest >= 0 else ""
        yield f"{count:,} of {old.size:,} values differ{by}"


def _bytes(old: Path, new: Path) -> str:
    sizes = f"{old.stat().st_size:,} -> {new.stat().st_size:,} bytes"
    place = 0
    with old.open("rb") as first, new.open("rb") as second:
        while (block := first.read(1 << 20)) == (other := second.read(1 << 20)) and block:
            place += len(block)
    same = next((n for n, (one, two) in enumerate(zip(block, other, strict=False)) if one != two), None)
    place += min(len(block), len(other)) if same is None else same
    return f"{sizes}, first difference at byte {place:,}"


_BY_SUFFIX: dict[str, Callable[[Path, Path], Iterator[str]]] = {
    ".json": _json,
    ".csv": _csv,
    ".npy": _npy,
    ".h5": _hdf5,
    ".keras": _zips,
    ".npz": _zips,
    ".zip": _zips,
}
