"""A folder of three classes through the whole recipe: from the images to the report and to predictions of files."""

import csv
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageDraw

from frostline.config.load import compose_conf
from frostline.config.settings import Config
from frostline.data.dataset import UNLABELLED, Dataset, load_dataset
from frostline.data.preprocess import Summary, preprocess
from frostline.evaluation.predictions import in_use_of, write_predictions
from frostline.metrics.bootstrap import Pair, by_phase
from frostline.metrics.calibration import Views, calibration_effects
from frostline.metrics.log_loss import score
from frostline.metrics.temperature import with_temperature
from frostline.models.saving import Metadata, load_metadata, load_model, save_model
from frostline.report import charts
from frostline.report.galleries import label_issues_gallery, prediction_galleries
from frostline.report.page import Report, write_report
from frostline.runtime.quiet_tensorflow import keras
from frostline.serving.predict import predict_files
from frostline.sources.folder import pack_folder
from frostline.training import phases
from frostline.training.loop import Epoch
from results import chosen, judged
from small import SIZE
from tracked import tracked_conf

pytestmark = pytest.mark.long

CLASSES = ("disc", "frame", "stripes")
EACH = 40


def draw(name, number):
    rng = np.random.default_rng([CLASSES.index(name), number])
    image = Image.new("RGB", (96, 80), tuple(rng.integers(150, 256, 3)))
    pen, ink = ImageDraw.Draw(image), tuple(rng.integers(0, 110, 3))
    x, y, size = map(int, rng.integers((8, 8, 35), (30, 20, 50)))
    if name == "disc":
        pen.ellipse((x, y, x + size, y + size), fill=ink)
    elif name == "frame":
        pen.rectangle((x, y, x + size, y + size), outline=ink, width=3)
    else:
        for left in range(x % 9, 96, 9):
            pen.line((left, 0, left, 80), fill=ink, width=3)
    return image


class Trained(NamedTuple):
    settings: Config
    summary: Summary
    data: Dataset
    models: dict[str, keras.Model]
    """By phase, as loaded from their files."""
    files: dict[str, Path]
    curves: dict[str, list[Epoch]]
    folder: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("three")
    for name in CLASSES:
        (folder / "images" / name).mkdir(parents=True)
        for number in range(EACH):
            draw(name, number).save(folder / "images" / name / f"{name} {number}.png")
    pack_folder(folder / "images", folder / "archive.zip")
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    summary = preprocess(folder / "archive.zip", folder / "data", size=SIZE, seed=1, shares=shares, max_rejected=0)
    data = load_dataset(folder / "data")
    overrides = [
        "data=folder",
        "data.path=images",
        "data.depends_on=images",
        f"preprocess.image_size={SIZE}",
        "model.dense_units=32",
    ]
    overrides += ["model.cut_layer=mixed2", "transfer.epochs=8", "transfer.learning_rate=2e-4", "precision=float32"]
    settings = compose_conf(overrides, tracked_conf())
    files = {phase: folder / f"{phase}.keras" for phase in ("transfer", "finetune")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # for the feature cache
        model = phases.build_classifier(data, weights, settings)
        first = phases.transfer(model, data, settings)
        save_model(model, files["transfer"], data.classes)
        second = phases.finetune(model, data, settings)
        save_model(model, files["finetune"], data.classes)
    models = {phase: load_model(path) for phase, path in files.items()}
    yield Trained(settings, summary, data, models, files, {"transfer": first, "finetune": second}, folder)


@pytest.fixture(scope="module")
def pair(trained):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained.folder)
        baseline, candidate = (
            phases.predictor_of(trained.models[phase], trained.settings)(trained.data, "test")
            for phase in ("transfer", "finetune")
        )
    return Pair(trained.data.labels("test"), baseline, candidate)


def test_every_class_has_its_share_of_each_split(trained):
    assert trained.summary.classes == list(trained.data.classes) == list(CLASSES)
    assert trained.summary.counts == {
        "train": dict.fromkeys(CLASSES, 24),
        "validation": dict.fromkeys(CLASSES, 8),
        "test": dict.fromkeys(CLASSES, 8),
    }
    labels = trained.data.labels("test")
    assert [CLASSES[label] for label in labels] == [name.split("/")[0] for name in trained.data.names("test")]
    assert labels.dtype == np.uint8


def test_the_head_learns_all_classes(trained, pair):
    for phase, model in trained.models.items():
        assert model.output_shape == (None, 3)
        assert model.layers[-1].activation is keras.activations.softmax
        assert load_metadata(trained.files[phase]) == Metadata(list(CLASSES), None)
        probabilities = by_phase(pair)[phase]
        assert probabilities.shape == (24, 3)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        whole = model(trained.data.images("test").astype(np.float32)).numpy()
        np.testing.assert_allclose(probabilities, whole, atol=2e-3)
    losses = [epoch["train/loss"] for epochs in trained.curves.values() for epoch in epochs]
    assert losses[-1] < losses[0]
    last = trained.curves["finetune"][-1]
    assert last["validation/accuracy"] > 0.8  # 1/3 by chance
    assert last["validation/loss"] < np.log(3)
    assert score(trained.data.labels("test"), pair.candidate)[1] > 0.8


def test_the_evaluation_makes_all_that_two_classes_have(trained, pair, tmp_path):
    data, labels = trained.data, trained.data.labels("test")
    result = judged(pair)
    assert result.figures["finetune"]["accuracy"] == np.mean(pair.candidate.argmax(axis=1) == labels)
    assert result.confusion["finetune"].sum(axis=1).tolist() == [8, 8, 8]
    drawing: dict[str, Any] = {"choice": chosen(), "bins": 15, "classes": data.classes}
    drawn = charts.write_figures(tmp_path, pair, curves=trained.curves, **drawing)
    held_out = {"test": pair.candidate}
    galleries = prediction_galleries(data, trained.models, pair, chosen(), 8)
    galleries["label_issues"] = label_issues_gallery(data, trained.models, held_out, 8)
    mistakes = int(np.sum(pair.candidate.argmax(axis=1) != labels))
    assert galleries["top_losses"].total == mistakes
    assert galleries["smallest_margins"].total == 24 - mistakes
    for image in [image for name in ("smallest_margins", "top_losses", "set_right") for image in galleries[name].shown]:
        row = data.names("test").index(image.name)
        before, after = pair.baseline[row], pair.candidate[row]
        name, other = CLASSES[before.argmax()], CLASSES[after.argmax()]
        change = "" if name == other else f"P({other}) "
        seen = f"P({name}) {before.max():.3f} → {change}{after.max():.3f}"
        assert [fact.replace("\u00a0", " ") for fact in image.facts] == [f"is {CLASSES[labels[row]]}", seen]
        assert [heat.explained for heat in image.heat.values()] == [name, other]
    seen = Views(labels, pair.candidate)
    found = calibration_effects(
        seen, seen, submission={"temperature": True}, threshold=0.5, bins=10, resamples=200, seed=1
    )
    write_report(
        tmp_path / "report.html",
        Report(
            settings=trained.settings,
            data=dataclasses.asdict(trained.summary),
            curves=trained.curves,
            pairs={"validation": pair, "test": pair},
            evaluation=result,
            effects=found,
            figures={name: path.with_suffix(".svg") for name, path in drawn.items()},
            galleries=galleries,
            digests={},
        ),
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "tell disc, frame and stripes apart" in page
    assert result.verdict.title in page


def test_predictions_have_a_column_per_phase_and_class(trained, pair, tmp_path):
    write_predictions(tmp_path / "predictions.csv", trained.data, "test", pair, chosen(temperature=2.0))
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [f"{phase}/{name}" for phase in ("transfer", "finetune", "in_use") for name in CLASSES]
    predicted = ["transfer_predicted", "finetune_predicted"]
    assert list(rows[0]) == ["path", "class", *columns, *predicted]
    for phase, probabilities in by_phase(pair).items():
        assert [row[f"{phase}_predicted"] for row in rows] == [
            CLASSES[number] for number in probabilities.argmax(axis=1)
        ]
    assert [row["path"] for row in rows] == trained.data.names("test")
    found = np.array([[float(row[f"finetune/{name}"]) for name in CLASSES] for row in rows])
    np.testing.assert_allclose(found, pair.candidate, atol=1e-6)
    np.testing.assert_allclose(in_use_of(rows, CLASSES), with_temperature(pair.candidate, 2), atol=1e-6)
    assert not trained.data.has(UNLABELLED)


def test_files_are_predicted_with_every_class_probability(trained, pair):
    names = trained.data.names("test")
    files = [trained.folder / "images" / name for name in names]
    for prediction, expected in zip(predict_files(trained.files["finetune"], files), pair.candidate, strict=True):
        assert prediction.label == CLASSES[expected.argmax()]
        assert prediction.probability == pytest.approx(expected.max(), abs=2e-3)
        assert prediction.probabilities == pytest.approx(dict(zip(CLASSES, expected, strict=True)), abs=2e-3)
