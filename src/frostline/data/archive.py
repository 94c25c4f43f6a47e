"""The one zip that fetch-data leaves: packing a folder into it, and finding and reading the images in it.

Nothing is ever extracted to a path that an archive names: members are read into memory, within limits.
"""

import errno
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.common.layout import EXPECTED, is_clutter
from frostline.runtime.errors import FrostlineError

MIB = 1 << 20
MEMBER_LIMIT = 256 * MIB
"""No single image may be larger than this, in bytes."""
_TOO_LARGE = f"larger than {MEMBER_LIMIT // MIB} MiB"
_BIG, _BIG_RATIO = 16 * MIB, 100
"""A member above so many bytes may have shrunk so many times: images hardly reach 20, bombs 1032."""
_SLACK, _TOTAL_RATIO = 1024 * MIB, 100
"""A whole archive may expand to so many times its own size, and the slack in bytes."""

_KAGGLE_ZIPS = ("train.zip", "test.zip")
_SPLIT_FOLDERS = {"train", "training", "validation", "valid", "val", "test"}
# what zipfile raises on damage, apart from its own error: bad UTF-8, short headers, impossible offsets
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, OSError)
_JOINERS = "\u200c\u200d"  # with which Persian, Indian scripts and emoji are spelt
_FETCH_AGAIN = "Delete it and run `dvc repro fetch-data`."


@dataclass(frozen=True)
class Member:
    """One image of an archive, not yet read."""

    name: str
    """Readable and unique in the archive, e.g. ``train/cat.0.jpg``."""
    label: str | None
    """Its class; None for an unlabelled image, "" where an unsafe name hides the class."""
    source: Path
    """The zip file to read it from."""
    index: int
    """Its place in the zip's directory (names need not be unique)."""
    refusal: str = ""
    """Why it must not be read; empty if nothing speaks against it."""


@dataclass(frozen=True)
class Listing:
    members: list[Member]
    ignored: int
    """Files that lie outside the layout, such as a README beside the class folders."""


class UnreadableMemberError(ValueError):
    """A member that cannot be read; the text is a short, stable reason."""


def list_images(path: Path, scratch: Path) -> Listing:
    """Find the images of the archive at `path`, in the order of its directory, without decoding any.

    Three layouts are known: Kaggle's (an inner ``train.zip`` of ``train/cat.0.jpg``, where the class is the
    file name up to the first dot, and optionally an inner ``test.zip`` of unlabelled ``test/1.jpg``); one
    folder per class; and such folders under ``train/``, ``validation/`` and the like, which are pooled. A
    single folder around the last two is looked through. Inner zips are copied into the folder `scratch`, as
    seeking in a zipped zip starts over each time; the members' `source` points there, the caller removes it.

    Members that are encrypted, no regular files, too large or named unsafely are listed with a `refusal`.
    Raises FrostlineError if the archive as a whole is missing, damaged, too large or of no known layout.
    """
    if not path.is_file():
        raise FrostlineError(f"{path} is missing.\nRun `dvc repro fetch-data`.")
    budget = _SLACK + _TOTAL_RATIO * path.stat().st_size
    with _opened(path) as archive:
        inner = {info.filename: info for info in archive.infolist() if info.filename in _KAGGLE_ZIPS}
        if "train.zip" in inner:
            members, ignored = [], len(_entries(archive)) - len(inner)
            for name, info in inner.items():
                budget -= info.file_size
                if budget < 0:
                    raise _too_large(path)
                copy = scratch / name
                _copy_inner(archive, info, copy, path)
                with _opened(copy, shown_as=f"{name} in {path}") as inner_archive:
                    members += _kaggle_members(inner_archive, copy, labelled=name == "train.zip")
                    budget -= _claimed(inner_archive, members, copy)
        else:
            members, ignored = _folder_members(archive, path)
            budget -= _claimed(archive, members, path)
    if budget < 0:
        raise _too_large(path)
    if not any(member.label for member in members):
        raise FrostlineError(f"{path}: no labelled images found.\n{EXPECTED}")
    return Listing(_without_repeats(members), ignored)


def read_member(archive: zipfile.ZipFile, index: int) -> bytes:
    """Return the bytes of the member at `index` of the directory.

    Raises UnreadableMemberError, also above MEMBER_LIMIT bytes, whatever the header claims.
    """
    try:
        with archive.open(archive.infolist()[index]) as file:
            data = file.read(MEMBER_LIMIT + 1)
    except (*_DAMAGED, EOFError, RuntimeError) as error:
        raise UnreadableMemberError("damaged in the archive") from error
    if len(data) > MEMBER_LIMIT:
        raise UnreadableMemberError(_TOO_LARGE)
    return data


@contextmanager
def _opened(path: Path, shown_as: str = "") -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (*_DAMAGED, NotImplementedError) as error:
        raise FrostlineError(f"{shown_as or path} is no whole zip file ({error}).\n{_FETCH_AGAIN}") from error
    with archive:
        yield archive


def _too_large(path: Path) -> FrostlineError:
    return FrostlineError(
        f"{path} claims to hold more than {_TOTAL_RATIO} times its size and {_SLACK // MIB} MiB: "
        f"refused as a zip bomb.\n{_FETCH_AGAIN}"
    )


def _copy_inner(archive: zipfile.ZipFile, info: zipfile.ZipInfo, copy: Path, path: Path) -> None:
    """Copy an inner zip to the file `copy`: at most the size it claims, which is within the budget."""
    refusal = _refusal_of_kind(info)
    if refusal:
        raise FrostlineError(f"{info.filename} in {path} is not usable: {refusal}.\n{_FETCH_AGAIN}")
    try:
        with archive.open(info) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, MIB)
    except (*_DAMAGED, EOFError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a full disk, not an impossible offset
            raise
        raise FrostlineError(f"{info.filename} in {path} is damaged ({error}).\n{_FETCH_AGAIN}") from error


def _entries(archive: zipfile.ZipFile) -> list[tuple[int, zipfile.ZipInfo, list[str]]]:
    """The files of the directory as (index, info, parts of the name), without folders and clutter."""
    entries = []
    for index, info in enumerate(archive.infolist()):
        parts = [part for part in info.filename.split("/") if part not in ("", ".")]
        clutter = any(is_clutter(part) for part in parts) and not _is_unsafe(info.filename)
        if parts and not info.filename.endswith("/") and not clutter:
            entries.append((index, info, parts))
    return entries


def _kaggle_members(archive: zipfile.ZipFile, source: Path, labelled: bool) -> list[Member]:
    members = []
    for index, info, parts in _entries(archive):
        if _is_unsafe(info.filename):
            members.append(_unsafe(info, source, index, None if not labelled else ""))
            continue
        prefix = source.stem + "/"
        name = info.filename if info.filename.startswith(prefix) else prefix + info.filename
        label = _readable(parts[-1].split(".")[0]) if labelled else None
        members.append(Member(_readable(name), label, source, index, _refusal(info)))
    return members


def _folder_members(archive: zipfile.ZipFile, source: Path) -> tuple[list[Member], int]:
    entries = _entries(archive)
    unsafe = [_unsafe(info, source, index, "") for index, info, _ in entries if _is_unsafe(info.filename)]
    # (index, info, what is left of the name after the folders above the class)
    inside = [entry for entry in entries if not _is_unsafe(entry[1].filename) and len(entry[2]) > 1]
    if len({parts[0] for _, _, parts in inside}) == 1 and any(len(parts) > 2 for _, _, parts in inside):
        inside = [(index, info, parts[1:]) for index, info, parts in inside if len(parts) > 2]
    if {parts[0].lower() for _, _, parts in inside} <= _SPLIT_FOLDERS:
        inside = [(index, info, parts[1:]) for index, info, parts in inside if len(parts) > 2]
    members = [
        Member(_readable(info.filename), _readable(parts[0]), source, index, _refusal(info))
        for index, info, parts in inside
    ]
    return members + unsafe, len(entries) - len(members) - len(unsafe)


def _is_unsafe(name: str) -> bool:
    """Absolute, with a drive letter, or climbing with ``..``, on any system."""
    return bool(re.match(r"/|[A-Za-z]:[/\\]", name)) or ".." in re.split(r"[/\\]", name)


def _unsafe(info: zipfile.ZipInfo, source: Path, index: int, label: str | None) -> Member:
    return Member(_readable(info.filename), label, source, index, "unsafe name in the archive")


def _refusal(info: zipfile.ZipInfo) -> str:
    """Why the image `info` must not be read, judged by its header; "" if it may be."""
    if info.file_size > MEMBER_LIMIT:
        return _TOO_LARGE
    if info.file_size > max(_BIG, _BIG_RATIO * info.compress_size):
        return f"compressed more than {_BIG_RATIO} times"
    return _refusal_of_kind(info)


def _refusal_of_kind(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & 0x1:
        return "encrypted"
    if info.create_system == 3 and kind not in (0, stat.S_IFREG):
        return "not a regular file"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "unusual compression"  # zipfile does not bound the memory of the others
    return ""


def _claimed(archive: zipfile.ZipFile, members: list[Member], source: Path) -> int:
    """What the sound ones of `members` that lie in this `archive` expand to, in bytes."""
    infos = archive.infolist()
    sound = (member for member in members if member.source == source and not member.refusal)
    return sum(infos[member.index].file_size for member in sound)


def _readable(name: str) -> str:
    """Escape what does not print (line ends, control and direction marks): a name stays one honest line."""
    return "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in name)


def _without_repeats(members: list[Member]) -> list[Member]:
    """Refuse every member whose name came before, and make the name unique."""
    seen: dict[str, int] = {}
    unique = []
    for member in members:
        seen[member.name] = seen.get(member.name, 0) + 1
        if seen[member.name] > 1:
            name = f"{member.name} (again, {seen[member.name]})"
            refusal = member.refusal or "the name occurs twice in the archive"
            member = replace(member, name=name, refusal=refusal)
        unique.append(member)
    return unique
