"""What happens around a stage: real stages, real signals, real limits of the system."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from permissions import obey_permissions
from servers import wait_until

pytestmark = pytest.mark.slow

INTERRUPTED = "interrupted; `dvc repro` goes on from here.\n"


def start(stage, *overrides, **options):
    command = [sys.executable, "-m", "frostline.stages", stage, "data.images=20", *overrides]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def end_of(process):
    """Exit status and what was said on stderr."""
    said = process.communicate(timeout=120)[1]
    return process.returncode, said


def drawn_in(folder):
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_stage_says_one_line_and_leaves_nothing(project, number):
    process = start("fetch_data", "data.images=100000")
    wait_until(lambda: drawn_in(project / "data/raw"), seconds=60)
    process.send_signal(number)
    assert end_of(process) == (130, INTERRUPTED)
    assert drawn_in(project / "data/raw") == []


def test_so_does_one_that_cannot_close_what_it_was_at(project):
    """Between the beginning of an archive's entry and its `with`, an interrupt leaves it open."""
    (project / "stage.py").write_text(
        "import sys, types, zipfile\n"
        "from frostline.stages.run import run_stage\n"
        "def main(config):\n"
        "    with zipfile.ZipFile('archive.zip', 'w') as archive:\n"
        "        entry = archive.open('half', 'w')\n"
        "        raise KeyboardInterrupt\n"
        "sys.modules['frostline.stages.evaluate'] = types.SimpleNamespace(main=main)\n"
        "run_stage('evaluate', [])\n"
    )
    assert end_of(subprocess.Popen([sys.executable, "stage.py"], stderr=subprocess.PIPE, text=True)) == (
        130,
        INTERRUPTED,
    )


LOST = """
import runpy, sys, time, types, weakref
class Tensor: pass
def goes(_):
    print("goes", flush=True)
    time.sleep(100)  # where the signal comes
def main(*_):
    tensor = Tensor()
    seen = weakref.ref(tensor, goes)
    del tensor
    time.sleep(100)  # the training after it
    print("trained to its end", flush=True)
sys.modules["frostline.stages.evaluate"] = types.SimpleNamespace(main=main)
sys.modules["frostline.sweep.run"] = types.SimpleNamespace(run=main)
package, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_module(package, run_name="__main__", alter_sys=True)
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [("frostline.stages", "evaluate"), ("frostline.sweep", "-m", "seed=1,2")])
def test_so_does_one_whose_interrupt_python_would_ignore(project, command, number):
    """A KeyboardInterrupt within a weak reference's callback is printed, and the process goes on."""
    (project / "dvc.yaml").touch()
    process = subprocess.Popen([sys.executable, "-c", LOST, *command], stdout=-1, stderr=-1, text=True)
    assert process.stdout.readline() == "goes\n"
    process.send_signal(number)
    said, error = process.communicate(timeout=90)
    assert (process.returncode, said) == (130, "")
    assert error.startswith("interrupted; ")
    assert len(error.splitlines()) == 1


def test_so_does_one_that_is_still_importing(project):
    process = start("evaluate")
    wait_until(lambda: "/numpy/" in Path(f"/proc/{process.pid}/maps").read_text(), seconds=60)
    process.send_signal(signal.SIGINT)
    assert end_of(process) == (130, INTERRUPTED)


def test_a_second_process_of_a_stage_waits_for_the_first(project):
    (project / ".frostline/stages").mkdir(parents=True)
    with (project / ".frostline/stages/fetch_data.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = start("fetch_data")
        line = process.stderr.readline()
        assert line == "fetch_data is running in another process; waiting for it to end.\n"
        assert process.poll() is None
        assert drawn_in(project / "data/raw") == []
    assert end_of(process) == (0, "")
    assert drawn_in(project / "data/raw") == ["archive.zip"]


def small_files_only():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.long
def test_a_file_that_cannot_be_written_is_one_line_and_leaves_nothing(project):
    status, said = end_of(start("fetch_data", preexec_fn=small_files_only))
    assert (status, said) == (1, "error: File too large\n")
    assert drawn_in(project / "data/raw") == []


def test_a_folder_that_cannot_be_written_is_one_line(project):
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw").chmod(0o555)
    status, said = end_of(start("fetch_data", preexec_fn=obey_permissions))
    assert status == 1
    assert said.startswith("error: Permission denied: data/raw/")
    assert len(said.splitlines()) == 1


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_stdout_is_an_error_of_two_lines(project):
    assert end_of(start("fetch_data"))[0] == 0
    with Path("/dev/full").open("w") as full:
        status, said = end_of(start("preprocess", stdout=full))
    assert status == 1
    *_, error, advice = said.splitlines()
    assert error == "error: No space left on device"
    assert "frostline cache prune" in advice


def test_what_hdf5_says_of_a_full_disk_is_one_line(project):
    """It says RuntimeError where closing a file fails."""
    (project / "stage.py").write_text(
        "import sys, types, h5py, numpy\n"
        "from frostline.stages.run import run_stage\n"
        "def main(config):\n"
        "    with h5py.File('weights.h5', 'w') as file:\n"
        "        file['kernel'] = numpy.zeros(1_000_000)\n"
        "sys.modules['frostline.stages.evaluate'] = types.SimpleNamespace(main=main)\n"
        "run_stage('evaluate', [])\n"
    )
    command = [sys.executable, "stage.py"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=small_files_only)
    status, said = end_of(process)
    assert status == 1
    assert said.startswith("error: ")
    assert "File too large" in said
    assert len(said.splitlines()) == 1


def test_importing_a_stage_changes_no_signal_handler():
    code = "import signal, frostline.stages.fetch_data; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == "True\n"


def test_a_stage_that_is_not_there_is_named_with_those_that_are(project):
    status, said = end_of(start("train"))
    assert status == 1
    assert said.startswith("error: there is no stage 'train'.\nThere are: fetch_data, ")
