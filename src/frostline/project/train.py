"""`frostline train FOLDER`: from a folder of images to a model and a report, through DVC.

What is chosen stays (see `config.local`): the same command, `dvc repro` and sweeps go on from it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # comes with DVC, without types

from frostline.common.files import locked
from frostline.config.local import check_no_edits, read_local, set_local, write_params
from frostline.config.paths import CLASSIFIER, EVALUATION, REPORT
from frostline.runtime.errors import FrostlineError

_LOCK = Path(".frostline/train.lock")
_DVCS_LOCKS = Path(".dvc/tmp/rwlock")


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
    check_project()
    kept = read_local()
    choices = _choices(folder, weights, recipe, kept)
    moved = "data.path" in choices and choices["data.path"] != kept.get("data.path")
    names = [key for key in ("name", "data.name") if moved and key in kept]  # other images have another name
    with _alone():
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
    check_project()
    if not (changes or unset or drop_edits):
        return read_local()
    with _alone(drop_edits):
        kept = set_local(changes, unset)
        write_params()
    return kept


@contextmanager
def _alone(drop_edits: bool = False) -> Iterator[None]:
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with locked(_LOCK, "another `frostline` command runs in this project; waiting for it to end."):
        check_idle()
        if not drop_edits:
            check_no_edits()
        yield


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
        if not file.is_file():
            raise FrostlineError(f"--weights {weights}: no such file; valid: imagenet, random or a file with weights.")
        choices |= {"weights": "file", "weights.path": str(file.absolute())}
    if recipe is not None or "experiment" not in kept:
        choices["experiment"] = recipe or "best"
    return choices


def check_project() -> None:
    """Raise FrostlineError where the current folder is no project that DVC can work in."""
    here = Path.cwd()
    if not (Path("dvc.yaml").is_file() and Path("conf/config.yaml").is_file()):
        raise FrostlineError(f"{here} is no Frostline project.\nGo to the folder that you cloned Frostline into.")
    if not any((place / ".git").exists() for place in (here, *here.parents)):
        raise FrostlineError(
            f"{here} is no git repository, which DVC needs.\nGet Frostline with `git clone`, not as a zip file."
        )


def check_idle() -> None:
    """Raise FrostlineError where a DVC command is at work in this project: two would overwrite each other's results."""
    try:
        held = json.loads(_DVCS_LOCKS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    holders = [entry for locks in held.values() for kind in locks.values() for entry in _entries(kind)]
    for entry in holders:
        if psutil.pid_exists(entry["pid"]):
            raise FrostlineError(
                f"`{entry['cmd']}` is running in this project (process {entry['pid']}).\nWait until it has ended."
            )


def _entries(kind: Any) -> list[dict[str, Any]]:
    return kind if isinstance(kind, list) else [kind]


def _summary() -> str:
    """What was found, and what to do next, in five lines."""
    headline = (EVALUATION / "verdict.md").read_text(encoding="utf-8").strip().replace("**", "")
    return "\n".join(
        (
            headline,
            f"model:    {CLASSIFIER}",
            f"report:   {REPORT}",
            "predict:  frostline predict PICTURE_OR_FOLDER",
            "go on:    frostline train again after new pictures or `frostline set KEY=VALUE`; `make ui` shows all runs",
        )
    )
