"""The one zip that fetch-data leaves: packing a folder into it, and finding and reading the images in it.

Nothing is ever extracted to a path that an archive names: members are read into memory, within limits.
"""

import errno
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.common.layout import PACKED, is_clutter, may_be_image
from frostline.data.folder_names import label_in
from frostline.data.layout import AS_IT_SEEMS, Reading, understand
from frostline.data.zip_names import Encoding, resolved_names
from frostline.runtime.errors import FrostlineError

MIB = 1 << 20
MEMBER_LIMIT = 256 * MIB
"""No single image may be larger than this, in bytes."""
_TOO_LARGE = f"larger than {MEMBER_LIMIT // MIB} MiB"
_BIG, _BIG_RATIO = 16 * MIB, 100
"""A member above so many bytes may have shrunk so many times: images hardly reach 20, bombs 1032."""
_DEEPEST = 100
"""Of so many parts a name may be."""
_SLACK, _TOTAL_RATIO = 1024 * MIB, 100
"""A whole archive may expand to so many times its own size, and the slack in bytes."""

# what zipfile raises on damage, apart from its own error: bad UTF-8, short headers, impossible offsets
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, OSError)
_JOINERS = "\u200c\u200d"  # with which Persian, Indian scripts and emoji are spelt
_ARCHIVES = frozenset({"zip", "tar", "gz", "tgz", "bz2", "xz", "7z", "rar"})
_FETCH_AGAIN = "Delete it and run `dvc repro fetch-data`."
_OF_THE_USER = "Replace it by a whole one, or by the folder of what is in it."


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
    split: str = ""
    """The folder of the archive's own split that it lies in, e.g. ``train``; empty if there is none."""


@dataclass(frozen=True)
class Listing:
    members: list[Member]
    ignored: int
    """Files that lie outside the layout, such as a README beside the class folders."""
    understood: str
    """What the folders were taken for, in words; see `layout.understand`."""
    notes: list[str]
    """What else the user should know of it, in a line each."""


@dataclass(frozen=True)
class _Entry:
    """A file of a zip's directory, or a folder."""

    source: Path
    index: int
    info: zipfile.ZipInfo
    name: str
    """As it stands there, read in the right encoding."""
    parts: tuple[str, ...]
    """Of the name, and of the inner zip's around it; readable, and in Unicode's composed form: macOS writes another."""
    is_folder: bool
    is_unsafe: bool
    is_image: bool
    """Whether it is meant as one."""


class UnreadableMemberError(ValueError):
    """A member that cannot be read; the text is a short, stable reason."""


def list_images(path: Path, scratch: Path, reading: Reading = AS_IT_SEEMS) -> Listing:
    """Find the images of the archive at `path`, in the order of its directory, without decoding any.

    Which folders are classes is read from their shape, see `layout.understand`. Where no image lies in a folder,
    zips within the archive count as folders: so Kaggle packs ``train/cat.0.jpg`` and the unlabelled ``test/1.jpg``.
    They are copied into the folder `scratch`, as seeking in a zipped zip starts over each time; the members' `source`
    points there, the caller removes it.

    Members that are encrypted, no regular files, too large or named unsafely are listed with a `refusal`.
    Raises FrostlineError if the archive as a whole is missing, damaged, encrypted, too large or of no known layout, or
    of one that can be read in two ways, where `reading` does not say which.
    """
    if not path.is_file():
        raise FrostlineError(f"{path} is missing.\nRun `dvc repro fetch-data`.")
    budget = _SLACK + _TOTAL_RATIO * path.stat().st_size
    notes: list[str] = []
    where, remedy = (reading.shown_as, _OF_THE_USER) if reading.shown_as else (str(path), _FETCH_AGAIN)
    with _opened(path, where, remedy) as archive:
        entries = _entries(archive, path, reading.name_encoding, notes)
        inner = _inner_zips(entries)
        for number, zipped in enumerate(inner):
            budget -= zipped.info.file_size
            if budget < 0:
                raise _too_large(where, remedy)
            copy, inside = scratch / f"{number}.zip", f"{zipped.name} in {where}"
            _copy_inner(archive, zipped.info, copy, inside, remedy)
            with _opened(copy, inside, remedy) as inner_archive:
                folder = zipped.parts[-1][: -len(".zip")]
                entries += _entries(inner_archive, copy, reading.name_encoding, notes, folder)
    entries = [entry for entry in entries if entry not in inner]
    images = [entry for entry in entries if entry.is_image]
    if sum(entry.info.file_size for entry in images if not _refusal(entry.info)) > budget:
        raise _too_large(where, remedy)
    return _listing(entries, images, notes, reading, where)


def _listing(
    entries: Sequence[_Entry], images: Sequence[_Entry], notes: list[str], reading: Reading, where: str
) -> Listing:
    _check_readable(entries, images, where)
    contents = [(entry.info.CRC, entry.info.file_size) for entry in images]
    layout = understand([entry.parts for entry in images], contents, reading.top_folders, where)
    members, names = [], []
    for entry, place in zip(images, layout.places, strict=True):
        if place:
            name = "/".join(entry.parts)
            members.append(Member(name, place.label, entry.source, entry.index, _refusal(entry.info), place.split))
            names.append(entry.name)
    for entry in entries:
        if entry.is_unsafe and not entry.is_folder:
            name = _readable(entry.name)
            members.append(Member(name, "", entry.source, entry.index, "unsafe name in the archive"))
            names.append(entry.name)
    files = sum(not entry.is_folder for entry in entries)
    notes = [*notes, *layout.notes, *_empty_folders(entries, images), *_packed(entries)]
    return Listing(_without_repeats(members, names), files - len(members), layout.understood, notes)


def _packed(entries: Sequence[_Entry]) -> list[str]:
    """What to say of archives in the archive that are not looked into."""
    files = [entry for entry in entries if not (entry.is_folder or entry.is_unsafe)]
    packed = sorted("/".join(each.parts) for each in files if each.parts[-1].rpartition(".")[2].lower() in _ARCHIVES)
    more = " …" * (len(packed) > 3)
    return [f"left out, archives that are not unpacked: {', '.join(packed[:3])}{more}"] if packed else []


def _check_readable(entries: Sequence[_Entry], images: Sequence[_Entry], where: str) -> None:
    """Raise where no image can be read, whatever the folders are."""
    if images and all(entry.info.flag_bits & 0x1 for entry in images):
        raise FrostlineError(f"{where} is encrypted.\nUnpack it with its password, and give the folder (data=folder).")
    files = [entry for entry in entries if not entry.is_folder]
    if files and not images:
        first = ", ".join(_readable(entry.name) for entry in files[:3]) + " …" * (len(files) > 3)
        what = "names that are absolute or lead out of it" if any(entry.is_unsafe for entry in files) else "other files"
        raise FrostlineError(
            f"{where}: no labelled images found, but {what}: {first}.\nUnpack all, and give the folder."
        )


def _empty_folders(entries: Sequence[_Entry], images: Sequence[_Entry]) -> list[str]:
    """A note on the folders of the archive that have no images in them."""
    filled = {entry.parts[:end] for entry in images for end in range(1, len(entry.parts))}
    folders = {entry.parts if entry.is_folder else entry.parts[:-1] for entry in entries if not entry.is_unsafe} - {()}
    empty = sorted(at for at in folders - filled if not at[:-1] or at[:-1] in filled)
    if not empty:
        return []
    shown = ", ".join("/".join(at) for at in empty[:5]) + " …" * (len(empty) > 5)
    return [f"no images, and so no class: {shown}"]


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
def _opened(path: Path, where: str, remedy: str) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (*_DAMAGED, NotImplementedError) as error:
        raise FrostlineError(f"{where} is no whole zip file ({error}).\n{remedy}") from error
    with archive:
        yield archive


def _too_large(where: str, remedy: str) -> FrostlineError:
    return FrostlineError(
        f"{where} claims to hold more than {_TOTAL_RATIO} times its size and {_SLACK // MIB} MiB: "
        f"refused as a zip bomb.\n{remedy}"
    )


def _copy_inner(archive: zipfile.ZipFile, info: zipfile.ZipInfo, copy: Path, where: str, remedy: str) -> None:
    """Copy an inner zip to the file `copy`: at most the size it claims, which is within the budget."""
    refusal = _refusal_of_kind(info)
    if refusal:
        raise FrostlineError(f"{where} is not usable: {refusal}.\n{remedy}")
    try:
        with archive.open(info) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, MIB)
    except (*_DAMAGED, EOFError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a full disk, not an impossible offset
            raise
        raise FrostlineError(f"{where} is damaged ({error}).\n{remedy}") from error


def _entries(
    archive: zipfile.ZipFile, source: Path, encoding: Encoding, notes: list[str], folder: str = ""
) -> list[_Entry]:
    """The directory of `archive` without clutter; `folder` is what its files lie in, unless they say so themselves."""
    names, taken = resolved_names(archive, encoding)
    if taken:
        notes.append(f"names in the zip, whose encoding it does not say, are read as {taken}: preprocess.name_encoding")
    separator = "/" if archive.comment == PACKED else r"[/\\]"
    entries = []
    for index, (info, name) in enumerate(zip(archive.infolist(), names, strict=True)):
        found = [unicodedata.normalize("NFC", part) for part in re.split(separator, name) if part not in ("", ".")]
        unsafe = _is_unsafe(name)
        if found and (unsafe or not any(map(is_clutter, found))):
            parts = map(_readable, found if not folder or found[0] == folder else [folder, *found])
            is_folder = bool(re.match(separator, name[-1])) or info.is_dir()
            is_image = not is_folder and not unsafe and may_be_image(found[-1])
            entries.append(_Entry(source, index, info, name, tuple(parts), is_folder, unsafe, is_image))
    return entries


def _inner_zips(entries: Sequence[_Entry]) -> list[_Entry]:
    """The zips to look into: those at the top, where no folder has images and their names tell no classes."""
    images = [entry for entry in entries if entry.is_image]
    zips = [entry for entry in entries if len(entry.parts) == 1 and entry.parts[0].lower().endswith(".zip")]
    labels = Counter(label_in(entry.parts[-1]) for entry in images)
    if any(len(entry.parts) > 1 for entry in images) or len(labels.keys() - {None}) > 1:
        return []
    return [entry for entry in zips if not entry.is_folder and not entry.is_unsafe]


def _is_unsafe(name: str) -> bool:
    """Absolute, with a drive letter, or climbing with ``..``, on any system, or in more folders than any has."""
    parts = re.split(r"[/\\]", name)
    return bool(re.match(r"/|[A-Za-z]:[/\\]", name)) or ".." in parts or len(parts) > _DEEPEST


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


def _readable(name: str) -> str:
    """Escape what does not print (line ends, control and direction marks): a name stays one honest line."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in name)


def _without_repeats(members: Sequence[Member], names: Sequence[str]) -> list[Member]:
    """Refuse every member whose name came before in the same zip, `names` being as they stand there; make all unique.

    Two names that differ in the zip may be shown as one, where they differ by Unicode's form only.
    """
    seen, unique, raw = Counter[str](), [], set()
    for member, name in zip(members, names, strict=True):
        seen[member.name] += 1
        if seen[member.name] > 1:
            repeated = "the name occurs twice in the archive" if (member.source, name) in raw else ""
            again = f"{member.name} (again, {seen[member.name]})"
            member = replace(member, name=again, refusal=member.refusal or repeated)
        raw.add((member.source, name))
        unique.append(member)
    return unique
