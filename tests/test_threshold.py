"""A threshold of 0.4 and images of P = 0.38, calibrated 0.44: whatever uses a model gives the report's answer."""

import csv
import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
from PIL import Image

from frostline.config.load import compose_conf
from frostline.data.dataset import load_dataset
from frostline.data.preprocess import preprocess
from frostline.evaluation.predictions import in_use_of, write_predictions
from frostline.metrics.bootstrap import Pair
from frostline.metrics.log_loss import log_losses
from frostline.metrics.predicted import predicted_classes
from frostline.models.saving import load_metadata, load_model, save_for_use
from frostline.runtime.errors import FrostlineError
from frostline.serving.classifier import load_classifier
from frostline.serving.export import FORMATS, export
from frostline.serving.predict import predict_files
from frostline.serving.server import application
from frostline.sources.folder import pack_folder
from frostline.tracking import runs
from frostline.tracking.logged_model import log_model
from results import chosen, judged
from served import SIZE, serving, write_model
from tracked import write_tracked

pytestmark = pytest.mark.slow

CLASSES = ("a field", "ball")
"""Sorted, as a data set's are."""
BLUE = (100, 100, 103)
"""The colour of what the model takes for a ball with P = 0.38."""
DOUBTFUL = pytest.approx(0.4415, abs=1e-3)
"""The same, calibrated."""
CHOICE = chosen(temperature=2.0, threshold=0.4)


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """models/classifier.keras with threshold and temperature, the phase's model, an image, and the settings."""
    folder = write_tracked(tmp_path_factory.mktemp("threshold"), "conf", "params.yaml")
    (folder / "models").mkdir()
    write_model(folder / "models" / "finetune.keras", CLASSES)
    save_for_use(
        folder / "models" / "finetune.keras", folder / "models" / "classifier.keras", threshold=0.4, temperature=2.0
    )
    (folder / "doubtful.png").write_bytes(png(BLUE))
    return folder


@pytest.fixture
def model(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return Path("models/classifier.keras")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Balls of which the model is in doubt, fields that are none to it."""
    folder = tmp_path_factory.mktemp("data")
    for name, base in (("ball", np.array(BLUE)), ("a field", np.array((20, 60, 100)))):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(10):
            (folder / "images" / name / f"{number}.png").write_bytes(png(tuple(base + number)))
    pack_folder(folder / "images", folder / "archive.zip")
    shares = {"train": 0.4, "validation": 0.2, "test": 0.4}
    preprocess(folder / "archive.zip", folder / "processed", size=SIZE, seed=1, shares=shares, max_rejected=0)
    return load_dataset(folder / "processed")


def frostline(*arguments):
    return subprocess.run([sys.executable, "-m", "frostline.cli", *arguments], capture_output=True, text=True)


def test_the_report_and_its_predictions(model, data, tmp_path):
    labels, used = data.labels("test"), load_classifier(model).probabilities(data.images("test"))
    raw = load_classifier(model.with_stem("finetune")).probabilities(data.images("test"))
    assert raw[labels == 1, 1] == pytest.approx(0.3845, abs=1e-3)
    pair = Pair(labels, raw, raw)
    np.testing.assert_allclose(CHOICE.in_use(pair), used, atol=1e-6)
    found = judged(pair, CHOICE)
    assert found.in_use["accuracy"] == found.figures["finetune"]["accuracy"] == 1
    assert found.confusion["finetune"].tolist() == [[4, 0], [0, 4]]
    assert found.figures["finetune"]["log_loss"] == pytest.approx(np.mean(log_losses(labels, raw)))
    assert found.in_use["log_loss"] == pytest.approx(np.mean(log_losses(labels, used)))
    write_predictions(tmp_path / "predictions.csv", data, "test", pair, CHOICE)
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-4:] == ["finetune", "in_use", "transfer_predicted", "finetune_predicted"]
    assert all(row["finetune_predicted"] == row["transfer_predicted"] == row["class"] for row in rows)
    np.testing.assert_allclose(in_use_of(rows, CLASSES), used, atol=1e-6)


@pytest.mark.long
def test_frostline_predict(model):
    done = frostline("predict", "--json", "doubtful.png")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["class"], answer["probability"]) == ("ball", DOUBTFUL)
    assert answer["probabilities"]["a field"] == pytest.approx(1 - answer["probability"])


@pytest.mark.parametrize(
    ("name", "given", "predicted"),
    [
        ("classifier", None, "ball"),
        ("classifier", 0.5, "a field"),
        ("finetune", None, "a field"),
        ("finetune", 0.4, "a field"),
        ("finetune", 0.3, "ball"),
    ],
)
def test_a_phases_own_model_has_one_half_and_is_not_calibrated_and_a_given_threshold_wins(
    model, name, given, predicted
):
    (row,) = predict_files(model.with_stem(name), [Path("doubtful.png")], given)
    ball = 0.4415 if name == "classifier" else 0.3845
    probability = ball if predicted == "ball" else 1 - ball
    assert (row.label, row.probability) == (predicted, pytest.approx(probability, abs=1e-3))


@pytest.mark.long
def test_the_option_threshold_wins_over_the_models(model):
    done = frostline("predict", "--json", "--threshold", "0.5", "doubtful.png")
    assert json.loads(done.stdout)["class"] == "a field", "the model's own is 0.4"


@pytest.fixture
def address(model):
    with serving(application(load_classifier(model))) as url:
        yield url


def test_frostline_serve_its_heat_and_its_page(address, model):
    (answer,) = requests.post(
        f"{address}/invocations?explain=true", data=png(BLUE), headers={"Content-Type": "image/png"}
    ).json()["predictions"]
    assert (answer["class"], answer["probability"]) == ("ball", DOUBTFUL)
    assert (
        "ball is predicted where its calibrated probability is above 0.4, else a field." in requests.get(address).text
    )
    with serving(application(load_classifier(model, 0.5))) as other:
        (half,) = requests.post(
            f"{other}/invocations?explain=true", data=png(BLUE), headers={"Content-Type": "image/png"}
        ).json()["predictions"]
        assert half["class"] == "a field"
        assert (half["where"], answer["where"]) == ("nowhere", "nowhere"), "to cover one colour with it changes nothing"
        assert "is predicted where" not in requests.get(other).text


@pytest.mark.long
def test_mlflows_pyfunc(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    pipeline = runs.open_pipeline(compose_conf(), "data digest")
    image = np.full((SIZE, SIZE, 3), BLUE, np.uint8)
    with runs.phase_run("evaluate", pipeline) as run:
        log_model(run, model, image)
    (logged,) = mlflow.MlflowClient().search_logged_models([pipeline.experiment_id])
    (answer,) = mlflow.pyfunc.load_model(logged.model_uri).predict(image[None]).to_dict("records")
    assert (answer["class"], answer["probability"]) == ("ball", DOUBTFUL)


def of_onnx(path):
    import onnx

    return {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}


def of_tflite(path):
    return json.loads(zipfile.ZipFile(path).read("frostline.json"))


def of_saved_model(path):
    return json.loads((path / "assets.extra" / "frostline.json").read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize(
    ("name", "facts_of"), [("onnx", of_onnx), ("tflite", of_tflite), ("saved_model", of_saved_model)]
)
def test_an_exported_model_says_what_to_decide_by(model, tmp_path, name, facts_of):
    form = FORMATS[name]
    if missing := [package for package in form.needs if importlib.util.find_spec(package) is None]:
        pytest.skip(f"not installed: {missing}")
    path, images = tmp_path / f"exported{form.suffix}", np.full((1, SIZE, SIZE, 3), BLUE, np.uint8)
    export(load_model(model), load_metadata(model), name, path, images)
    facts = facts_of(path)
    card = facts.pop("model_card")
    assert card == (tmp_path / f"{path.name}.md").read_text(encoding="utf-8")
    assert "ball is predicted where its calibrated probability is above 0.4, else a field." in card
    assert facts == {"classes": list(CLASSES), "threshold": 0.4, "applied_temperature": 2.0, "fit": "squash"}
    second = form.read(path)(images.astype(np.float32))
    assert second == DOUBTFUL
    (predicted,) = predicted_classes(np.concatenate([1 - second, second], axis=1), facts["threshold"])
    assert facts["classes"][predicted] == "ball"


def test_a_probability_at_the_threshold_is_the_first_class_and_more_classes_have_none():
    assert predicted_classes(np.array([[0.7, 0.3], [0.5, 0.5]]), 0.3).tolist() == [0, 1]
    assert predicted_classes(np.array([[0.5, 0.5]]), None).tolist() == [0]
    assert (
        predicted_classes(np.array([[0.2, 0.35, 0.45]]), 0.3).tolist()
        == predicted_classes(np.array([[0, 0.4, 0.6]]), None).tolist()
        == [2]
    )


def test_thresholds_of_three_classes_are_the_files_and_every_door_takes_them(tmp_path):
    """The model gives "ball" the most; beside thresholds of 0.05, 0.05 and 0.9 another class is predicted."""
    write_model(tmp_path / "finetune.keras", ("a", "b", "ball"))
    model, shares = tmp_path / "classifier.keras", (0.06, 0.04, 0.9)
    save_for_use(tmp_path / "finetune.keras", model, threshold=shares, temperature=1.0)
    (tmp_path / "doubtful.png").write_bytes(png((110, 100, 103)))
    (plain,) = predict_files(model.with_stem("finetune"), [tmp_path / "doubtful.png"])
    (row,) = predict_files(model, [tmp_path / "doubtful.png"])
    assert (plain.label, row.label) == ("ball", "b")
    assert row.probability < plain.probability
    assert load_metadata(model).threshold == list(shares)
    with serving(application(load_classifier(model))) as url:
        (answer,) = requests.post(
            f"{url}/invocations", data=png((110, 100, 103)), headers={"Content-Type": "image/png"}
        ).json()["predictions"]
        assert answer["class"] == "b"
        assert "highest divided by its share of training images" in requests.get(url).text
    images = np.full((1, SIZE, SIZE, 3), (110, 100, 103), np.uint8)
    export(load_model(model), load_metadata(model), "saved_model", tmp_path / "exported", images)
    facts = of_saved_model(tmp_path / "exported")
    assert facts["threshold"] == list(shares)
    assert "`threshold` in the metadata has these shares" in facts["model_card"]
    given = FORMATS["saved_model"].read(tmp_path / "exported")(images.astype(np.float32))
    assert predicted_classes(given, facts["threshold"]).tolist() == [1]


def test_a_threshold_for_three_classes_costs_two_lines(tmp_path):
    write_model(tmp_path / "model.keras", ("a", "b", "ball"))
    (tmp_path / "doubtful.png").write_bytes(png(BLUE))
    with pytest.raises(FrostlineError, match="tells 3 classes apart") as raised:
        next(predict_files(tmp_path / "model.keras", [tmp_path / "doubtful.png"], 0.3))
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize("value", ["1", "0", "nan", "half"])
def test_a_threshold_that_is_none_is_refused(value):
    done = frostline("predict", "--threshold", value, "image.jpg")
    assert done.returncode == 2
    assert f"{value} is not a number between 0 and 1" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", [["predict", "doubtful.png"], ["serve", "--port", "0"], ["export", "--to", "onnx"]])
def test_without_a_model_the_error_says_how_to_make_it(project, command):
    (project / "doubtful.png").write_bytes(png(BLUE))
    (project / "dvc.yaml").touch()
    done = frostline(*command)
    assert done.returncode == 1
    assert done.stderr.startswith("error: models/classifier.keras not found: no model was trained here yet. Train one:")
    assert len(done.stderr.splitlines()) == 1
