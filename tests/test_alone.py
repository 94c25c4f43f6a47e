"""What changes a project's settings refuses beside real DVC commands, and goes on after killed ones."""

import errno
import os
import signal
import subprocess
import sys

import psutil
import pytest
import zc.lockfile

from frostline.project import alone
from frostline.project.alone import beside_no_dvc
from frostline.runtime.errors import FrostlineError
from servers import wait_until
from tracked import ROOT

pytestmark = pytest.mark.slow

STAGE = """
stages:
  wait:
    cmd: touch running && while [ ! -f go ]; do sleep 0.1; done && echo done > out
    params: [rate]
    outs: [out]
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A DVC project with one stage, which runs until there is a file "go"; the current directory."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.com")
    (tmp_path / "dvc.yaml").write_text(STAGE)
    (tmp_path / "params.yaml").write_text("rate: 1\n")
    (tmp_path / ".gitignore").write_text("running\ngo\n")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.yaml").write_text("rate: 1\n")
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/config").write_text(
        f"[core]\nanalytics = false\n[hydra]\nenabled = true\nplugins_path = {ROOT}/src\n"
    )
    (tmp_path / ".dvc/.gitignore").write_text("/tmp\n/cache\n")
    for command in ("git init -q", "git add -A", "git commit -qm stage"):
        subprocess.run(command.split(), check=True)
    return tmp_path


def dvc(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, **options)


def start(repository, *arguments):
    """A DVC command, in a group of its own, once its stage runs."""
    process = subprocess.Popen([sys.executable, "-m", "dvc", *arguments], start_new_session=True)
    wait_until((repository / "running").exists, seconds=60)
    return process


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("frostline.common.files.lock_descriptor", no_locks)
    with pytest.raises(FrostlineError, match=f"{tmp_path}: this disk knows no file locks"), alone.alone():
        pass


@pytest.mark.parametrize("command", [["repro"], pytest.param(["exp", "run", "-S", "rate=2"], marks=pytest.mark.long)])
def test_a_running_command_is_named_and_a_killed_one_is_not_waited_for(repository, command):
    process = start(repository, *command)
    with pytest.raises(FrostlineError) as raised, beside_no_dvc():
        pass
    assert f"`dvc {' '.join(command)}` is running in this project (process {process.pid})" in str(raised.value)
    refused = subprocess.run([sys.executable, "-m", "frostline.project.params"], capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (1, f"error: {raised.value}\n")

    os.killpg(process.pid, signal.SIGKILL)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, seconds=20)
    with beside_no_dvc():
        pass
    (repository / "go").touch()
    done = dvc("repro", "--force")
    assert done.returncode == 0, done.stderr
    assert process.wait() == -signal.SIGKILL


@pytest.mark.long
def test_a_second_experiment_is_refused_before_it_ruins_the_first(repository):
    first = start(repository, "exp", "run", "-S", "rate=2")
    second = dvc("exp", "run", "-S", "rate=3")
    assert second.returncode == 255
    said = (
        f"ERROR: `dvc exp run -S rate=2` is running in this project (process {first.pid}).\nWait until it has ended.\n"
    )
    assert second.stderr == said
    (repository / "go").touch()
    assert first.wait(timeout=60) == 0
    assert (repository / "params.yaml").read_text() == "rate: 2\n"


def test_an_experiment_below_the_projects_folder_is_told_where_to_go(repository):
    below = repository / "conf"
    refused = dvc("exp", "run", "-S", "rate=3", cwd=below)
    assert refused.stderr == f"ERROR: {below} is not the project's folder: cd {repository}\n"
    assert [path.name for path in below.iterdir()] == ["config.yaml"]


def test_a_command_that_has_not_come_to_a_stage_is_named_and_one_that_begins_has_to_wait(repository, monkeypatch):
    monkeypatch.setattr(alone, "_PATIENCE", 0.1)
    code = "import zc.lockfile; held = zc.lockfile.LockFile('.dvc/tmp/lock'); print(flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()
    with pytest.raises(FrostlineError, match=rf"A DVC command is running .*\(process {holder.pid}\)"), beside_no_dvc():
        pass
    holder.communicate(b"\n")
    with beside_no_dvc(), pytest.raises(zc.lockfile.LockError):
        zc.lockfile.LockFile(".dvc/tmp/lock")


def test_a_number_that_another_process_has_now_holds_nothing(repository):
    locks = repository / ".dvc/tmp/rwlock"
    locks.write_text(f'{{"write": {{"out": {{"pid": {os.getppid()}, "cmd": "dvc repro"}}}}, "read": {{}}}}')
    with pytest.raises(FrostlineError), beside_no_dvc():
        pass
    os.utime(locks, (1, 1))
    with beside_no_dvc():
        pass
    assert not locks.exists()
    for text in ("[]", "null", "{", '{"read": []}', '{"write": {"out": {"cmd": "dvc repro"}}}', '{"pid": null}'):
        locks.write_text(text)
        with beside_no_dvc():
            pass
