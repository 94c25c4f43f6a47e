"""Projects that lie elsewhere than when their runs were made: real folders, moved and copied, with real stores."""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import zipfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest

from frostline.config.load import compose_conf
from frostline.tracking import runs as tracking
from frostline.tracking.logged_model import log_model, logged_models
from tracked import write_tracked
from zips import write_model_like

pytestmark = pytest.mark.slow

NAME = "사진 #1"  # without a %: in one process, MLflow would take one such project for the other
MODEL = "models:/pictures@champion"
KILLED = """
import os, signal
from frostline.config.load import compose_conf
from frostline.tracking import runs
with runs.phase_run("transfer", runs.open_pipeline(compose_conf(), "data")):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def train(phase):
    """What matters here of a stage in the current folder; return the run."""
    write_model_like(Path("model.keras"), phase.encode(), ("a", "b"))
    with tracking.phase_run(phase, tracking.open_pipeline(compose_conf(), "data")) as run:
        run.log_files(Path("model.keras"))
        log_model(run, Path("model.keras"), np.zeros((8, 8, 3), np.uint8))
    return run.id


def enter(folder, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it itself
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a run, a registered model and an experiment of the user's own; and the run's id."""
    folder = tmp_path_factory.mktemp("made") / NAME
    write_tracked(folder, "conf", "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        run = train("transfer")
        client = mlflow.MlflowClient()
        (logged,) = logged_models(run)
        client.create_registered_model("pictures")
        client.create_model_version("pictures", f"models:/{logged.model_id}", run, model_id=logged.model_id)
        client.set_registered_model_alias("pictures", "champion", "1")
        client.create_experiment("elsewhere", "file:///mnt/large/mlruns/artifacts")
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return folder, run


@pytest.fixture
def project(made, tmp_path):
    """A copy of it in this test's folder, which has been opened there."""
    folder = tmp_path / NAME
    shutil.copytree(made[0], folder)
    follow(folder)
    return folder


def follow(folder):
    command = [sys.executable, "-m", "frostline.tracking.places"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stderr


def places(folder):
    """The folders that the store in `folder` names."""
    found = []
    with closing(sqlite3.connect(folder / "mlruns/mlflow.db")) as connection:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
            ("model_versions", "storage_location"),
        ):
            found += [place for (place,) in connection.execute(f"SELECT {column} FROM {table}")]
    return found


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).digest() for path in files}


def open_all(run):
    """Read what the run and the champion have, as MLflow's clients do."""
    file = Path(mlflow.artifacts.download_artifacts(run_id=run, artifact_path="model.keras"))
    champion = Path(mlflow.artifacts.download_artifacts(MODEL)) / "data/model.keras"
    return tuple(zipfile.ZipFile(path).read("model.weights.h5") for path in (file, champion))


@pytest.mark.long
def test_the_runs_of_a_moved_project_move_with_it(project, made, monkeypatch, capfd):
    there = project.with_name(f"{NAME}2")  # of which the former name is the beginning
    project.rename(there)
    enter(there, monkeypatch)
    second = train("finetune")
    said = [line for line in capfd.readouterr().err.splitlines() if str(project) in line]
    assert said == [f"MLflow's files of this project lay in {project}/mlruns; they now lie in {there}/mlruns."]
    assert not project.exists(), "nothing is written where it was before"
    assert open_all(made[1]) == (b"transfer", b"transfer")
    assert (there / "mlruns/artifacts" / second / "artifacts/model.keras").is_file()
    assert all(place.startswith((f"{there.as_uri()}/", f"{there}/", "file:///mnt/large/")) for place in places(there))
    assert "file:///mnt/large/mlruns/artifacts" in places(there), "what the user placed elsewhere stays there"
    train("evaluate")
    assert str(project) not in capfd.readouterr().err, "it is said once"


@pytest.mark.long
def test_a_copy_leaves_its_original_alone(project, made, monkeypatch):
    copy = project.with_name("copy")
    shutil.copytree(project, copy)
    before = contents(project)
    enter(copy, monkeypatch)
    train("finetune")
    assert open_all(made[1]) == (b"transfer", b"transfer")
    assert contents(project) == before
    assert not any("%231/" in place or "#1/" in place for place in places(copy))


@pytest.mark.long
def test_the_ui_finds_the_artifacts_and_several_at_once_move_them_once(project):
    there = project.with_name("50%20 there")
    project.rename(there)
    command = [sys.executable, "-m", "frostline.tracking.places"]
    several = [subprocess.Popen(command, cwd=there, stdout=-1, stderr=-1, text=True) for _ in range(4)]
    said = [process.communicate()[1] for process in several]
    assert [process.returncode for process in several] == [0] * 4
    assert len("".join(said).splitlines()) == 1
    assert all(place.startswith((f"{there.as_uri()}/", f"{there}/", "file:///mnt/large/")) for place in places(there))


def test_what_lies_at_the_former_place_alone_is_still_found(project, made, monkeypatch):
    """As it was with a project that was moved before places followed it: its next run was written there again."""
    there = project.with_name("there")
    shutil.copytree(project, there)
    shutil.rmtree(there / "mlruns/artifacts" / made[1])
    enter(there, monkeypatch)
    train("finetune")
    assert open_all(made[1]) == (b"transfer", b"transfer")


def test_a_link_to_the_project_is_the_same_place(project, monkeypatch, capfd):
    before = places(project)
    link = project.with_name("link")
    link.symlink_to(project)
    enter(link, monkeypatch)
    train("finetune")
    assert capfd.readouterr().err == ""
    assert set(before) <= set(places(project))


def test_a_store_elsewhere_is_used_as_it_is(project, made, tmp_path, monkeypatch):
    store = tmp_path / "shared" / "mlruns"
    shutil.copytree(project / "mlruns", store)
    enter(project, monkeypatch)
    before = places(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    tracking.open_pipeline(compose_conf(), "data")
    assert places(store.parent) == before == places(project)


@pytest.mark.long
def test_what_was_killed_before_the_move_is_closed_after_it(project, monkeypatch):
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=project, env=environment)
    assert killed.returncode == -signal.SIGKILL
    there = project.with_name("there")
    project.rename(there)
    enter(there, monkeypatch)
    pipeline = tracking.open_pipeline(compose_conf(), "data")
    found = mlflow.MlflowClient().search_runs([pipeline.experiment_id])
    assert Counter(run.info.status for run in found)["KILLED"] == 2
    assert "RUNNING" not in {run.info.status for run in found}
