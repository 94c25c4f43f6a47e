"""`learning_rate: auto` and `batch_size: auto`: what they are, and that a range test leaves nothing behind."""

import dataclasses
import math

import numpy as np
import pytest

from frostline.common.seeds import generator
from frostline.config.load import compose_conf
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras
from frostline.training import rate_test
from frostline.training.loop import Examples, Session, Task, train, trainer_of
from frostline.training.rate_test import range_test, read_off
from frostline.training.resolved import Found, batch_size_for, resolved
from tracked import tracked_conf

pytestmark = pytest.mark.slow


def make_model(wide=8):
    def init(seed):
        return keras.initializers.GlorotUniform(seed=seed)

    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(8, 3, use_bias=False, kernel_initializer=init(1))(inputs)
    x = keras.layers.Flatten()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dense(wide, activation="relu", kernel_initializer=init(2))(x)
    x = keras.layers.Dropout(0.2, seed=3)(x)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", kernel_initializer=init(4))(x))


def task(prepare=None, mirrored=False):
    features = generator(1, "examples").normal(size=(203, 4, 4, 3)).astype(np.float16)
    labels = (features[..., 0].mean(axis=(1, 2)) > 0).astype(np.uint8)
    mirror = [features[:, :, ::-1]] if mirrored else ()
    training = Examples([features[:150]], labels[:150], mirror and [mirror[0][:150]])
    return Task("transfer", 1, training, Examples([features[150:]], labels[150:]), prepare)


def options(**changes):
    phase = compose_conf([], tracked_conf()).transfer
    return resolved(dataclasses.replace(phase, **changes), 32, math.nan)


def values_of(model):
    return [variable.numpy() for variable in model.variables]


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.long),
        {"mixup": 0.3, "weight_decay": 0.1, "label_smoothing": 0.1},
        pytest.param({"class_weight": "balanced_sampling", "schedule": "warmup_cosine"}, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_range_test_finds_the_same_curve_twice_and_leaves_the_model_as_it_was(changes, parts):
    model = make_model()
    before, weights = values_of(model), np.array([1, 2], np.float32) if changes.get("class_weight") else None
    found = [range_test(model, task(mirrored=True), options(**changes), Session(parts=parts), weights) for _ in "ab"]
    for left, right in zip(before, values_of(model), strict=True):
        np.testing.assert_array_equal(left, right)
    first, again = found
    assert first == again
    rates = [point["rate"] for point in first]
    assert rates[0] == pytest.approx(1e-6)
    assert np.diff(np.log10(rates)) == pytest.approx(6 / 49), "it rises by the same factor at each step"
    losses = [point["loss"] for point in first]
    assert min(losses) < losses[0] - 0.01, "what is learned is seen"
    assert 1e-4 < read_off(first, "transfer") < 0.3


def test_it_ends_where_the_loss_diverges(monkeypatch):
    monkeypatch.setattr(rate_test, "LAST", 1e6)
    curve = range_test(make_model(), task(), options(), Session())
    assert len(curve) < rate_test.STEPS
    assert curve[-1]["rate"] > 0.01
    assert all(math.isfinite(point["loss"]) for point in curve)


@pytest.fixture(scope="module")
def learned():
    """A model that was trained before: most of its losses are small, that of few images is large."""
    model, given = make_model(), dataclasses.replace(options(epochs=40), batch_size=8, learning_rate=3e-3)
    train(trainer_of(model, given, 150), task(), given)
    return model


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("wrong", [(), (7, 70, 140)])
def test_where_few_images_have_most_of_the_loss_the_test_still_goes_on_to_where_it_diverges(learned, seed, wrong):
    examples = task().training
    labels = examples.labels.copy()
    labels[list(wrong)] ^= 1  # the model is sure that these are of the other class
    probabilities = learned(examples.features[0].astype(np.float32)).numpy()[:, 0]
    losses = -np.log(np.where(labels, probabilities, 1 - probabilities))
    assert np.median(losses) < 0.3 * losses.mean()
    given = dataclasses.replace(task(), seed=seed, training=Examples(examples.features, labels))
    curve = range_test(learned, given, dataclasses.replace(options(), batch_size=8), Session())
    assert curve[-1]["rate"] > 0.1, "it ends where rates break the model, not where a batch has other images"


def test_a_loss_that_is_no_number_from_the_start_is_not_blamed_on_the_rates():
    model = make_model()
    model.layers[-1].bias.assign([np.nan])
    with pytest.raises(FrostlineError, match=r"^transfer.learning_rate .* before anything is learned\.\nThe weights"):
        range_test(model, task(), options(), Session())


def test_rates_that_are_all_too_high_end_in_two_lines_and_a_model_as_it_was(monkeypatch):
    monkeypatch.setattr(rate_test, "FIRST", 1e30)
    monkeypatch.setattr(rate_test, "LAST", 1e36)
    model = make_model()
    before = values_of(model)
    curve = range_test(model, task(), options(), Session())
    for left, right in zip(before, values_of(model), strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(FrostlineError, match=r"^transfer.learning_rate is auto, but no rate .*\n.*a number"):
        read_off(curve, "transfer")


def curve_of(*losses):
    return [{"rate": 10 ** (number - 5), "loss": loss} for number, loss in enumerate(losses)]


def test_the_rate_is_where_the_loss_falls_steepest_before_its_lowest():
    assert read_off(curve_of(1.0, 0.98, 0.7, 0.4, 0.39, 0.6), "transfer") == 1e-3
    # it fell more steeply once it had begun to diverge
    assert read_off(curve_of(1.0, 0.9, 0.6, 0.55, 5.0, 0.7, 0.6), "transfer") == 1e-4
    rate = read_off([{**point, "rate": point["rate"] * 1.2345} for point in curve_of(1, 0.9, 0.1, 0.05)], "transfer")
    assert rate == 1.2e-4
    # it rose before it fell again
    assert read_off(curve_of(1.0, 0.95, 0.94, 1.02, 0.6, 0.5), "transfer") == 1e-5


@pytest.mark.parametrize("losses", [(1.0,), (1.0, 1.0), (1.0, 1.1, 4.0), (1.0, 0.9995, 1.1), (1, 2, 0.5)])
def test_where_nothing_lowers_the_loss_a_number_is_asked_for(losses):
    with pytest.raises(FrostlineError, match=r"^transfer.learning_rate is auto, but no rate from 1e-06 to 1 lowers"):
        read_off(curve_of(*losses), "transfer")


@pytest.mark.parametrize(
    ("images", "size"), [(1, 8), (21, 8), (72, 8), (144, 8), (145, 16), (288, 16), (289, 32), (406, 32), (20000, 32)]
)
def test_batches_are_as_large_as_ten_steps_an_epoch_allow(images, size):
    assert batch_size_for(images) == size
    assert size == 8 or math.ceil(images / size) >= 10


def test_what_was_found_is_told_without_what_was_given():
    assert Found().as_json() == {}
    both = Found(0.01, 8, [{"rate": 1.0, "loss": 2.0}])
    assert both.as_json() == {"learning_rate": 0.01, "batch_size": 8, "rate_test": [{"rate": 1.0, "loss": 2.0}]}
    assert Found.from_json({"loss": 0.5} | both.as_json()) == both
    assert Found.from_json({"loss": 0.5}) == Found()
    assert both.numbers() == {"learning_rate": 0.01, "batch_size": 8}
