"""What the benchmarks share: a temporary project, and commands whose time and peak memory are measured."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # comes with DVC, without types

ROOT = Path(__file__).parents[1]
_INTERVAL = 0.1  # seconds between two looks at a command's memory; one look takes about 2 ms


@dataclass(frozen=True)
class Measured:
    """What one command took, from its start to its end."""

    seconds: float
    cpu: float
    """CPU time in seconds, of all cores together: what other jobs on the machine change less."""
    others: float
    """CPU time in seconds that other jobs on the machine used meanwhile: near 0, or the time is not to be trusted."""
    resident: int
    """Peak resident memory in bytes, summed over the process and its children, sampled every 0.1 s.

    Pages that processes share are counted once for each, and pages of memory-mapped files count too."""
    anonymous: int
    """The same without shared and file-backed pages: what the system cannot take back."""
    output: str
    progress: dict[str, tuple[int, float]]
    """Of a stage's lines such as "features: 1,687 images in 12.3 s": the count and the seconds."""


def new_project(folder: Path, *overrides: str) -> None:
    """Make `folder` a project: conf/, and a params.yaml composed with Hydra `overrides`."""
    shutil.copytree(ROOT / "conf", folder / "conf", dirs_exist_ok=True)
    measure([sys.executable, "-m", "frostline.config.load", *overrides], folder, into=folder / "params.yaml")


def prepare(folder: Path, *overrides: str) -> None:
    """Make `folder` a project, and fetch and preprocess its images and its weights."""
    new_project(folder, *overrides)
    for name in ("fetch_data", "fetch_weights", "preprocess"):
        stage(name, folder)


def weights_from(file: Path | None) -> list[str]:
    """The overrides for the backbone's weights in `file`; None: the default's seeded random ones."""
    return ["weights=file", f"weights.path='{file.resolve()}'"] if file else []


def stage(name: str, project: Path) -> Measured:
    """Run the stage `name`, as DVC runs it."""
    return measure([sys.executable, "-m", "frostline.stages", name], project)


def measure(command: Sequence[str | Path], folder: Path, into: Path | None = None) -> Measured:
    """Run `command` in `folder`, with its standard output kept (and written to the file `into`).

    Raises RuntimeError with the end of what it said where it fails.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}  # no foreign store
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started, cpu, busy = time.perf_counter(), _cpu_of_children(), cpu_of_all()
        process = psutil.Popen(command, cwd=folder, env=kept, stdout=out, stderr=err)
        looks = [(0, 0)]
        while (code := _ended(process)) is None:
            looks.append(_memory(process))
        seconds, cpu = time.perf_counter() - started, _cpu_of_children() - cpu
        others = max(0.0, cpu_of_all() - busy - cpu)
        out.seek(0)
        err.seek(0)
        output, notes = out.read(), err.read()
    if code:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {code}:\n{(output + notes)[-2000:]}")
    if into:
        into.write_text(output)
    found = re.findall(r"^(\w+)[^:\n]*: ([\d,]+) \w+ in ([\d.]+) s", notes, re.MULTILINE)
    progress: dict[str, tuple[int, float]] = {}
    for name, count, took in found:
        before = progress.get(name, (0, 0.0))
        progress[name] = before[0] + int(count.replace(",", "")), before[1] + float(took)
    resident, anonymous = (max(values) for values in zip(*looks, strict=True))
    return Measured(seconds, cpu, others, resident, anonymous, output, progress)


def _ended(process: psutil.Popen) -> int | None:
    """Wait for one interval; the exit code where `process` ended within it."""
    try:
        return int(process.wait(_INTERVAL))
    except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
        return None


def _cpu_of_children() -> float:
    """User and system seconds of all processes that have ended below this one."""
    times = os.times()
    return times.children_user + times.children_system


def cpu_of_all() -> float:
    """User and system seconds of everything on this machine since it was started."""
    times = psutil.cpu_times()
    return float(times.user + times.system)


def _memory(process: psutil.Process) -> tuple[int, int]:
    """Resident and anonymous bytes of `process` and all below it."""
    resident = anonymous = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0, 0
    for member in family:
        try:
            memory = member.memory_info()
        except psutil.NoSuchProcess:
            continue
        resident += memory.rss
        anonymous += memory.rss - getattr(memory, "shared", 0)  # Linux tells them apart
    return resident, anonymous
