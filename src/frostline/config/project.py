"""The folder that commands are run in: whether it is a project, told without importing anything that takes time."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from frostline.runtime.errors import FrostlineError


def check_project() -> None:
    """Raise FrostlineError where the current folder is no project."""
    if not (Path("dvc.yaml").is_file() and Path("conf/config.yaml").is_file()):
        raise FrostlineError(f"{Path.cwd()} is no Frostline project: go to the folder that you cloned Frostline into.")


def check_repository() -> None:
    """Raise FrostlineError where the current folder is no project that DVC can work in."""
    check_project()
    here = Path.cwd()
    if not any((place / ".git").exists() for place in (here, *here.parents)):
        raise FrostlineError(
            f"{here} is no git repository, which DVC needs.\nGet Frostline with `git clone`, not as a zip file."
        )


def recorded(stage: str) -> dict[str, Any]:
    """What dvc.lock says of the last run of `stage`; empty where it says nothing, or cannot be read."""
    import yaml

    try:
        found = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"][stage]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def unlike_recorded(stage: str, outputs: Iterable[Path]) -> list[Path]:
    """Those of `outputs`, files or folders, that are not byte by byte what the last run of `stage` made: what dvc.lock
    says of others, or does not name, and what is not there."""
    said = {out.get("path"): out.get("md5") for out in recorded(stage).get("outs", ())}
    return [path for path in outputs if not path.exists() or said.get(path.as_posix()) != _md5(path)]


def _md5(path: Path) -> str:
    """As DVC names content; that of a folder by the list of its files (dvc_data.hashfile.tree.Tree.as_bytes)."""
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
        listed = [{"md5": _md5(files[name]), "relpath": name} for name in sorted(files)]
        return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
