"""`frostline export`: a trained model in another format, checked against itself on images."""

import json
import math
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from frostline.common.files import replacing, write_text, zip_entry
from frostline.common.fit_names import Fit
from frostline.config.paths import PROCESSED
from frostline.data.dataset import load_dataset
from frostline.data.images import UnreadableImageError, read_image
from frostline.metrics.log_loss import CLIP
from frostline.metrics.temperature import with_temperature
from frostline.models.inference import by_class
from frostline.models.saving import Metadata
from frostline.runtime.errors import FrostlineError, check_installed
from frostline.runtime.quiet_tensorflow import keras, tf
from frostline.runtime.stderr import silent_stderr
from frostline.serving.model_card import Origin, is_card, model_card

TOLERANCE = 1e-4
"""The largest difference in a probability that is taken for rounding: float32 over some hundred layers gives 1e-6."""
_BATCH, _CHECKED = 32, 64
_METADATA_FILE = "frostline.json"
_EXTRA = "assets.extra"  # TensorFlow's name for files of one's own
_SAVED_MODEL = (
    *("saved_model.pb", "fingerprint.pb", "assets", "variables", "variables/variables.*"),
    *(_EXTRA, f"{_EXTRA}/{_METADATA_FILE}"),
)

Predict = Callable[[np.ndarray], np.ndarray]
"""Images (N, size, size, 3) float32 → the model's output."""


@dataclass(frozen=True)
class Format:
    suffix: str
    needs: tuple[str, ...]
    """Packages that only this format needs: the extra of its name installs them."""
    write: Callable[[keras.Model, Mapping[str, Any], Path], None]
    """Of a model, and what is to be told with it (`facts_of`)."""
    read: Callable[[Path], Predict]


def export(
    model: keras.Model,
    metadata: Metadata,
    name: str,
    path: Path,
    images: np.ndarray,
    origin: Origin = Origin(),  # noqa: B008 - it cannot be changed
) -> float:
    """Write `model` to `path` in the format `name`, whole or not at all, and return how far it is from the original.

    The exported model takes RGB from 0 to 255 as (N, size, size, 3) float32, as the original does, and gives
    probabilities, calibrated: the temperature of `metadata` is part of its graph. It carries `facts_of` these: ONNX in
    its metadata_props (each value as JSON), TFLite in frostline.json of the zip archive at its end, where that format
    keeps files, SavedModel in assets.extra/frostline.json. The model card is among them, and lies beside `path`, too,
    with .md behind the name.

    Args:
        model: images → probabilities.
        metadata: what the model's file says of its classes and of how it is used.
        name: one of FORMATS.
        path: the file to write; for "saved_model" a folder.
        images: to check the exported model on, (N, size, size, 3) uint8.
        origin: where the model comes from, for its card.

    Returns:
        The largest absolute difference between the exported model's outputs for `images` and the calibrated ones of
        the original.

    Raises:
        FrostlineError: that difference is above TOLERANCE, packages are not installed, `path` ends as another format
            does or in .keras, or is a folder with something else in it, or what lies in the card's place is no card.
    """
    form = FORMATS[name]
    others = [other for other, one in FORMATS.items() if one.suffix and one.suffix == path.suffix.lower()]
    if path.suffix.lower() == ".keras":
        raise FrostlineError(f"{path} is called as a model that is exported, and may be one.\nGive another --output.")
    if others and name not in others:
        raise FrostlineError(
            f"{path} is called as what --to {others[0]} writes, and --to is {name}.\nChange one of them."
        )
    if path.is_dir() and not (name == "saved_model" and _is_export(path)):
        raise FrostlineError(
            f"{path} is a folder that would have to be deleted.\n--output names what is to be written."
        )
    beside = card_beside(path)
    if beside.exists() and not is_card(beside):
        raise FrostlineError(
            f"{beside} is no model card of Frostline's, and one would have to replace it.\n"
            "Move it, or give another --output."
        )
    check_installed(f"--to {name}", "export", *form.needs)
    card = model_card(metadata, model.input_shape[1], origin, name, path.name)
    with replacing(path) as temporary, warnings.catch_warnings(), silent_stderr():
        warnings.simplefilter("ignore")  # of tf2onnx about NumPy, of TensorFlow about LiteRT to come
        form.write(model, facts_of(metadata, card), temporary)
        difference = largest_difference(model, metadata.temperature, form.read(temporary), images)
        if not difference <= TOLERANCE:  # NaN, too
            raise FrostlineError(
                f"{path} would differ from the model by up to {difference:.1e} (allowed: {TOLERANCE:.0e}).\n"
                "Nothing was written."
            )
    write_text(beside, card)
    return difference


def _is_export(folder: Path) -> bool:
    """Whether `folder` is what `_write_saved_model` writes, and nothing else is in it that would be deleted."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    ours = (name for name in found if any(fnmatchcase(name, pattern) for pattern in _SAVED_MODEL))
    return f"{_EXTRA}/{_METADATA_FILE}" in found and list(ours) == found


def card_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.md")


def default_path(model_path: Path, name: str) -> Path:
    return Path("exports") / f"{model_path.stem}{FORMATS[name].suffix}"


def check_images(files: Sequence[Path], size: int, fit: Fit) -> np.ndarray:
    """Return images to check an exported model on, (N, size, size, 3) uint8.

    Args:
        files: image files; where there are none, the first test images of the last `dvc repro` are taken.
        size: side of the images that the model takes, in pixels.
        fit: how pictures become such images.

    Raises:
        FrostlineError: a file cannot be read, or there are no test images of this size.
    """
    if files:
        return np.stack([_read(path, size, fit) for path in files])
    try:
        images = load_dataset(PROCESSED).images("test")[:_CHECKED]
    except FrostlineError as error:
        advice = "Name some images, or run `dvc repro preprocess`."
        raise FrostlineError(f"{PROCESSED} has no test images to check on.\n{advice}") from error
    if images.shape[1:] != (size, size, 3):
        raise FrostlineError(f"{PROCESSED} has images of another size than the model takes.\nName some images.")
    return np.asarray(images)


def _read(path: Path, size: int, fit: Fit) -> np.ndarray:
    try:
        return read_image(path, size, fit)
    except UnreadableImageError as error:
        raise FrostlineError(f"{path} cannot be read: {error}.") from error


def largest_difference(model: keras.Model, temperature: float, exported: Predict, images: np.ndarray) -> float:
    """The largest absolute difference between what is `exported` and `model` with `temperature`, as predict, serve and
    the report calibrate it, for `images`, (N, size, size, 3) uint8.

    These calibrate a sigmoid's output, which float32 rounds: by less than 1e-5, once calibrated, for logits up to 8, by
    up to 3e-3 for those around 16 that are divided by 10. What an export gives and is compared with has no such error.
    """
    logit_of, largest = _logit(model), 0.0
    for start in range(0, len(images), _BATCH):
        batch = np.asarray(images[start : start + _BATCH], np.float32)
        if logit_of is None or temperature == 1:
            output = model(batch, training=False).numpy().astype(np.float64)
        else:
            output = 1 / (1 + np.exp(-logit_of(batch).numpy().astype(np.float64)))
        expected = with_temperature(by_class(output), temperature)
        given = exported(batch)
        difference = np.abs(given - expected[:, -given.shape[1] :]).max()  # of two classes, the second alone is given
        largest = float(np.maximum(largest, difference))  # NaN stays
    return largest


def _forward(model: keras.Model, temperature: float) -> tf.Module:
    """`model` in inference mode, calibrated, as a function, `serve`, of one tensor, with its weights."""
    (taken,) = model.inputs
    signature = [tf.TensorSpec(taken.shape, tf.float32, "images")]
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    module.serve = tf.function(_calibrated(model, temperature), input_signature=signature)
    return module


def _calibrated(model: keras.Model, temperature: float) -> Callable[[tf.Tensor], tf.Tensor]:
    """Images → what `with_temperature` makes of the model's output: P(second), (N, 1), or P of each of more classes."""
    logit_of = _logit(model)
    if temperature == 1:
        return lambda images: model(images, training=False)
    if logit_of is not None:
        return lambda images: tf.sigmoid(logit_of(images) / temperature)

    def calibrated(images: tf.Tensor) -> tf.Tensor:
        output = model(images, training=False)
        units = output.shape[1]
        whole = tf.concat([1 - output, output], axis=1) if units == 1 else output
        return tf.nn.softmax(tf.math.log(tf.clip_by_value(whole, CLIP, 1)) / temperature)[:, -units:]

    return calibrated


def _logit(model: keras.Model) -> Callable[[Any], tf.Tensor] | None:
    """Images → what goes into the sigmoid of two classes, (N, 1), as far from 0 as CLIP lets it be.

    A high temperature would show how float32 rounds what comes out of it near 1. None for a model that does not end in
    one, as `add_head` makes it.
    """
    last, most = model.layers[-1], math.log((1 - CLIP) / CLIP)
    if not (isinstance(last, keras.layers.Dense) and last.activation is keras.activations.sigmoid and last.use_bias):
        return None
    before = keras.Model(model.input, last.input)
    return lambda images: tf.clip_by_value(before(images, training=False) @ last.kernel + last.bias, -most, most)


def facts_of(metadata: Metadata, card: str) -> dict[str, Any]:
    """What an exported model says of itself: classes, threshold, the temperature that its outputs have already, how
    pictures become the images that it takes, and its model card."""
    return {
        "classes": metadata.classes,
        "threshold": metadata.threshold,
        "applied_temperature": metadata.temperature,
        "fit": metadata.fit,
        "model_card": card,
    }


def _json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=False)


def _write_saved_model(model: keras.Model, facts: Mapping[str, Any], path: Path) -> None:
    """What Keras' own `export` writes has all weights twice."""
    module = _forward(model, facts["applied_temperature"])
    tf.saved_model.save(module, str(path), signatures=module.serve)
    extra = path / _EXTRA
    extra.mkdir()
    (extra / _METADATA_FILE).write_text(_json(facts), encoding="utf-8")


def _read_saved_model(path: Path) -> Predict:
    loaded = tf.saved_model.load(str(path))
    return lambda images: np.asarray(loaded.serve(images))


def _write_tflite(model: keras.Model, facts: Mapping[str, Any], path: Path) -> None:
    """With TFLite's own operations only, which every runtime has; what Keras' own `export` writes may need others."""
    module = _forward(model, facts["applied_temperature"])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    path.write_bytes(converter.convert())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zip_entry(_METADATA_FILE), _json(facts))


def _read_tflite(path: Path) -> Predict:
    runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    (taken,), (given,) = runner.get_input_details(), runner.get_output_details()
    return lambda images: np.asarray(runner(**{taken: images})[given])


def _write_onnx(model: keras.Model, facts: Mapping[str, Any], path: Path) -> None:
    """As tf2onnx does it for models above 2 GB: the other way, that of Keras' own `export`, takes twice the memory."""
    import onnx
    import tf2onnx

    if not hasattr(np, "product"):  # tf2onnx 1.17 calls it, and NumPy 2 no longer has it
        np.product = np.prod  # type: ignore[attr-defined]
    function = _forward(model, facts["applied_temperature"]).serve
    tf.config.run_functions_eagerly(True)  # else Keras' grouped convolutions stay functions, which ONNX cannot hold
    try:
        written, weights = tf2onnx.convert.from_function(
            function, function.input_signature, custom_op_handlers={"Erfc": (_erfc, [])}, large_model=True
        )
    finally:
        tf.config.run_functions_eagerly(False)
    for tensor in written.graph.initializer:
        for entry in tensor.external_data:  # one entry: the name of the file that would hold the values
            tensor.raw_data = weights.name_to_tensor_data[entry.value]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    # tf2onnx makes inputs of tensors that layers hold beside their weights (a mean to subtract): give them values
    held = {inner.name: outer for outer, inner in function.get_concrete_function().graph.captures}
    for tensor in written.graph.input[1:]:
        written.graph.initializer.append(onnx.numpy_helper.from_array(held[tensor.name].numpy(), tensor.name))
    del written.graph.input[1:]
    for key, value in facts.items():
        written.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    onnx.save(written, path)


def _erfc(graph: Any, node: Any, name: str, arguments: Sequence[Any]) -> None:
    """1 − erf, for what tf2onnx does not know and exact GELU has."""
    erf = graph.make_node("Erf", node.input)
    one = graph.make_const(f"{name}_one", np.float32(1))
    graph.remove_node(name)
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=node.output, name=name)


def _read_onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    return lambda images: np.asarray(session.run(None, {taken.name: images})[0])


FORMATS = {
    "onnx": Format(".onnx", ("tf2onnx", "onnx", "onnxruntime"), _write_onnx, _read_onnx),
    "tflite": Format(".tflite", (), _write_tflite, _read_tflite),
    "saved_model": Format("", (), _write_saved_model, _read_saved_model),
}
