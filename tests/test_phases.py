"""The two phases on a real (untrained) InceptionV3: cached training equals training from pixels."""

import contextlib
import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from frostline.config.load import compose_conf
from frostline.features import extract
from frostline.metrics.log_loss import score
from frostline.models import backbone, frost_line
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras, tf
from frostline.stages._phase import _trained
from frostline.training import checkpoints, phases
from frostline.training.loop import BatchTooLargeError, Examples, Session, Task, train, trainer_of
from small import SIZE
from tracked import tracked_conf

pytestmark = pytest.mark.slow


def composed(*more):
    return compose_conf(
        [
            f"preprocess.image_size={SIZE}",
            "model.dense_units=16",
            "finetune.learning_rate=1e-4",
            "transfer.batch_size=16",
            "precision=float32",
            *more,
        ],
        tracked_conf(),
    )


@pytest.fixture
def settings():
    return composed()


class Trained:
    """What a phase left, for several tests: building and tracing a network takes most of a phase's time here."""

    def __init__(self, model, history):
        self.model, self.history = model, history
        self.layers = weights_by_layer(model)
        self._values = [np.array(variable) for variable in model.variables]

    def restored(self):
        """The model, whatever was done with it since."""
        for variable, value in zip(self.model.variables, self._values, strict=True):
            variable.assign(value)
        return self.model


def weights_by_layer(model):
    return {layer.name: [np.array(weight) for weight in layer.get_weights()] for layer in model.layers}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the features that the two phases below have computed."""
    return tmp_path_factory.mktemp("phases")


@pytest.fixture(scope="module")
def transferred(prepared, weights, folder):
    with contextlib.chdir(folder):
        model = phases.build_classifier(prepared, weights, composed())
        return Trained(model, phases.transfer(model, prepared, composed()))


@pytest.fixture(scope="module")
def finetuned(transferred, prepared, folder):
    model = transferred.restored()
    with contextlib.chdir(folder):
        return Trained(model, phases.finetune(model, prepared, composed()))


def from_pixels(model, data, split):
    return Examples([data.images(split)], data.labels(split))


@pytest.mark.long
def test_both_phases_from_cached_features_equal_training_from_pixels(
    settings, prepared, weights, transferred, finetuned, folder, monkeypatch
):
    first, second = transferred.history, finetuned.history
    base = backbone.build_backbone(SIZE, weights)
    plain = phases.add_head(base, "mixed7", dense_units=16, dropout=0.2, seed=phases.derive_seed(settings.seed, "head"))
    pixels = [from_pixels(plain, prepared, split) for split in ("train", "validation")]
    frost_line.freeze(plain, base)
    count = len(prepared.names("train"))
    trainer = trainer_of(plain, settings.transfer, count)
    expected_first = train(trainer, Task("transfer", settings.seed, *pixels), settings.transfer)
    frost_line.thaw(plain, "mixed6")
    trainer = trainer_of(plain, settings.finetune, count)
    expected_second = train(trainer, Task("finetune", settings.seed, *pixels), settings.finetune)

    # Features are stored as float16: that may decide one image whose probability is near 0.5 the other way.
    one_image = {f"{split}/accuracy": 1.01 / len(prepared.labels(split)) for split in ("train", "validation")}
    for got, expected in zip(first + second, expected_first + expected_second, strict=True):
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=0.02, abs=one_image.get(name, 0.005)), name
    for history in (first, second):
        for before, after in pairwise(history):
            assert after["train/loss"] <= before["train/loss"] * 1.2
    # The saved, whole model gives what its trained part gave.
    model = finetuned.restored()
    monkeypatch.chdir(folder)
    probabilities = phases.predictor_of(model, settings)(prepared, "test")
    whole = model(prepared.images("test").astype(np.float32)).numpy()[:, 0]
    np.testing.assert_allclose(probabilities[:, 1], whole, atol=2e-3)
    assert score(prepared.labels("test"), probabilities)[0] < 1.5


@pytest.mark.long
def test_bfloat16_trains_float32_weights_to_about_the_same_figures(settings, prepared, weights, transferred, finetuned):
    settings = dataclasses.replace(settings, precision="bfloat16")
    model = phases.build_classifier(prepared, weights, settings)
    first = phases.transfer(model, prepared, settings)
    second = phases.finetune(model, prepared, settings)
    for each in (model, finetuned.model):
        assert {weight.dtype for weight in each.weights} == {"float32"}
        assert {layer.compute_dtype for layer in each.layers} == {"float32"}  # as it will be saved
    expected = [epoch["validation/loss"] for epoch in transferred.history + finetuned.history]
    losses = [epoch["validation/loss"] for epoch in first + second]
    assert losses != expected
    np.testing.assert_allclose(losses, expected, rtol=0.1)


def changed_layers(before, layers):
    """Names of the layers whose weights are not what they were."""
    pairs = {name: zip(before.layers[name], weights, strict=True) for name, weights in layers.items()}
    return {name for name in pairs if not all(np.array_equal(left, right) for left, right in pairs[name])}


def test_finetune_leaves_what_lies_below_the_frost_line(transferred, finetuned):
    changed = changed_layers(transferred, finetuned.layers)
    layers = finetuned.model.layers
    line = [layer.name for layer in layers].index("mixed6")
    for position, layer in enumerate(layers):
        same = layer.name not in changed
        if position <= line:
            assert same, f"{layer.name} is frozen"
        elif isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            assert not same, f"{layer.name} did not learn"


def test_frozen_batch_norm_keeps_its_weights_and_statistics(
    settings, prepared, transferred, finetuned, folder, monkeypatch
):
    model = transferred.restored()
    assert settings.finetune.batch_norm == "train"
    changed = {"train": changed_layers(transferred, finetuned.layers)}
    settings.finetune.batch_norm = "frozen"
    monkeypatch.chdir(folder)
    phases.finetune(model, prepared, settings)
    changed["frozen"] = changed_layers(transferred, weights_by_layer(model))
    norms = {layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)}
    thawed = changed["train"] & norms
    assert len(thawed) == 10, "mixed7 ends ten convolutions, each with its batch norm"
    assert changed["frozen"] == changed["train"] - thawed


@pytest.mark.long
def test_weights_of_classes_are_checked_before_training_and_begin_in_the_heads_bias(settings, prepared, weights):
    count = np.bincount(prepared.labels("train"))
    for phase in ("transfer", "finetune"):
        wrong = composed(f"{phase}.class_weight={{dgo: 2}}")
        with pytest.raises(
            FrostlineError, match=rf"^{phase}.class_weight names 'dgo', which is no class. Did you mean 'dog'"
        ):
            phases.build_classifier(prepared, weights, wrong)
    model = phases.build_classifier(prepared, weights, composed("transfer.class_weight={dog: 20}"))
    assert model.layers[-1].bias.numpy() == pytest.approx([-np.log(20)])
    phases.renew_head(model, prepared, composed("transfer.class_weight=balanced"))
    assert model.layers[-1].bias.numpy() == pytest.approx([np.log(count[1] / count[0])], abs=1e-6)
    phases.renew_head(model, prepared, settings)
    assert model.layers[-1].bias.numpy() == 0


@pytest.mark.long
def test_flip_trains_on_both_views_from_the_cache(settings, prepared, weights, transferred, monkeypatch):
    computed = []
    compute = extract._compute

    def count(model, images, *rest):
        computed.append(len(images))
        compute(model, images, *rest)

    monkeypatch.setattr(extract, "_compute", count)
    settings = dataclasses.replace(settings, augment="flip")
    model = phases.build_classifier(prepared, weights, settings)
    first = phases.transfer(model, prepared, settings)
    phases.finetune(model, prepared, settings)
    rows = {split: len(prepared.labels(split)) for split in ("train", "validation")}
    assert sorted(computed) == sorted([rows["validation"], rows["train"], rows["train"]])
    assert first[0]["train/loss"] != transferred.history[0]["train/loss"]


def test_a_checkpoint_is_named_by_what_the_phase_depends_on_and_nothing_else(settings, prepared, monkeypatch):
    def name(phase="transfer", start="a", **changed):
        return phases.checkpoint_path(phase, dataclasses.replace(settings, **changed), prepared, start)

    for same in (
        name(workers="ray", feature_cache_gib=1.0, checkpoint_every=5.0),
        name(finetune=dataclasses.replace(settings.finetune, epochs=9)),
        name(model=dataclasses.replace(settings.model, image_size=299)),
    ):
        assert same == name()
    others = [
        name("finetune"),
        name(start="b"),
        name(seed=1),
        name(fold=1),
        name(train_share=0.5),
        name(deterministic=False),
        name(model=dataclasses.replace(settings.model, dropout=0.5)),
        name(transfer=dataclasses.replace(settings.transfer, epochs=9)),
    ]
    before = name()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"as if this were a {kind}"])
    others.append(name())
    assert len({before, *others}) == len(others) + 1


def test_mirrored_rows_are_taken_from_the_mirrored_features():
    own, other = np.zeros((4, 2), np.float16), np.ones((4, 2), np.float16)
    examples = Examples([own], np.zeros(4), mirrored=[other])
    inputs, _ = examples.batch(np.array([0, 2, 3]), mirror=np.array([False, True, False]))
    assert inputs.numpy().tolist() == [[0, 0], [1, 1], [0, 0]]
    assert own.sum() == 0


@pytest.mark.long
def test_full_augmentation_learns_without_touching_frozen_layers(settings, prepared, weights):
    settings = dataclasses.replace(settings, augment="full")
    settings.model.cut_layer = "mixed1"  # a third of the layers to trace
    model = phases.build_classifier(prepared, weights, settings)
    first = phases.transfer(model, prepared, settings)
    before = model.get_layer("conv2d_3").kernel.numpy(), model.get_layer("batch_normalization_3").moving_mean.numpy()
    phases.finetune(model, prepared, settings)
    np.testing.assert_array_equal(model.get_layer("conv2d_3").kernel, before[0])
    np.testing.assert_array_equal(model.get_layer("batch_normalization_3").moving_mean, before[1])
    anew = phases.build_classifier(prepared, weights, settings)
    again = phases.transfer(anew, prepared, settings)
    assert again == first


def trained_by(settings, prepared, weights):
    """All that both phases leave, and what settings that say auto were found to be."""
    told = {}
    model = phases.build_classifier(prepared, weights, settings)
    for phase in (phases.transfer, phases.finetune):
        session = Session(on_found=lambda what, phase=phase: told.update({phase.__name__: what}))
        history = phase(model, prepared, settings, session)
    return [np.array(variable) for variable in model.variables], history, told


def with_numbers(settings, told):
    """`settings` with what was found in place of auto."""
    by_phase = {phase: dataclasses.replace(getattr(settings, phase), **what.numbers()) for phase, what in told.items()}
    return dataclasses.replace(settings, **by_phase)


AUTO = ("transfer.learning_rate=auto", "transfer.batch_size=auto", "finetune.batch_size=auto")


@pytest.mark.long
@pytest.mark.usefixtures("any_fall")
@pytest.mark.parametrize(
    "more",
    [
        ("finetune.schedule=warmup_cosine", "augment=flip", "finetune.mixup=0.3", "transfer.class_weight=balanced"),
        ("model.cut_layer=mixed1", "augment=full", "transfer.schedule=cosine", "finetune.patience=3"),
        ("model.cut_layer=mixed1", "feeding=device", "finetune.batch_norm=frozen"),
    ],
)
def test_auto_trains_to_the_bytes_of_the_numbers_that_it_finds(prepared, weights, folder, monkeypatch, more):
    monkeypatch.chdir(folder)
    settings = composed(*AUTO, *more)
    values, history, told = trained_by(settings, prepared, weights)
    assert {name: set(what.numbers()) for name, what in told.items()} == {
        "transfer": {"learning_rate", "batch_size"},
        "finetune": {"batch_size"},
    }
    assert 1e-6 <= told["transfer"].learning_rate <= 1
    numbers = with_numbers(settings, told)
    assert numbers.transfer.batch_size == numbers.finetune.batch_size == 8
    expected, expected_history, nothing = trained_by(numbers, prepared, weights)
    assert {name: what.as_json() for name, what in nothing.items()} == {"transfer": {}, "finetune": {}}
    assert history == expected_history
    for left, right in zip(values, expected, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.long
def test_a_batch_in_parts_is_trained_at_the_rate_that_was_found_before(prepared, weights, folder, monkeypatch):
    monkeypatch.chdir(folder)
    settings = composed("model.cut_layer=mixed1", "transfer.epochs=1", *AUTO)
    tests, told, train_whole, test_range = [], [], phases.loop.train, phases.rate_test.range_test

    def train_in_parts(trainer, task, options, session, on_device):
        if session.parts < 4:
            raise BatchTooLargeError(task.phase, options.batch_size)
        return train_whole(trainer, task, options, session, on_device=on_device)

    def counted(*arguments):
        tests.append(arguments)
        return test_range(*arguments)

    monkeypatch.setattr(phases.loop, "train", train_in_parts)
    monkeypatch.setattr(phases.rate_test, "range_test", counted)
    checkpoint = phases.checkpoint_path("transfer", settings, prepared, "of parts")

    def build():
        return phases.build_classifier(prepared, weights, settings)

    session = Session(checkpoint=checkpoint, on_found=told.append)
    _trained("transfer", settings, build, prepared, phases.transfer, session)
    assert len(tests) == len(told) == 1
    assert told[0].learning_rate
    left = {path.name.removeprefix(checkpoint.stem) for path in checkpoint.parent.glob(f"{checkpoint.stem}*")}
    assert left == {".rates.json", "-in-4-parts.npy"}
    checkpoints.delete(checkpoint)
    assert not list(checkpoint.parent.glob("transfer-*"))


@pytest.mark.long
def test_a_killed_phase_goes_on_with_the_rate_that_it_found(prepared, weights, folder, monkeypatch):
    monkeypatch.chdir(folder)
    settings = composed("model.cut_layer=mixed1", *AUTO)
    values, _, told = trained_by(settings, prepared, weights)
    model = phases.build_classifier(prepared, weights, settings)
    checkpoint = phases.checkpoint_path("transfer", settings, prepared, "start")

    def stop(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phases.transfer(model, prepared, settings, Session(stop, checkpoint))
    assert checkpoint.is_file()
    monkeypatch.setattr(phases.rate_test, "range_test", None)  # it is not called again
    model, again = phases.build_classifier(prepared, weights, settings), {}
    session = Session(checkpoint=checkpoint, on_found=lambda what: again.update(transfer=what))
    phases.transfer(model, prepared, settings, session)
    assert again["transfer"] == told["transfer"]
    checkpoints.delete(checkpoint)
    assert not list(checkpoint.parent.glob("transfer-*"))
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    phases.finetune(model, prepared, settings)
    for variable, right in zip(model.variables, values, strict=True):
        np.testing.assert_array_equal(np.array(variable), right)
