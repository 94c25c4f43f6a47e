"""evaluate.threshold=balanced_accuracy|f1: the threshold for which that figure is highest."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from frostline.config.load import compose_conf
from frostline.evaluation.evaluate import Trained, choose
from frostline.metrics.bootstrap import Pair
from frostline.metrics.predicted import predicted_classes
from frostline.metrics.threshold import threshold_for, thresholds_of_many
from frostline.runtime.errors import FrostlineError
from results import CONF, epochs, of

FIGURES = {"balanced_accuracy": balanced_accuracy_score, "f1": f1_score}


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize(
    "share", [0.05, pytest.param(0.2, marks=pytest.mark.long), pytest.param(0.8, marks=pytest.mark.long)]
)
def test_no_other_threshold_is_better_where_probabilities_mean_what_they_say(figure, share):
    rng = np.random.default_rng(3)
    labels = rng.random(50_000) < share
    logits = rng.normal(size=len(labels)) + 2 * labels
    probabilities = 1 / (1 + (1 - share) / share * np.exp(2 - 2 * logits))  # of two normal distributions, exactly
    reached = FIGURES[figure](labels, probabilities > threshold_for(figure, probabilities, share))
    best = max(FIGURES[figure](labels, probabilities > t) for t in np.linspace(0.01, 0.99, 99))
    assert reached > best - 0.003
    assert FIGURES[figure](labels, probabilities > 0.5) < reached - 0.002 or share == 0.8


@pytest.mark.parametrize("probabilities", [[0.0, 0.0], [1.0, 1.0], [0.3], [0.2, 0.2, 0.9]])
def test_f1_of_few_or_certain_images_has_a_threshold(probabilities):
    assert 0 < threshold_for("f1", np.array(probabilities), 0.5) < 1


@pytest.mark.parametrize("figure", FIGURES)
def test_a_class_as_rare_as_can_be_still_has_a_threshold_between_its_probabilities(figure):
    probabilities = np.array([8e-8] * 10 + [2e-8] * 990)
    assert 2e-8 < threshold_for(figure, probabilities, 4e-8) < 8e-8
    assert 0 < threshold_for(figure, 1 - probabilities, 1 - 4e-8) < 1


def chosen_with(threshold, classes=2):
    config = compose_conf([f"evaluate.threshold={threshold}", "evaluate.calibrate=none"], CONF)
    second = np.array([0.1, 0.2, 0.3, 0.9])
    said = of(second) if classes == 2 else np.full((4, classes), 1 / classes)
    data = SimpleNamespace(classes=list("abc")[:classes])
    trained = Trained({}, {"transfer": epochs(2), "finetune": epochs(2)}, data, config)
    shares = np.array([0.9, 0.1]) if classes == 2 else np.arange(classes, 0, -1) / sum(range(classes + 1))
    return choose(trained, Pair(np.array([0, 1, 0, 1]), said, said), shares).threshold


def test_the_choice_has_the_threshold_that_is_asked_for():
    assert chosen_with(0.35) == 0.35
    assert chosen_with("balanced_accuracy") == 0.1
    assert chosen_with("f1") == threshold_for("f1", np.array([0.1, 0.2, 0.3, 0.9]), 0.1)
    assert chosen_with("accuracy") == 0.5
    with pytest.raises(FrostlineError, match="threshold=f1 is for two classes, and these are 3"):
        chosen_with("f1", classes=3)
    with pytest.raises(FrostlineError, match="valid: a share between 0 and 1, or accuracy, balanced_accuracy, f1"):
        chosen_with("f2")


def test_more_classes_have_no_threshold_or_one_each():
    assert chosen_with(0.5, classes=3) is chosen_with("accuracy", classes=3) is None
    assert chosen_with("balanced_accuracy", classes=3) == (0.5, 0.333333, 0.166667)


@pytest.mark.long
def test_no_other_rule_is_better_for_three_classes_where_probabilities_mean_what_they_say():
    rng, shares = np.random.default_rng(3), np.array([0.8, 0.15, 0.05])
    labels = rng.choice(3, 200_000, p=shares)
    centres = np.array([[0, 0], [1.5, 0], [0, 1.5]])
    places = rng.normal(size=(len(labels), 2)) + centres[labels]
    likelihoods = np.exp(-((places[:, None] - centres) ** 2).sum(axis=2) / 2) * shares
    probabilities = likelihoods / likelihoods.sum(axis=1, keepdims=True)
    reached = balanced_accuracy_score(labels, predicted_classes(probabilities, thresholds_of_many(shares)))
    for _ in range(30):
        other = shares * rng.lognormal(0, 0.5, 3)
        assert reached > balanced_accuracy_score(labels, predicted_classes(probabilities, tuple(other))) - 0.003
    assert reached > balanced_accuracy_score(labels, predicted_classes(probabilities, None)) + 0.05


def test_one_rule_for_two_classes_and_for_more():
    second = np.linspace(0.01, 0.99, 50)
    three = np.stack([1 - second, second, np.zeros(50)], axis=1)
    np.testing.assert_array_equal(
        predicted_classes(of(second), 0.0815), predicted_classes(three, (1 - 0.0815, 0.0815, 1.0))
    )
