"""The project that chaos.py disturbs, and whether it has recovered: it runs on, and comes to the same bytes."""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import yaml

from clone import STAGES, Clone
from frostline.common.files import sha256_of

Process = subprocess.Popen[str]


@dataclass
class Outcome:
    """What one fault led to."""

    fault: str
    hit: bool
    """Did it strike before the command had ended?"""
    wrong: str = ""
    """What did not recover; empty where all is well."""
    differing: int = 0
    """Bytes of outputs that are not the reference's."""


class Project:
    """The clone under test, and what an undisturbed run left in it."""

    def __init__(self, root):
        self.clone = Clone(root / "project")
        self.root, self.kept = self.clone.root, root / "reference"
        self.seconds = {stage: self._seconds(stage) for stage in STAGES}
        lock = yaml.safe_load((self.root / "dvc.lock").read_text())
        self.outputs = [out["path"] for stage in lock["stages"].values() for out in stage["outs"]] + ["dvc.lock"]
        for name in self.outputs:
            (self.kept / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (self.root / name).is_dir() else shutil.copy
            copy(self.root / name, self.kept / name)

    def _seconds(self, stage):
        started = time.monotonic()
        self.clone.dvc(*again(stage))
        return time.monotonic() - started

    def start(self, *command, environment=None, **options):
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.root,
            env=self.clone.environment | {"COLUMNS": "200"} | dict(environment or {}),
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def start_stage(self, stage, *overrides, **options):
        """The stage's own command, without DVC, which would delete its outputs first."""
        return self.start("-m", "frostline.stages", stage.replace("-", "_"), *overrides, **options)

    def run_stage(self, stage, *overrides, **options):
        """Exit status and output."""
        process = self.start_stage(stage, *overrides, **options)
        output = process.communicate()[0]
        return process.returncode, output

    def differing(self):
        """Bytes that differ from the reference, missing and surplus ones included."""
        return sum(differing(self.root / name, self.kept / name) for name in self.outputs)

    def left_behind(self):
        """Half-written files, checkpoints of a phase that ended, MLflow runs without a process."""
        found = self.half_written() + [path.name for path in (self.root / ".frostline/checkpoints").glob("*")]
        return found + [f"run {run.info.run_name} RUNNING" for run in self.clone.runs() if run.info.status == "RUNNING"]

    def half_written(self):
        folders = [self.root / name for name in ("data", "models", "reports", ".frostline")]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        half = [path for path in files if path.suffix == ".part" or path.name.endswith(".weights.h5")]
        return [str(path.relative_to(self.root)) for path in half]


def differing(ours, theirs):
    """Bytes that differ between two files or folders, missing and surplus ones included."""
    if ours.is_dir() and theirs.is_dir():
        inside = {path.relative_to(base) for base in (ours, theirs) for path in base.rglob("*") if path.is_file()}
        return sum(differing(ours / path, theirs / path) for path in inside)
    if not ours.is_file() or not theirs.is_file():
        every = [path for base in (ours, theirs) for path in (base, *base.rglob("*")) if path.is_file()]
        return sum(path.stat().st_size for path in every)
    if sha256_of(ours) == sha256_of(theirs):
        return 0
    left, right = (np.fromfile(path, np.uint8) for path in (ours, theirs))
    shared = min(len(left), len(right))
    return int(np.count_nonzero(left[:shared] != right[:shared])) + abs(len(left) - len(right))


def again(stage):
    return ["repro", "--force", "--single-item", stage]


def recover(project, stage, outcome):
    """Run the stage again, then the pipeline (which must find nothing to do), and see what is left."""
    for arguments in (again(stage), ["repro"]):
        process = project.start("-m", "dvc", *arguments)
        output = process.communicate()[0]
        if process.returncode or "Traceback" in output:
            outcome.wrong = f"dvc {' '.join(arguments)} failed: {output[-500:]}"
            return outcome
        if arguments == ["repro"] and ("Running stage" in output or "is cached" in output):
            outcome.wrong = f"more than {stage} had to run again: {output[-500:]}"
    outcome.differing = project.differing()
    left = project.left_behind()
    if left and not outcome.wrong:
        outcome.wrong = f"left behind: {', '.join(left)}"
    return outcome
