"""`.ci/run` and the Makefile: every kind of test in a process of its own, and nothing changed by the checks."""

import os
import re
import shutil
import subprocess
import tomllib

import pytest

from tracked import ROOT

NEEDS = {"ray": r'^ *(import|from) ray\b|importorskip\("ray"\)', "postgresql": r"find_postgres\("}
"""What files of a kind have in them."""
MARKERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]


def planned(target):
    command = ["make", "--no-print-directory", "-n", "-W", "uv.lock", target]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_files_that_need_more_than_python_have_the_mark_of_it():
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    kinds = {path: "browser" for path in texts if path.parent.name == "browser"}
    for kind, signs in NEEDS.items():
        kinds |= {path: kind for path, text in texts.items() if re.search(signs, text, re.MULTILINE)}
    assert set(kinds.values()) == {"browser", *NEEDS}
    assert [path.name for path, kind in kinds.items() if f"pytest.mark.{kind}" not in texts[path]] == []


def test_all_tests_run_each_kind_in_a_process_of_its_own():
    kinds = [mark.partition(":")[0] for mark in MARKERS if not mark.startswith("slow")]  # these with the unmarked
    processes = re.findall(r'pytest .*?-m "([^"]*)"', planned("test-all"))
    assert processes[0] == f"not ({' or '.join(kinds)})"
    assert [mark.split()[0] for mark in processes[1:]] == kinds


def test_the_demo_says_that_another_kind_of_processor_rounds_otherwise():
    assert "which are of another kind" in planned("demo")
    assert "of processor: it rounds otherwise." in planned("demo")


@pytest.fixture
def checkout(tmp_path):
    """A checkout with `.ci/run`, and the checks' programs: a make that writes what it is asked for, one Python."""
    (tmp_path / "project/.ci").mkdir(parents=True)
    (tmp_path / "project/.venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", tmp_path / "project/.ci/run")
    (tmp_path / "project/.gitignore").write_text(".venv\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    stubs = {
        programs / "make": f'echo "$@" >> {tmp_path}/asked; [ "$1" != "${{LEAVES:-}}" ] || touch left.txt',
        programs / "python3.12": "exit 0",
        programs / "python3.13": "exit 1",
        tmp_path / "project/.venv/bin/python": "echo Python 3.11.7",
    }
    for path, text in stubs.items():
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", tmp_path / "project"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    return tmp_path


def ci(checkout, **variables):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYENV"))}
    env |= {"PATH": f"{checkout}/bin:/usr/bin:/bin", "HOME": str(checkout), **variables}
    command = ["bash", checkout / "project/.ci/run"]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_a_python_that_the_machine_lacks_is_named(checkout):
    ended = ci(checkout)
    assert ended.returncode == 0
    assert ended.stdout == "Python 3.13 is not on this machine: nothing was checked with it.\n"
    check = "check VENV=.venv-3.12 PYTHON3=python3.12"
    assert (checkout / "asked").read_text().splitlines() == ["lint", "audit", check, "test-all"]


def test_checks_that_leave_a_change_fail_and_show_it(checkout):
    ended = ci(checkout, LEAVES="test-all")
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (1, "?? left.txt")
    shutil.rmtree(checkout / "project/.git")
    assert ci(checkout, LEAVES="test-all").returncode == 0
