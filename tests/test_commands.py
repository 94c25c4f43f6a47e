"""Commands where there is no project, or nothing trained in it: a line, at once, without TensorFlow."""

import subprocess
import sys
from pathlib import Path

import pytest

from frostline import cli
from frostline.project import train
from frostline.project.train import _choices, _warn_of_what_was_said_of_others

SAYS_WHAT_IS_IMPORTED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print("tensorflow" in sys.modules)
"""


def run(*command):
    ended = subprocess.run([sys.executable, "-c", SAYS_WHAT_IS_IMPORTED, *command], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stdout == "False\n", "TensorFlow takes seconds"
    assert ended.stderr.startswith("error: ")
    return ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare"],
        ["train"],
        ["set", "seed=1"],
        ["predict", "picture.jpg"],
        ["serve"],
        ["export", "--to", "onnx"],
        ["audit"],
        ["cache", "ls"],
    ],
)
def test_outside_of_a_project(tmp_path, arguments):
    said = run("frostline.cli", *arguments)
    assert said.startswith(f"error: {tmp_path} is no Frostline project: go to the folder")
    assert len(said.splitlines()) == 1


def test_a_sweep_outside_of_a_project():
    assert "is no Frostline project" in run("frostline.sweep", "-m", "seed=1,2")


@pytest.mark.long
@pytest.mark.slow
def test_compare_in_a_fresh_clone_does_not_show_the_figures_that_came_with_it(project):
    (project / "dvc.yaml").touch()
    said = run("frostline.cli", "compare")
    assert said.startswith("error: no model was evaluated on this machine yet. Train one: `frostline train FOLDER`")
    (project / "reports").mkdir()
    (project / "reports/figures.json").write_text("{}")
    said = run("frostline.cli", "compare")
    assert "on this machine yet; the figures in reports/ came with the clone. Train one: `frostline train" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("lock", "named"),
    [
        ("", "reports/figures.json and reports/evaluation/ are not"),
        ("stages: {evaluate: {deps: []}}", "reports/figures.json and reports/evaluation/ are not"),
        (
            "stages: {evaluate: {outs: [{path: reports/figures.json, md5: 99914b932bd37a50b983c5e7c90ae93b}]}}",
            "reports/evaluation is not",
        ),
        (
            "stages: {evaluate: {outs: [{path: reports/evaluation, md5: d2e5e0a5a8b6ecd8beaecc2c4d5d4dfa.dir}]}}",
            "reports/figures.json and reports/evaluation/ are not",
        ),
    ],
)
def test_compare_shows_no_two_runs_in_one_answer(project, lock, named):
    (project / "dvc.yaml").touch()
    (project / "reports/evaluation").mkdir(parents=True)
    (project / "reports/figures.json").write_text("{}")
    (project / "reports/evaluation/verdict.md").write_text("**Yes**: of another run.")
    (project / "dvc.lock").write_text(lock)
    said = run("frostline.cli", "compare")
    assert said.startswith(f"error: {named} of the evaluation that dvc.lock names: they may be of different runs")
    assert len(said.splitlines()) == 2
    assert "`dvc repro`" in said


@pytest.mark.slow
def test_a_folder_without_a_path(project):
    (project / "dvc.yaml").touch()
    (project / ".git").mkdir()
    for command in (
        ("frostline.cli", "train", "--set", "data=folder"),
        ("frostline.cli", "set", "data=folder"),
        ("frostline.config.load", "data=folder"),
    ):
        said = run(*command)
        assert "data.path has no value" in said or "Which pictures?" in said, said
        assert len(said.splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", ""], "the name is empty"),
        (["train", " "], "the name is empty"),
        (["predict", "https://example.com/dog.jpg"], "https://example.com/dog.jpg is an address, of which nothing is"),
        (["train", "file:///pictures"], "file:///pictures is an address"),
        (["train", r"C:\Users\kim\pictures"], "is a path of Windows; in WSL2, C:\\Users is /mnt/c/Users"),
        (["serve", "--model", ""], "the name is empty"),
        (["cache", "prune", "--keep-gib", "nan"], "nan is not a number of GiB, 0 or more"),
        (["cache", "prune", "--keep-gib", "-1"], "-1 is not a number of GiB, 0 or more"),
        (["set", "seed=1", "seed=2"], "seed is given twice, as '1' and as '2'"),
        (["set", "=3"], "'=3' is no setting; write KEY=VALUE"),
        (["train", "pictures", "--set", "data.path=others"], "data.path is given twice, as 'pictures' and as 'others'"),
        (["train", "pictures", "--name", "a", "--set", "data.name=b"], "data.name is given twice"),
        (["train", "pictures", "--weights", "random", "--set", "weights=imagenet"], "weights is given twice"),
        (["train", "pictures", "--recipe", "best", "--set", "experiment=demo"], "experiment is given twice"),
    ],
)
def test_what_is_typed_in_two_ways_or_in_none_is_refused(project, arguments, words, monkeypatch, capsys):
    (project / "dvc.yaml").touch()
    (project / ".git").mkdir()
    monkeypatch.setattr(sys, "argv", ["frostline", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert words in capsys.readouterr().err + str(ended.value)


def test_a_training_that_stops_says_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr("frostline.project.train.train", lambda *_: 255)
    monkeypatch.setattr("sys.argv", ["frostline", "train", "pictures"])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert raised.value.code == 255
    assert "`exited with -9` or 137 is for want of memory" in capsys.readouterr().err


def test_stages_are_run_by_this_python_whatever_the_path_is(monkeypatch):
    seen = []
    ended = subprocess.CompletedProcess([], 3)
    monkeypatch.setattr("subprocess.run", lambda command, env: seen.append(env) or ended)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert train._run("dvc", "repro") == 3
    assert seen[0]["PATH"] == f"{Path(sys.executable).parent}:/usr/bin:/bin"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_is_an_error_also_where_little_is_written(project):
    (project / "dvc.yaml").touch()
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "frostline.cli", "cache", "ls"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (1, "error: No space left on device")


@pytest.mark.parametrize(
    ("kept", "model", "taken"),
    [
        ({}, None, "imagenet"),
        ({}, "hub", "hub"),
        ({"weights": "imagenet"}, "hub", "hub"),
        ({"weights": "hub"}, "resnet50", "imagenet"),
        ({"weights": "random"}, "resnet50", None),
        ({"weights": "random"}, "hub", "hub"),
        ({"weights": "file", "weights.path": "w.h5"}, "hub", None),
    ],
)
def test_weights_that_nobody_has_named_are_those_of_the_model(kept, model, taken):
    assert _choices(Path("pictures"), None, None, kept, model).get("weights") == taken


def test_what_was_said_of_other_images_is_named(project, capsys):
    kept = {"data.path": "/a", "preprocess.top_folders": "classes", "preprocess.splits": "given", "seed": 1}
    _warn_of_what_was_said_of_others(kept, {"preprocess.splits": "random"})
    (said,) = capsys.readouterr().err.splitlines()
    assert "preprocess.top_folders=classes: made for /a, and in use for these images, too" in said
    (project / "corrections.csv").write_text("path,class\ncats/1.jpg,dogs\n")
    _warn_of_what_was_said_of_others({"data.path": "/a"}, {})
    assert "corrections.csv: made for /a" in capsys.readouterr().err
    (project / "corrections.csv").write_text("path,class\n")
    _warn_of_what_was_said_of_others({"data.path": "/a"}, {})
    _warn_of_what_was_said_of_others({}, {})
    assert capsys.readouterr().err == ""
