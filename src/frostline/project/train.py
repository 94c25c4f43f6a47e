"""`frostline train FOLDER`: from a folder of images to a model and a report, through DVC.

What is chosen stays (see `config.local`): the same command, `dvc repro` and sweeps go on from it.
"""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from frostline.common.files import read_json
from frostline.config.kept import read_local
from frostline.config.local import set_local, write_recipe
from frostline.config.paths import CLASSIFIER, CORRECTIONS, REPORT, VERDICT, WINNER
from frostline.config.project import check_repository
from frostline.project.alone import alone, beside_no_dvc
from frostline.runtime.durations import seconds_of
from frostline.runtime.errors import FrostlineError

AUTO, _BASE = "auto", "best"
"""A recipe that is searched for, and the one that it goes out from."""
_TIME = "10m"
_OF_ITS_IMAGES = tuple(f"preprocess.{name}" for name in ("top_folders", "splits", "group", "name_encoding"))
"""Settings that one folder of images needs, and another one rarely."""
_RACE, _STUDY = Path("multirun/auto"), Path("conf/study/auto.yaml")

_log = logging.getLogger(__name__)


def train(
    folder: Path | None,
    weights: str | None,
    recipe: str | None,
    settings: Mapping[str, str],
    time_limit: str | None = None,
) -> int:
    """Keep what is chosen, and run through DVC what it changes; return the exit status of what ran last.

    Args:
        folder: of the images, one folder per class; None: the data as chosen before.
        weights: "imagenet", "random", "hub", or a file with the backbone's weights (of KerasHub's, a preset's folder);
            None: as before, at first "imagenet", with model=hub "hub".
        recipe: an option of conf/experiment; None: as before, at first "best"; "auto": the best that is found.
        settings: more of them, by dotted key.
        time_limit: of the search with "auto" and all before and after it, such as "10m"; None: ten minutes.

    Raises:
        FrostlineError: before anything is changed. This is no project, another command runs in it, the folder cannot
            be trained on, or a choice is not valid.
    """
    check_repository()
    ends = time.monotonic() + seconds_of(time_limit or _TIME)
    searching = recipe == AUTO or (time_limit is not None and recipe is None)
    if time_limit is not None and not searching:
        raise FrostlineError(f"--time-limit {time_limit}: only --recipe auto takes one, not {recipe}.")
    for key, said in {"data.path": folder, "weights.path": weights, "weights": weights, "experiment": recipe}.items():
        if said is not None and settings.get(key, str(said)) != str(said):
            raise FrostlineError(f"{key} is given twice, as {str(said)!r} and as {settings[key]!r}.")
    with alone():
        kept = read_local()
        recipe = _BASE if searching else recipe
        choices = _choices(folder, weights, recipe, kept, settings.get("model", kept.get("model")))
        moved = "data.path" in choices and choices["data.path"] != kept.get("data.path")
        names = [key for key in ("name", "data.name") if moved and key in kept]  # other images have another name
        with beside_no_dvc():
            set_local({**choices, **settings}, unset=names)
        if moved:
            _warn_of_what_was_said_of_others(kept, settings)
        status = _search(ends) if searching else 0
        if status == 0:
            status = _run("dvc", "repro")
    if status == 0:
        print(_summary())  # noqa: T201 - what the command says
    return status


def _warn_of_what_was_said_of_others(kept: Mapping[str, Any], settings: Mapping[str, str]) -> None:
    """Other images are trained on than before: name what was chosen for those, and holds for these, too."""
    stays = [f"{key}={kept[key]}" for key in _OF_ITS_IMAGES if key in kept and key not in settings]
    if CORRECTIONS.is_file() and CORRECTIONS.read_bytes().strip().count(b"\n"):  # more than its header
        stays.append(str(CORRECTIONS))
    if stays and "data.path" in kept:
        _log.warning(
            f"{', '.join(stays)}: made for {kept['data.path']}, and in use for these images, too; "
            "`frostline set --unset KEY` lets go of a setting."
        )


def _search(ends: float) -> int:
    """Prepare the images, search until `ends` (on time.monotonic) for the best settings, and keep them as a recipe.

    Settings that the user keeps are not searched: they would win over any recipe.
    """
    status = _run("dvc", "repro", "fetch-weights", "preprocess")
    if status:
        return status
    shutil.rmtree(_RACE, ignore_errors=True)
    searched = yaml.safe_load(_STUDY.read_text(encoding="utf-8"))["hydra"]["sweeper"]["params"].keys() - {"fold"}
    fixed = [f"{key}={value}" for key, value in read_local().items() if key in searched]
    limit = f"hydra.sweeper.time_limit={max(1, round(ends - time.monotonic()))}s"
    status = _run("frostline.sweep", "-m", "study=auto", f"hydra.sweep.dir={_RACE}", limit, *fixed)
    found = _RACE / WINNER
    if status == 0 and found.is_file():  # not where there was time for one setting only
        with beside_no_dvc():
            write_recipe(
                AUTO, _BASE, read_json(found), "Found by `frostline train --recipe auto`, which writes this anew."
            )
            set_local({"experiment": AUTO}, drop_edits=True)
    return status


def _run(*module: str) -> int:
    # Stages are called as `python`, which is to be this one where the environment is not activated, too.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return subprocess.run([sys.executable, "-m", *module], env=os.environ | {"PATH": path}).returncode  # noqa: S603 - our own words


def keep(changes: Mapping[str, str], unset: Sequence[str] = (), drop_edits: bool = False) -> dict[str, Any]:
    """Change settings that stay, and params.yaml with them (see `config.local.set_local`); return all that stay.

    `drop_edits`: also where params.yaml has edits, which are lost. Raises FrostlineError as `train` does.
    """
    check_repository()
    if not (changes or unset or drop_edits):
        return read_local()
    with alone(), beside_no_dvc():
        return set_local(changes, unset, drop_edits)


def _choices(
    folder: Path | None, weights: str | None, recipe: str | None, kept: Mapping[str, Any], model: str | None
) -> dict[str, str]:
    choices: dict[str, str] = {}
    if folder is not None:
        place = folder.expanduser().absolute()
        choices |= {"data": "folder", "data.path": str(place)}
    elif "data" not in kept:
        raise FrostlineError("Which pictures?\nfrostline train FOLDER, with one folder per class in it.")
    unfit = (None, "imagenet", "random") if model == "hub" else (None, "hub")  # kept for another model, if at all
    if weights in ("imagenet", "random", "hub") or (weights is None and kept.get("weights") in unfit):
        choices["weights"] = weights or ("hub" if model == "hub" else "imagenet")
    elif weights is not None:
        file = Path(weights).expanduser()
        if not file.exists():  # a folder is for an ensemble or a preset
            raise FrostlineError(
                f"--weights {weights}: no such file; valid: imagenet, random, hub, a file or a folder of weights."
            )
        choices |= {"weights": "file", "weights.path": str(file.absolute())}
    if recipe is not None or "experiment" not in kept:
        choices["experiment"] = recipe or _BASE
    return choices


def verdict() -> str:
    """What the last evaluation found, without marks."""
    return VERDICT.read_text(encoding="utf-8").strip().replace("**", "")


def _summary() -> str:
    """What was found, and what to do next, in five lines."""
    return "\n".join(
        (
            verdict(),
            f"model:    {CLASSIFIER}",
            f"report:   {REPORT}",
            "predict:  frostline predict PICTURE_OR_FOLDER",
            "go on:    frostline train again after new pictures or `frostline set KEY=VALUE`; `make ui` shows all runs",
        )
    )
