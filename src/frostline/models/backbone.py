"""The backbone: build it of plain layers, and load its pretrained weights."""

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from frostline.models import hub
from frostline.models.architectures import NETWORKS, members_of, smallest_of
from frostline.models.ensemble import JOINED, copy_of_member
from frostline.runtime.errors import FrostlineError, brief
from frostline.runtime.quiet_tensorflow import keras


def build_backbone(image_size: int, weights: Path | None, name: str = "inception_v3") -> keras.Model:
    """Build the network `name` (see NETWORKS) without its top and load `weights`, unless they are None.

    "hub" is whichever of KerasHub's the file `weights` holds. Names joined by "+" make an ensemble: each member's last
    map pooled by the mean, all of these in one layer called JOINED; the layers of a member are called by its name, a
    dot, and the name that they have alone.

    Takes images (N, image_size, image_size, 3), RGB from 0 to 255: what turns them into the network's own range
    are the model's first layers, so that a saved model asks nothing of its user.

    Raises FrostlineError where `weights` does not fit the network.
    """
    keras.utils.clear_session()  # layer names must not depend on what this process built before
    keras.utils.set_random_seed(0)  # nor may the random numbers of dropout inside the network
    images = keras.Input((image_size, image_size, 3), name="images")
    members = members_of(name)
    network = _joined(members, images, weights) if len(members) > 1 else _network(name, images, weights)
    for layer in network.layers:
        if getattr(layer, "seed", 0) is None and hasattr(layer, "seed_generator"):
            layer.seed = int(layer.seed_generator.state[0])  # dropout of its own: each loading would draw another one
    return network


def _joined(members: Sequence[str], images: Any, weights: Path | None) -> keras.Model:
    pooled = []
    for member in members:
        with copy_of_member(weights, member) if weights else nullcontext() as file:
            network = _network(member, images, file)
        for layer in network.layers[1:]:  # but for the images
            layer.name = f"{member}.{layer.name}"
        pooled.append(keras.layers.GlobalAveragePooling2D(name=f"{member}.average")(network.output))
    return keras.Model(images, keras.layers.Concatenate(name=JOINED)(pooled))


def _network(name: str, images: Any, weights: Path | None) -> keras.Model:
    if name == hub.HUB:
        assert weights is not None  # they say which network it is
        network = hub.place_in(hub.own_network(weights, images.shape[1]), images, hub.read_recipe(weights))
        return hub.features_of(_copied_by_layers(network))
    pixels = NETWORKS[name].pixels
    network = plain_network(name, images.shape[1], _in_range(images, pixels))
    if weights is not None:
        _load(network, weights, name)
    if pixels == "caffe":
        _take_red_first(network)
    return _layer_by_layer(network)


@functools.cache
def layer_names(name: str, image_size: int, weights: Path) -> list[str]:
    """The layers of the network `name`, from the image upwards; `weights` and the size say which preset "hub" is."""
    of_hub = name == hub.HUB
    network = build_backbone(image_size if of_hub else smallest_of(name), weights if of_hub else None, name)
    return [layer.name for layer in network.layers]


def _load(network: keras.Model, weights: Path, name: str) -> None:
    try:
        network.load_weights(weights)
    except (ValueError, KeyError, OSError) as error:
        reason = brief(error)
        wanted = f"{NETWORKS[name].constructor} without its top"
        raise FrostlineError(f"{weights} does not fit {wanted}: {reason}") from error


def plain_network(name: str, image_size: int, images: Any = None) -> keras.Model:
    """The network `name` without its top as keras.applications builds it, untrained; `images`: its input, if any."""
    constructor = getattr(keras.applications, NETWORKS[name].constructor)
    shape = (image_size, image_size, 3)
    return constructor(include_top=False, weights=None, input_tensor=images, input_shape=shape)


def _in_range(images: Any, pixels: str | None) -> Any:
    """Images from 0 to 255 in the range `pixels` (see Network), red first."""
    red_green_blue = np.array([123.68, 116.779, 103.939]), np.array([0.485, 0.456, 0.406])  # as in imagenet_utils
    match pixels:
        case "tf":
            return keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(images)
        case "caffe":
            return keras.layers.Normalization(mean=red_green_blue[0], variance=np.ones(3), name="scale")(images)
        case "torch":
            variance = (255 * np.array([0.229, 0.224, 0.225])) ** 2
            return keras.layers.Normalization(mean=255 * red_green_blue[1], variance=variance, name="scale")(images)
    return images


def _take_red_first(network: keras.Model) -> None:
    """Turn the first convolution from blue, green, red to red, green, blue: simpler than turning every image."""
    first = next(layer for layer in network.layers if layer.weights)
    kernel, *bias = first.get_weights()
    first.set_weights([kernel[:, :, ::-1], *bias])


def single_layers(network: keras.Model) -> list[keras.layers.Layer]:
    """The layers of `network`, with those of a model among them in its place."""
    return [
        single for layer in network.layers for single in (layer.layers if isinstance(layer, keras.Model) else [layer])
    ]


def _layer_by_layer(network: keras.Model) -> keras.Model:
    """`network`, or where it holds more than plain layers (sums like ``x + 3``, models of layers) a copy that does not.

    All that follows names, cuts, copies and freezes layers.
    """
    return network if all(map(_is_single, network.operations)) else _copied_by_layers(network)


def _is_single(operation: Any) -> bool:
    return isinstance(operation, keras.layers.Layer) and not isinstance(operation, keras.Model)


def _copied_by_layers(network: keras.Model) -> keras.Model:
    def copy(operation: Any) -> Any:
        if not _is_single(operation):
            return operation
        if _is_depthwise(operation):
            config = operation.get_config()
            return keras.layers.DepthwiseConv2D(**{key: config[key] for key in _SHARED_WITH_DEPTHWISE})
        return hub.copied(operation)

    def call(operation: Any, *inputs: Any, **options: Any) -> Any:
        if isinstance(operation, keras.Sequential):
            (values,) = inputs
            for layer in operation.layers:
                values = copy(layer)(values)
            return values
        return operation(*inputs, **options) if _is_single(operation) else _as_layer(operation, *inputs)

    copied = keras.models.clone_model(network, network.input, clone_function=copy, call_function=call)
    for layer in single_layers(network):
        weights = layer.get_weights()
        if _is_depthwise(layer):
            weights[0] = weights[0].swapaxes(2, 3)
        copied.get_layer(layer.name).set_weights(weights)
    return copied


_SHARED_WITH_DEPTHWISE = ("name", "kernel_size", "strides", "padding", "dilation_rate", "activation", "use_bias")


def _is_depthwise(layer: keras.layers.Layer) -> bool:
    """Whether ConvNeXt means a depthwise convolution: DepthwiseConv2D took a hundredth of this one's time on a CPU."""
    return type(layer) is keras.layers.Conv2D and 1 < layer.groups == layer.filters


def _as_layer(operation: Any, left: Any, right: Any) -> Any:
    """What `operation`, a sum or a product of two tensors or of one and a number, gives as a layer of the same name."""
    kind, name = type(operation).__name__, operation.name
    if not isinstance(right, keras.KerasTensor):
        factor = {"scale": right} if kind == "Multiply" else {"scale": 1, "offset": {"Add": right}[kind]}
        return keras.layers.Rescaling(**factor, name=name)(left)
    return {"Add": keras.layers.Add, "Multiply": keras.layers.Multiply}[kind](name=name)([left, right])
