"""A small DVC pipeline, run for real and then verified: real DVC, real files of every kind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from frostline.runtime.errors import FrostlineError
from frostline.verify.rerun import verify
from servers import wait_until

pytestmark = pytest.mark.slow

DRAW = """
import json, pathlib, numpy, yaml
seed = yaml.safe_load(open("params.yaml"))["seed"]
folder = pathlib.Path("data/drawn")
folder.mkdir(parents=True)
numpy.save(folder / "numbers.npy", numpy.arange(6.0) * seed)
(folder / "names.csv").write_text("name,number\\na,1\\n")
pathlib.Path("reports").mkdir(exist_ok=True)
pathlib.Path("reports/draw.json").write_text(json.dumps({"seed": seed}))
"""
TRAIN = """
import os, pathlib, h5py, numpy
mlflow = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
assert mlflow == {"MLFLOW_TRACKING_URI": "sqlite:///mlruns/mlflow.db"}, "not the user's store, registry or credentials"
assert not pathlib.Path(".frostline").exists(), "not the user's caches"
with h5py.File("model.h5", "w") as file:
    file["kernel"] = numpy.load("data/drawn/numbers.npy") + pathlib.Path("own/start.txt").stat().st_size
"""
PIPELINE = {
    "stages": {
        "draw": {
            "cmd": "python src/draw.py",
            "params": ["seed"],
            "deps": ["src/draw.py"],
            "outs": ["data/drawn"],
            "metrics": [{"reports/draw.json": {"cache": False}}],
        },
        "train": {"cmd": "python src/train.py", "deps": ["src/train.py", "data/drawn", "own"], "outs": ["model.h5"]},
    }
}


def dvc(*arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": "sqlite:///mlruns/mlflow.db",
    }
    command = [sys.executable, "-m", "dvc", *arguments]
    subprocess.run(command, check=True, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    root = tmp_path_factory.mktemp("reproduced")
    for name, content in {
        "src/draw.py": DRAW,
        "src/train.py": TRAIN,
        "own/start.txt": "1234567",
        "params.yaml": "seed: 1\n",
        "dvc.yaml": yaml.safe_dump(PIPELINE),
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)
    before = Path.cwd()
    os.chdir(root)
    dvc("init", "--no-scm")
    dvc("repro")
    os.chdir(before)
    return root


@pytest.fixture
def pipeline(reproduced, tmp_path, monkeypatch):
    """The pipeline with all its outputs, in the current folder."""
    root = tmp_path / "pipeline"
    shutil.copytree(reproduced, root)
    (root / ".frostline").mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cret")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return root


def contents(root):
    return {
        path: (path.stat().st_mode, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file() and ".dvc/tmp" not in str(path)
    }


def frostline(*arguments):
    command = [sys.executable, "-m", "frostline.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_what_is_reproduced_matches_and_the_project_stays_as_it_is(pipeline, tmp_path):
    before = contents(pipeline)
    found = list(verify())
    assert [(stage.stage, stage.error, stage.changed) for stage in found] == [("draw", "", []), ("train", "", [])]
    assert [dict(stage.outputs) for stage in found] == [{"data/drawn": [], "reports/draw.json": []}, {"model.h5": []}]
    assert contents(pipeline) == before
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"], "the copy is gone"


@pytest.mark.long
def test_a_difference_is_said_at_the_stage_that_makes_it(pipeline):
    (pipeline / "params.yaml").write_text("seed: 3\n")
    draw, train = verify()
    assert draw.changed == ["seed"]
    assert draw.outputs == {
        "data/drawn": ["numbers.npy: 5 of 6 values differ by 10 at most at [5]"],
        "reports/draw.json": ["seed: 1 -> 3"],
    }
    assert dict(train.outputs) == {"model.h5": []}, "it got what dvc.lock names"

    code = pipeline / "src/train.py"
    code.write_text(code.read_text().replace("numpy.load", "numpy.random.rand() * numpy.load"))
    (train,) = verify(["train"])
    assert train.changed == ["src/train.py"]
    assert [line.split(" differ")[0] for line in train.outputs["model.h5"]] == ["kernel: 5 of 6 values"]


@pytest.mark.long
def test_pictures_beside_the_project_are_found_from_the_copy(pipeline, tmp_path):
    (pipeline / "own").rename(tmp_path / "own pictures")
    (pipeline / ".frostline").rmdir()
    for name in ("dvc.yaml", "src/train.py"):
        text = (pipeline / name).read_text()
        (pipeline / name).write_text(
            text.replace("- own\n", "- ../own pictures\n").replace('"own/', '"../own pictures/')
        )
    dvc("repro")
    draw, train = verify()
    assert dict(train.outputs) == {"model.h5": []}
    assert (draw.error, train.error, train.changed) == ("", "", [])
    assert not list(tmp_path.glob("frostline-verify-*"))


@pytest.mark.long
def test_a_path_may_hold_what_separates_or_quotes_settings(pipeline, tmp_path, monkeypatch):
    place = tmp_path / """a, b's "c" #1 = [d]"""
    place.mkdir()
    pipeline.rename(place / "pipeline")
    monkeypatch.chdir(place / "pipeline")
    (draw,) = verify(["draw"])
    assert (draw.error, dict(draw.outputs)) == ("", {"data/drawn": [], "reports/draw.json": []})


@pytest.mark.long
def test_a_clone_without_the_cache_makes_what_it_needs(pipeline):
    for folder in (".dvc/cache", "data"):
        shutil.rmtree(pipeline / folder)
    assert [dict(stage.outputs) for stage in verify()][1] == {"model.h5": []}

    (pipeline / "params.yaml").write_text("seed: 3\n")
    draw, train = verify()
    assert "cannot be said" in draw.outputs["data/drawn"][0]
    assert "data/drawn is not in DVC's cache and was not reproduced" in train.error


@pytest.mark.long
def test_the_commands_exit_status(pipeline):
    done = frostline("verify", "draw")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "draw",
        "  matches  data/drawn",
        "  matches  reports/draw.json",
        "2 of 2 outputs match dvc.lock",
    ]

    (pipeline / "params.yaml").write_text("seed: 3\n")
    done = frostline("verify", "draw")
    assert done.returncode == 1
    assert "             seed: 1 -> 3\n  (changed since dvc.lock: seed)\n" in done.stdout
    assert done.stdout.endswith("0 of 2 outputs match dvc.lock\n")

    (pipeline / "src/draw.py").write_text("raise SystemExit('no pencil')")
    done = frostline("verify", "draw")
    assert done.returncode == 2
    assert "no pencil" in done.stderr
    assert done.stdout.endswith("0 of 0 outputs match dvc.lock; could not run: draw\n")

    done = frostline("verify", "paint")
    assert done.returncode == 2
    assert done.stderr == "error: dvc.lock has no stage 'paint'; valid: draw, train.\n"


def test_without_a_lock_it_says_where_to_run(tmp_path):
    with pytest.raises(FrostlineError, match=r"dvc.yaml not found"):
        list(verify())


@pytest.mark.long
def test_an_interruption_stops_the_stage_and_removes_the_copy(pipeline, tmp_path):
    (pipeline / "src/draw.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path)!r}, 'begun').touch()\ntime.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-m", "frostline.cli", "verify"], stderr=subprocess.DEVNULL)
    wait_until((tmp_path / "begun").exists, seconds=60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "pipeline"]
