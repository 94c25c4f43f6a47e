"""Which files of a folder or an archive are meant as images: the same ones in training and in prediction."""

import re
from collections.abc import Iterator
from pathlib import Path

PACKED = b"A backslash is part of a name, no separator."
"""The comment of an archive that was packed from a folder: there, bytes that are not UTF-8 are written as escapes."""

_CLUTTER = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information"),  # Windows
    *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
    *("@eadir", "#recycle", "#snapshot", "@tmp", "@recycle", "@__thumb", "@recently-snapshot"),  # Synology, QNAP
    *("lost+found", "__pycache__", "thumbnails"),
}
# A stream of Windows' file system that was copied as a file is one of them.
_CLUTTER_LIKE = re.compile(r"synophoto_thumb_.*|.*:zone\.identifier|found\.\d{3}", re.IGNORECASE)
_OTHER_ENDINGS = (
    "readme license licence txt md rst rtf pdf doc docx ppt pptx odt tex bib csv tsv xls xlsx json jsonl xml yaml yml "
    "toml ini cfg log html htm css js py ipynb pyc cpp java sh bat exe dll so lnk url zip tar gz tgz bz2 xz 7z rar "
    "mp3 wav flac m4a mp4 m4v mov avi mkv webm wmv mpg mpeg 3gp npy npz mat pkl pickle pt pth h5 hdf5 keras onnx "
    "tflite parquet tfrecord db sqlite dvc md5 aae xmp"
)
_OTHER_KINDS = frozenset(_OTHER_ENDINGS.split())


def is_clutter(name: str) -> bool:
    """Whether `name`, of a file or folder without what is above it, is hidden or one that systems leave behind."""
    return name.startswith(".") or name.lower() in _CLUTTER or bool(_CLUTTER_LIKE.fullmatch(name))


def may_be_image(name: str) -> bool:
    """Whether the file `name` may be an image: not where its ending says that it is text, a film, an archive.

    An ending that says nothing is no reason to leave a file out without a word: its content will tell.
    """
    return name.rpartition(".")[2].lower() not in _OTHER_KINDS


def walk(folder: Path) -> Iterator[tuple[Path, list[Path], list[Path]]]:
    """Yield `folder` and each folder below it, with its files and with the links that are not followed, all sorted.

    Clutter is left out. Among the files may be broken links, pipes and the like: opening these may fail or wait for
    ever. Links to folders are followed, but for those that lead back up, or to what is walked through anyway.
    Raises OSError where a folder cannot be read.
    """
    root = folder.resolve()
    # each as it is called, where it really is, and where the links above it lie and lead to
    pending: list[tuple[Path, Path, tuple[Path, ...]]] = [(folder, root, (root,))]
    while pending:
        current, real, above = pending.pop()
        files, passed, inner = [], [], []
        for entry in sorted(entry for entry in current.iterdir() if not is_clutter(entry.name)):
            if not entry.is_dir():
                files.append(entry)
            elif not entry.is_symlink():
                inner.append((entry, real / entry.name, above))
            elif _is_walked(target := entry.resolve(), root) or any(at.is_relative_to(target) for at in (*above, real)):
                passed.append(entry)
            else:
                inner.append((entry, target, (*above, real, target)))
        yield current, files, passed
        pending += reversed(inner)


def _is_walked(target: Path, root: Path) -> bool:
    return target.is_relative_to(root) and not any(is_clutter(part) for part in target.relative_to(root).parts)


def images_below(folder: Path) -> list[Path]:
    """The files below `folder` that are meant as images, sorted; see `walk`."""
    return sorted(file for _, files, _ in walk(folder) for file in files if may_be_image(file.name))
