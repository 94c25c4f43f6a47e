"""uv.lock fits pyproject.toml, requirements.lock is its export, and the Makefile says which Python is wanted."""

import os
import subprocess
import sys
import tomllib

import pytest

from tracked import ROOT, write_tracked


def uv(*arguments):
    env = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    command = [sys.executable, "-m", "uv", *arguments, "--no-config", "--offline", "--directory", str(ROOT)]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_the_lock_fits_pyproject():
    checked = uv("lock", "--check")
    assert checked.returncode == 0, checked.stderr


def test_requirements_lock_is_exported_from_it():
    told = next(line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "$(UV) export" in line)
    options = told.partition("$(UV) export")[2].removesuffix("\\").split()
    exported = uv("export", *options)
    assert exported.stdout == (ROOT / "requirements.lock").read_text(encoding="utf-8"), exported.stderr


def test_both_name_a_digest_of_every_package():
    pinned = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    assert len(pinned) > 100
    assert all("==" in package and "--hash=sha256:" in package for package in pinned)
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    files = [(package["name"], file) for package in packages for file in package.get("wheels", [])]
    assert len(files) > len(packages)
    assert [name for name, file in files if not file["hash"].startswith("sha256:")] == []
    assert [package["name"] for package in packages if "editable" in package["source"]] == ["frostline"]


def test_the_core_needs_nothing_of_an_extra():
    """Each package that an extra adds is one that the core's lock lacks, so that `make demo` does not install it."""
    core = {line.partition("==")[0] for line in uv("export", "--frozen", "--no-emit-project").stdout.splitlines()}
    assert "tensorflow" in core
    assert core.isdisjoint({"ray", "optuna", "submitit", "onnx", "tf2onnx", "psycopg2-binary", "pytest", "mypy"})


def make(target, folder, programs):
    """What this Makefile does in `folder`, with `programs` before all others."""
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), "-C", str(folder), target]
    env = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_where_no_environment_can_be_made_the_same_command_tries_again(tmp_path):
    """Debian's Python without its package venv makes half of one, without pip."""
    folder, programs = write_tracked(tmp_path / "frostline", "uv.lock", "pyproject.toml"), tmp_path / "bin"
    programs.mkdir()
    half = f'echo again >> "{tmp_path}/tried"; mkdir -p .venv/bin; touch .venv/bin/python; exit 1'
    (programs / "python3").write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n{half}\n')
    (programs / "python3").chmod(0o755)
    for _ in range(2):
        made = make("install", folder, programs)
        assert made.returncode != 0
        assert "sudo apt install python3-venv; then the same command again" in made.stdout
    assert (tmp_path / "tried").read_text() == "again\nagain\n"


@pytest.mark.parametrize("target", ["demo", "train"])
def test_a_folder_from_a_zip_file_is_refused_before_anything_is_installed_and_without_git(target, tmp_path):
    folder, programs = write_tracked(tmp_path / "frostline", "uv.lock", "pyproject.toml"), tmp_path / "bin"
    programs.mkdir()
    for name in ("python3", "uv", "git"):
        marks = f'[ "$1" = -c ] || touch "{tmp_path}/{name} was run"'  # Python is asked which one it is
        (programs / name).write_text(f"#!/bin/sh\n{marks}\n")
        (programs / name).chmod(0o755)
    made = make(target, folder, programs)
    assert made.returncode != 0
    (line,) = made.stdout.splitlines()
    assert line.startswith("error: this is no git repository, which DVC needs: get Frostline with `git clone`, not as")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "frostline"]
    assert sorted(path.name for path in folder.iterdir()) == ["pyproject.toml", "uv.lock"]
    (tmp_path / ".git").touch()  # as in a worktree of git's; the folder above counts, too
    make(target, folder, programs)
    assert (tmp_path / "python3 was run").exists()


@pytest.mark.parametrize(("version", "said"), [("3.14.0", "python3 here is Python 3.14.0"), ("3.9.1", "Python 3.9.1")])
def test_a_python_that_tensorflow_has_not_is_named_before_anything_is_installed(version, said, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        only = f'echo "Python {version}"' if name == "python3" else "exit 127"
        (programs / name).write_text(f'#!/bin/sh\n[ "$1" = --version ] || exit 1\n{only}\n')
        (programs / name).chmod(0o755)
    (tmp_path / ".git").mkdir()
    made = make(".venv/bin/python", tmp_path, programs)
    assert made.returncode != 0
    (line,) = made.stdout.splitlines()
    assert line.startswith("error: TensorFlow 2.21 needs Python 3.11, 3.12 or 3.13")
    assert said in line
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("target", ["install", "demo", "train"])
def test_gpu_1_installs_cudas_libraries_and_nothing_else_does(target):
    def planned(*arguments):
        # Without a date of its own, no package is taken for installed.
        command = ["make", "--no-print-directory", "-n", "-W", "uv.lock", target, *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "--extra gpu" in planned("GPU=1")
    assert "--extra" not in planned()
    assert "--extra" not in planned("GPU=0")
