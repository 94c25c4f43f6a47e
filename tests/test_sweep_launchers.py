"""Trials in processes of their own, with the real engines: Ray on this machine, and submitit's local executor."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import yaml

from frostline.config.load import compose_conf
from small import SIZE
from tracked import write_tracked

pytestmark = pytest.mark.ray

ENGINES = {
    "ray": ("hydra/launcher=ray", "hydra.launcher.cpus_per_trial=1"),
    "submitit": ("hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1"),
}


@pytest.fixture(params=["ray", pytest.param("submitit", marks=pytest.mark.long)])
def engine(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture(scope="module")
def environment():
    """Ray's folder is not that of the user's clusters, and its path is short enough for sockets."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}  # other tests' store
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield {**own, "RAY_TMPDIR": folder, "MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}


APP = """
import os, signal, sys, time
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path=os.path.abspath("conf"), config_name="config")
def main(settings):
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "begun").touch()
    other = folder.with_name({0: "1", 1: "0"}.get(HydraConfig.get().job.num, folder.name))
    for _ in range(600):  # until the other one has begun, too
        if (other / "begun").exists():
            break
        time.sleep(0.1)
    else:
        sys.exit("one at a time")
    if settings.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    names = ("TF_NUM_INTRAOP_THREADS", "MLFLOW_HTTP_REQUEST_TIMEOUT")
    (folder / "done").write_text(" ".join([os.getcwd(), *(os.environ[name] for name in names)]))
    return 0.0

main()
"""


@contextlib.contextmanager
def at_once(folders, environment, command):
    """Start `command` with each engine, all at once; yield each one's folder and process."""
    processes = {}
    for engine, folder in folders.items():
        whole = [sys.executable, *command, *ENGINES[engine]]
        processes[engine] = subprocess.Popen(
            whole,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # what Ray leaves to end a killed process' own ends its process group
        )
    yield {engine: (folders[engine], process) for engine, process in processes.items()}
    for process in processes.values():
        process.kill()
        process.wait()
        process.stderr.close()


def end(folder_and_process, status=0):
    """Wait for the process; return the folder."""
    folder, process = folder_and_process
    errors = process.stderr.read()
    assert process.wait() == status, errors
    return folder


@pytest.fixture(scope="module")
def apps(environment, tmp_path_factory):
    """APP: at once, as submitit looks for the result of a killed process for 15 seconds."""
    folders = {engine: tmp_path_factory.mktemp(engine) for engine in ENGINES if find_spec(engine)}
    for folder in folders.values():
        write_tracked(folder, "conf")
        (folder / "app.py").write_text(APP)
    with at_once(folders, environment, ["app.py", "-m", "seed=1,2,4", "hydra.sweep.dir=out"]) as started:
        yield started


@pytest.mark.long
def test_trials_run_side_by_side_and_one_whose_process_is_killed_does_not_stop_the_others(engine, apps):
    folder = end(apps[engine])
    for number in (0, 2):
        assert (folder / f"out/{number}/done").read_text() == f"{folder} 1 7"
        assert not (folder / f"out/{number}/trial.json").exists(), "that is left to the trial itself"
    record = json.loads((folder / "out/1/trial.json").read_text())
    assert record["overrides"] == ["seed=2"]
    assert record["error"].startswith("its process ended before it did (")
    assert len(record["error"].splitlines()) == 1


SWEEP = ["-m", "frostline.sweep", "-m", "model.cut_layer=mixed1", "model.dense_units=8", "transfer.epochs=1"]
SWEEP += ["finetune.epochs=1", "finetune.thaw_from=auto,mixed1,mixed5"]
_FAILED = 1
"""The exit status: mixed5 is above the cut layer."""


def records(folder):
    """What the sweep in `folder` left of each trial, by its swept setting."""
    found = [json.loads(path.read_text()) for path in folder.glob("multirun/*/*/trial.json")]
    return {record["overrides"][-1].split("=")[1]: record for record in found}


@pytest.fixture(scope="module")
def alone(lay_prepared, environment, tmp_path_factory):
    """A project in which the trials have run in one process, which has as many threads as the others will have."""
    folder = tmp_path_factory.mktemp("alone")
    write_tracked(folder, "conf", "dvc.yaml")
    with contextlib.chdir(folder):
        settings = asdict(compose_conf([f"preprocess.image_size={SIZE}"]))
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    lay_prepared(folder)
    one_thread = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    done = subprocess.run([sys.executable, *SWEEP], cwd=folder, env=environment | one_thread, capture_output=True)
    assert done.returncode == _FAILED
    return folder


def copies(alone, parent):
    """Copies of that project for each engine, with its features and the winner's test, of all that it made."""
    folders = {engine: parent / engine for engine in ENGINES if find_spec(engine)}
    for folder in folders.values():
        shutil.copytree(alone, folder)
        for name in ("mlruns", "multirun", ".frostline/transfer"):
            shutil.rmtree(folder / name)
        for path in folder.glob(f".frostline/trials/{'?' * 32}.json"):
            path.unlink()
    return folders


@pytest.fixture(scope="module")
def sweeps(alone, environment, tmp_path_factory):
    """Sweeps over the same trials."""
    with at_once(copies(alone, tmp_path_factory.mktemp("sweep")), environment, SWEEP) as started:
        yield started


@pytest.mark.long
def test_trials_in_several_processes_share_a_transfer_phase_and_give_the_figures_of_one_process(
    engine, alone, sweeps, environment
):
    folder = end(sweeps[engine], _FAILED)
    expected, found = records(alone), records(folder)
    for trials in (expected, found):  # the words depend on whether another trial has left the transfer phase
        assert trials.pop("mixed5")["error"].startswith("finetune.thaw_from is 'mixed5'")
    assert found == expected
    assert len(found) == 2
    logs = {"ray": Path(environment["RAY_TMPDIR"]).glob("ray/session_2*/logs/*.err"), "submitit": folder.rglob("*.err")}
    said = "".join(path.read_text() for path in logs[engine])
    assert said.count("transfer 1/1: ") == 1, "the second trial waits for the first one's model"
    assert said.count("finetune 1/1: ") == 2
    assert "features: " not in said, "they come from the pass before"


def finished(folder):
    """The files with the results of trials."""
    return sorted(folder.glob(f".frostline/trials/{'?' * 32}.json"))


@pytest.fixture(scope="module")
def gone_on(alone, sweeps, environment, tmp_path_factory):
    """Sweeps that have been started anew after their processes were killed with the first trial just finished, and when
    this trial's file was last written. Whoever runs the second trial is left alone: Ray ends it, submitit does not."""
    folders, left, times = copies(alone, tmp_path_factory.mktemp("killed")), [], {}
    for started in sweeps.values():
        end(started, _FAILED)  # first: one at a time takes no longer
    sweep = [*SWEEP[:-1], "finetune.thaw_from=auto,mixed1"]
    with at_once(folders, environment, [*sweep, "hydra.sweeper.max_batch_size=1"]) as started:
        while len(times) < len(started):
            for engine, (folder, process) in started.items():
                if engine not in times and (files := finished(folder)):
                    (first,) = files
                    left += psutil.Process(process.pid).children(recursive=True)
                    process.kill()
                    times[engine] = first, first.stat().st_mtime_ns
                assert engine in times or process.poll() is None, process.stderr.read()
            time.sleep(0.05)
    with at_once(folders, environment, sweep) as started:
        yield {engine: (started[engine], *times[engine]) for engine in started}
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.long
def test_a_killed_sweep_goes_on_to_the_bytes_of_one_left_alone(engine, alone, gone_on):
    started, first, written = gone_on[engine]
    folder = end(started)
    assert first.stat().st_mtime_ns == written, "what was finished is not run again"
    for pattern in ("trials/*.json", "transfer/*/model.keras"):
        expected, found = (sorted(root.glob(f".frostline/{pattern}")) for root in (alone, folder))
        assert [path.relative_to(folder) for path in found] == [path.relative_to(alone) for path in expected]
        assert [path.read_bytes() for path in found] == [path.read_bytes() for path in expected]
    assert len(finished(folder)) == 2
