"""`make params` itself: params.yaml anew from conf/, and not a word of it lost in silence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tracked import write_tracked


@pytest.fixture
def make_params(project):
    """Run it with ARGS; return its exit status and what it says."""
    write_tracked(project, "Makefile", "dvc.yaml")
    (project / ".venv").mkdir()
    (project / ".venv/.installed-core").touch()

    def run(arguments=""):
        command = ["make", "-o", ".venv/.installed-core", f"PYTHON={sys.executable}", "params", f"ARGS={arguments}"]
        done = subprocess.run(command, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True)
        return done.returncode, done.stderr

    return run


@pytest.mark.slow
def test_make_train_gives_the_folder_and_the_options_on(tmp_path):
    write_tracked(tmp_path, "Makefile")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/.installed-core").touch()
    (tmp_path / ".venv/bin/activate").write_text(f"PATH='{tmp_path}/.venv/bin':$PATH\n")
    (tmp_path / ".venv/bin/frostline").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / ".venv/bin/frostline").chmod(0o755)
    command = ["make", "-o", ".venv/.installed-core", "train", "PICTURES=../내 사진 (1)", "ARGS=--recipe quick"]
    done = subprocess.run(command, env=os.environ | {"VIRTUAL_ENV": ""}, capture_output=True, text=True, check=True)
    *given, hint = done.stdout.splitlines()
    assert given == ["train", "../내 사진 (1)", "--recipe", "quick"]
    assert hint == "before these, once per terminal:  source .venv/bin/activate"


def edit(old, new):
    path = Path("params.yaml")
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.long
@pytest.mark.slow
def test_an_edit_by_hand_is_named_before_it_is_dropped(make_params, project):
    committed = (project / "params.yaml").read_text()
    edit("\nseed: 42\n", "\nseed: 43\n")
    edit("sqlite:///mlruns/mlflow.db", "http://me:s3cret@127.0.0.1:9")
    status, said = make_params()
    assert status == 0
    assert said.splitlines() == [
        "params.yaml: tracking.uri=http://127.0.0.1:9 is dropped; it is sqlite:///mlruns/mlflow.db now.",
        "params.yaml: seed=43 is dropped; it is 42 now.",
        "What was an edit by hand is kept by `frostline set KEY=VALUE`.",
    ]
    assert (project / "params.yaml").read_text() == committed
    assert make_params() == (0, ""), "nothing to say"


def test_defaults_changed_in_conf_and_overrides_are_written(make_params, project):
    config = project / "conf/config.yaml"
    config.write_text(config.read_text().replace("\nseed: 42", "\nseed: 7", 1))
    status, said = make_params("experiment=quick \"name='고양이 (1)'\"")
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    assert (status, params["seed"], params["name"]) == (0, 7, "고양이 (1)")
    assert "params.yaml: seed=42 is dropped; it is 7 now.\n" in said


@pytest.mark.parametrize("text", [None, "", "- 1\n", "seed: [", "sed: 1\n"])
def test_whatever_was_there_it_is_written_anew(make_params, project, text):
    committed = (project / "params.yaml").read_bytes()
    (project / "params.yaml").unlink()
    if text is not None:
        (project / "params.yaml").write_text(text)
    status, said = make_params()
    assert status == 0
    assert ("sed=1 is dropped; there is no such setting now." in said) == (text == "sed: 1\n")
    assert (project / "params.yaml").read_bytes() == committed


def test_a_mistyped_key_leaves_everything_as_it_was(make_params, project):
    before = (project / "params.yaml").read_bytes()
    names = {path.name for path in project.iterdir()}
    status, said = make_params("sed=1")
    assert status == 2
    assert said.startswith("error: sed=1: there is no setting 'sed'. Did you mean 'seed'?")
    assert (project / "params.yaml").read_bytes() == before
    assert {path.name for path in project.iterdir()} - names <= {".frostline", ".dvc"}, "which git ignores"
