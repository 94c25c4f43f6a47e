"""`frostline train FOLDER`: from a folder of images to a model and a report, through DVC.

What is chosen stays (see `config.local`): the same command, `dvc repro` and sweeps go on from it.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline.config.local import check_no_edits, read_local, set_local, write_params
from frostline.config.paths import CLASSIFIER, REPORT, VERDICT
from frostline.config.project import check_repository
from frostline.project.alone import alone, beside_no_dvc
from frostline.runtime.errors import FrostlineError


def train(folder: Path | None, weights: str | None, recipe: str | None, settings: Mapping[str, str]) -> int:
    """Keep what is chosen, and run through DVC what it changes; return DVC's exit status.

    Args:
        folder: of the images, one folder per class; None: the data as chosen before.
        weights: "imagenet", "random" or a file with the backbone's weights; None: as before, at first "imagenet".
        recipe: an option of conf/experiment; None: as before, at first "best".
        settings: more of them, by dotted key.

    Raises:
        FrostlineError: before anything is changed. This is no project, another command runs in it, the folder cannot
            be trained on, or a choice is not valid.
    """
    check_repository()
    with alone():
        kept = read_local()
        choices = _choices(folder, weights, recipe, kept)
        moved = "data.path" in choices and choices["data.path"] != kept.get("data.path")
        names = [key for key in ("name", "data.name") if moved and key in kept]  # other images have another name
        with beside_no_dvc():
            check_no_edits()
            set_local({**choices, **settings}, unset=names)
            write_params()
        status = subprocess.run([sys.executable, "-m", "dvc", "repro"]).returncode
    if status == 0:
        print(_summary())  # noqa: T201 - what the command says
    return status


def keep(changes: Mapping[str, str], unset: Sequence[str] = (), drop_edits: bool = False) -> dict[str, Any]:
    """Change settings that stay (see `config.local.set_local`), and params.yaml with them; return all that stay.

    `drop_edits`: also where params.yaml has edits, which are lost. Raises FrostlineError as `train` does.
    """
    check_repository()
    if not (changes or unset or drop_edits):
        return read_local()
    with alone(), beside_no_dvc():
        if not drop_edits:
            check_no_edits()
        kept = set_local(changes, unset)
        write_params()
    return kept


def _choices(folder: Path | None, weights: str | None, recipe: str | None, kept: Mapping[str, Any]) -> dict[str, str]:
    choices: dict[str, str] = {}
    if folder is not None:
        place = folder.expanduser().absolute()
        choices |= {"data": "folder", "data.path": str(place)}
    elif "data" not in kept:
        raise FrostlineError("Which pictures?\nfrostline train FOLDER, with one folder per class in it.")
    if weights in ("imagenet", "random") or (weights is None and "weights" not in kept):
        choices["weights"] = weights or "imagenet"
    elif weights is not None:
        file = Path(weights).expanduser()
        if not file.exists():  # a folder is for an ensemble
            raise FrostlineError(f"--weights {weights}: no such file; valid: imagenet, random or a file with weights.")
        choices |= {"weights": "file", "weights.path": str(file.absolute())}
    if recipe is not None or "experiment" not in kept:
        choices["experiment"] = recipe or "best"
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
