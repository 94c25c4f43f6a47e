"""A folder of images, one subfolder per class, packed as the archive that preprocessing reads."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from frostline.common.files import replacing, zip_entry
from frostline.common.layout import EXPECTED, is_clutter
from frostline.runtime.errors import FrostlineError


def pack_folder(folder: Path, path: Path) -> None:
    """Pack `folder`, which has one subfolder per class, into the zip file `path`, stored and sorted.

    `folder` is only read. Members are named ``<class>/<relative file>``; the same files give the same bytes.
    Hidden files are left out, links to files are followed, links to folders are not. Bytes of a name that are
    not UTF-8 are written as backslash escapes, and a backslash as two.

    Raises FrostlineError as `check_folder` does.
    """
    files = check_folder(folder)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zip_entry(name)
            info.file_size = files[name].stat().st_size  # known beforehand, so that zipfile can choose ZIP64
            with files[name].open("rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def check_folder(folder: Path) -> dict[str, Path]:
    """Return the files in the class folders of `folder` by their names as members of the archive.

    Raises FrostlineError if there are not at least two class folders with files in them, or where one holds a broken
    link or a special file.
    """
    if not folder.is_dir():
        raise FrostlineError(f"{folder}: no such folder.\n{EXPECTED}")
    classes = [entry for entry in _visible(folder) if _is_folder(entry)]
    if len(classes) < 2:
        found = f"only {classes[0].name}/" if classes else "none"
        raise FrostlineError(f"{folder} needs two class folders, has {found} (no links).\n{EXPECTED}")
    files: dict[str, Path] = {}
    for class_folder in classes:
        inside = list(_files_in(class_folder))
        if not inside:
            raise FrostlineError(f"{class_folder}: the class has no files.\n{EXPECTED}")
        files.update((_member_name(file.relative_to(folder)), file) for file in inside)
    return files


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_clutter(entry.name))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _files_in(folder: Path) -> Iterator[Path]:
    for entry in _visible(folder):
        if _is_folder(entry):
            yield from _files_in(entry)
        elif entry.is_file():
            yield entry
        elif not entry.is_dir():
            raise FrostlineError(f"{entry} is a broken link or a special file.\nRemove it from there.")


def _member_name(relative: Path) -> str:
    raw = os.fsencode(relative.as_posix()).replace(b"\\", b"\\\\")
    return raw.decode("utf-8", "backslashreplace")
