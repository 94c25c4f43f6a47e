"""Folders and files that the user names, before DVC meets them: conf/ is composed, by us and by the real DVC."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from frostline.config.load import compose_conf, load_params
from frostline.runtime.errors import FrostlineError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def pictures(project):
    """A folder of two classes beside the project, under names that shells and Hydra take for something else."""
    folder = project.parent / f"{project.name} 사진 (1) a=b #~"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.jpg").write_bytes(b"1")
    yield folder
    shutil.rmtree(folder)


def text(path):
    """As README says to write a name: in quotes of Hydra's."""
    return f"'{path}'"


def test_the_folder_is_what_dvc_watches_relative_as_it_was_given(project, pictures):
    for path in (f"../{pictures.name}", str(pictures)):
        config = compose_conf(["data=folder", f"data.path={text(path)}"])
        assert config.data.path == config.data.depends_on == path


def test_so_is_the_file_of_weights(project):
    (project / "w=1.h5").touch()
    config = compose_conf(["weights=file", "weights.path='w=1.h5'"])
    assert config.weights.path == config.weights.depends_on == "w=1.h5"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("null", "data.path: None is no text"),
        ("2024", "2024 is no text. A name that reads as something else is written data.path=./NAME"),
        ("2024.10", "2024.1 is no text"),
        ("true", "True is no text"),
        ("[a,b]", "is no text"),
        ("''", "'' is no text"),
        ("???", "data.path has no value"),
        ("../gone", "gone: no such folder"),
        ("'~/pictures'", "~/pictures: no such folder"),
        ("https://example.com/pictures", "no such folder"),
        ("params.yaml", "params.yaml is neither a folder nor a zip file"),
        ("conf/transfer", "conf/transfer: no image files in it"),
        (".", "data/raw. Give the folder of your images alone"),
        ("'..'", "data/raw. Give the folder of your images alone"),
        ("data/raw", "the pipeline writes to"),
        ("data/processed/more", "the pipeline writes to"),
    ],
)
def test_a_folder_that_is_none_is_one_line(project, value, words):
    with pytest.raises(FrostlineError) as raised:
        compose_conf(["data=folder", f"data.path={value}"])
    assert words in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def pipe_in_a_class(folder):
    os.mkfifo(folder / "cat" / "2.jpg")


def hidden_pipe(folder):
    os.mkfifo(folder / ".pipe")


def broken_link(folder):
    (folder / "dog" / "2.jpg").symlink_to("gone.jpg")


def hidden_name_of_another_encoding(folder):
    (folder / "dog" / os.fsdecode(b".\xb0\xad.jpg")).touch()


@pytest.mark.parametrize("spoil", [pipe_in_a_class, hidden_pipe, broken_link, hidden_name_of_another_encoding])
def test_what_dvc_cannot_read_is_named_and_not_waited_for(project, pictures, spoil):
    spoil(pictures)
    words = "the name is not UTF-8" if "name" in spoil.__name__ else "is a broken link or a special file"
    with pytest.raises(FrostlineError, match=words):
        compose_conf(["data=folder", f"data.path={text(pictures)}"])


@pytest.mark.parametrize("where", ["", "dog"])
def test_so_is_a_dvcignore(project, pictures, where):
    """As `dvc init` leaves it beside the pictures."""
    file = pictures / where / ".dvcignore"
    file.touch()
    with pytest.raises(FrostlineError) as raised:
        compose_conf(["data=folder", f"data.path={text(pictures)}"])
    said = f"data.path: {file}: DVC refuses a folder with one. Give the one below it, or remove it."
    assert said in str(raised.value)
    if not where:
        for name in ("cat/small", "dog/large"):
            (pictures / "below" / name).mkdir(parents=True)
            (pictures / "below" / name / "1.jpg").touch()
        assert compose_conf(["data=folder", f"data.path={text(pictures / 'below')}"]).data.source == "folder"


def test_another_project_of_dvcs_may_lie_elsewhere_but_not_in_this_one(project, pictures):
    """There, DVC would leave out its files, and not see that they change."""
    (pictures / "cat/.dvc").mkdir()
    compose_conf(["data=folder", f"data.path={text(pictures)}"])
    shutil.copytree(pictures, project / "pictures")
    with pytest.raises(FrostlineError, match=r"cat/\.dvc: DVC does not look into another project in this one"):
        compose_conf(["data=folder", "data.path=pictures"])


def test_a_folder_of_weights_is_looked_through_as_well(project):
    preset = project / "preset"
    preset.mkdir()
    for name in ("config.json", ".dvcignore"):
        (preset / name).touch()
    with pytest.raises(FrostlineError, match=r"weights\.path: .*/preset/\.dvcignore: DVC refuses a folder with one"):
        compose_conf(["weights=file", "weights.path=preset"])


@pytest.mark.parametrize(
    ("value", "words"), [("null", "no text"), ("1", "no text"), ("x.h5", "no such file"), ("conf", "no such file")]
)
def test_a_file_that_is_none_is_one_line(project, value, words):
    with pytest.raises(FrostlineError) as raised:
        compose_conf(["weights=file", f"weights.path={value}"])
    assert "weights.path: " in str(raised.value)
    assert words in str(raised.value)


def test_a_place_that_was_edited_by_hand_in_one_line_of_two_is_refused(project, pictures):
    """DVC would go on watching the old folder."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["data"] = {"source": "folder", "name": "n", "path": "../new", "depends_on": "../old", "code": "c"}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(FrostlineError, match=r"data\.path is '\.\./new', but DVC watches data\.depends_on.*'\.\./old'"):
        load_params()


@pytest.mark.slow
def test_make_params_ends_in_one_line(project):
    (project / "dvc.yaml").touch()
    before = (project / "params.yaml").read_bytes()
    command = [sys.executable, "-m", "frostline.project.params"]
    for override, words in (("data=folder", "data.path has no value"), ("sed=1", "Did you mean 'seed'?")):
        done = subprocess.run([*command, override], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
    assert (project / "params.yaml").read_bytes() == before
    assert not list(project.glob(".params*"))


@pytest.fixture
def dvc(project):
    """A repository with the project's settings and one stage that watches and lists the user's folder."""
    settings = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "DVC_NO_ANALYTICS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for name in ("AUTHOR", "COMMITTER"):
        settings |= {f"GIT_{name}_NAME": "test", f"GIT_{name}_EMAIL": "test@example.com"}
    stage = {
        "cmd": "ls '${data.depends_on}' > listing",
        "deps": ["${data.depends_on}"],
        "params": ["data"],
        "outs": ["listing"],
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"list": stage}}))
    (project / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", project / ".dvc/config")
    (project / "src").symlink_to(ROOT / "src")

    def run(*arguments):
        command = [sys.executable, *arguments] if arguments[0] == "-m" else arguments
        return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=120)

    for command in (["git", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "before"]):
        assert run(*command).returncode == 0
    return lambda *arguments: run("-m", "dvc", "exp", "run", *arguments)


@pytest.mark.long
@pytest.mark.slow
def test_dvc_says_it_in_one_line_and_leaves_params_yaml_as_it_was(project, pictures, dvc):
    before = (project / "params.yaml").read_bytes()
    os.mkfifo(pictures / "cat" / "2.jpg")
    for value, words in (
        ("", "data.path has no value"),
        ("data.path=null", "data.path: None is no text"),
        ("data.path=2024", "data.path: 2024 is no text"),
        (f"data.path={text(pictures)}", "is a broken link or a special file"),
    ):
        done = dvc("-S", "data=folder", *(["-S", value] if value else []))
        assert done.returncode != 0
        assert words in next(line for line in done.stderr.splitlines() if line.startswith("ERROR"))
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.long
@pytest.mark.slow
def test_dvc_names_a_choice_that_stays_and_is_gone(project, dvc):
    (project / "conf/local").mkdir()
    (project / "conf/local/settings.yaml").write_text(
        "# @package _global_\ndefaults:\n- override /experiment: mine\n", encoding="utf-8"
    )
    done = dvc("-S", "seed=3")
    assert done.returncode != 0
    assert "ERROR: experiment=mine, kept by `frostline set`, is gone." in done.stderr
    assert dvc("-S", "seed=3", "-S", "experiment=best").returncode == 0


@pytest.mark.long
@pytest.mark.slow
def test_dvc_takes_a_quoted_name_and_in_a_copy_of_the_project_an_absolute_one(project, pictures, dvc):
    relative = f"data.path={text('../' + pictures.name)}"
    assert dvc("-S", "data=folder", "-S", relative).returncode == 0
    assert (project / "listing").read_text() == "cat\ndog\n"
    for where in ("--temp", "--queue"):
        refused = dvc(where, "-S", "data=folder", "-S", relative)
        assert refused.returncode != 0
        assert f"Give the absolute path: {pictures}" in refused.stderr
    assert dvc("--temp", "-S", "data=folder", "-S", f"data.path={text(pictures)}").returncode == 0
