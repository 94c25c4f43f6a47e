"""Each format written and read for real; ONNX where its packages are installed."""

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frostline.data.images import decode_image
from frostline.models.saving import Metadata, load_model, load_trained, save_for_use, save_model
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras, tf
from frostline.serving import export as exporting
from frostline.serving.classifier import load_classifier
from frostline.serving.export import FORMATS, TOLERANCE, check_images, default_path, export
from served import CLASSES, SIZE, ball, field, write_model

pytestmark = pytest.mark.slow

INSTALLED = [
    pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}"))
    for name, form in FORMATS.items()
    for missing in [[package for package in form.needs if importlib.util.find_spec(package) is None]]
]


METADATA = Metadata(list(CLASSES), 0.3)


def model_of(folder, classes=CLASSES):
    write_model(folder / "model.keras", classes)
    return load_model(folder / "model.keras")


def images():
    return np.stack([decode_image(content, SIZE) for content in (ball(), field(), ball("PNG"))])


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("classes", [CLASSES, ("a", "b", "ball")])
def test_the_exported_model_answers_what_the_original_does(tmp_path, name, classes):
    model, path = model_of(tmp_path, classes), tmp_path / "new" / f"model{FORMATS[name].suffix}"
    assert export(model, METADATA, name, path, images()) <= TOLERANCE
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, f"{path.name}.md"]
    batch = np.concatenate([images()] * 3).astype(np.float32)  # more than one at once
    np.testing.assert_allclose(FORMATS[name].read(path)(batch), model(batch), atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("temperature", [pytest.param(0.4, marks=pytest.mark.long), 3.0])
@pytest.mark.parametrize("classes", [CLASSES, ("a", "b", "ball")])
def test_what_it_gives_is_calibrated(tmp_path, name, temperature, classes):
    write_model(tmp_path / "raw.keras", classes)
    use = tmp_path / "model.keras"
    save_for_use(tmp_path / "raw.keras", use, threshold=0.5 if len(classes) == 2 else None, temperature=temperature)
    path = tmp_path / f"model{FORMATS[name].suffix}"
    assert export(*load_trained(use), name, path, images()) <= TOLERANCE
    given = FORMATS[name].read(path)(images().astype(np.float32))
    expected = load_classifier(use).probabilities(images())
    np.testing.assert_allclose(given, expected[:, -given.shape[1] :], atol=TOLERANCE)
    assert (
        np.abs(given - load_classifier(tmp_path / "raw.keras").probabilities(images())[:, -given.shape[1] :]).max()
        > 0.001
    )


def sure_model(path, highest):
    """Write a model of two classes that is right and far too sure: its logits go up to `highest`."""
    write_model(path)
    model = load_model(path)
    scores, bias = model.layers[-1].get_weights()
    logits = keras.Model(model.input, model.layers[-2].output)(images().astype(np.float32)).numpy() @ scores
    model.layers[-1].set_weights([scores, bias + highest - logits.max()])
    save_model(model, path, CLASSES)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("highest", [pytest.param(8, marks=pytest.mark.long), 16])
def test_a_model_that_is_too_sure_can_be_exported_whatever_its_temperature(tmp_path, name, highest):
    sure_model(tmp_path / "raw.keras", highest)
    path, use = tmp_path / f"model{FORMATS[name].suffix}", tmp_path / "model.keras"
    for temperature in (0.05, 2.5, 20):
        save_for_use(tmp_path / "raw.keras", use, threshold=0.5, temperature=temperature)
        assert export(*load_trained(use), name, path, images()) <= TOLERANCE
        given = FORMATS[name].read(path)(images().astype(np.float32))
        rounded = TOLERANCE if highest < 12 else 3e-3  # what predict makes of a sigmoid near 1
        np.testing.assert_allclose(given, load_classifier(use).probabilities(images())[:, 1:], atol=rounded)


def test_two_classes_without_a_sigmoid_of_ours_are_calibrated_too(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 3), name="images")
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Activation("sigmoid")(keras.layers.Dense(1)(mean)))
    path = tmp_path / "model"
    assert export(model, Metadata(list(CLASSES), 0.5, 3.0), "saved_model", path, images()) <= TOLERANCE


@pytest.mark.parametrize("name", INSTALLED)
def test_layers_that_the_backbones_have(tmp_path, name):
    """A mean to subtract, grouped convolutions and GELU: each needs help on its way to ONNX."""
    inputs = keras.Input((SIZE, SIZE, 3), name="images")
    x = keras.layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[3000.0, 2000.0, 1000.0])(inputs)
    x = keras.layers.Conv2D(6, 3, groups=3, strides=2, activation="gelu")(x)
    x = keras.layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Activation("hard_silu")(x))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    assert export(model, METADATA, name, tmp_path / f"model{FORMATS[name].suffix}", images()) <= TOLERANCE
    assert not tf.config.functions_run_eagerly()


@pytest.mark.parametrize("name", INSTALLED)
def test_one_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch, name):
    model, form, path = model_of(tmp_path), FORMATS[name], tmp_path / "new" / "model"
    other = keras.models.clone_model(model)
    other.set_weights([1.001 * weights for weights in model.get_weights()])
    writes_other = dataclasses.replace(form, write=lambda _, metadata, place: form.write(other, metadata, place))
    monkeypatch.setitem(exporting.FORMATS, name, writes_other)
    with pytest.raises(FrostlineError, match="would differ") as raised:
        export(model, METADATA, name, path, images())
    assert len(str(raised.value).splitlines()) == 2
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_no_folder_of_yours_is_deleted(tmp_path, name):
    model, folder = model_of(tmp_path), tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("years of work")
    with pytest.raises(FrostlineError, match="would have to be deleted"):
        export(model, METADATA, name, folder, images())
    assert (folder / "chapter.tex").is_file()


@pytest.mark.parametrize("place", ["thesis.tex", "assets/a.tex", "variables/a.tex", "assets.extra/a.tex"])
def test_nor_what_you_keep_in_an_export(tmp_path, place):
    model, folder = model_of(tmp_path), tmp_path / "exported"
    export(model, METADATA, "saved_model", folder, images())
    (folder / place).write_text("years of work")
    with pytest.raises(FrostlineError, match="would have to be deleted") as raised:
        export(model, METADATA, "saved_model", folder, images())
    assert len(str(raised.value).splitlines()) == 2
    assert (folder / place).read_text() == "years of work"


def test_nor_the_saved_model_of_another_program(tmp_path):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "saved_model.pb").write_bytes(b"another's")
    with pytest.raises(FrostlineError, match="would have to be deleted"):
        export(model_of(tmp_path), METADATA, "saved_model", tmp_path / "exported", images())
    assert (tmp_path / "exported" / "saved_model.pb").read_bytes() == b"another's"


def test_words_of_yours_beside_an_export_stay(tmp_path):
    (tmp_path / "model.tflite.md").write_text("# Image classifiers\n\nMy own words.\n")
    with pytest.raises(FrostlineError, match=r"model\.tflite\.md is no model card") as raised:
        export(model_of(tmp_path), METADATA, "tflite", tmp_path / "model.tflite", images())
    assert len(str(raised.value).splitlines()) == 2
    assert "My own words" in (tmp_path / "model.tflite.md").read_text()
    assert not (tmp_path / "model.tflite").exists()


def test_a_name_with_the_ending_of_another_format_is_refused(tmp_path):
    with pytest.raises(FrostlineError, match=r"model\.ONNX is called as what --to onnx writes, and --to is tflite"):
        export(model_of(tmp_path), METADATA, "tflite", tmp_path / "model.ONNX", images())
    assert not list(tmp_path.glob("*.ONNX*"))


@pytest.mark.parametrize("name", FORMATS)
def test_no_export_takes_the_place_of_a_model(tmp_path, name):
    (tmp_path / "classifier.keras").write_bytes(b"model")
    with pytest.raises(FrostlineError, match=r"classifier\.keras is called as a model that is exported"):
        export(model_of(tmp_path), METADATA, name, tmp_path / "classifier.keras", images())
    assert (tmp_path / "classifier.keras").read_bytes() == b"model"


def test_an_export_replaces_an_earlier_one(tmp_path):
    for _ in range(2):
        export(model_of(tmp_path), METADATA, "saved_model", tmp_path / "exported", images())
    assert (tmp_path / "exported" / "saved_model.pb").is_file()


def test_an_answer_that_is_no_number_is_a_difference():
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    gone = exporting.largest_difference(model, 1, lambda batch: np.full((len(batch), 3), np.nan), images())
    assert not gone <= TOLERANCE


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(exporting.FORMATS, "onnx", dataclasses.replace(FORMATS["onnx"], needs=("no_such_package",)))
    with pytest.raises(FrostlineError) as raised:
        export(model_of(tmp_path), METADATA, "onnx", tmp_path / "model.onnx", images())
    first, second = str(raised.value).splitlines()
    assert "no_such_package" in first
    assert "make install-export" in second
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_it_is_checked_on_the_images_that_are_named(tmp_path):
    (tmp_path / "ball.jpg").write_bytes(ball())
    np.testing.assert_array_equal(check_images([tmp_path / "ball.jpg"], SIZE, "squash"), images()[:1])
    (tmp_path / "text.jpg").write_text("text")
    for name, words in (("text.jpg", "not a JPEG"), ("none.jpg", "No such file")):
        with pytest.raises(FrostlineError, match=f"{name} cannot be read: {words}"):
            check_images([tmp_path / name], SIZE, "squash")


@pytest.mark.long
def test_else_on_test_images(tmp_path, prepared):
    with pytest.raises(FrostlineError, match="Name some images"):
        check_images([], SIZE, "squash")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "processed").symlink_to(prepared.folder)
    size = prepared.images("test").shape[1]
    np.testing.assert_array_equal(check_images([], size, "squash"), prepared.images("test"))
    with pytest.raises(FrostlineError, match="another size"):
        check_images([], size + 1, "squash")


@pytest.mark.long
@pytest.mark.parametrize(
    ("threshold", "rule"),
    [
        pytest.param(0.5, "above 0.5, else field.", marks=pytest.mark.long),
        (((0, 1), (3, 0)), "above 0.25, else field. That is where both answers are expected to cost the same."),
    ],
)
def test_the_command_says_how_far_off_it_is(tmp_path, threshold, rule):
    model_of(tmp_path)
    save_for_use(tmp_path / "model.keras", tmp_path / "model.keras", threshold=threshold, temperature=1.0)
    (tmp_path / "ball.jpg").write_bytes(ball())
    command = [sys.executable, "-m", "frostline.cli", "export", "--to", "tflite", "--model", "model.keras", "ball.jpg"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, third, fourth = done.stdout.splitlines()
    assert fourth == "model card: exports/model.tflite.md"
    assert "None are known" in (tmp_path / "exports/model.tflite.md").read_text()
    assert first.startswith("exports/model.tflite: differs from model.keras by at most ")
    assert "on 1 image" in first
    assert second == "takes (N, 32, 32, 3) float32, RGB from 0 to 255; gives P(ball), (N, 1)"
    assert third == f"ball is predicted where its calibrated probability is {rule}"
    assert default_path(Path("model.keras"), "tflite").is_file()
