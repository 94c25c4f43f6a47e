"""The folder that commands are run in: whether it is a project, told without importing anything that takes time."""

import os
from pathlib import Path

from frostline.runtime.errors import FrostlineError

TRAIN_ONE = "Train one: `frostline train FOLDER`, or `dvc repro` for the settings of params.yaml."


def check_project() -> None:
    """Raise FrostlineError where the current folder is no project."""
    if not (Path("dvc.yaml").is_file() and Path("conf/config.yaml").is_file()):
        raise FrostlineError(f"{Path.cwd()} is no Frostline project: go to the folder that you cloned Frostline into.")


def check_repository() -> None:
    """Raise FrostlineError where the current folder is no project that DVC can work in."""
    check_project()
    if os.name == "nt":
        raise FrostlineError(
            "Windows itself does not work.\nUse its Linux, WSL2: clone Frostline there, in ~, not below /mnt/c."
        )
    here = Path.cwd()
    if not any((place / ".git").exists() for place in (here, *here.parents)):
        raise FrostlineError(
            f"{here} is no git repository, which DVC needs.\nGet Frostline with `git clone`, not as a zip file."
        )
