"""evaluate.threshold={cat: {dog: 5}}: the class with the lowest expected cost, wherever classes are predicted."""

import re
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import requests
from scipy.special import softmax

import frostline
from frostline.config.load import compose_conf
from frostline.config.settings import check_threshold
from frostline.evaluation.evaluate import Trained, choose
from frostline.metrics.bootstrap import INTERVAL_FIGURES, Pair, bootstrap_intervals
from frostline.metrics.classification import figures, margins
from frostline.metrics.formatting import six_digits
from frostline.metrics.predicted import between_two, predicted_classes, rule_in_words
from frostline.metrics.temperature import with_temperature
from frostline.metrics.threshold import cost_matrix
from frostline.models.saving import Metadata, load_metadata, load_model, save_for_use
from frostline.runtime.errors import FrostlineError
from frostline.serving.classifier import load_classifier
from frostline.serving.export import FORMATS, export
from frostline.serving.model_card import Origin, model_card
from frostline.serving.predict import predict_files
from frostline.serving.server import application
from frostline.tracking import runs
from frostline.tracking.logged_model import log_model
from results import (
    CONF,
    chosen,
    epochs,
    judged,
    predictions,
    predictions_of_many,
    write_example_report,
)
from served import SIZE, field, serving, write_model

CLASSES = ("bird", "cat", "dog")
COSTS = {"cat": {"dog": 5, "bird": 0.5}, "dog": {"cat": 0}}
MATRIX = ((0, 1, 1), (0.5, 0, 5), (1, 0, 0))
OF_TWO = ((0, 2), (6, 0))


def test_what_is_not_named_costs_one_and_what_is_right_nothing():
    assert cost_matrix(COSTS, CLASSES) == MATRIX
    assert cost_matrix({}, "ab") == ((0, 1), (1, 0))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_class_with_the_lowest_expected_cost_is_predicted(classes):
    rng = np.random.default_rng(classes)
    probabilities = softmax(rng.normal(size=(500, classes)), axis=1)
    costs = rng.uniform(0, 9, (classes, classes)) * (1 - np.eye(classes))
    expected = probabilities @ costs
    found = predicted_classes(probabilities, tuple(map(tuple, costs)))
    np.testing.assert_array_equal(found, expected.argmin(axis=1))
    assert np.mean(found != probabilities.argmax(axis=1)) > 0.1
    gaps = np.sort(expected, axis=1)
    np.testing.assert_allclose(margins(probabilities, costs.tolist()), gaps[:, 1] - gaps[:, 0], atol=1e-12)


def test_of_two_classes_it_is_a_threshold():
    """A false alarm costs 2, a miss 6: 2 / (2 + 6)."""
    probabilities = predictions(200).candidate
    assert between_two(OF_TWO) == 0.25
    np.testing.assert_array_equal(predicted_classes(probabilities, OF_TWO), predicted_classes(probabilities, 0.25))


def test_costs_of_one_predict_the_most_probable_class():
    probabilities = predictions_of_many(200, 4).candidate
    np.testing.assert_array_equal(predicted_classes(probabilities, cost_matrix({}, "abcd")), probabilities.argmax(1))


def test_no_other_rule_costs_less_where_probabilities_mean_what_they_say():
    rng, costs = np.random.default_rng(5), np.array(MATRIX)
    probabilities = softmax(rng.normal(0, 1.5, (100_000, 3)), axis=1)
    labels = (rng.random((len(probabilities), 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=2)
    reached = costs[labels, predicted_classes(probabilities, MATRIX)].mean()
    assert reached < costs[labels, probabilities.argmax(axis=1)].mean() - 0.1
    for _ in range(30):
        other = costs * rng.lognormal(0, 0.5, costs.shape)
        assert reached < costs[labels, predicted_classes(probabilities, other.tolist())].mean() + 0.003


def test_the_mean_cost_and_its_interval():
    labels, rng = predictions_of_many(80, 3).labels, np.random.default_rng(1)
    probabilities = softmax(rng.normal(size=(80, 3)), axis=1)
    costs = np.array(MATRIX)[labels, (probabilities @ MATRIX).argmin(axis=1)]
    found = figures(labels, probabilities, MATRIX, bins=10)
    assert found["cost"] == pytest.approx(costs.mean())
    assert list(found)[:3] == ["log_loss", "accuracy", "cost"]
    assert "cost" not in figures(labels, probabilities, None, bins=10)
    pair, how = Pair(labels, probabilities, np.eye(3)[labels]), {"resamples": 2000, "seed": 1}
    intervals = bootstrap_intervals(pair, ["cost"], threshold=MATRIX, **how)
    drawn = costs[rng.integers(80, size=(20_000, 80))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert intervals["baseline"]["cost"].low == pytest.approx(low, abs=0.02)
    assert intervals["baseline"]["cost"].high == pytest.approx(high, abs=0.02)
    assert intervals["candidate"]["cost"].high == 0, "what is always right costs nothing"
    assert intervals["difference"]["cost"].low == pytest.approx(-intervals["baseline"]["cost"].high)


def test_the_evaluation_has_the_cost_of_calibrated_decisions_and_of_guessing():
    pair, labels = predictions_of_many(90, 3), predictions_of_many(90, 3).labels
    choice, shares = chosen(temperature=3.0, threshold=MATRIX), np.array([0.5, 0.2, 0.3])
    found = judged(pair, choice, shares)
    costs = np.array(MATRIX)
    for phase, said in (("transfer", pair.baseline), ("finetune", pair.candidate)):
        decided = (with_temperature(said, 3.0) @ costs).argmin(axis=1)
        assert found.figures[phase]["cost"] == pytest.approx(costs[labels, decided].mean())
        np.testing.assert_array_equal(choice.predicted(pair)[phase], decided)
    assert found.in_use["cost"] == found.figures["finetune"]["cost"]
    assert found.guessing.figures["cost"] == pytest.approx(costs[labels, (shares @ costs).argmin()].mean())
    told = found.as_metrics(CLASSES)
    for part in ("transfer", "finetune", "difference"):
        assert told[part]["cost_low"] <= told[part]["cost"] <= told[part]["cost_high"]
    assert found.compared()["cost"] == told["in_use"]["cost"]
    assert "cost" not in judged(pair, chosen(threshold=None), shares).compared()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "costs"), [(("cat", "dog"), OF_TWO), pytest.param(CLASSES, MATRIX, marks=pytest.mark.long)]
)
def test_the_report_has_the_cost(tmp_path, classes, costs):
    pair = predictions(90) if len(classes) == 2 else predictions_of_many(90, 3)
    html = write_example_report(tmp_path, classes, pair=pair, choice=chosen(threshold=costs))
    guessing = judged(pair, chosen(threshold=costs)).guessing.figures["cost"]
    told = re.search(r'Cost per image&nbsp;↓ <span class="range">guessing ([\d.]+)</span>', html)
    assert float(told[1]) == pytest.approx(guessing, abs=0.005)
    assert ("Back to 0.25</button>" in html) == (len(classes) == 2), "where the explorer begins"
    assert "Cost per image" not in write_example_report(tmp_path, pair=predictions(90))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "costs", "words"),
    [
        (("cat", "dog"), OF_TWO, "above 0.25, else cat. That is where both answers are expected to cost the same."),
        pytest.param(("cat", "dog"), ((0, 1), (10_000_000, 0)), "above 1e-07, else cat.", marks=pytest.mark.long),
        pytest.param(
            *(("cat", "dog"), ((0, 10_000_000), (1, 0)), "above 0.99999990000001, else cat."), marks=pytest.mark.long
        ),
        (CLASSES, MATRIX, "The class is predicted whose expected cost is the lowest, by the calibrated probabilities;"),
    ],
)
def test_the_rule_in_words_is_that_by_costs(tmp_path, classes, costs, words):
    rule = rule_in_words(costs, classes)
    assert words in rule
    text = model_card(Metadata(list(classes), costs), 32, Origin(), "onnx", "classifier.onnx")
    assert rule in text.replace("\\", "")
    pair = predictions(90) if len(classes) == 2 else predictions_of_many(90, 3)
    html = write_example_report(tmp_path, classes, pair=pair, choice=chosen(threshold=costs))
    assert html.count(words) == 1
    assert str(costs) not in html
    if len(classes) == 2:
        assert f"Back to {six_digits(between_two(costs))}</button>" in html


@pytest.mark.parametrize(
    ("threshold", "classes", "rule"),
    [
        (0.5, "ab", "b is predicted where its calibrated probability is above 0.5, else a."),
        (1.0, "ab", "b is predicted where its calibrated probability is above 1.0, else a."),
        (
            (0.2, 0.3, 0.5),
            "abc",
            "The class is predicted whose calibrated probability is highest divided by its share of training images.",
        ),
        (0.5, "abc", "The class with the highest probability is predicted."),
        (None, "abc", "The class with the highest probability is predicted."),
    ],
)
def test_other_rules_in_words(threshold, classes, rule):
    assert rule_in_words(threshold, classes) == rule


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("costs", [None, MATRIX])
def test_the_card_and_the_report_advise_no_other_rule_than_costs(tmp_path, costs):
    advised = "evaluate.threshold=balanced_accuracy has all classes in mind"
    counts = {split: dict(zip(CLASSES, (400, 200, 100), strict=True)) for split in ("train", "validation", "test")}
    origin = Origin(data={"classes": CLASSES, "counts": counts, "digest": "b9859e20"})
    text = model_card(Metadata(list(CLASSES), costs), 32, origin, "onnx", "classifier.onnx").replace("\\", "")
    pair, shares = predictions_of_many(90, 3), np.array([4, 2, 1]) / 7
    html = write_example_report(tmp_path, CLASSES, pair=pair, choice=chosen(threshold=costs), shares=shares)
    for page in (text, html):
        assert "Unequal classes" in page
        assert (advised in page) == (costs is None)


# What is asked for


def chosen_with(setting, classes):
    config = compose_conf([f"evaluate.threshold={setting}"], CONF)
    trained = Trained({}, {"transfer": epochs(2), "finetune": epochs(2)}, SimpleNamespace(classes=classes), config)
    said = softmax(np.random.default_rng(0).normal(size=(9, len(classes))), axis=1)
    labels = np.arange(9) % len(classes)
    return choose(trained, Pair(labels, said, said), np.full(len(classes), 1 / len(classes))).threshold


def test_the_choice_has_the_costs_by_the_names_of_classes():
    text = "{cat: {dog: 5, bird: 0.5}, dog: {cat: 0}}"
    assert chosen_with(text, CLASSES) == chosen_with(f"'{text}'", CLASSES) == MATRIX
    assert chosen_with("{cat: {dog: 2}, dog: {cat: 6}}", ("cat", "dog")) == OF_TWO


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        (
            {"cta": {"dog": 5}},
            r"^evaluate\.threshold names 'cta', which is no class. Did you mean 'cat'\?\nValid: bird,",
        ),
        ({"cat": {"dgo": 5}}, "names 'dgo', which is no class. Did you mean 'dog'"),
        ({"cat": {"cat": 2, "dog": 5}}, r"threshold\.cat\.cat is 2, and to be right costs nothing\.\nValid: 0, or"),
        ({a: dict.fromkeys(CLASSES, 0.0) for a in CLASSES}, "lets no mistake cost anything.\nGive one a cost above 0"),
    ],
)
def test_costs_that_the_classes_refuse(costs, words):
    with pytest.raises(FrostlineError, match=words) as raised:
        check_threshold(costs, CLASSES)
    assert len(str(raised.value).splitlines()) == 2
    check_threshold({"cat": {"cat": 0, "dog": 5}}, CLASSES)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("{cat: {dog: -1}}", r"threshold\.cat\.dog is -1\S*; valid: a number, 0 or more"),
        ("{cat: {dog: nan}}", r"threshold\.cat\.dog is nan; valid: a number, 0 or more"),
        ("{cat: {dog: inf}}", r"threshold\.cat\.dog is inf; valid: a number, 0 or more"),
        ("{cat: {dog: much}}", r"threshold\.cat\.dog is 'much'; valid: a number, 0 or more"),
        ("{cat: 5}", r"threshold\.cat is 5; valid: \{class: number, \.\.\.\}"),
        ("cheap", r"accuracy, balanced_accuracy, f1, or \{class: \{class: number, \.\.\.\}, \.\.\.\}"),
    ],
)
def test_costs_that_are_none(setting, words):
    with pytest.raises(FrostlineError, match=words):
        compose_conf([f"evaluate.threshold={setting}"], CONF)


# Every door


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize(
    ("classes", "rule"),
    [
        (("cat", "dog"), "That is where both answers are expected to cost the same."),
        pytest.param(CLASSES, "The class is predicted whose expected cost is the lowest", marks=pytest.mark.long),
    ],
)
def test_all_that_predicts_takes_the_models_costs(tmp_path, monkeypatch, classes, rule):
    """Costs so high that the most probable class is not the answer."""
    write_model(tmp_path / "raw.keras", classes)
    picture = tmp_path / "picture.png"
    picture.write_bytes(field())
    (plain,) = predict_files(tmp_path / "raw.keras", [picture])
    feared = next(name for name in classes if name != plain.label)  # a class that is not to be missed
    costs = cost_matrix({feared: dict.fromkeys({*classes} - {feared}, 1e9)}, classes)
    model = tmp_path / "classifier.keras"
    save_for_use(tmp_path / "raw.keras", model, threshold=costs, temperature=1.5)
    assert load_metadata(model).threshold == [list(row) for row in costs]

    (row,) = predict_files(model, [picture])
    assert row.label == feared
    given = frostline.load(model)
    assert [one.label for one in given.predict(picture)] == [feared]
    assert given.threshold == load_metadata(model).threshold
    for name in classes:
        (tmp_path / "folder" / name).mkdir(parents=True)
        (tmp_path / "folder" / name / "1.png").write_bytes(field())
    found = frostline.evaluate(given, tmp_path / "folder")
    assert found.figures["cost"] == pytest.approx((len(classes) - 1) / len(classes)), "all of them are taken for one"
    assert set(found.intervals) == {*INTERVAL_FIGURES, "cost"}
    with serving(application(load_classifier(model))) as url:
        (answer,) = requests.post(f"{url}/invocations", data=field(), headers={"Content-Type": "image/png"}).json()[
            "predictions"
        ]
        assert answer["class"] == feared
        assert rule in requests.get(url).text

    images = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    export(load_model(model), load_metadata(model), "tflite", tmp_path / "exported.tflite", images)
    card = (tmp_path / "exported.tflite.md").read_text(encoding="utf-8")
    assert rule in card
    assert "`threshold` in the metadata has what mistakes cost" in card
    said = np.atleast_2d(FORMATS["tflite"].read(tmp_path / "exported.tflite")(images.astype(np.float32)))
    said = said if len(classes) > 2 else np.concatenate([1 - said, said], axis=1)
    used = load_classifier(model)
    np.testing.assert_array_equal(predicted_classes(said, costs), predicted_classes(used.probabilities(images), costs))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    pipeline = runs.open_pipeline(compose_conf(folder=CONF), "data digest")
    with runs.phase_run("evaluate", pipeline) as run:
        log_model(run, model, images[0])
    (logged,) = mlflow.MlflowClient().search_logged_models([pipeline.experiment_id])
    loaded = mlflow.pyfunc.load_model(logged.model_uri)
    assert loaded.predict(np.array([picture.read_bytes()], object)).to_dict("records")[0]["class"] == feared
