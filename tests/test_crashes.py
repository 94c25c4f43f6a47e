"""A test that takes its process with it fails the run, and the run ends: with the options that this project's has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long]

ROOT = Path(__file__).parents[1]

LOCK = "lock = ctypes.PyDLL(None).pthread_mutex_lock; mutex = bytes(64); lock(mutex); lock(mutex)"
CRASHES = {
    "aborts": ("os.abort()", "worker 'gw"),
    "hangs in Python": ("time.sleep(600)", "Timeout (>1.0s) from pytest-timeout."),
    "hangs in C": (LOCK, "worker 'gw"),
}


@pytest.mark.parametrize("crash", CRASHES)
def test_a_run_ends_and_fails_where_a_test(crash, tmp_path):
    """xdist would hang where it replaced a worker: it gives the next one the dead one's finished files, too, and waits
    for a word about them."""
    code, word = CRASHES[crash]
    fine = "def test_fine():\n    pass\n"
    (tmp_path / "test_crash.py").write_text(f"import ctypes, os, time\n{fine}\n\ndef test_crash():\n    {code}\n")
    for number in range(3):
        (tmp_path / f"test_{number}.py").write_text(fine)
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, "-n", "2"]
    command += ["-o", "timeout=1", "-o", "faulthandler_timeout=5", tmp_path]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1, run.stdout + run.stderr
    assert word in run.stdout
    assert "FAILED test_crash.py::test_crash" in run.stdout
    assert run.stdout.splitlines()[-1].startswith("1 failed, ")
