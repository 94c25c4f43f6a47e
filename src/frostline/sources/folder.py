"""A folder of images, packed as the archive that preprocessing reads."""

import logging
import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from frostline.common.files import replacing, zip_entry
from frostline.common.layout import PACKED, may_be_image, walk
from frostline.runtime.errors import FrostlineError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What lies in a folder."""

    images: list[Path]
    """And the zip files that stand for folders."""
    others: list[Path]
    folders: list[Path]
    notes: list[str]
    """Of links, for people."""


def pack_folder(folder: Path, path: Path) -> None:
    """Pack the images below `folder` into the zip file `path`, stored and sorted; a zip file is copied as it is.

    `folder` is only read. Members are named as the files below it; the same files give the same bytes. What they are
    is for preprocessing to decide; a folder without any image is a member, too. Clutter and files of other kinds are
    left out (see `common.layout`), but zip files that lie at the top where no image lies in a folder. Links are
    followed, but not in circles. Bytes of a name that are not UTF-8 are written as backslash escapes, and a
    backslash as two. Says what is left out and which folders are links.

    Raises FrostlineError as `check_folder` does.
    """
    found = check_folder(folder)
    if found is None:
        with replacing(path) as temporary:
            shutil.copyfile(folder, temporary)
        return
    for line in (*found.notes, *_left_out(found.others)):
        _log.info(line.encode(errors="backslashreplace").decode())
    filled = {parent for file in found.images for parent in file.parents}
    members = {_member_name(file.relative_to(folder)): file for file in found.images}
    members |= {f"{_member_name(at.relative_to(folder))}/": at for at in found.folders if at not in filled}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = PACKED
        for name in sorted(members):
            _add(archive, name, members[name])


def check_folder(folder: Path) -> Found | None:
    """What lies in `folder`; None for a zip file.

    Raises FrostlineError where it is neither a folder with images in it nor a zip file, or has links that lead nowhere,
    pipes and the like in an image's place.
    """
    if folder.is_file():
        with folder.open("rb") as opened:  # by its name, is_zipfile takes one that may not be read for none
            start = opened.read(4)
            if zipfile.is_zipfile(opened):
                return None
        if start == b"PK\3\4":
            raise FrostlineError(f"{folder} is no whole zip file: its end is missing.\nGet it again.")
        raise FrostlineError(f"{folder} is neither a folder nor a zip file.\nUnpack it, and give the folder.")
    if not folder.is_dir():
        raise FrostlineError(f"{folder}: no such folder.\nGive the folder of your images, or a zip file of it.")
    found = _find(folder)
    if not found.images:
        there = f", but {_first(found.others)}" if found.others else ""
        raise FrostlineError(
            f"{folder}: no image files in it{there}.\nGive the folder that your images are in; unpack archives first."
        )
    for file in found.images:
        if not file.is_file():
            raise FrostlineError(f"{file} is a broken link or a special file.\nRemove it from there.")
    return found


def _find(folder: Path) -> Found:
    files, folders, notes = [], [], []
    for current, inside, passed in walk(folder):
        files += inside
        folders.append(current)
        if current.is_symlink() and current != folder:
            notes.append(
                f"{current} is a link: `dvc repro` does not notice changes behind it. After some: `dvc repro -f "
                "fetch-data`, then `dvc repro`."
            )
        notes += [
            f"{link} is left out: it leads to {link.resolve()}, where files are packed already." for link in passed
        ]
    images = [file for file in files if may_be_image(file.name)]
    if all(image.parent == folder for image in images):
        images += [file for file in files if file.suffix.lower() == ".zip" and file.parent == folder]
    return Found(images, sorted(set(files) - set(images)), folders, notes)


def _add(archive: zipfile.ZipFile, name: str, file: Path) -> None:
    info = zip_entry(name)
    if name.endswith("/"):
        archive.writestr(info, b"")
        return
    info.file_size = file.stat().st_size  # known beforehand, so that zipfile can choose ZIP64
    with file.open("rb") as source, archive.open(info, "w") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _left_out(others: Sequence[Path]) -> list[str]:
    if not others:
        return []
    return [f"left out, no image by its ending: {len(others):,} file{'s' * (len(others) > 1)} ({_first(others)})"]


def _first(files: Sequence[Path]) -> str:
    return ", ".join(str(file) for file in files[:3]) + " …" * (len(files) > 3)


def _member_name(relative: Path) -> str:
    raw = os.fsencode(relative.as_posix()).replace(b"\\", b"\\\\")
    return raw.decode("utf-8", "backslashreplace")
