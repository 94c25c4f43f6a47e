"""The six stages for real: real DVC, Hydra, TensorFlow and MLflow in a temporary clone, on a tiny drawn data set."""

import csv
import itertools
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mlflow
import pytest
import yaml

from clone import ROOT, SECRET, STAGES, Clone, ran
from frostline.serving.model_card import key_figures, recorded_origin
from servers import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("clone"))
    assert ran(clone.dvc("repro")) == STAGES
    return clone


def test_every_output_is_there(clone):
    lock = yaml.safe_load((clone.root / "dvc.lock").read_text())
    outs = [out["path"] for stage in lock["stages"].values() for out in stage["outs"]]
    assert all((clone.root / out).exists() for out in outs)
    assert list(lock["stages"]) == STAGES
    assert clone.json("reports/figures.json")["verdict"]["chosen"] in ("transfer", "finetune")
    rows = list(csv.DictReader((clone.root / "reports/evaluation/submission.csv").open()))
    assert [row["id"] for row in rows] == [str(n) for n in range(1, 7)]
    assert all(0 <= float(row["label"]) <= 1 for row in rows)
    predictions = list(csv.DictReader((clone.root / "reports/evaluation/predictions.csv").open()))
    assert len(predictions) == clone.json("reports/figures.json")["verdict"]["images"] == 16


def test_a_second_repro_runs_nothing(clone):
    output = clone.dvc("repro")
    assert ran(output) == []
    assert "is cached" not in output


@pytest.mark.long
def test_verify_runs_a_stage_again_and_finds_the_same_bytes(clone):
    runs = len(clone.runs())
    output = clone.python("-m", "frostline.cli", "verify", "preprocess", "transfer")
    assert "6 of 6 outputs match dvc.lock" in output
    assert "  matches  models/transfer.keras" in output
    assert len(clone.runs()) == runs, "it has a store of its own"


def test_models_carry_cards_with_the_figures_that_are_theirs(clone, monkeypatch):
    """In MLflow the phases' models have not been judged yet; an export asks dvc.lock whose the figures are."""
    metrics = clone.json("reports/figures.json")
    monkeypatch.chdir(clone.root)
    origin = recorded_origin(Path("models/classifier.keras"))
    assert origin.figures == key_figures(metrics)
    assert origin.figures["accuracy"] == metrics["in_use"]["accuracy"]
    assert origin.data == clone.json("reports/data.json")
    cards = [path.read_text(encoding="utf-8") for path in clone.root.glob("mlruns/**/MODEL_CARD.md")]
    judged = [card for card in cards if f"| accuracy | {metrics['in_use']['accuracy']:.3f} |" in card]
    assert (len(cards), len(judged)) == (3, 1)
    assert sum("None are known" in card for card in cards) == 2


def test_mlflow_holds_the_parent_and_its_runs(clone):
    runs = {run.data.tags["frostline.phase"]: run for run in clone.runs()[:4]}
    assert set(runs) == {"pipeline", "transfer", "finetune", "evaluate"}
    parent = runs["pipeline"].info.run_id
    metrics = clone.json("reports/figures.json")
    for phase in ("transfer", "finetune"):
        run = runs[phase]
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.status == "FINISHED"
        assert run.data.tags["frostline.precision"] in ("float32", "bfloat16")
        assert int(run.data.tags["frostline.cores"]) >= 1
        assert run.data.metrics["test/log_loss"] == pytest.approx(metrics[phase]["log_loss"], rel=1e-4)
        assert {"train/loss", "train/accuracy", "validation/loss", "validation/accuracy"} <= set(run.data.metrics)
        assert run.data.params["preprocess.image_size"] == "75"
    names = [
        {name for name in runs[phase].data.metrics if not name.startswith("system/")}  # of runs of 5 seconds and more
        for phase in ("transfer", "finetune")
    ]
    assert names[0] == names[1]
    chosen = metrics["verdict"]["chosen"]
    assert runs["pipeline"].data.metrics["test/log_loss"] == pytest.approx(metrics[chosen]["log_loss"], rel=1e-4)
    assert runs["pipeline"].data.metrics["in_use/log_loss"] == pytest.approx(metrics["in_use"]["log_loss"], rel=1e-4)
    champion = clone.client().get_model_version_by_alias("frostline-sample", "champion")
    assert champion.run_id == runs["evaluate"].info.run_id
    assert champion.description.startswith("**")
    assert champion.tags["frostline.phase"] == chosen
    assert champion.tags["frostline.model"] == runs[chosen].data.tags["frostline.model"]
    losses = {phase: runs[phase].data.metrics["validation/loss"] for phase in ("transfer", "finetune")}
    assert losses[chosen] == min(losses.values())
    (logged,) = clone.client().search_logged_models(
        [runs["evaluate"].info.experiment_id], f"source_run_id = '{champion.run_id}'"
    )
    assert champion.source == f"models:/{logged.model_id}"
    note = runs["pipeline"].data.tags["mlflow.note.content"]
    assert "log loss" in note
    assert "Few test images: 8 of cat, 8 of dog." in note


def test_the_logged_model_is_served_by_pyfunc(clone, monkeypatch):
    import numpy as np

    from frostline.models.saving import load_model

    monkeypatch.chdir(clone.root)
    import frostline

    store = f"sqlite:///{clone.root}/mlruns/mlflow.db"
    mlflow.set_tracking_uri(store)
    run = clone.phases("finetune")[0]
    (model,) = mlflow.MlflowClient(store).search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
    )
    served = mlflow.pyfunc.load_model(model.model_uri)
    images = np.load("data/processed/test.npy")[:3]
    expected = load_model(Path("models/finetune.keras"))(images.astype(np.float32)).numpy()[:, 0]
    answers = served.predict(images)
    np.testing.assert_allclose([found["dog"] for found in answers["probabilities"]], expected, atol=1e-5)
    assert list(answers["class"]) == [("cat", "dog")[int(value > 0.5)] for value in expected]
    assert frostline.__file__.startswith(str(ROOT)), "loading a model must not replace this package"
    (example,) = served.predict(served.input_example)["class"]
    assert example in ("cat", "dog")


def test_no_credential_is_anywhere(clone):
    for folder in ("mlruns", "reports", "models", ".frostline", ".dvc"):
        for path in (clone.root / folder).rglob("*"):
            assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_the_fetch_stages_and_preprocess_import_no_tensorflow(clone):
    code = "import sys, frostline.stages.{0}; sys.exit('tensorflow' in sys.modules or 'mlflow' in sys.modules)"
    for stage in ("fetch_data", "fetch_weights", "preprocess"):
        clone.python("-c", code.format(stage))


def test_what_dvc_shows_of_the_figures_fits_a_terminal(clone):
    shown = clone.dvc("metrics", "show")
    assert max(map(len, shown.splitlines())) <= 120
    figures, metrics = clone.json("reports/figures.json"), clone.json("reports/metrics.json")
    assert metrics["log_loss"] == figures["in_use"]["log_loss"]
    assert all(metrics[f"{phase}/log_loss"] == figures[phase]["log_loss"] for phase in ("transfer", "finetune"))
    losses = [clone.json(f"reports/{phase}.json")["validation/loss"] for phase in ("transfer", "finetune")]
    assert metrics["validation_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_predict_and_compare(clone):
    table = clone.python("-m", "frostline.cli", "compare")
    assert max(map(len, table.splitlines())) <= 120
    assert "log_loss" in table
    assert "transfer" in table
    assert "Guessing by class shares: log_loss 0.69" in table
    assert "Few test images: 8 of cat, 8 of dog." in " ".join(table.split())
    images = clone.root / "images"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir()
    import io
    import zipfile

    with zipfile.ZipFile(clone.root / "data/raw/archive.zip") as archive:
        inner = zipfile.ZipFile(io.BytesIO(archive.read("train.zip")))
        for name in ("train/cat.0.jpg", "train/dog.0.jpg"):
            (images / Path(name).name).write_bytes(inner.read(name))
    lines = clone.python("-m", "frostline.cli", "predict", "--json", "images").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    assert [Path(row["path"]).name for row in found] == ["cat.0.jpg", "dog.0.jpg"]
    assert all(row["class"] in ("cat", "dog") and 0.5 <= row["probability"] <= 1 for row in found)

    (images / "broken.jpg").write_bytes(b"text")
    output = clone.python("-m", "frostline.cli", "predict", "--csv", "images", code=1)
    rows = list(csv.DictReader(output.splitlines()))
    assert [bool(row["error"]) for row in rows] == [True, False, False]
    assert "gone.jpg does not exist" in clone.python("-m", "frostline.cli", "predict", "gone.jpg", code=1)


@pytest.mark.long
def test_compare_refuses_the_figures_of_another_run(clone):
    figures, verdict = clone.root / "reports/figures.json", clone.root / "reports/evaluation/verdict.md"
    for path, named in ((figures, "reports/figures.json is not"), (verdict, "reports/evaluation is not")):
        content = path.read_bytes()
        path.unlink()  # DVC may have linked it from its cache
        path.write_bytes(content + b" ")
        said = clone.python("-m", "frostline.cli", "compare", code=1)
        assert said.startswith(f"error: {named} of the evaluation that dvc.lock names")
        clone.dvc("repro")
        assert path.read_bytes() == content
        clone.python("-m", "frostline.cli", "compare")


def test_compare_may_be_cut_off_by_what_reads_it(clone):
    command = [sys.executable, "-m", "frostline.cli", "compare"]
    process = subprocess.Popen(
        command, cwd=clone.root, env=clone.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (0, "")


@pytest.mark.long
def test_a_remote_carries_data_and_models_to_another_clone(clone):
    remote, other = clone.root.parent / "remote", clone.root.parent / "other"
    clone.dvc("remote", "add", "-d", "shared", str(remote))
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "results")
    clone.dvc("push")

    clone.run("git", "clone", "-q", str(clone.root), str(other))
    assert not (other / "models/finetune.keras").exists()
    clone.dvc("--cd", str(other), "pull")
    output = clone.dvc("--cd", str(other), "repro")
    assert ran(output) == []
    assert "is cached" not in output
    lock = yaml.safe_load((other / "dvc.lock").read_text())
    for out in (out["path"] for stage in lock["stages"].values() for out in stage["outs"]):
        assert contents(other / out) == contents(clone.root / out), out
    assert clone.run("git", "-C", str(other), "status", "--porcelain") == ""
    assert not (other / "mlruns/mlflow.db").exists(), "nothing was run"


def contents(path):
    files = path.rglob("*") if path.is_dir() else [path]
    found = {file.relative_to(path).as_posix(): file.read_bytes() for file in files if file.is_file()}
    assert found, path
    return found


# The following change the clone's parameters, in this order.


@pytest.mark.long
def test_a_threshold_runs_only_evaluate_and_all_that_predicts_follows_it(clone):
    import io
    import zipfile

    import numpy as np

    def predictions():
        return list(csv.DictReader((clone.root / "reports/evaluation/predictions.csv").open()))

    before = clone.client().get_model_version_by_alias("frostline-sample", "champion")
    phase = before.tags["frostline.phase"]
    # In the widest gap between two images, so that rounding moves none across; not the one that has 0.5
    values = np.sort([float(row["in_use"]) for row in predictions()])
    gaps = [(high - low, (low + high) / 2) for low, high in itertools.pairwise(values) if not low <= 0.5 < high]
    threshold = round(float(max(gaps)[1]), 4)
    params = yaml.safe_load((clone.root / "params.yaml").read_text())
    params["evaluate"]["threshold"] = threshold
    (clone.root / "params.yaml").write_text(yaml.safe_dump(params))
    assert ran(clone.dvc("repro")) == ["evaluate"]

    rows = predictions()
    predicted = [row[f"{phase}_predicted"] for row in rows]
    assert predicted == [("cat", "dog")[float(row["in_use"]) > threshold] for row in rows]
    assert predicted != [("cat", "dog")[float(row["in_use"]) > 0.5] for row in rows]
    assert str(threshold) in (clone.root / "reports/report.html").read_text()

    images = clone.root / "test images"
    with zipfile.ZipFile(clone.root / "data/raw/archive.zip") as archive:
        inner = zipfile.ZipFile(io.BytesIO(archive.read("train.zip")))
        for number, row in enumerate(rows):
            images.mkdir(exist_ok=True)
            (images / f"{number:02}.jpg").write_bytes(inner.read(row["path"]))
    lines = clone.python("-m", "frostline.cli", "predict", "--json", str(images)).splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{")]
    assert [one["class"] for one in said] == predicted
    in_use = [float(row["in_use"]) for row in rows]
    np.testing.assert_allclose([one["probabilities"]["dog"] for one in said], in_use, atol=2e-3)
    assert clone.json("reports/figures.json")["in_use"]["temperature"] != 1

    champion = clone.client().get_model_version_by_alias("frostline-sample", "champion")
    assert champion.tags["frostline.threshold"] == str(threshold)
    assert int(champion.version) == int(before.version) + 1
    mlflow.set_tracking_uri(f"sqlite:///{clone.root}/mlruns/mlflow.db")
    served = mlflow.pyfunc.load_model("models:/frostline-sample@champion")
    answers = served.predict(np.load(clone.root / "data/processed/test.npy"))
    assert list(answers["class"]) == predicted
    np.testing.assert_allclose([one["dog"] for one in answers["probabilities"]], in_use, atol=2e-3)


@pytest.mark.long
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

    params["finetune"]["epochs"] = 1
    (clone.root / "params.yaml").write_text(yaml.safe_dump(params))
    output = clone.dvc("repro")
    assert ran(output) == ["evaluate"], "what was trained once is there; MLflow gets its figures again"
    assert "Stage 'finetune' is cached" in output
    assert len(list(csv.DictReader((clone.root / "reports/curves/finetune.csv").open()))) == 1


@pytest.fixture(scope="module")
def experiment(clone):
    (clone.root / "conf/experiment/other.yaml").write_text(
        "# @package _global_\nname: other\nmodel: {cut_layer: mixed2}\n"
    )
    output = clone.dvc("exp", "run", "-S", "experiment=other", "-S", "transfer.epochs=1", "transfer")
    assert ran(output) == ["transfer"]


@pytest.mark.long
@pytest.mark.usefixtures("experiment")
def test_exp_run_composes_conf_and_reaches_the_stage_and_mlflow(clone):
    assert yaml.safe_load((clone.root / "params.yaml").read_text())["transfer"]["epochs"] == 1
    assert clone.phases("transfer")[-1].data.params["transfer.epochs"] == "1"
    assert len(list(csv.DictReader((clone.root / "reports/curves/transfer.csv").open()))) == 1


@pytest.mark.long
@pytest.mark.usefixtures("experiment")
def test_exp_run_with_an_experiment_changes_what_runs(clone):
    assert clone.phases("transfer")[-1].data.params["model.cut_layer"] == "mixed2"
    assert clone.phases("transfer")[-1].info.run_name == "transfer other"


@pytest.mark.long
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


@pytest.mark.long
def test_what_a_user_gets_wrong_ends_in_two_lines(clone):
    for override, word in (
        ("transfer.epochs=two", "transfer.epochs is 'two'"),
        ("finetune.thaw_from=mixed9", "above model.cut_layer"),
    ):
        output = clone.python("-m", "frostline.stages", "transfer", override, code=1)
        errors = [line for line in output.splitlines() if line.strip()]
        assert errors[0].startswith("error: ")
        assert word in output
        assert len(errors) <= 2


def test_a_bad_weights_file_leaves_no_output(clone):
    (clone.root / "page.h5").write_text("<html>sign in</html>")
    backbone = clone.root / "models/backbone.h5"
    before = backbone.read_bytes()
    output = clone.python(
        "-m", "frostline.stages", "fetch_weights", "weights={source: file, depends_on: x, path: page.h5}", code=1
    )
    assert "page.h5" in output
    assert backbone.read_bytes() == before


@pytest.mark.long
def test_a_killed_stage_leaves_no_run_running_and_none_twice(clone):
    long_enough = "transfer.epochs=200"  # to be met while it runs
    stage = ["-m", "frostline.stages", "transfer", "data.name=sample", "transfer.learning_rate=0.01", long_enough]

    def found():
        changed = [run for run in clone.runs() if run.data.params.get("transfer.learning_rate") == "0.01"]
        return Counter((run.data.tags["frostline.phase"], run.info.status) for run in changed)

    process = subprocess.Popen([sys.executable, *stage], cwd=clone.root, env=clone.environment)
    wait_until(lambda: found()["transfer", "RUNNING"] == 1, seconds=120)
    process.kill()
    process.wait()
    clone.python(*stage)
    assert found() == {("pipeline", "FINISHED"): 1, ("transfer", "KILLED"): 1, ("transfer", "FINISHED"): 1}
