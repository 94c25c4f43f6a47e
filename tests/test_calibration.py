import numpy as np
import pytest
from scipy.special import softmax

from frostline.metrics.calibration import (
    Calibration,
    Views,
    calibration_effects,
    clipped,
    fit_calibration,
    fit_clip,
    fit_temperature,
)
from frostline.metrics.log_loss import log_losses
from frostline.metrics.temperature import with_temperature
from results import noisy, noisy_of_many, of


def loss(labels, probabilities):
    return float(np.mean(log_losses(labels, probabilities)))


@pytest.mark.parametrize("classes", [2, 5])
def test_a_temperature_undoes_what_made_probabilities_overconfident(classes):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (4000, classes))
    true = softmax(logits, axis=1)
    labels = np.array([rng.choice(classes, p=row) for row in true])  # calibrated by construction
    overconfident = softmax(logits * 3, axis=1)
    temperature = fit_temperature(labels, overconfident)
    assert temperature == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(with_temperature(overconfident, 3), true, atol=5e-3)  # float32 knows no less than 1e-7
    assert loss(labels, with_temperature(overconfident, temperature)) < loss(labels, overconfident)


def test_a_temperature_changes_no_prediction_and_keeps_sums_of_one():
    _, probabilities = noisy_of_many(200, 4, 1.0)
    for temperature in (0.1, 1, 7):
        scaled = with_temperature(probabilities, temperature)
        assert np.array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))
        np.testing.assert_allclose(scaled.sum(axis=1), 1)


def test_probabilities_of_0_and_1_stay_numbers():
    sure = of([0.0, 1.0, 1.0])
    for temperature in (0.05, 3, 20):
        assert np.all(np.isfinite(with_temperature(sure, temperature)))
    assert 0.05 <= fit_temperature(np.array([0, 1, 1]), sure) <= 20


@pytest.mark.parametrize("classes", [2, 4])
def test_a_model_without_a_mistake_is_not_made_surer_without_end(classes):
    """A twentieth of the temperature would make one mistake among other images cost all that there is."""
    labels = np.arange(60) % classes
    right = np.eye(classes)[labels] * 0.9 + 0.1 / classes
    assert 0.5 < fit_temperature(labels, right) < 1.5
    perfect = fit_temperature(labels, np.eye(classes)[labels])
    scaled = with_temperature(np.eye(classes)[labels], perfect)
    assert scaled.max() == pytest.approx(1 - 0.5 / 60.5, abs=2e-3)


def test_clipping_supposes_half_a_mistake_that_was_not_seen():
    labels = np.array([0, 1] * 50)
    perfect = of(labels.astype(float))
    # n images right at a cost of about c each and half a one wrong at -ln c: the least is at c = 0.5 / (n + 0.5).
    assert fit_clip(labels, perfect) == pytest.approx(0.5 / 100.5, rel=0.1)
    wrong = labels.copy()
    wrong[:5] = 1 - wrong[:5]
    assert fit_clip(wrong, perfect) == pytest.approx(5.5 / 100.5, rel=0.1)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_clipped_probabilities_keep_their_distance_and_sum(classes):
    _, probabilities = noisy_of_many(50, classes, 4.0)
    within = clipped(np.concatenate([probabilities, np.eye(classes)]), 0.01)
    assert within.min() == pytest.approx(0.01 / (1 + (classes - 2) * 0.01), rel=1e-12)
    assert within.max() <= 0.99 + 1e-12
    np.testing.assert_allclose(within.sum(axis=1), 1)
    assert np.array_equal(clipped(probabilities, 0), probabilities)


def test_nothing_chosen_changes_nothing():
    labels, probabilities = noisy(60, 1.0)
    nothing = fit_calibration(Views(labels, probabilities), flip=False, temperature=False, clip=False)
    assert nothing == Calibration()
    assert np.array_equal(nothing.apply(probabilities), probabilities)


def test_parts_are_fitted_in_the_order_in_which_they_are_applied():
    labels, probabilities = noisy(400, 6.0)
    views = Views(labels, probabilities, probabilities[:, ::-1])  # a mirror that says the contrary: the mean is 0.5
    found = fit_calibration(views, flip=True, temperature=True, clip=True)
    assert np.allclose(found.apply(views.plain, views.mirrored), 0.5)
    alone = fit_calibration(Views(labels, probabilities), flip=False, temperature=True, clip=False)
    assert alone.temperature == pytest.approx(fit_temperature(labels, probabilities))
    assert alone.temperature > 1  # noise made them overconfident
    with pytest.raises(ValueError, match="mirrored"):
        found.apply(views.plain)


def test_effects_are_fitted_on_validation_and_measured_on_test():
    validation, test = Views(*noisy(500, 5.0, seed=1)), Views(*noisy(500, 5.0, seed=2))
    parts = {"flip": False, "temperature": True, "clip": False}
    found = calibration_effects(validation, test, submission=parts, threshold=0.5, bins=10, resamples=300, seed=1)
    assert [effect.name for effect in found] == ["temperature", "clip", "submission"]
    temperature, _, together = found
    assert temperature.calibration.temperature == pytest.approx(fit_temperature(validation.labels, validation.plain))
    after = with_temperature(test.plain, temperature.calibration.temperature)
    assert temperature.log_loss == pytest.approx(loss(test.labels, after))
    assert temperature.difference == pytest.approx(loss(test.labels, after) - loss(test.labels, test.plain))
    assert temperature.interval.low < temperature.difference < temperature.interval.high < 0
    assert together.calibration == temperature.calibration
    assert together.interval == temperature.interval


def test_effects_draw_only_the_interval_that_they_tell(monkeypatch):
    def unread(*_):
        raise AssertionError("areas below ROC curves are drawn, and nobody reads them")

    monkeypatch.setattr("frostline.metrics.bootstrap._mean_roc_aucs", unread)
    views = Views(*noisy(60, 3.0))
    assert (
        len(calibration_effects(views, views, submission={"clip": True}, threshold=0.5, bins=10, resamples=100, seed=1))
        == 3
    )


def test_flip_is_measured_where_mirrored_images_were_computed():
    rng = np.random.default_rng(3)
    labels, plain = noisy(300, 3.0, seed=3)
    mirrored = of(np.clip(plain[:, 1] + rng.normal(0, 0.2, 300), 0, 1))
    views = Views(labels, plain, mirrored)
    found = calibration_effects(
        views,
        views,
        submission={"flip": True, "temperature": False, "clip": False},
        threshold=0.5,
        bins=10,
        resamples=200,
        seed=1,
    )
    assert [effect.name for effect in found] == ["flip", "temperature", "clip", "submission"]
    assert found[0].log_loss == pytest.approx(loss(labels, (plain + mirrored) / 2))
