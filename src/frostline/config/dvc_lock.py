"""What dvc.lock says of the last run of each stage."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from frostline.common.files import md5_of


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
    return [path for path in outputs if not path.exists() or said.get(path.as_posix()) != _digest(path)]


def _digest(path: Path) -> str:
    """As DVC names content; that of a folder by the list of its files (dvc_data.hashfile.tree.Tree.as_bytes)."""
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
        listed = [{"md5": md5_of(files[name]), "relpath": name} for name in sorted(files)]
        return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"
    return md5_of(path)
