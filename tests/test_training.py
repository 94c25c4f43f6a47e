import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest

from frostline.common.seeds import generator
from frostline.config.settings import Phase
from frostline.metrics.log_loss import score
from frostline.models.inference import predictor
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras, tf
from frostline.training import fast_layers, loop
from frostline.training.loop import (
    EPOCH_COLUMNS,
    Examples,
    Session,
    Task,
    cross_entropy_of,
    kept_epoch,
    train,
    trainer_of,
    with_kept_last,
)

pytestmark = pytest.mark.slow


def make_model(seed=1, dropout=0.1, activation="relu"):
    init = keras.initializers.GlorotUniform(seed=seed)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(16, activation=activation, kernel_initializer=init)(inputs)
    x = keras.layers.Dropout(dropout, seed=seed)(x)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", kernel_initializer=init)(x))


@pytest.fixture(params=["whole", pytest.param("in blocks", marks=pytest.mark.long)])
def examples(request, monkeypatch):
    if request.param == "in blocks":  # of two rows: the models' first layers have six
        monkeypatch.setattr(fast_layers, "BLOCK", 32)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(203, 6)).astype(np.float16)
    labels = (features[:, 0] + 0.2 * rng.normal(size=203) > 0).astype(np.uint8)
    return Examples([features[:150]], labels[:150]), Examples([features[150:]], labels[150:])


def run(model, examples, **changes):
    """Train by the defaults here, but for `changes` in settings and other arguments."""
    settings = {"epochs": 3, "learning_rate": 0.01, "schedule": "constant", "patience": None, "batch_size": 32}
    settings |= {"weight_decay": 0.0, "label_smoothing": 0.0, "mixup": 0.0, "class_weight": "none"}
    settings |= {name: changes.pop(name) for name in settings if name in changes}
    task = Task("transfer", changes.pop("seed", 1), *examples, prepare=changes.pop("prepare", None))
    on_device = changes.pop("on_device", False)
    options = Phase(**settings)
    trainer = trainer_of(model, options, len(task.training.labels), parts=changes.get("parts", 1))
    return train(trainer, task, options, Session(**changes), on_device)


def first_epoch():
    """The order that `run` draws for its first epoch, and the rows as it takes them batch by batch."""
    order = generator(1, "shuffle", "transfer", 1).permutation(150)
    return order, np.concatenate([np.sort(order[start : start + 32]) for start in range(0, 150, 32)])


def fit_in_that_order(model, loss, examples, rate=0.01, optimizer=None):
    """One epoch of Keras' own training on the batches of `run`'s first epoch."""
    _, rows = first_epoch()
    model.compile(optimizer or keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    inputs, targets = examples.batch(rows)
    return model.fit(inputs, targets, batch_size=32, shuffle=False, verbose=0).history


def test_it_learns(examples):
    history = run(make_model(), examples, epochs=8)
    assert history[-1]["train/loss"] < 0.7 * history[0]["train/loss"]
    assert history[-1]["validation/accuracy"] > 0.85
    assert [epoch["epoch"] for epoch in history] == list(range(1, 9))
    assert all(tuple(epoch) == EPOCH_COLUMNS for epoch in history)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(examples):
    first, second, other = make_model(), make_model(), make_model()
    assert run(first, examples) == run(second, examples)
    run(other, examples, seed=2)
    for left, right in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])


def test_one_epoch_is_one_pass_of_keras_own_training_in_that_order(examples):
    """The same batches through `fit` without shuffling give the same losses: nothing is dropped or seen twice."""
    model, reference = make_model(dropout=0), make_model(dropout=0)
    history = run(model, examples, epochs=1)
    fitted = fit_in_that_order(reference, "binary_crossentropy", examples[0])
    assert history[0]["train/loss"] == pytest.approx(fitted["loss"][0], rel=1e-4)
    assert history[0]["train/accuracy"] == pytest.approx(fitted["accuracy"][0], abs=1e-6)
    assert history[0]["validation/loss"] == pytest.approx(
        reference.evaluate(*examples[1].batch(slice(None)), verbose=0)[0], rel=1e-4
    )


@pytest.mark.parametrize("spoil", ["features", "validation", "rate"])
def test_a_loss_that_is_no_number_ends_the_training_and_is_not_gone_on_from(examples, tmp_path, spoil):
    training, validation = (Examples([part.features[0].copy()], part.labels) for part in examples)
    if spoil != "rate":
        (training if spoil == "features" else validation).features[0][7] = np.nan
    seen, checkpoint = [], tmp_path / "checkpoint"
    rate = 1e38 if spoil == "rate" else 0.01
    for _ in range(2):  # nor by the next run
        model = make_model(activation=None)  # on some processors relu makes 0 of what is no number
        with pytest.raises(
            FrostlineError, match=r"transfer: the loss is no number any more .*nan.* after epoch 1\.\nA lower"
        ):
            run(model, (training, validation), learning_rate=rate, on_epoch=seen.append, checkpoint=checkpoint)
    assert seen == []
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("parts", "mixup"),
    [pytest.param(3, 0, marks=pytest.mark.long), pytest.param(32, 0, marks=pytest.mark.long), (3, 0.3)],
)
def test_a_batch_in_parts_is_one_step(examples, parts, mixup):
    whole, divided = make_model(dropout=0), make_model(dropout=0)
    expected, found = run(whole, examples, mixup=mixup), run(divided, examples, mixup=mixup, parts=parts)
    for left, right in zip(expected, found, strict=True):
        assert left == pytest.approx(right, abs=1e-5)
    for left, right in zip(whole.get_weights(), divided.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)


def test_epochs_are_reported_as_they_come(examples, capsys):
    seen = []
    history = run(make_model(), examples, on_epoch=seen.append)
    assert seen == history
    lines = [line for line in capsys.readouterr().err.splitlines() if ": epoch " in line]
    for line, (number, *figures) in zip(lines, (epoch.values() for epoch in history), strict=True):
        loss, accuracy, *validation = (f"{value:.{3 + (place % 2 == 0)}f}" for place, value in enumerate(figures))
        said = f"transfer: epoch {number}: loss {loss} accuracy {accuracy}, validation {' '.join(validation)}"
        assert line == said if number == len(history) else line.startswith(f"{said}; about ")
    assert lines[0].endswith(" s left")


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("done", "mixup"),
    [
        pytest.param(1, 0, marks=pytest.mark.long),
        pytest.param(2, 0, marks=pytest.mark.long),
        pytest.param(3, 0, marks=pytest.mark.long),
        (2, 0.3),
    ],
)
def test_training_goes_on_from_its_last_epoch_to_the_same_weights(examples, tmp_path, done, mixup):
    whole, killed, resumed = make_model(), make_model(), make_model(seed=2)
    history = run(whole, examples, mixup=mixup)
    checkpoint, seen = tmp_path / "folder" / "checkpoint", []

    def kill(epoch):
        if epoch["epoch"] == done:
            raise KilledError

    with pytest.raises(KilledError):
        run(killed, examples, mixup=mixup, checkpoint=checkpoint, on_epoch=kill)
    assert run(resumed, examples, mixup=mixup, checkpoint=checkpoint, on_epoch=seen.append) == history
    assert seen == history
    for left, right in zip(whole.variables, resumed.variables, strict=True):  # the dropout's seed among them
        np.testing.assert_array_equal(left, right)


def test_no_checkpoint_is_written_before_its_time(examples, tmp_path):
    run(make_model(), examples, checkpoint=tmp_path / "checkpoint", checkpoint_every=3600)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.long
def test_cosine_is_keras_own_training_by_its_schedule(examples):
    model, reference, constant = (make_model(dropout=0) for _ in range(3))
    run(model, examples, epochs=1, schedule="cosine")
    run(constant, examples, epochs=1)
    rate = keras.optimizers.schedules.CosineDecay(0.01, decay_steps=5)  # 150 examples in batches of 32
    fit_in_that_order(reference, "binary_crossentropy", examples[0], rate)
    for got, expected, other in zip(*(each.get_weights() for each in (model, reference, constant)), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert np.abs(got - other).max() > 1e-3


@pytest.mark.long
def test_warm_up_weight_decay_and_smoothing_are_keras_own(examples):
    model, reference = make_model(dropout=0), make_model(dropout=0)
    run(model, examples, epochs=1, schedule="warmup_cosine", weight_decay=0.5, label_smoothing=0.2)
    rate = keras.optimizers.schedules.CosineDecay(0.0, decay_steps=4, warmup_target=0.01, warmup_steps=1)
    adamw = keras.optimizers.AdamW(rate, weight_decay=0.5)
    adamw.exclude_from_weight_decay(var_names=["bias"])
    fit_in_that_order(reference, keras.losses.BinaryCrossentropy(label_smoothing=0.2), examples[0], optimizer=adamw)
    for got, expected in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_an_only_batch_is_not_lost_to_the_warm_up(examples):
    model, few = make_model(dropout=0), Examples([examples[0].features[0][:20]], examples[0].labels[:20])
    before = model.get_weights()
    run(model, (few, examples[1]), epochs=1, schedule="warmup_cosine")
    assert any(np.abs(one - other).max() > 1e-3 for one, other in zip(before, model.get_weights(), strict=True))


def mixtures(examples):
    """Inputs and the two targets of the batches of `run`'s first epoch with mixup=0.3, and the first one's share."""
    order, rows = first_epoch()
    drawn = generator(1, "mixup", "transfer", 1)
    shares = drawn.beta(0.3, 0.3, 150)
    shares = np.maximum(shares, 1 - shares)[:, None]
    others = drawn.permutation(order)
    features = examples.features[0].astype(np.float64)
    return (
        shares * features[rows] + (1 - shares) * features[others],
        examples.labels[rows],
        examples.labels[others],
        shares,
    )


@pytest.mark.long
def test_mixup_is_keras_own_training_on_the_mixtures(examples):
    model, reference, plain = (make_model(dropout=0) for _ in range(3))
    history = run(model, examples, epochs=1, mixup=0.3)
    run(plain, examples, epochs=1)
    inputs, own, other, shares = mixtures(examples[0])
    assert 0.5 <= shares.min() < 0.6
    assert shares.max() > 0.99
    reference.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    targets = shares * own[:, None] + (1 - shares) * other[:, None]
    fitted = reference.fit(inputs, targets, batch_size=32, shuffle=False, verbose=0).history
    assert history[0]["train/loss"] == pytest.approx(fitted["loss"][0], rel=1e-4)
    for got, expected, without in zip(*(each.get_weights() for each in (model, reference, plain)), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert np.abs(got - without).max() > 1e-3


@pytest.mark.long
def test_mixtures_of_prepared_images_are_mixed_after_that(examples):
    plain, prepared = make_model(), make_model()
    expected = run(plain, examples, mixup=0.3)
    training = Examples([examples[0].features[0] - np.float16(1)], examples[0].labels)

    def prepare(seed):
        return lambda inputs: lambda rows: inputs[rows] + 1

    found = run(prepared, (training, examples[1]), mixup=0.3, prepare=prepare)
    for one, other in zip(expected, found, strict=True):
        assert one == pytest.approx(other, abs=2e-3)  # float16


@pytest.mark.long
def test_mixup_of_three_classes_and_smoothed_labels_is_keras_own(examples_of_three):
    model, reference = make_model_of_three(), make_model_of_three()
    run(model, examples_of_three, epochs=1, mixup=0.3, label_smoothing=0.1)
    inputs, own, other, shares = mixtures(examples_of_three[0])
    reference.compile(keras.optimizers.Adam(0.01), keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    targets = shares * np.eye(3)[own] + (1 - shares) * np.eye(3)[other]
    reference.fit(inputs, targets, batch_size=32, shuffle=False, verbose=0)
    for got, expected in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_smoothed_labels_of_three_classes_are_keras_own():
    targets = np.array([[0], [2], [1]], np.float32)
    said = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]], np.float32)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1, reduction="none")
    expected = loss(np.eye(3, dtype=np.float32)[[0, 2, 1]], said)
    np.testing.assert_allclose(cross_entropy_of(3, 0.1)(targets, said), expected, rtol=1e-6)


def test_cosine_ends_at_a_rate_of_nearly_zero(examples):
    """Adam moves each weight by about the rate, so one batch per epoch shows it."""
    model, weights = make_model(), [make_model().get_weights()[0]]
    run(
        model,
        examples,
        epochs=10,
        batch_size=150,
        schedule="cosine",
        on_epoch=lambda epoch: weights.append(model.get_weights()[0]),
    )
    moved = [np.abs(after - before).mean() for before, after in pairwise(weights)]
    assert moved[5] < 0.7 * moved[0] and moved[-1] < 0.05 * moved[0]


PATIENT = {"epochs": 12, "learning_rate": 0.03, "patience": 3}


@pytest.fixture
def noise(examples):
    """Examples with nothing to learn but by heart: the validation loss rises before long."""
    labels = np.random.default_rng(1).integers(0, 2, 203).astype(np.uint8)
    training, validation = examples
    return Examples(training.features, labels[:150]), Examples(validation.features, labels[150:])


def same(left, right):
    """Whether all is the same to the last bit, the dropout's seed included."""
    return all(np.array_equal(*pair) for pair in zip(left.variables, right.variables, strict=True))


def test_patience_leaves_the_model_of_the_best_epoch(noise):
    stopped, best, last = make_model(), make_model(), make_model()
    history = run(stopped, noise, **PATIENT)
    kept = kept_epoch(history, 3)
    assert kept["validation/loss"] == min(epoch["validation/loss"] for epoch in history)
    assert len(history) == kept["epoch"] + 3 < 12
    assert run(best, noise, **PATIENT | {"epochs": int(kept["epoch"]), "patience": None}) == history[:-3]
    assert same(stopped, best)
    loss, _ = score(noise[1].labels, predictor(stopped)(noise[1].features))
    assert loss == kept["validation/loss"]
    run(last, noise, **PATIENT | {"epochs": len(history), "patience": None})
    assert not same(stopped, last)


@pytest.mark.long
@pytest.mark.parametrize("done", ["best", "after best", "last"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_patient_training_goes_on_to_the_same_weights(noise, tmp_path, schedule, done):
    options = PATIENT | {"schedule": schedule}
    whole, resumed, checkpoint = make_model(), make_model(seed=2), tmp_path / "checkpoint"
    history = run(whole, noise, **options)
    kept = int(kept_epoch(history, 3)["epoch"])
    assert kept + 3 == len(history) < 12

    def kill(epoch):
        if epoch["epoch"] == {"best": kept, "after best": kept + 1, "last": len(history)}[done]:
            raise KilledError

    with pytest.raises(KilledError):
        run(make_model(), noise, checkpoint=checkpoint, on_epoch=kill, **options)
    assert run(resumed, noise, checkpoint=checkpoint, **options) == history
    assert same(whole, resumed)


def test_without_patience_the_last_epoch_is_kept():
    history = [{"epoch": number, "validation/loss": loss} for number, loss in enumerate([0.3, 0.2, 0.2, 0.4], 1)]
    assert kept_epoch(history, None) == history[3]
    assert with_kept_last(history, None) == history
    assert kept_epoch(history, 5) == history[1]
    assert with_kept_last(history, 5) == [*history, {"epoch": 5, "validation/loss": 0.2}]
    assert with_kept_last(history[:2], 5) == history[:2]


def test_a_checkpoint_of_fewer_epochs_is_not_taken_for_one_of_more(examples, tmp_path):
    """After the last epoch Adam's moments are left out: nothing could go on from there."""
    run(make_model(), examples, checkpoint=tmp_path / "checkpoint")
    with pytest.raises(FrostlineError, match=r"checkpoint is of a training that has ended\.\nDelete it"):
        run(make_model(), examples, epochs=4, checkpoint=tmp_path / "checkpoint")


def test_a_damaged_checkpoint_is_named(examples, tmp_path):
    run(make_model(), examples, checkpoint=tmp_path / "checkpoint")
    content = (tmp_path / "checkpoint").read_bytes()
    (tmp_path / "checkpoint").write_bytes(content[:-5])
    with pytest.raises(FrostlineError, match=r"checkpoint is damaged.*\nDelete it"):
        run(make_model(), examples, checkpoint=tmp_path / "checkpoint")


def test_predict_is_the_models_output_whatever_the_batch(examples):
    model, (training, _) = make_model(), examples
    expected = model(training.features[0].astype(np.float32)).numpy()[:, 0]
    found = predictor(model, batch_size=7)(training.features)
    np.testing.assert_allclose(found[:, 1], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[:, 0], 1 - found[:, 1])
    assert predictor(model)([training.features[0][:0]]).shape == (0, 2)


def test_score_by_hand():
    loss, accuracy = score(np.array([1, 0, 1]), np.array([[0.2, 0.8], [0.6, 0.4], [0.7, 0.3]]))
    assert loss == pytest.approx(-(np.log(0.8) + np.log(0.6) + np.log(0.3)) / 3)
    assert accuracy == pytest.approx(2 / 3)
    assert score(np.array([1]), np.array([[1.0, 0.0]]))[0] == pytest.approx(-np.log(1e-7))


# More than two classes


def make_model_of_three(seed=1):
    init = keras.initializers.GlorotUniform(seed=seed)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(16, activation="relu", kernel_initializer=init)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", kernel_initializer=init)(x))


@pytest.fixture
def examples_of_three():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(203, 6)).astype(np.float16)
    labels = features[:, :3].argmax(axis=1).astype(np.uint8)
    return Examples([features[:150]], labels[:150]), Examples([features[150:]], labels[150:])


@pytest.mark.long
def test_an_epoch_of_three_classes_is_one_of_keras_own_training(examples_of_three):
    model, reference = make_model_of_three(), make_model_of_three()
    history = run(model, examples_of_three, epochs=1)
    fitted = fit_in_that_order(reference, "sparse_categorical_crossentropy", examples_of_three[0])
    assert history[0]["train/loss"] == pytest.approx(fitted["loss"][0], rel=1e-4)
    assert history[0]["train/accuracy"] == pytest.approx(fitted["accuracy"][0], abs=1e-6)
    loss, accuracy = reference.evaluate(*examples_of_three[1].batch(slice(None)), verbose=0)
    assert history[0]["validation/loss"] == pytest.approx(loss, rel=1e-4)
    assert history[0]["validation/accuracy"] == pytest.approx(accuracy, abs=1e-6)
    for left, right in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_three_classes_are_learnt_and_predicted_as_the_model_gives_them(examples_of_three):
    model = make_model_of_three()
    history = run(model, examples_of_three, epochs=8)
    assert history[-1]["validation/accuracy"] > 0.75
    features = examples_of_three[1].features
    found = predictor(model, batch_size=7)(features)
    np.testing.assert_allclose(found, model(features[0].astype(np.float32)).numpy(), rtol=1e-5)
    assert score(examples_of_three[1].labels, found) == pytest.approx(
        (history[-1]["validation/loss"], history[-1]["validation/accuracy"])
    )


def test_nothing_of_a_training_stays_in_memory(examples):
    """Graphs hold Adam's moments: a sweep would grow by them with every trial."""

    def graphs():
        gc.collect()
        return sum(type(item).__name__ == "FuncGraph" for item in gc.get_objects())

    before = graphs()
    run(make_model(), examples)
    assert graphs() == before


# Whole epochs on the device: the path of a GPU, on this processor


@pytest.mark.parametrize(
    ("mirrored", "mixup"),
    [pytest.param(False, 0, marks=pytest.mark.long), pytest.param(True, 0, marks=pytest.mark.long), (True, 0.3)],
)
def test_an_epoch_in_one_call_gives_the_figures_and_weights_of_its_batches(examples, mirrored, mixup):
    training, validation = examples
    if mirrored:
        training = Examples(training.features, training.labels, [training.features[0][:, ::-1]])
    batches, whole = make_model(), make_model()
    expected = run(batches, (training, validation), mixup=mixup)
    history = run(whole, (training, validation), mixup=mixup, on_device=True)
    for got, wanted in zip(history, expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-5)
    for left, right in zip(whole.variables, batches.variables, strict=True):  # the dropout's seed among them
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    again = make_model()
    assert run(again, (training, validation), mixup=mixup, on_device=True) == history
    assert same(again, whole)


@pytest.mark.long
def test_an_epoch_in_one_call_of_several_inputs_and_three_classes(examples_of_three):
    def join(examples):
        return Examples([examples.features[0][:, :2], examples.features[0][:, 2:]], examples.labels)

    def model_of_two():
        inputs = [keras.Input((2,)), keras.Input((4,))]
        return keras.Model(inputs, make_model_of_three()(keras.layers.Concatenate()(inputs)))

    split = tuple(map(join, examples_of_three))
    for mixup in (0, 0.3):
        expected = run(model_of_two(), split, mixup=mixup)[-1]
        assert run(model_of_two(), split, mixup=mixup, on_device=True)[-1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "failed to allocate memory"),
        pytest.param(
            tf.errors.InternalError(None, None, "Failed copying input tensor: Dst tensor is not initialized."),
            marks=pytest.mark.long,
        ),
        pytest.param(
            tf.errors.NotFoundError(None, None, "No algorithm worked! Error: RESOURCE_EXHAUSTED: Out of memory"),
            marks=pytest.mark.long,
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_features_that_do_not_fit_the_device_are_read_batch_by_batch_and_that_is_said(
    examples, monkeypatch, capsys, error
):
    def full(*arguments):
        raise error

    monkeypatch.setattr(loop, "whole_epoch", full)
    assert run(make_model(), examples, on_device=True) == run(make_model(), examples)
    assert "do not fit the device's memory: they are read batch by batch" in "".join(capsys.readouterr())


def test_no_features_stay_on_the_device_where_graphs_stay(examples, monkeypatch):
    """Keras' own optimizer, that of a GPU, keeps every graph that it is traced in for as long as the process lives."""
    made, constant = [], tf.constant

    def watched(value, *rest, **more):
        tensor = constant(value, *rest, **more)
        if isinstance(value, np.ndarray) and value.shape == examples[0].features[0].shape:
            made.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(tf, "constant", watched)
    monkeypatch.setattr(loop, "on_gpu", lambda: True)
    run(make_model(), examples, on_device=True)
    gc.collect()
    assert made
    assert not [tensor for tensor in made if tensor() is not None]


@pytest.mark.long
def test_a_killed_training_on_the_device_goes_on_to_the_same_weights(examples, tmp_path):
    def kill(epoch):
        raise KilledError

    whole, resumed, checkpoint = make_model(), make_model(seed=2), tmp_path / "checkpoint"
    history = run(whole, examples, on_device=True)
    with pytest.raises(KilledError):
        run(make_model(), examples, on_device=True, checkpoint=checkpoint, on_epoch=kill)
    assert run(resumed, examples, on_device=True, checkpoint=checkpoint) == history
    assert same(whole, resumed)
