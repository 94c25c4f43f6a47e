import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics
from sklearn.calibration import calibration_curve

from frostline.common.files import read_json, write_json
from frostline.common.seeds import generator
from frostline.metrics.bootstrap import Interval, Pair, _mean_roc_aucs, _roc_aucs, bootstrap_intervals, by_phase
from frostline.metrics.classification import (
    confusion_matrix,
    figures,
    reliability,
    smallest_margins,
    threshold_counts,
    top_losses,
)
from frostline.metrics.comparison import McNemar, changed_predictions, mcnemar
from frostline.runtime.errors import FrostlineError
from results import chosen, judged, noisy, noisy_of_many, of

CLASSES = ("cat", "dog")


def test_figures_equal_scikit_learns():
    labels, probabilities = noisy(500, 2.5)
    probabilities = of(probabilities[:, 1].round(2))  # ties
    second = probabilities[:, 1]
    predicted = second > 0.4
    found = figures(labels, probabilities, threshold=0.4, bins=10)
    expected = {
        "log_loss": metrics.log_loss(labels, np.clip(second, 1e-7, 1 - 1e-7)),
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "lowest_recall": min(metrics.recall_score(labels, predicted, average=None)),
        "roc_auc": metrics.roc_auc_score(labels, second),
        "average_precision": metrics.average_precision_score(labels, second),
        "f1": metrics.f1_score(labels, predicted),
        "brier": metrics.brier_score_loss(labels, second),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert list(found) == [*expected, "ece"]
    assert confusion_matrix(labels, probabilities, 0.4).tolist() == (
        metrics.confusion_matrix(labels, predicted).tolist()
    )


def test_expected_calibration_error_by_hand():
    # Two bins: {0.1, 0.5} with 0 of 2 of the second class, {0.6, 0.8} with 1 of 2; an edge counts below.
    labels, probabilities = np.array([0, 0, 1, 0]), of([0.1, 0.5, 0.6, 0.8])
    expected = (2 * abs(0 - 0.3) + 2 * abs(0.5 - 0.7)) / 4
    assert figures(labels, probabilities, 0.5, bins=2)["ece"] == pytest.approx(expected)


def test_reliability_has_the_bins_of_scikit_learns_calibration_curve():
    labels, probabilities = noisy(40, 2)
    observed, confidence = calibration_curve(labels, probabilities[:, 1], n_bins=15, strategy="uniform")
    found = reliability(labels, probabilities, 15)
    np.testing.assert_allclose(found[0], confidence)
    np.testing.assert_allclose(found[1], observed)
    assert found[2].sum() == 40
    assert found[2].min() > 0


def test_sure_and_wrong_costs_what_keras_says():
    found = figures(np.array([1, 0]), of([0, 1]), 0.5, 15)
    assert found["log_loss"] == pytest.approx(-math.log(1e-7), rel=1e-6)
    assert found["brier"] == 1
    assert (found["accuracy"], found["roc_auc"]) == (0, 0)


def test_a_probability_at_the_threshold_is_predicted_as_the_first_class():
    assert confusion_matrix(np.array([0, 1]), of([0.5, 0.5]), 0.5).tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize(("label", "absent"), [(0, {"roc_auc", "average_precision", "f1"}), (1, set())])
def test_undefined_figures_are_absent(label, absent):
    labels, low = np.full(5, label), of(np.full(5, 0.2))
    found = figures(labels, low, 0.5, 15)
    assert not found.keys() & (absent | {"roc_auc", "average_precision"})
    assert ("f1" in found) == (label == 1)
    result = judged(Pair(labels, low, of(low[:, 1] / 2)))
    for part in result.as_metrics(CLASSES).values():
        assert all(not isinstance(value, float) or math.isfinite(value) for value in part.values())
    assert "roc_auc" not in result.intervals["difference"]


def test_weighted_areas_equal_scikit_learns_on_the_resampled_rows():
    labels, probabilities = noisy(60, 3)
    second = probabilities[:, 1].round(1)  # many ties
    rows = np.random.default_rng(1).integers(60, size=(20, 60))
    drawn = np.stack([np.bincount(r, minlength=60) for r in rows], axis=1).astype(float)
    expected = [metrics.roc_auc_score(labels[r], second[r]) for r in rows]
    np.testing.assert_allclose(_roc_aucs(drawn, labels == 1, second), expected)
    one_class = (labels == 1).astype(float)[:, None]
    assert np.isnan(_roc_aucs(one_class, labels == 1, second)).all()


def test_mean_areas_leave_out_the_classes_that_a_resample_lacks():
    labels, probabilities = noisy_of_many(40, 4, 1)
    lacks_3 = (labels != 3).astype(float)
    only_1 = (labels == 1).astype(float)
    found = _mean_roc_aucs(np.stack([lacks_3, only_1], axis=1), labels, probabilities, range(4))
    rest = labels != 3
    expected = [metrics.roc_auc_score(labels[rest] == number, probabilities[rest, number]) for number in range(3)]
    assert found[0] == pytest.approx(np.mean(expected))
    assert np.isnan(found[1])


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(noisy, id="two"),
        pytest.param(lambda count, noise: noisy_of_many(count, 3, noise), id="three", marks=pytest.mark.long),
    ],
)
def test_intervals_equal_a_plain_loop_with_the_same_draws(monkeypatch, draw):
    labels, baseline = draw(50, 3)
    pair = Pair(labels, baseline, draw(50, 2)[1])
    whole = bootstrap_intervals(pair, threshold=0.5, resamples=100, seed=7)
    monkeypatch.setattr("frostline.metrics.bootstrap._BOOTSTRAP_CELLS", 1000)  # in chunks of 20 resamples
    chunked = bootstrap_intervals(pair, threshold=0.5, resamples=100, seed=7)

    rng, drawn = generator(7, "bootstrap"), []
    for _ in range(100):
        rows = rng.integers(50, size=50)
        before, after = (figures(labels[rows], p[rows], 0.5, 15) for p in (pair.baseline, pair.candidate))
        drawn.append({name: after[name] - before[name] for name in ("log_loss", "accuracy", "roc_auc", "brier")})
    for intervals in (whole, chunked):
        for name, interval in intervals["difference"].items():
            expected = np.percentile([row[name] for row in drawn], [2.5, 97.5])
            assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize("draw", [noisy, lambda count, noise: noisy_of_many(count, 3, noise)], ids=["two", "three"])
@pytest.mark.parametrize("parts", [["baseline"], ["difference"], ["candidate", "difference"]], ids="+".join)
@pytest.mark.parametrize("wanted", [["log_loss"], ["roc_auc"], ["brier", "roc_auc", "accuracy"]], ids="+".join)
def test_intervals_do_not_depend_on_what_else_is_asked_for(draw, parts, wanted):
    labels, baseline = draw(50, 3)
    pair = Pair(labels, baseline, draw(50, 2)[1])
    settings: dict[str, Any] = {"threshold": 0.4, "resamples": 100, "seed": 7}
    every, some = bootstrap_intervals(pair, **settings), bootstrap_intervals(pair, wanted, parts, **settings)
    assert {part: list(found) for part, found in some.items()} == dict.fromkeys(parts, wanted)
    for part in parts:
        for name in wanted:
            expected = every[part][name]
            assert (some[part][name].low, some[part][name].high) == pytest.approx((expected.low, expected.high), 1e-12)


def test_areas_are_drawn_only_where_they_are_asked_for(monkeypatch):
    drawn: list[int] = []

    def counted(*args):
        drawn.append(1)
        return _mean_roc_aucs(*args)

    monkeypatch.setattr("frostline.metrics.bootstrap._mean_roc_aucs", counted)
    labels, baseline = noisy(50, 3)
    pair = Pair(labels, baseline, noisy(50, 2)[1])
    bootstrap_intervals(pair, ["log_loss", "brier"], threshold=0.5, resamples=100, seed=7)
    assert not drawn
    bootstrap_intervals(pair, ["roc_auc"], ["candidate"], threshold=0.5, resamples=100, seed=7)
    assert len(drawn) == 1


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    truth, hits, trials = norm.cdf(2 / 2.0), 0, 200
    for seed in range(trials):
        labels, probabilities = noisy(200, 2.0, seed)
        found = bootstrap_intervals(Pair(labels, probabilities, probabilities), threshold=0.5, resamples=200, seed=seed)
        interval = found["baseline"]["accuracy"]
        hits += interval.low <= truth <= interval.high
    assert 0.88 <= hits / trials <= 0.99


def test_the_paired_difference_is_narrower_than_the_models_suggest():
    labels, baseline = noisy(400, 3)
    candidate = of(np.clip(baseline[:, 1] + 0.05 * (2 * labels - 1), 0, 1))
    found = bootstrap_intervals(Pair(labels, baseline, candidate), threshold=0.5, resamples=500, seed=1)
    width = {part: found[part]["brier"].high - found[part]["brier"].low for part in found}
    assert width["difference"] < width["baseline"] / 3
    assert found["difference"]["brier"].high < 0


def test_mcnemar_by_hand():
    # 8 set right, 2 got wrong: 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10 = 112 / 1024.
    labels = np.ones(12, np.uint8)
    baseline = of([0.1] * 8 + [0.9] * 4)
    candidate = of([0.9] * 8 + [0.1] * 2 + [0.9] * 2)
    found = mcnemar(Pair(labels, baseline, candidate), 0.5)
    assert (found.n_better, found.n_worse) == (8, 2)
    assert found.p_value == pytest.approx(112 / 1024)
    assert mcnemar(Pair(labels, baseline, baseline), 0.5) == McNemar(0, 0, 1.0)


def test_rows_for_the_galleries():
    labels = np.array([1, 1, 0, 0, 1])
    baseline = of([0.4, 0.1, 0.2, 0.4, 0.9])
    candidate = of([0.6, 0.9, 0.7, 0.3, 0.8])
    better, worse = changed_predictions(Pair(labels, baseline, candidate), 0.5)
    assert (better.tolist(), worse.tolist()) == ([1, 0], [2])
    assert top_losses(labels, baseline, 0.5).tolist() == [1, 0]


@pytest.mark.parametrize("count", [2, 86, 3750])
def test_identical_predictions_differ_by_exactly_nothing(count):
    labels, probabilities = noisy(count, 3, seed=3)
    labels[:2] = 0, 1
    result = judged(Pair(labels, probabilities, probabilities.copy()), chosen("transfer"))
    assert set(result.difference.values()) == {0}
    assert all(interval == Interval(0, 0) for interval in result.intervals["difference"].values())
    assert (result.mcnemar.n_changed, result.mcnemar.p_value) == (0, 1)


def test_a_real_difference_is_found_and_one_of_the_wrong_sign_too():
    labels, transfer = noisy(300, 4)
    finetune = noisy(300, 1)[1]
    assert judged(Pair(labels, transfer, finetune)).verdict.outcome == "better"
    assert judged(Pair(labels, finetune, transfer), chosen("transfer")).verdict.outcome == "worse"


def test_metrics_are_plain_numbers_of_both_phases_and_the_seed_decides_them(tmp_path):
    labels, transfer = noisy(90, 3)
    finetune = noisy(90, 2)[1]

    def found(seed):
        return judged(Pair(labels.astype(np.uint8), transfer, finetune), seed=seed).as_metrics(CLASSES)

    result = found(1)
    assert list(result) == ["transfer", "finetune", "difference", "in_use", "guessing", "verdict"]
    before, after, difference = (result[part] for part in ("transfer", "finetune", "difference"))
    assert before["accuracy_low"] <= before["accuracy"] <= before["accuracy_high"]
    assert after["brier"] - before["brier"] == pytest.approx(difference["brier"], rel=1e-4)
    assert result["verdict"]["chosen"] == "finetune"
    assert result["guessing"]["log_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert result["verdict"]["images"] == 90
    write_json(tmp_path / "figures.json", result)
    assert read_json(tmp_path / "figures.json") == result
    compared = judged(Pair(labels.astype(np.uint8), transfer, finetune), seed=1).compared()
    assert list(compared) == ["accuracy", "log_loss", "validation_loss", "transfer/log_loss", "finetune/log_loss"]
    assert compared["log_loss"] == result["in_use"]["log_loss"]
    assert compared["transfer/log_loss"] == before["log_loss"]
    np.random.seed(3)  # global state must not matter
    assert found(1) == result
    assert found(2) != result


def test_unusable_predictions_say_which_phase_and_what_to_do():
    labels, probabilities = noisy(10, 1)
    diverged = probabilities.copy()
    diverged[:3] = of([np.nan, 1.5, -0.1])
    with pytest.raises(FrostlineError, match=r"finetune model.* for 3 of 10 .*\n.*finetune\.learning_rate"):
        judged(Pair(labels, probabilities, diverged))
    with pytest.raises(FrostlineError, match="test set is empty"):
        judged(Pair(labels[:0], probabilities[:0], probabilities[:0]))


def test_the_smallest_margins_lie_nearest_to_the_threshold():
    labels, probabilities = np.array([1, 0, 1, 0, 1]), of([0.9, 0.35, 0.5, 0.45, 0.2])
    assert smallest_margins(labels, probabilities, 0.4).tolist() == [1, 2, 0]


def test_counts_at_thresholds_are_the_confusion_matrices():
    labels, probabilities = noisy(100, 3)
    thresholds = [0, 0.25, 0.5, 1]
    found = threshold_counts(labels, probabilities, thresholds)
    assert found.shape == (4, 2, 2)
    for counts, threshold in zip(found, thresholds, strict=True):
        assert counts.tolist() == metrics.confusion_matrix(labels, probabilities[:, 1] > threshold).tolist()


# More than two classes


@pytest.mark.parametrize("classes", [3, 7])
def test_figures_of_many_classes_equal_scikit_learns(classes):
    labels, probabilities = noisy_of_many(300, classes, 2)
    predicted = probabilities.argmax(axis=1)
    found = figures(labels, probabilities, threshold=0.5, bins=10)
    one_hot = np.eye(classes)[labels]
    expected = {
        "log_loss": metrics.log_loss(labels, probabilities),
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "lowest_recall": min(metrics.recall_score(labels, predicted, average=None)),
        "roc_auc": metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"),
        "average_precision": metrics.average_precision_score(one_hot, probabilities, average="macro"),
        "f1": metrics.f1_score(labels, predicted, average="macro"),
        "brier": metrics.brier_score_loss(labels, probabilities, scale_by_half=False),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert list(found) == [*expected, "ece"]
    matrix = confusion_matrix(labels, probabilities, 0.5)
    assert matrix.tolist() == metrics.confusion_matrix(labels, predicted).tolist()


def test_figures_of_three_classes_by_hand():
    labels = np.array([0, 1, 2, 2])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    found = figures(labels, probabilities, threshold=0.5, bins=2)
    assert found["accuracy"] == 3 / 4
    assert found["log_loss"] == pytest.approx(-np.log([0.6, 0.4, 0.7, 0.4]).mean())
    # of each class: the first has 1 hit and 1 false alarm, the second is missed, the third is found twice
    assert found["f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    squares = [0.16 + 0.09 + 0.01, 0.25 + 0.36 + 0.01, 0.01 + 0.04 + 0.09, 0.09 + 0.09 + 0.36]
    assert found["brier"] == pytest.approx(np.mean(squares))
    # confidences 0.6 (right), 0.5 (wrong), 0.7 (right), 0.4 (right); 0.5 belongs to the lower bin
    assert found["ece"] == pytest.approx((2 * abs(0.45 - 0.5) + 2 * abs(0.65 - 1)) / 4)
    assert found["roc_auc"] == 1  # each class' own images get its highest probabilities


def test_rows_for_the_galleries_of_many_classes():
    labels = np.array([0, 1, 2, 2, 1])
    transfer = np.array([[0.8, 0.1, 0.1], [0.4, 0.35, 0.25], [0.9, 0.06, 0.04], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1]])
    finetune = np.array([[0.5, 0.4, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2], [0.3, 0.4, 0.3]])
    pair = Pair(labels, transfer, finetune)
    better, worse = changed_predictions(pair, 0.5)
    assert (better.tolist(), worse.tolist()) == ([2, 1], [3])
    assert top_losses(labels, transfer, 0.5).tolist() == [2, 1]
    assert smallest_margins(labels, finetune, 0.5).tolist() == [0, 4, 1, 2]
    assert mcnemar(pair, 0.5) == McNemar(2, 1, 1.0)


def test_a_class_without_test_images_counts_only_where_it_is_predicted():
    labels, probabilities = noisy_of_many(60, 4, 2)
    here = labels < 3
    labels, probabilities = labels[here], probabilities[here]
    found, predicted = figures(labels, probabilities, 0.5, 15), probabilities.argmax(axis=1)
    assert 3 in predicted
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    expected = [metrics.roc_auc_score(labels == number, probabilities[:, number]) for number in range(3)]
    assert found["roc_auc"] == pytest.approx(np.mean(expected))


def test_many_classes_have_the_metrics_of_two(tmp_path):
    labels, transfer = noisy_of_many(120, 5, 2)
    finetune = noisy_of_many(120, 5, 1)[1]
    found, two = judged(Pair(labels, transfer, finetune)), judged(Pair(*noisy(120, 3), noisy(120, 2)[1]))
    assert {part: list(values) for part, values in found.as_metrics("abcde").items()} == {
        part: list(values) for part, values in two.as_metrics(CLASSES).items()
    }
    assert found.confusion["finetune"].shape == (5, 5)
    assert found.verdict.outcome == "better"
    same = judged(Pair(labels, transfer, transfer.copy()))
    assert set(same.difference.values()) == {0}
    assert all(interval == Interval(0, 0) for interval in same.intervals["difference"].values())


# Pairs


def test_a_pair_must_be_of_the_same_images():
    labels, probabilities = noisy(10, 1)
    with pytest.raises(ValueError, match=r"candidate: \(9, 2\) probabilities for \(10,\) labels"):
        Pair(labels, probabilities, probabilities[:9])
    with pytest.raises(ValueError, match="baseline"):
        Pair(labels, probabilities[:, 1], probabilities)


def test_the_phases_intervals_are_those_of_their_probabilities():
    labels, transfer = noisy(60, 3)
    pair, how = Pair(labels, transfer, noisy(60, 1)[1]), {"threshold": 0.5, "resamples": 100, "seed": 1}
    assert by_phase(pair) == {"transfer": pair.baseline, "finetune": pair.candidate}
    drawn, found = bootstrap_intervals(pair, **how), judged(pair, resamples=100, seed=1)
    phases = {"transfer": drawn["baseline"], "finetune": drawn["candidate"], "difference": drawn["difference"]}
    assert found.intervals == phases
    for phase, part in found.figures.items():
        assert found.intervals[phase]["log_loss"].low < part["log_loss"] < found.intervals[phase]["log_loss"].high
