"""Presets of KerasHub as backbones: their networks taken apart into plain layers, like those of keras.applications.

KerasHub writes a transformer as one layer of layers. Here these are called in its place, as far down as a layer does
nothing else, so that blocks can be found, cut, frozen and thawed. What stays of KerasHub's own (small layers with
weights: a scale, a norm) needs KerasHub wherever such a model is loaded.
"""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np

from frostline.runtime.errors import FrostlineError, brief, check_installed
from frostline.runtime.quiet_tensorflow import keras

HUB = "hub"
"""What `model.backbone` is called for all of them."""
LAST = "features"
"""The name of the highest layer that still has places or tokens, whatever the preset calls it."""
SEEN = "ViT, DINOv2, SigLIP, CLIP, EfficientNet V2 and ResNet"
_RECIPE = "keras_hub"


@dataclass(frozen=True)
class Recipe:
    """What a file of weights says beside them."""

    config: dict[str, Any]
    """KerasHub's of the network, from which Keras builds it."""
    scale: float | list[float] | None
    """By which the preset multiplies images from 0 to 255, one factor or one for each colour; None: by 1."""
    offset: float | list[float] | None
    """What it adds then."""


def keras_hub() -> ModuleType:
    """KerasHub, which is imported only where a model needs it; raises FrostlineError where it is not installed."""
    check_installed("a backbone of KerasHub", HUB, "keras_hub")
    import keras_hub as imported

    return imported  # type: ignore[no-any-return]


def write_weights(path: Path, network: keras.Model, recipe: Recipe) -> None:
    """Write the weights of `network`, KerasHub's own, and `recipe` to `path`, in the layout of .weights.h5."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        weights = Path(folder, "model.weights.h5")
        network.save_weights(weights)
        with h5py.File(weights, "a") as file:
            file.attrs[_RECIPE] = np.void(json.dumps(asdict(recipe)).encode())  # as text, it may have 64 KiB
        weights.replace(path)


def read_recipe(path: Path) -> Recipe:
    """Raises FrostlineError for a file that `write_weights` did not write."""
    with suppress(OSError, KeyError, TypeError, ValueError, AttributeError), h5py.File(path, "r") as file:
        return Recipe(**json.loads(file.attrs[_RECIPE].tobytes()))
    raise FrostlineError(f"{path} holds no preset of KerasHub.\nFetch it: dvc repro fetch-weights")


def own_network(path: Path, image_size: int) -> keras.Model:
    """The network of `path` as KerasHub builds it for images of `image_size` pixels, with its weights.

    Raises FrostlineError where KerasHub is not installed, the file holds no preset, its weights are for another size or
    KerasHub cannot build it.
    """
    keras_hub()
    recipe = read_recipe(path)
    config = json.loads(json.dumps(recipe.config))
    own_size = (config["config"].get("image_shape") or [None])[0]
    if "image_shape" in config["config"]:
        config["config"]["image_shape"] = [image_size, image_size, 3]
    try:
        network = keras.saving.deserialize_keras_object(config)
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, "model.weights.h5")  # Keras knows the layout by the name's end
            link.symlink_to(path.absolute())
            network.load_weights(link)
    except (ValueError, TypeError) as error:
        if own_size and own_size != image_size:
            raise FrostlineError(
                f"preprocess.image_size is {image_size}; this preset is for {own_size} pixels.\n"
                f"Set it: preprocess.image_size={own_size}"
            ) from error
        raise FrostlineError(f"{path}: KerasHub cannot build this preset: {brief(error)}") from error
    return network


def place_in(network: keras.Model, images: Any, recipe: Recipe) -> keras.Model:
    """`network` on `images`, a tensor of images from 0 to 255, in layers that are in a row; see the module's text.

    Sums and products of tensors are no layers yet.
    """
    scaled = images
    if recipe.scale is not None or recipe.offset is not None:
        scale = 1 if recipe.scale is None else recipe.scale
        offset = 0 if recipe.offset is None else recipe.offset
        scaled = keras.layers.Rescaling(scale, offset, name="scale")(images)
    plain = keras.Model(network.inputs, keras.tree.flatten(network.outputs))
    whole = keras.Model(images, keras.tree.flatten(plain([scaled])))
    while True:
        opened: list[str] = []
        whole = keras.models.clone_model(whole, clone_function=lambda layer: layer, call_function=_opening(opened))
        if not opened:
            return whole


def check_first_token(network: keras.Model) -> None:
    """Raise FrostlineError where the first of a network's tokens is a place of the image, as SigLIP's is, and no class
    token; see `_embedded` for the names of layers."""
    names = [layer.name for layer in network.layers]
    if any(name.endswith("_positions") for name in names) and not any(n.endswith("_further_tokens") for n in names):
        raise FrostlineError("model.pooling is token, but this preset has no class token.\nChoose average or flatten.")


def release_for(backbone: str) -> list[str]:
    """KerasHub's release, on which what it builds depends; nothing for other backbones."""
    return [keras_hub().__version__] if backbone == HUB else []


def features_of(network: keras.Model) -> keras.Model:
    """`network` up to its highest layer with places (N, h, w, channels) or tokens (N, tokens, channels), called LAST.

    What lies above, SigLIP's pooling say, has neither.
    """
    last = next(layer for layer in reversed(network.layers) if len(layer.output.shape) > 2)
    last.name = LAST
    return keras.Model(network.inputs[0], last.output)


def is_of_keras_hub(layer: Any) -> bool:
    return type(layer).__module__.partition(".")[0] == "keras_hub"


def is_named_in(config: str) -> bool:
    """Whether a model of this `config`, Keras' JSON, has layers or functions of KerasHub."""
    return "keras_hub" in config


def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A new layer of the same configuration; raises FrostlineError for one of KerasHub's that loses it."""
    try:
        return type(layer).from_config(layer.get_config())
    except (TypeError, ValueError, AttributeError) as error:
        raise FrostlineError(
            f"this preset cannot be saved: KerasHub's {type(layer).__name__} does not keep its configuration.\n"
            f"Seen to work: {SEEN}."
        ) from error


def _opening(opened: list[str]) -> Callable[..., Any]:
    """Return what calls each layer of a graph; in place of a layer that only holds others, these are called.

    `opened` gets the names of such layers.
    """
    called: list[str] = []

    def call(layer: Any, *inputs: Any, **options: Any) -> Any:
        if _does_nothing(layer):
            return inputs[0]
        if isinstance(layer, keras.layers.Layer) and not layer.weights and layer.name in called:
            layer = type(layer).from_config(
                layer.get_config() | {"name": f"{layer.name}_{len(called)}"}
            )  # once a layer
        called.append(layer.name)
        if isinstance(layer, keras.layers.Activation):
            return _activated(layer, *inputs)
        if not (is_of_keras_hub(layer) or isinstance(layer, keras.Model)):
            return layer(*inputs, **options)
        if (tokens := _embedded(layer, inputs[0])) is not None:
            opened.append(layer.name)
            return tokens
        options = {key: value for key, value in options.items() if value is not None}
        if not (isinstance(layer, keras.Model) or _can_be_opened(layer, inputs, options)):
            return layer(*inputs, **options)
        opened.append(layer.name)
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            if is_of_keras_hub(layer) and not inner.name.startswith(f"{layer.name}_"):
                inner.name = f"{layer.name}_{inner.name}"
        return layer.call(*inputs, **options)

    return call


def _can_be_opened(layer: keras.layers.Layer, inputs: Any, options: Any) -> bool:
    """Whether `layer` has no weights but its layers', and does nothing but call them, add and multiply."""
    inner = {id(weight) for part in layer._flatten_layers(include_self=False) for weight in part.weights}
    if any(id(weight) not in inner for weight in layer.weights):
        return False
    stubs = keras.tree.map_structure(
        lambda item: (
            keras.Input(batch_shape=item.shape, dtype=item.dtype) if keras.backend.is_keras_tensor(item) else item
        ),
        (inputs, options),
    )
    try:
        outputs = layer.call(*stubs[0], **stubs[1])
        given = [item for item in keras.tree.flatten(stubs) if keras.backend.is_keras_tensor(item)]
        operations = keras.Model(given, outputs).operations
    except Exception:  # noqa: BLE001  (KerasHub's layers are not written to be called on shapes alone)
        return False
    return all(
        isinstance(each, keras.layers.Layer) or type(each).__name__ in ("Add", "Multiply") for each in operations
    )


def _does_nothing(layer: Any) -> bool:
    if type(layer).__name__ == "ConvertToTensor":  # where a model is called
        return True
    return isinstance(layer, keras.layers.Dropout | keras.layers.Identity) and not getattr(layer, "rate", 0)


def _activated(layer: keras.layers.Activation, values: Any) -> Any:
    """What `layer` makes of `values`, by functions that have a name in a file."""
    function = getattr(layer.activation, "__name__", "")
    if function == "quick_gelu":  # x sigmoid(1.702 x), as in CLIP
        values = keras.layers.Rescaling(1.702, name=f"{layer.name}_in")(values)
        values = keras.layers.Activation("silu", name=layer.name)(values)
        return keras.layers.Rescaling(1 / 1.702, name=f"{layer.name}_out")(values)
    if function == "<lambda>":
        probe = np.linspace(-4, 4, 64, dtype=np.float32)
        if np.allclose(layer(probe), keras.activations.gelu(probe), atol=1e-6):
            return keras.layers.Activation("gelu", name=layer.name)(values)
    return layer(values)


def _embedded(layer: keras.layers.Layer, images: Any) -> Any:
    """The tokens that `layer` makes of `images`, by Keras' own layers; None where it makes none, or in another way.

    They are a convolution's places in a row, further tokens before them (a class token, registers), and a constant for
    each, the sum of what is learned of its position. KerasHub's layers do not all keep their configuration.
    """
    convolutions = [each for each in layer._flatten_layers() if isinstance(each, keras.layers.Conv2D)]
    if len(convolutions) != 1 or isinstance(layer, keras.Model) or len(images.shape) != 4:
        return None
    constant = layer(np.zeros((1, *images.shape[1:]), np.float32))
    if not keras.ops.is_tensor(constant) or len(constant.shape) != 3:
        return None
    (convolution,), constant, name = convolutions, constant.numpy()[0], layer.name
    tokens, channels = constant.shape
    places = convolution(images)
    count = int(np.prod(places.shape[1:3]))
    row = keras.layers.Reshape((count, channels), name=f"{name}_tokens")(places)
    if tokens > count:
        row = keras.layers.ZeroPadding1D((tokens - count, 0), name=f"{name}_further_tokens")(row)
    if convolution.use_bias:
        constant[tokens - count :] -= convolution.bias.numpy()
    convolution.name = f"{name}_patches"
    position = keras.layers.EinsumDense("abc,bc->abc", (tokens, channels), bias_axes="bc", name=f"{name}_positions")
    row = position(row)
    position.set_weights([np.ones_like(constant), constant])
    probe = np.random.default_rng(0).random((1, *images.shape[1:]), np.float32)
    same = np.allclose(keras.Model(images, row)(probe), layer(probe), rtol=1e-4, atol=1e-4)
    return row if same else None
