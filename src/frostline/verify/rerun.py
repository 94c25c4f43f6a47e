"""Re-run stages elsewhere and compare what they make with dvc.lock: is the result that is recorded reproducible here?

Each stage runs through DVC in a temporary copy of the project (its code and settings as they are now, its data as
dvc.lock has them, linked from DVC's cache), with an MLflow store and a feature cache of its own. Its inputs are
always those that dvc.lock names, so a difference shows at the stage that causes it, and not again at those after it.
Data that DVC's cache lacks are no obstacle where the stage that makes them runs before and matches: a fresh clone can
verify everything.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from dvc.config import Config

from frostline.common.files import md5_of
from frostline.runtime.errors import FrostlineError, brief
from frostline.verify.differences import differences

_COPIED = ("src", "conf", ".dvc/config", ".dvcignore", "dvc.yaml", "dvc.lock", "params.yaml")


@dataclass(frozen=True)
class Verified:
    """What became of one stage."""

    stage: str
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """How each output differs from dvc.lock; nothing where it matches."""
    changed: Sequence[str] = ()
    """Code and settings of the stage that are not those of dvc.lock: differences are to be expected."""
    error: str = ""
    """Why the stage could not run; then there are no outputs."""


def verify(stages: Sequence[str] = (), project: Path = Path()) -> Iterator[Verified]:
    """Re-run `stages` (default: all of dvc.lock) and yield what became of each; `project` stays as it is.

    The copy lies in the system's folder for temporary files, and needs room there for what the stages write.

    Raises FrostlineError where there is no dvc.lock or no such stage.
    """
    lock = _read_lock(project)
    for stage in stages:
        if stage not in lock:
            raise FrostlineError(f"dvc.lock has no stage {stage!r}; valid: {', '.join(lock)}.")
    with tempfile.TemporaryDirectory(prefix="frostline-verify-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # As deep as the project: "../pictures" stays in this folder, where it can be linked.
        copy, locked = folder.joinpath("copy", *project.resolve().parts[1:]), folder / "locked"
        _copy_project(project, copy, lock)
        for stage in lock:
            if not stages or stage in stages:
                yield _verify_stage(stage, lock[stage], copy, locked)


def _read_lock(project: Path) -> dict[str, Any]:
    """The stages of dvc.lock, in the order of dvc.yaml: what makes something comes before what needs it."""
    for name in ("dvc.yaml", "dvc.lock"):
        if not (project / name).is_file():
            raise FrostlineError(
                f"{name} not found in {project.resolve()}.\nRun this from the project's root, after `dvc repro`."
            )
    lock, order = (yaml.safe_load((project / name).read_text("utf-8"))["stages"] for name in ("dvc.lock", "dvc.yaml"))
    return {stage: lock[stage] for stage in order if stage in lock}


def _copy_project(project: Path, copy: Path, lock: Mapping[str, Any]) -> None:
    for name in _COPIED:
        source, target = project / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif source.is_file():
            shutil.copy(source, target)
    cache = Config(dvc_dir=str(project / ".dvc"))["cache"].get("dir") or str(project.resolve() / ".dvc/cache")
    state = str(copy.parent / ".dvc-state")
    with Config(dvc_dir=str(copy / ".dvc")).edit("local") as config:  # DVC itself quotes what a path may hold
        config["core"] |= {"no_scm": True, "autostage": False, "analytics": False, "site_cache_dir": state}
        config["cache"] |= {"dir": cache, "type": "reflink,hardlink,symlink,copy"}
    _checkout(copy)
    outputs = {out["path"]: out["md5"] for stage in lock.values() for out in stage.get("outs", ())}
    for path, md5 in outputs.items():
        here = project / path  # metrics, which git keeps, are not in DVC's cache
        if not (copy / path).exists() and here.is_file() and md5_of(here) == md5:
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(here, copy / path)
    for path in {dep["path"] for stage in lock.values() for dep in stage.get("deps", ())} - outputs.keys():
        if not (copy / path).exists() and (project / path).exists():  # the user's own images or weights
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).symlink_to((project / path).resolve())


def _verify_stage(stage: str, lock: Mapping[str, Any], copy: Path, locked: Path) -> Verified:
    """Run `stage` in `copy`; what dvc.lock names as its outputs is in its place again afterwards, where it is there."""
    for dep in lock.get("deps", ()):
        if not (copy / dep["path"]).exists():
            return Verified(stage, error=f"{dep['path']} is not in DVC's cache and was not reproduced: run `dvc pull`.")
    paths = [out["path"] for out in lock.get("outs", ())]
    for path in paths:
        _move(copy / path, locked / path)
    status = _reproduce(copy, stage)
    if status:
        for path in paths:
            _move(locked / path, copy / path)
        return Verified(stage, error=f"ended with status {status}.")
    made = _read_lock(copy)[stage]
    now = {out["path"]: out["md5"] for out in made["outs"]}
    outputs: dict[str, list[str]] = {path: ["is not in dvc.lock"] for path in now if path not in paths}
    for out in lock.get("outs", ()):
        path = out["path"]
        if now.get(path) == out["md5"]:
            outputs[path] = []
            _remove(locked / path)
            continue
        if path not in now:
            outputs[path] = ["is no output any more"]
        elif not (locked / path).exists():
            outputs[path] = ["what differs cannot be said: dvc.lock's version is not in DVC's cache"]
        else:
            outputs[path] = differences(locked / path, copy / path)
        _remove(copy / path)
        _move(locked / path, copy / path)
    return Verified(stage, outputs, changed=_changed(lock, made))


def _changed(lock: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    def facts(stage: Mapping[str, Any]) -> dict[str, Any]:
        params = {key: value for file in stage.get("params", {}).values() for key, value in file.items()}
        return {"cmd": stage["cmd"], **params} | {dep["path"]: dep["md5"] for dep in stage.get("deps", ())}

    before, after = facts(lock), facts(made)
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _move(source: Path, target: Path) -> None:
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _checkout(copy: Path) -> None:
    """Link what dvc.lock names from DVC's cache into `copy`, as far as it is there."""
    command = [sys.executable, "-m", "dvc", "checkout", "--force", "--allow-missing"]
    done = subprocess.run(command, cwd=copy, env=_environment(copy), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise FrostlineError(f"dvc checkout: {brief(done.stderr)}")


def _reproduce(copy: Path, stage: str) -> int:
    """Run `stage` through DVC in `copy`, its progress on this process' stderr; return DVC's exit status.

    --no-commit: nothing is added to the cache, which is the user's.
    """
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "--force", "--no-commit", stage]
    process = subprocess.Popen(  # noqa: S603
        command, cwd=copy, env=_environment(copy), stdout=subprocess.DEVNULL, process_group=0
    )
    try:
        return process.wait()
    except BaseException:  # interrupted: so is the stage, before its folder is deleted
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise


def _environment(copy: Path) -> dict[str, str]:
    """Without the user's MLflow, its registry and credentials among it: what a stage makes here is no version of it."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return others | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(copy / "src"),
        "MLFLOW_TRACKING_URI": "sqlite:///mlruns/mlflow.db",
        "TMPDIR": str(copy.parent),
    }
