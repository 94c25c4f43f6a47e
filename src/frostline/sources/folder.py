"""A folder of images, packed as the archive that preprocessing reads."""

import logging
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from frostline.common.files import replacing, zip_entry
from frostline.common.layout import PACKED, may_be_image, walk
from frostline.runtime.errors import FrostlineError

_log = logging.getLogger(__name__)


def pack_folder(folder: Path, path: Path) -> None:
    """Pack the images below `folder` into the zip file `path`, stored and sorted; a zip file is copied as it is.

    `folder` is only read. Members are named as the files below it; the same files give the same bytes. What they are
    is for preprocessing to decide; a folder without any image is a member, too. Clutter and files of other kinds are
    left out (see `common.layout`), but zip files that lie at the top where no image lies in a folder. Links are
    followed, but not in circles. Bytes of a name that are not UTF-8 are written as backslash escapes, and a
    backslash as two. Says on stderr what is left out and which folders are links.

    Raises FrostlineError if there is no image, and at links that lead nowhere, pipes and the like.
    """
    if folder.is_file():
        _copy_archive(folder, path)
        return
    if not folder.is_dir():
        raise FrostlineError(f"{folder}: no such folder.\nGive the folder of your images, or a zip file of it.")
    files, folders = _below(folder)
    chosen = [file for file in files if may_be_image(file.name)]
    if all(image.parent == folder for image in chosen):
        chosen += [file for file in files if file.suffix.lower() == ".zip" and file.parent == folder]
    _check(chosen, folder)
    _say_left_out(sorted(set(files) - set(chosen)))
    filled = {parent for file in chosen for parent in file.parents}
    members = {_member_name(file.relative_to(folder)): file for file in chosen}
    members |= {f"{_member_name(at.relative_to(folder))}/": at for at in folders if at not in filled}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = PACKED
        for name in sorted(members):
            _add(archive, name, members[name])


def _below(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files and the folders below `folder`."""
    files, folders = [], []
    for current, inside, passed in walk(folder):
        files += inside
        folders.append(current)
        if current.is_symlink() and current != folder:
            _say(f"{current} is a link: `dvc repro` does not notice changes behind it; `dvc repro -f fetch-data` does.")
        for link in passed:
            _say(f"{link} is left out: it leads to {link.resolve()}, where files are packed already.")
    return files, folders


def _check(chosen: Sequence[Path], folder: Path) -> None:
    if not chosen:
        raise FrostlineError(f"{folder}: no image files in it.\nGive the folder that your images are in.")
    for file in chosen:
        if not file.is_file():
            raise FrostlineError(f"{file} is a broken link or a special file.\nRemove it from there.")


def _copy_archive(source: Path, path: Path) -> None:
    if not zipfile.is_zipfile(source):
        raise FrostlineError(f"{source} is neither a folder nor a zip file.\nUnpack it, and give the folder.")
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def _add(archive: zipfile.ZipFile, name: str, file: Path) -> None:
    info = zip_entry(name)
    if name.endswith("/"):
        archive.writestr(info, b"")
        return
    info.file_size = file.stat().st_size  # known beforehand, so that zipfile can choose ZIP64
    with file.open("rb") as source, archive.open(info, "w") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _say_left_out(others: Sequence[Path]) -> None:
    if others:
        first = ", ".join(str(file) for file in others[:3]) + " …" * (len(others) > 3)
        _say(f"left out, no image by its ending: {len(others):,} file{'s' * (len(others) > 1)} ({first})")


def _say(line: str) -> None:
    _log.info(line.encode(errors="backslashreplace").decode())


def _member_name(relative: Path) -> str:
    raw = os.fsencode(relative.as_posix()).replace(b"\\", b"\\\\")
    return raw.decode("utf-8", "backslashreplace")
