"""Kill stages at seeded moments and put faults in their way; recover each time, and compare every byte.

    python tests/chaos/chaos.py [--kills 100] [--seed 1] [--no-faults]

In a temporary clone with a small drawn data set, `dvc repro` runs undisturbed once: the reference. Then a stage is run
again and again and killed by SIGKILL (the whole process group, or the stage alone, which DVC outlives), or meets a
fault; afterwards the same command must end well, every output must hold the reference's bytes, nothing half-written may
be left, and no MLflow run may be left RUNNING. The last line printed is the sum; exit status 1 where it is not clean.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from clone import STAGES, Clone
from frostline.files import sha256_of
from servers import Answer, FileServer, running


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

    def __init__(self, root: Path) -> None:
        self.clone = Clone(root / "project")
        self.root, self.kept = self.clone.root, root / "reference"
        self.seconds = {stage: self._seconds(stage) for stage in STAGES}
        lock = yaml.safe_load((self.root / "dvc.lock").read_text())
        self.outputs = [out["path"] for stage in lock["stages"].values() for out in stage["outs"]] + ["dvc.lock"]
        for name in self.outputs:
            (self.kept / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (self.root / name).is_dir() else shutil.copy
            copy(self.root / name, self.kept / name)

    def _seconds(self, stage: str) -> float:
        started = time.monotonic()
        self.clone.dvc(*again(stage))
        return time.monotonic() - started

    def start(self, *command: str, **options: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.root,
            env=self.clone.environment | {"COLUMNS": "200"},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,  # type: ignore[call-overload]
        )

    def differing(self) -> int:
        """Bytes that differ from the reference, missing and surplus ones included."""
        pairs = []
        for name in self.outputs:
            ours, theirs = self.root / name, self.kept / name
            inside = {path.relative_to(base) for base in (ours, theirs) for path in base.rglob("*") if path.is_file()}
            pairs += [(ours / path, theirs / path) for path in inside] if theirs.is_dir() else [(ours, theirs)]
        return sum(_differing(ours, theirs) for ours, theirs in pairs)

    def left_behind(self) -> list[str]:
        """Half-written files, checkpoints of a phase that ended, MLflow runs without a process."""
        folders = [self.root / name for name in ("data", "models", "reports", ".frostline")]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        found = [str(path.relative_to(self.root)) for path in files if path.suffix == ".part"]
        found += [path.name for path in (self.root / ".frostline/checkpoints").glob("*")]
        return found + [f"run {run.info.run_name} RUNNING" for run in self.clone.runs() if run.info.status == "RUNNING"]


def _differing(ours: Path, theirs: Path) -> int:
    if not ours.is_file() or not theirs.is_file():
        return max(path.stat().st_size for path in (ours, theirs) if path.is_file())
    if sha256_of(ours) == sha256_of(theirs):
        return 0
    left, right = (np.fromfile(path, np.uint8) for path in (ours, theirs))
    shared = min(len(left), len(right))
    return int(np.count_nonzero(left[:shared] != right[:shared])) + abs(len(left) - len(right))


def again(stage: str) -> list[str]:
    return ["repro", "--force", "--single-item", stage]


def recover(project: Project, stage: str, outcome: Outcome) -> Outcome:
    """Run the stage again, then the pipeline (which must find nothing to do), and see what is left."""
    for arguments in (again(stage), ["repro"]):
        process = project.start("-m", "dvc", *arguments)
        output = process.communicate()[0]
        if process.returncode or "Traceback" in output:
            outcome.wrong = f"dvc {' '.join(arguments)} failed: {output[-500:]}"
            return outcome
        if arguments == ["repro"] and "Running stage" in output:
            outcome.wrong = f"more than {stage} had to run again: {output[-500:]}"
    outcome.differing = project.differing()
    left = project.left_behind()
    if left and not outcome.wrong:
        outcome.wrong = f"left behind: {', '.join(left)}"
    return outcome


# Kills


def kill(project: Project, stage: str, moment: float, alone: bool, cold: bool) -> Outcome:
    """Run `stage`, kill it (`alone`: not DVC with it) at the share `moment` of its time; `cold`: features forgotten."""
    if cold:
        shutil.rmtree(project.root / ".frostline" / "features", ignore_errors=True)
    process = project.start("-m", "dvc", *again(stage))
    deadline = time.monotonic() + moment * project.seconds[stage]
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    with suppress(ProcessLookupError):  # it has just ended
        if alone:
            for victim in _processes(f"frostline.stages.{stage.replace('-', '_')}", process.pid):
                os.kill(victim, signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return recover(project, stage, Outcome(f"kill {stage}{' alone' if alone else ''}", hit=process.returncode != 0))


def _processes(module: str, session: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_text().split("\0")
                if module in command and os.getsid(int(entry.name)) == session and "python" in command[0]:
                    yield int(entry.name)
            except OSError:
                continue


def seeded_kills(project: Project, count: int, seed: int) -> Iterator[Outcome]:
    rng, struck = random.Random(seed), 0
    while struck < count:
        stage = STAGES[struck % len(STAGES)]
        outcome = kill(project, stage, rng.random(), alone=rng.random() < 0.5, cold=rng.random() < 0.5)
        struck += outcome.hit
        if outcome.hit or outcome.wrong or outcome.differing:
            yield outcome


# Faults


def send(project: Project, stage: str, number: signal.Signals) -> Outcome:
    """Ctrl-C or SIGTERM to DVC and the stage."""
    process = project.start("-m", "dvc", *again(stage))
    time.sleep(0.6 * project.seconds[stage])
    hit = process.poll() is None
    os.killpg(process.pid, number)
    output = process.communicate()[0]
    outcome = recover(project, stage, Outcome(f"{number.name} to {stage}", hit))
    if "Traceback" in output:
        outcome.wrong = outcome.wrong or f"a traceback: {output[-500:]}"
    return outcome


def full_disk(project: Project, stage: str) -> Outcome:
    """No file may grow past 200 kB (as with a full disk, the write fails with an error)."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    shutil.rmtree(project.root / ".frostline" / "features", ignore_errors=True)
    process = project.start("-m", f"frostline.stages.{stage.replace('-', '_')}", preexec_fn=limit)
    output = process.communicate()[0]
    outcome = recover(project, stage, Outcome(f"full disk in {stage}", process.returncode != 0))
    if "Traceback" in output:
        outcome.wrong = outcome.wrong or f"a traceback: {output[-500:]}"
    return outcome


@contextmanager
def locked(store: Path) -> Iterator[None]:
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


def locked_store(project: Project, stage: str) -> Outcome:
    """Another program holds MLflow's SQLite store for a while in the middle of a stage; the stage itself must do."""
    process = project.start("-m", "dvc", *again(stage))
    time.sleep(0.5 * project.seconds[stage])
    hit = process.poll() is None
    with locked(project.root / "mlruns" / "mlflow.db"):
        time.sleep(3)
    output = process.communicate()[0]
    outcome = recover(project, stage, Outcome(f"locked SQLite store in {stage}", hit))
    if process.returncode:
        outcome.wrong = f"did not wait: {output[-500:]}"
    return outcome


def two_at_once(project: Project, stage: str) -> Outcome:
    """Two `dvc repro` in one folder: one may say that the other runs; neither may spoil anything."""
    both = [project.start("-m", "dvc", *again(stage)) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    outcome = recover(project, stage, Outcome(f"two dvc repro of {stage}", hit=True))
    if all(process.returncode for process in both) or any("Traceback" in output for output in outputs):
        outcome.wrong = outcome.wrong or f"neither ended well: {outputs}"
    return outcome


def bad_server(project: Project, name: str, answers: list[Answer]) -> Outcome:
    """The weights come from a server with a fault; the download must recover by itself or when run again."""
    target = project.root / "models" / "backbone.h5"
    body = target.read_bytes()
    with running(FileServer(body, *answers)) as server:
        md5 = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]["fetch-weights"]["outs"][0]["md5"]
        options = ["weights.source=imagenet", "~weights.seed", f"+weights.url={server.url}", "+weights.sha256=null"]
        options += [f"+weights.size={len(body)}", f"+weights.md5={md5}"]
        target.unlink()
        for _ in range(2):
            process = project.start("-m", "frostline.stages.fetch_weights", *options)
            output = process.communicate()[0]
            if process.returncode == 0:
                break
    outcome = Outcome(f"server: {name}", len(server.requests) > 1, differing=project.differing())
    if process.returncode or "Traceback" in output:
        outcome.wrong = output[-500:]
    return outcome


def faults() -> Iterator[Callable[[Project], Outcome]]:
    for stage in STAGES:
        yield partial(send, stage=stage, number=signal.SIGINT)
        yield partial(send, stage=stage, number=signal.SIGTERM)
        yield partial(full_disk, stage=stage)
    for stage in ("transfer", "finetune", "evaluate"):
        yield partial(locked_store, stage=stage)
    for stage in ("preprocess", "transfer"):
        yield partial(two_at_once, stage=stage)
    size = 80_000_000
    for quarter in range(4):
        yield partial(bad_server, name=f"dropped at {quarter}/4", answers=[Answer(stop_after=size * quarter // 4)])
    for status in (500, 503, 429):
        yield partial(bad_server, name=f"status {status} twice", answers=[Answer(status=status)] * 2)
    dropped = Answer(stop_after=size // 2)
    yield partial(bad_server, name="slow trickle", answers=[Answer(status=503), Answer(pieces=400)])
    yield partial(bad_server, name="wrong length", answers=[Answer(headers={"Content-Length": "12345"})])
    yield partial(bad_server, name="no ranges", answers=[dropped, Answer(ranges=False)])
    yield partial(
        bad_server, name="ranges that lie", answers=[dropped, Answer(headers={"Content-Range": "bytes 5-9/10"})]
    )
    loop = Answer(status=302, headers={"Location": "/file.bin"})
    yield partial(bad_server, name="redirect loop", answers=[loop] * 6)
    yield partial(
        bad_server, name="redirect to file://", answers=[Answer(status=302, headers={"Location": "file:///etc/passwd"})]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-faults", action="store_true", help="kills only")
    arguments, console = parser.parse_args(), Console(width=120)
    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        state = outcome.wrong or ("recovered" if outcome.hit else "did not strike")
        console.print(f"{len(outcomes):>4} {outcome.fault}: {state}, {outcome.differing} bytes differ", highlight=False)

    with tempfile.TemporaryDirectory() as temporary:
        project = Project(Path(temporary))
        for outcome in seeded_kills(project, arguments.kills, arguments.seed):
            note(outcome)
        for fault in [] if arguments.no_faults else faults():
            note(fault(project))
    table = Table("", "injected", "recovered", "bytes differing", title=f"Seed {arguments.seed}")
    for name in dict.fromkeys(outcome.fault for outcome in outcomes):
        table.add_row(name, *_sums([outcome for outcome in outcomes if outcome.fault == name]))
    console.print(table)
    injected, recovered, differing = _sums(outcomes)
    console.print(f"faults injected {injected} / recovered {recovered} / bytes differing {differing}")
    sys.exit(any(outcome.wrong or outcome.differing for outcome in outcomes))


def _sums(outcomes: list[Outcome]) -> tuple[str, str, str]:
    struck = [outcome for outcome in outcomes if outcome.hit]
    recovered = sum(not outcome.wrong and not outcome.differing for outcome in struck)
    return str(len(struck)), str(recovered), f"{sum(outcome.differing for outcome in outcomes)}"


if __name__ == "__main__":
    main()
