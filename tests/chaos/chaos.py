"""Kill stages at seeded moments and put faults in their way; recover each time, and compare every byte.

    python tests/chaos/chaos.py [--kills 100] [--seed 1] [--no-faults | --only FAULT ...]

In a temporary clone with a small drawn data set, `dvc repro` runs undisturbed once: the reference. Then a stage is run
again and again and killed by SIGKILL (the whole process group, or the stage alone, which DVC outlives), or meets a
fault (faults.py says which); afterwards the same command must end well, every output must hold the reference's bytes,
nothing half-written may be left, and no MLflow run may be left RUNNING. The last line printed is the sum; exit status 1
where it is not clean.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from clone import STAGES
from faults import faults
from recovery import Outcome, Project, again, recover


def kill(project, stage, moment, alone, cold):
    """Run `stage`, kill it (`alone`: not DVC with it) at the share `moment` of its time; `cold`: features forgotten."""
    if cold:
        shutil.rmtree(project.root / ".frostline" / "features", ignore_errors=True)
    process = project.start("-m", "dvc", *again(stage))
    deadline = time.monotonic() + moment * project.seconds[stage]
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    with suppress(ProcessLookupError):  # it has just ended
        if alone:
            for victim in _processes(stage.replace("-", "_"), process.pid):
                os.kill(victim, signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return recover(project, stage, Outcome(f"kill {stage}{' alone' if alone else ''}", hit=process.returncode != 0))


def _processes(stage, session):
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_text().split("\0")
                if (
                    {"frostline.stages", stage} <= set(command)
                    and os.getsid(int(entry.name)) == session
                    and "python" in command[0]
                ):
                    yield int(entry.name)
            except OSError:
                continue


def seeded_kills(project, count, seed):
    rng, struck = random.Random(seed), 0
    while struck < count:
        stage = STAGES[struck % len(STAGES)]
        outcome = kill(project, stage, rng.random(), alone=rng.random() < 0.5, cold=rng.random() < 0.5)
        struck += outcome.hit
        if outcome.hit or outcome.wrong or outcome.differing:
            yield outcome


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-faults", action="store_true", help="kills only")
    names = dict.fromkeys(fault.func.__name__ for fault in faults())
    parser.add_argument(
        "--only", nargs="+", metavar="FAULT", default=names, choices=names, help=f"of {', '.join(names)}"
    )
    arguments, console = parser.parse_args(), Console(width=120)
    outcomes: list[Outcome] = []

    def note(outcome):
        outcomes.append(outcome)
        state = outcome.wrong or ("recovered" if outcome.hit else "did not strike")
        console.print(f"{len(outcomes):>4} {outcome.fault}: {state}, {outcome.differing} bytes differ", highlight=False)

    with tempfile.TemporaryDirectory() as temporary:
        project = Project(Path(temporary))
        for outcome in seeded_kills(project, arguments.kills, arguments.seed):
            note(outcome)
        for fault in [] if arguments.no_faults else faults():
            if fault.func.__name__ in arguments.only:
                note(fault(project))
    table = Table("", "injected", "recovered", "bytes differing", title=f"Seed {arguments.seed}")
    for name in dict.fromkeys(outcome.fault for outcome in outcomes):
        table.add_row(name, *_sums([outcome for outcome in outcomes if outcome.fault == name]))
    console.print(table)
    injected, recovered, differing = _sums(outcomes)
    console.print(f"faults injected {injected} / recovered {recovered} / bytes differing {differing}")
    sys.exit(any(outcome.wrong or outcome.differing for outcome in outcomes))


def _sums(outcomes):
    struck = [outcome for outcome in outcomes if outcome.hit]
    recovered = sum(not outcome.wrong and not outcome.differing for outcome in struck)
    return str(len(struck)), str(recovered), f"{sum(outcome.differing for outcome in outcomes)}"


if __name__ == "__main__":
    main()
