"""Commands where there is no project, or nothing trained in it: a line, at once, without TensorFlow."""

import subprocess
import sys

import pytest

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


def test_compare_in_a_fresh_clone_does_not_show_the_figures_that_came_with_it(project):
    (project / "dvc.yaml").touch()
    said = run("frostline.cli", "compare")
    assert said.startswith("error: no model was evaluated on this machine yet. Train one: `frostline train FOLDER`")
    (project / "reports").mkdir()
    (project / "reports/figures.json").write_text("{}")
    said = run("frostline.cli", "compare")
    assert "on this machine yet; the figures in reports/ came with the clone. Train one: `frostline train" in said
    assert len(said.splitlines()) == 1


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
