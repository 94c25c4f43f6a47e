"""The resolvers `own_folder`, `own_name` and `own_file` of conf/: a place that the user names, checked while conf/ is
composed, and what it is called.

DVC watches it: `dvc exp run -S` would fail on it before any stage could say what is wrong, or wait for a pipe for good.
Hydra imports what lies in this package before it composes, and DVC composes by Hydra (.dvc/config says where it lies).
"""

import os
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from frostline.config.paths import ARCHIVE, CLASSIFIER, PROCESSED, REPORT
from frostline.runtime.errors import FrostlineError
from frostline.sources.folder import check_folder

_EXAMPLES = {"data.path": "../pictures", "weights.path": "../weights.h5"}
_ELSEWHERE = {"--queue", "--temp"}
"""With these, DVC runs in a copy of the project."""


def own_folder(_parent_: DictConfig) -> str:
    """The `path` beside it, as it is, where it is a folder of images, one folder per class."""
    path, place = _path_and_place("data.path", _parent_)
    try:
        _check_apart(place)
        check_folder(place)
        _check_what_dvc_reads(place)
    except (FrostlineError, OSError) as error:
        raise _error("data.path", " ".join(str(error).split())) from None  # DVC would print both
    return path


def _check_apart(place: Path) -> None:
    """Raise where `place` is what the pipeline writes, or a folder around that, such as the project's own."""
    real = place.resolve()
    for written in (ARCHIVE.parent, PROCESSED, CLASSIFIER.parent, REPORT.parent):
        out = (_project() / written).resolve()
        if out.is_relative_to(real) or real.is_relative_to(out):
            raise FrostlineError(f"{place}: the pipeline writes to {out}. Give the folder of your images alone.")


def _check_what_dvc_reads(folder: Path) -> None:
    """All files in `folder`, hidden ones, too: it waits for a pipe, and fails on a name that is not UTF-8 and on a
    .dvcignore. In the project, it takes a folder with a .dvc for another project, and does not look into it."""
    for below, folders, files in os.walk(folder):
        if ".dvcignore" in files:
            raise FrostlineError(
                f"{below}/.dvcignore: DVC refuses a folder with one. Give the one below it, or remove it."
            )
        if ".dvc" in folders and folder.is_relative_to(_project()):
            raise FrostlineError(
                f"{below}/.dvc: DVC does not look into another project in this one. Move it elsewhere."
            )
        for file in map(Path(below).joinpath, files):
            if not file.is_file():
                raise FrostlineError(f"{file} is a broken link or a special file. Remove it from there.")
            try:
                os.fsencode(file).decode()
            except UnicodeDecodeError:
                raise FrostlineError(f"{str(file)!a}: the name is not UTF-8. Rename it.") from None


def own_name(_parent_: DictConfig) -> str:
    """What the folder or zip file at the `path` beside it is called."""
    _, place = _path_and_place("data.path", _parent_)
    name = place.stem if place.suffix.lower() == ".zip" else place.name
    return name if name.strip() else _parent_.source  # the root of the file system has none


def own_file(_parent_: DictConfig, _root_: DictConfig) -> str:
    """The `path` beside it, as it is, where it is a file, or the folder of a preset of KerasHub; where the model is an
    ensemble, a folder."""
    path, place = _path_and_place("weights.path", _parent_)
    if OmegaConf.select(_root_, "model.members") is not None:
        if not place.is_dir():
            raise _error("weights.path", f"{place}: no such folder. An ensemble's has one file for each member.")
    elif not place.is_file() and not (place / "config.json").is_file():
        raise _error("weights.path", f"{place}: there is no such file.")
    try:
        _check_what_dvc_reads(place)
    except (FrostlineError, OSError) as error:
        raise _error("weights.path", str(error)) from None
    return path


def _path_and_place(key: str, section: DictConfig) -> tuple[str, Path]:
    """The path of `section`, and where it is, taken from the project's folder."""
    if OmegaConf.is_missing(section, "path"):
        raise InterpolationResolutionError(f"{key} has no value; say where it is, e.g. {key}={_EXAMPLES[key]}")
    path = section.path
    if not isinstance(path, str) or not path:
        raise _error(key, f"{path!r} is no text. A name that reads as something else is written {key}=./NAME")
    project = _project()
    place = Path(os.path.normpath(project / path))
    if not Path(path).is_absolute() and not place.is_relative_to(project) and _ELSEWHERE & set(sys.argv):
        raise _error(key, f"with --queue and --temp DVC runs in a copy elsewhere. Give the absolute path: {place}")
    return path, place


def _project() -> Path:
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "conf/config.yaml").is_file()), here)


def _error(key: str, text: str) -> InterpolationResolutionError:
    return InterpolationResolutionError(f"{key}: {text}")


OmegaConf.register_new_resolver("own_folder", own_folder, replace=True)
OmegaConf.register_new_resolver("own_name", own_name, replace=True)
OmegaConf.register_new_resolver("own_file", own_file, replace=True)
