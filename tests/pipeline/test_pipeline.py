"""The six stages for real: real DVC, Hydra, TensorFlow and MLflow in a temporary clone, on a tiny drawn data set."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml

ROOT = Path(__file__).parents[2]
TINY = {
    "data": {"pictures": 80, "unlabelled": 6},
    "preprocess": {"picture_size": 75, "train": 0.6, "validation": 0.2, "test": 0.2},
    "model": {"dense_units": 16},
    "transfer": {"epochs": 2},
    "finetune": {"epochs": 1},
    "evaluate": {"bootstrap": 200},
}
SECRET = "s3cret-never-to-be-seen"


class Clone:
    """A clone of the project as it stands here, with settings that make it quick, and commands run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in tracked.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, root / name)
        (root / "dvc.lock").unlink(missing_ok=True)
        for section, values in TINY.items():  # in conf/ and params.yaml alike, so that `dvc exp run` composes the same
            for path in (root / "conf" / section).glob("*.yaml"):
                content = yaml.safe_load(path.read_text())
                if section != "data" or content["source"] == "sample":
                    path.write_text(yaml.safe_dump(content | values))
        self.python("-m", "frostline.config", into="params.yaml")
        for command in (["init", "-q", "."], ["add", "-A"], ["commit", "-q", "-m", "tiny"]):
            subprocess.run(
                ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *command], cwd=root, check=True
            )

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_", "KAGGLE_"))}
        return kept | {
            "PYTHONPATH": str(self.root / "src"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KAGGLE_USERNAME": SECRET,
            "KAGGLE_KEY": SECRET,
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.com",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.com",
        }

    def python(self, *arguments: str, into: str = "", code: int = 0) -> str:
        return self.run(sys.executable, *arguments, into=into, code=code)

    def dvc(self, *arguments: str, code: int = 0) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, code=code)

    def run(self, *command: str, into: str = "", code: int = 0) -> str:
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        if into:
            (self.root / into).write_text(done.stdout)
        return done.stdout + done.stderr

    def json(self, name: str):
        return json.loads((self.root / name).read_text())

    def runs(self) -> list:
        client = mlflow.MlflowClient(f"sqlite:///{self.root}/mlruns/mlflow.db")
        experiment = client.get_experiment_by_name("frostline")
        return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))

    def phases(self, phase: str) -> list:
        return [run for run in self.runs() if run.data.tags["frostline.phase"] == phase]


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


STAGES = ["fetch-data", "fetch-weights", "preprocess", "transfer", "finetune", "evaluate"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("clone"))
    assert ran(clone.dvc("repro")) == STAGES
    return clone


def test_every_output_is_there(clone):
    lock = yaml.safe_load((clone.root / "dvc.lock").read_text())
    outs = [out["path"] for stage in lock["stages"].values() for out in stage["outs"]]
    assert all((clone.root / out).exists() for out in outs)
    assert list(lock["stages"]) == STAGES
    assert clone.json("reports/metrics.json")["verdict"]["winner"] in ("transfer", "finetune")
    rows = list(csv.DictReader((clone.root / "reports/evaluation/submission.csv").open()))
    assert [row["id"] for row in rows] == [str(n) for n in range(1, 7)]
    assert all(0 <= float(row["label"]) <= 1 for row in rows)
    predictions = list(csv.DictReader((clone.root / "reports/evaluation/predictions.csv").open()))
    assert len(predictions) == clone.json("reports/metrics.json")["verdict"]["pictures"] == 16


def test_a_second_repro_runs_nothing(clone):
    assert ran(clone.dvc("repro")) == []


def test_mlflow_holds_the_parent_and_its_runs(clone):
    runs = {run.data.tags["frostline.phase"]: run for run in clone.runs()[:4]}
    assert set(runs) == {"pipeline", "transfer", "finetune", "evaluate"}
    parent = runs["pipeline"].info.run_id
    metrics = clone.json("reports/metrics.json")
    for phase in ("transfer", "finetune"):
        run = runs[phase]
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.status == "FINISHED"
        assert run.data.metrics["test/log_loss"] == pytest.approx(metrics[phase]["log_loss"], rel=1e-4)
        assert {"train/loss", "train/accuracy", "validation/loss", "validation/accuracy"} <= set(run.data.metrics)
        assert run.data.params["preprocess.picture_size"] == "75"
    assert set(runs["transfer"].data.metrics) == set(runs["finetune"].data.metrics)
    assert "log loss" in runs["pipeline"].data.tags["mlflow.note.content"]


def test_the_logged_model_is_served_by_pyfunc(clone, monkeypatch):
    import numpy as np

    from frostline.saving import load_model

    monkeypatch.chdir(clone.root)
    import frostline

    store = f"sqlite:///{clone.root}/mlruns/mlflow.db"
    mlflow.set_tracking_uri(store)
    run = clone.phases("finetune")[0]
    (model,) = mlflow.MlflowClient(store).search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
    )
    served = mlflow.pyfunc.load_model(model.model_uri)
    pictures = np.load("data/processed/test.npy")[:3]
    expected = load_model(Path("models/finetune.keras"))(pictures.astype(np.float32)).numpy()
    np.testing.assert_allclose(served.predict(pictures), expected, atol=1e-5)
    assert frostline.__file__.startswith(str(ROOT)), "loading a model must not replace this package"
    (taken,) = served.metadata.signature.inputs.inputs
    assert (taken.type, taken.shape) == (np.dtype("uint8"), (-1, 75, 75, 3))


def test_no_credential_is_anywhere(clone):
    for folder in ("mlruns", "reports", "models", ".frostline", ".dvc"):
        for path in (clone.root / folder).rglob("*"):
            assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_the_fetch_stages_and_preprocess_import_no_tensorflow(clone):
    code = "import sys, frostline.stages.{0}; sys.exit('tensorflow' in sys.modules or 'mlflow' in sys.modules)"
    for stage in ("fetch_data", "fetch_weights", "preprocess"):
        clone.python("-c", code.format(stage))


def test_predict_and_compare(clone):
    table = clone.python("-m", "frostline.cli", "compare")
    assert "log_loss" in table
    assert "transfer" in table
    pictures = clone.root / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir()
    import io
    import zipfile

    with zipfile.ZipFile(clone.root / "data/raw/archive.zip") as archive:
        inner = zipfile.ZipFile(io.BytesIO(archive.read("train.zip")))
        for name in ("train/cat.0.jpg", "train/dog.0.jpg"):
            (pictures / Path(name).name).write_bytes(inner.read(name))
    lines = clone.python("-m", "frostline.cli", "predict", "--json", "pictures").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    assert [Path(row["path"]).name for row in found] == ["cat.0.jpg", "dog.0.jpg"]
    assert all(row["class"] in ("cat", "dog") and 0.5 <= row["probability"] <= 1 for row in found)

    (pictures / "broken.jpg").write_bytes(b"text")
    output = clone.python("-m", "frostline.cli", "predict", "--csv", "pictures", code=1)
    rows = list(csv.DictReader(output.splitlines()))
    assert [bool(row["error"]) for row in rows] == [True, False, False]
    assert "gone.jpg does not exist" in clone.python("-m", "frostline.cli", "predict", "gone.jpg", code=1)


def test_a_sweep_runs_every_point_and_ranks_them_by_validation(clone):
    output = clone.python(
        "-m", "frostline.sweep", "-m", "model.cut_layer=mixed5,mixed6", "finetune.learning_rate=1e-5,1e-3"
    )
    (folder,) = (clone.root / "multirun").iterdir()
    points = [json.loads((folder / str(n) / "point.json").read_text()) for n in range(4)]
    losses = [point["finetune"]["validation/loss"] for point in points]
    assert len(set(losses)) == 4
    table = output[output.index("4 points") :]
    ranked = [line for line in table.splitlines() if "model.cut_layer=" in line]
    best = points[losses.index(min(losses))]["point"].split()
    assert all(part in ranked[0] for part in best)
    # Points that differ only in fine-tuning share their transfer phase.
    assert points[0]["transfer"] == points[1]["transfer"] != points[2]["transfer"]

    children = [run for run in clone.runs() if run.data.tags["frostline.phase"].startswith("finetune.learning_rate=")]
    assert len(children) == 4
    assert len({run.data.tags["mlflow.parentRunId"] for run in children}) == 1
    assert {run.data.params["model.cut_layer"] for run in children} == {"mixed5", "mixed6"}
    assert not any("test/" in name for run in children for name in run.data.metrics)


def test_a_sweeps_mistakes_cost_one_line_and_no_training(clone):
    for arguments, word in (
        (["finetune.learning_rat=1e-5,1e-4"], "Did you mean 'finetune.learning_rate'"),
        (["transfer.epochs=1,0"], "transfer.epochs is 0"),
        (["data=sample,folder"], "dvc exp run"),
    ):
        output = clone.python("-m", "frostline.sweep", "-m", *arguments, code=1)
        assert word in output
        assert len(output.strip().splitlines()) <= 2


def test_a_sweep_point_that_fails_does_not_stop_the_others(clone):
    output = clone.python("-m", "frostline.sweep", "-m", "finetune.thaw_from=mixed9,mixed6", "transfer.epochs=1")
    assert "failed" in output
    newest = max((clone.root / "multirun").iterdir(), key=lambda path: path.stat().st_mtime)
    points = [json.loads((newest / str(n) / "point.json").read_text()) for n in range(2)]
    assert "mixed9" in points[0]["error"]
    assert "finetune" in points[1]


# The following change the clone's parameters, in this order.


def test_an_edit_of_params_yaml_reaches_the_stage_and_mlflow(clone):
    params = yaml.safe_load((clone.root / "params.yaml").read_text())
    params["finetune"]["epochs"] = 2
    (clone.root / "params.yaml").write_text(yaml.safe_dump(params))
    assert ran(clone.dvc("repro")) == ["finetune", "evaluate"]
    curve = list(csv.DictReader((clone.root / "reports/curves/finetune.csv").open()))
    assert len(curve) == 2
    newest = clone.phases("finetune")[-1]
    assert newest.data.params["finetune.epochs"] == "2"
    # The transfer phase was not run again: its test figures are on the run that made its model.
    assert len(clone.phases("transfer")) == 1


def test_exp_run_composes_conf_and_reaches_the_stage_and_mlflow(clone):
    output = clone.dvc("exp", "run", "-S", "transfer.epochs=1", "transfer")
    assert ran(output) == ["transfer"]
    assert yaml.safe_load((clone.root / "params.yaml").read_text())["transfer"]["epochs"] == 1
    assert clone.phases("transfer")[-1].data.params["transfer.epochs"] == "1"
    assert len(list(csv.DictReader((clone.root / "reports/curves/transfer.csv").open()))) == 1


def test_exp_run_with_an_experiment_changes_what_runs(clone):
    (clone.root / "conf/experiment/other.yaml").write_text(
        "# @package _global_\nname: other\nmodel: {cut_layer: mixed5}\n"
    )
    output = clone.dvc("exp", "run", "-S", "experiment=other", "transfer")
    assert ran(output) == ["transfer"]
    assert clone.phases("transfer")[-1].data.params["model.cut_layer"] == "mixed5"
    assert clone.phases("transfer")[-1].info.run_name == "transfer other"


def test_a_folder_of_ones_own_is_followed_and_left_untouched(clone):
    import io
    import zipfile

    folder = clone.root.parent / "own"
    with zipfile.ZipFile(clone.root / "data/raw/archive.zip") as archive:
        inner = zipfile.ZipFile(io.BytesIO(archive.read("train.zip")))
        for name in inner.namelist():
            kind, number, _ = Path(name).name.split(".")
            if int(number) < 20:
                path = folder / {"cat": "고양이", "dog": "개"}[kind] / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(inner.read(name))
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    output = clone.dvc("exp", "run", "-S", "data=folder", "-S", f"data.path={folder}", "preprocess")
    assert ran(output)[:1] == ["fetch-data"]
    assert clone.json("reports/data.json")["classes"] == ["개", "고양이"]
    assert before == sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))

    shutil.copy(folder / "개" / "1.jpg", folder / "개" / "new.jpg")
    assert ran(clone.dvc("repro", "preprocess"))[:1] == ["fetch-data"]


def test_what_a_user_gets_wrong_ends_in_two_lines(clone):
    for override, word in (
        ("transfer.epochs=two", "transfer.epochs is 'two'"),
        ("finetune.thaw_from=mixed9", "above model.cut_layer"),
    ):
        output = clone.python("-m", "frostline.stages.transfer", override, code=1)
        errors = [line for line in output.splitlines() if line.strip()]
        assert errors[0].startswith("error: ")
        assert word in output
        assert len(errors) <= 2


def test_a_bad_weights_file_leaves_no_output(clone):
    (clone.root / "page.h5").write_text("<html>sign in</html>")
    backbone = clone.root / "models/backbone.h5"
    before = backbone.read_bytes()
    output = clone.python(
        "-m", "frostline.stages.fetch_weights", "weights={source: file, depends_on: x, path: page.h5}", code=1
    )
    assert "page.h5" in output
    assert backbone.read_bytes() == before
