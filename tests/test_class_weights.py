import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from frostline.common.seeds import generator
from frostline.config.settings import Phase
from frostline.metrics.log_loss import log_losses
from frostline.models.inference import predictor
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras, tf
from frostline.training.class_weights import class_weights, drawn, first_bias, weighted
from frostline.training.loop import Examples, Session, Task, cross_entropy_of, train, trainer_of
from frostline.training.mixup import draw_partners

pytestmark = pytest.mark.slow

KEY = "transfer.class_weight"


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat([0, 1, 2], [60, 30, 3])
    found = class_weights("balanced", labels, ["a", "b", "c"], KEY)
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-6)
    assert found[labels].mean() == pytest.approx(1)
    assert class_weights("none", labels, ["a", "b", "c"], KEY) is None


def test_a_class_without_training_images_breaks_nothing():
    found = class_weights("balanced", np.repeat([0, 2], [30, 10]), ["a", "b", "c"], KEY)
    np.testing.assert_allclose(found, [40 / 60, 1, 2])


def test_a_mapping_names_classes_and_the_others_count_1():
    assert class_weights({"dog": 3.0}, np.array([0, 1]), ["cat", "dog"], KEY).tolist() == [1, 3]
    with pytest.raises(
        FrostlineError, match=r"^transfer.class_weight names 'dgo', .* mean 'dog'\?\nValid: cat, dog\.$"
    ):
        class_weights({"dgo": 3.0}, np.array([0, 1]), ["cat", "dog"], KEY)


def make_model(classes, bias=None):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(16, "relu", kernel_initializer=keras.initializers.GlorotUniform(seed=1))(inputs)
    x = keras.layers.Dropout(0.2, seed=1)(x)
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    model = keras.Model(inputs, keras.layers.Dense(units, activation, kernel_initializer="zeros")(x))
    if bias is not None:
        model.layers[-1].bias.assign(bias)
    return model


def unequal(classes):
    """150 training and 50 validation examples, of which few are of the last class."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 6)).astype(np.float16)
    ranks = features[:, 0].argsort().argsort()
    labels = np.digitize(ranks, np.linspace(120, 185, classes - 1)).astype(np.uint8)
    return Examples([features[:150]], labels[:150]), Examples([features[150:]], labels[150:])


def run(model, examples, weights, on_device=False, patience=None, epochs=3, way="balanced", mixup=0, **session):
    options = Phase(
        epochs=epochs,
        learning_rate=0.01,
        schedule="constant",
        patience=patience,
        weight_decay=0,
        label_smoothing=0,
        mixup=mixup,
        batch_size=32,
        class_weight="none" if weights is None else way,
    )
    trainer = trainer_of(model, options, 150, weights=weights)
    return train(trainer, Task("transfer", 1, *examples), options, Session(**session), on_device)


def own_and_reference(classes, weights):
    """Two models of the same values, without dropout: one to train by `weights` here, and one compiled for Keras."""
    own, reference = make_model(classes, first_bias(weights)), make_model(classes)
    for model in (own, reference):
        model.layers[2].rate = 0  # dropout
    kind = "binary" if classes == 2 else "sparse_categorical"
    reference.compile(keras.optimizers.Adam(0.01), f"{kind}_crossentropy")
    return own, reference


def in_batches(order):
    """The rows of an epoch in this order, as `run` takes them batch by batch."""
    return np.concatenate([np.sort(order[start : start + 32]) for start in range(0, 150, 32)])


def assert_same_once_put_right(own, reference, weights):
    bias = reference.layers[-1].bias
    bias.assign(bias + first_bias(weights))
    for left, right in zip(own.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize("classes", [2, 3])
def test_training_is_that_of_keras_with_its_last_bias_put_right(classes):
    """Two epochs of Keras' own `fit` with these weights, then its bias minus ln w, give the same probabilities."""
    examples = unequal(classes)
    weights = class_weights("balanced", examples[0].labels, range(classes), KEY)
    own, reference = own_and_reference(classes, weights)
    run(own, examples, weights, epochs=2)
    for epoch in (1, 2):
        order = generator(1, "shuffle", "transfer", epoch).permutation(150)
        rows = in_batches(order)
        inputs, targets = examples[0].batch(rows)
        reference.fit(
            inputs, targets, batch_size=32, shuffle=False, verbose=0, class_weight=dict(enumerate(weights.tolist()))
        )
    assert_same_once_put_right(own, reference, weights)


@pytest.mark.long
@pytest.mark.parametrize("way", ["balanced", "balanced_sampling"])
def test_figures_of_epochs_are_of_probabilities_put_right_and_count_each_image_once(way):
    training, validation = unequal(2)
    model, weights = make_model(2), class_weights(way, training.labels, "ab", KEY)
    history = run(model, (training, validation), weights, epochs=40, way=way)
    said = predictor(model)(validation.features)
    assert history[-1]["validation/loss"] == pytest.approx(np.mean(log_losses(validation.labels, said)))
    said = predictor(model)(training.features)
    assert history[-1]["train/loss"] == pytest.approx(np.mean(log_losses(training.labels, said)), rel=0.5)
    assert history[-1]["train/accuracy"] == pytest.approx(np.mean((said[:, 1] > 0.5) == training.labels), abs=0.1)
    assert said[:, 1].mean() == pytest.approx(np.mean(training.labels), abs=0.03)  # and not 0.5


@pytest.mark.long
@pytest.mark.parametrize("classes", [2, 3])
def test_each_image_of_a_mixture_counts_by_its_own_class(classes):
    """As Keras' own training on both targets of each mixture, by share and weight, with its last bias put right."""
    examples = unequal(classes)
    weights = class_weights("balanced", examples[0].labels, range(classes), KEY)
    own, reference = own_and_reference(classes, weights)
    run(own, examples, weights, epochs=1, mixup=0.3)
    order = generator(1, "shuffle", "transfer", 1).permutation(150)
    rows = in_batches(order)
    partners = draw_partners(order, 0.3, generator(1, "mixup", "transfer", 1))
    (features,), labels, shares = examples[0].features, examples[0].labels, partners.shares[:, None]
    both = np.stack([rows, partners.rows], axis=1)
    counts = 2 * weights[labels[both]] * np.concatenate([shares, 1 - shares], axis=1)
    reference.fit(
        np.repeat(shares * features[rows] + (1 - shares) * features[partners.rows], 2, axis=0),
        labels[both].reshape(-1, 1).astype(np.float32),
        sample_weight=counts.ravel(),
        batch_size=64,
        shuffle=False,
        verbose=0,
    )
    assert_same_once_put_right(own, reference, weights)


def test_weights_of_1_change_nothing():
    examples = unequal(2)
    plain, ones = make_model(2), make_model(2)
    run(plain, examples, None)
    run(ones, examples, np.ones(2, np.float32))
    for left, right in zip(plain.get_weights(), ones.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("way", [pytest.param("balanced", marks=pytest.mark.long), "balanced_sampling"])
@pytest.mark.parametrize("on_device", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, on_device, way):
    examples = unequal(2)
    weights = class_weights(way, examples[0].labels, "ab", KEY)
    whole, killed, resumed = (make_model(2, first_bias(weights)) for _ in range(3))
    history = run(whole, examples, weights, on_device, patience=2, way=way)

    def kill(epoch):
        if epoch["epoch"] == 2:
            raise KilledError

    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KilledError):
        run(killed, examples, weights, on_device, patience=2, way=way, checkpoint=checkpoint, on_epoch=kill)
    assert run(resumed, examples, weights, on_device, patience=2, way=way, checkpoint=checkpoint) == history
    for left, right in zip(whole.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(left, right)


def test_an_image_of_which_the_model_is_wrongly_certain_is_still_learned_from():
    """P is 1 in float32 from a logit of 17 on."""
    model, none = make_model(2, bias=[30.0]), np.zeros((4, 6), np.float16)
    wrong = Examples([none], np.zeros(4, np.uint8))
    run(model, (wrong, wrong), np.array([1, 20], np.float32), epochs=1)
    assert model.layers[-1].bias.numpy() < 30


def test_weighted_losses_by_hand():
    probabilities = np.array([[0.9], [0.2]], np.float32)
    weights, targets = np.array([0.5, 4], np.float32), np.array([[1], [0]], np.float32)
    shifted = 4 * probabilities / (4 * probabilities + 0.5 * (1 - probabilities))
    expected = -4 * np.log(shifted[0, 0]) - 0.5 * np.log(1 - shifted[1, 0])
    found, own = weighted(-np.log(np.array([0.9, 0.8], np.float32)), targets, tf.constant(probabilities), weights)
    assert float(tf.reduce_sum(own * found)) == pytest.approx(expected, rel=1e-5)
    assert own.numpy().tolist() == [4, 0.5]


def test_smoothed_labels_are_a_mean_of_weighted_losses_over_all_classes():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], np.float32)
    weights, targets = np.array([0.5, 1, 4], np.float32), np.array([[1], [2]], np.float32)
    shifted = weights * probabilities / (weights * probabilities).sum(axis=1, keepdims=True)
    labels = 0.7 * np.eye(3)[[1, 2]] + 0.1
    losses = cross_entropy_of(3, 0.3)(tf.constant(targets), tf.constant(probabilities))
    found, _ = weighted(losses, targets, tf.constant(probabilities), weights, smoothing=0.3)
    np.testing.assert_allclose(found, -(labels * np.log(shifted)).sum(axis=1), rtol=1e-5)


def test_drawn_has_as_many_of_each_class_and_of_all_as_there_are():
    labels = np.repeat([0, 1, 3], [80, 15, 6])
    order = np.random.default_rng(0).permutation(101)
    rows = drawn(order, labels, np.random.default_rng(1))
    assert np.bincount(labels[rows]).tolist() == [34, 34, 0, 33]
    times = np.bincount(rows, minlength=101)
    assert times[:80].max() == 1 and set(times[80:95]) == {2, 3} and set(times[95:]) == {5, 6}
    weights = class_weights("balanced_sampling", labels, "abcd", KEY)
    np.testing.assert_allclose(np.mean(1 / weights[labels[rows]]), 1, rtol=1e-6)
    np.testing.assert_allclose(weights, [34 / 80, 34 / 15, 1, 33 / 6], rtol=1e-6)
