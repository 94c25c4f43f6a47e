"""The backbone: build it, load its pretrained weights, cut it, freeze and thaw it at the frost line."""

import difflib
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frostline.errors import FrostlineError
from frostline.networks import NETWORKS
from frostline.quiet_tensorflow import keras

AUTO = "auto"


def build_backbone(picture_size: int, weights: Path, name: str = "inception_v3") -> keras.Model:
    """Build the network `name` (see NETWORKS) without its top and load `weights`.

    Takes pictures (N, picture_size, picture_size, 3), RGB from 0 to 255: what turns them into the network's own range
    are the model's first layers, so that a saved model asks nothing of its user.

    Raises FrostlineError where `weights` does not fit the network.
    """
    keras.utils.clear_session()  # layer names must not depend on what this process built before
    keras.utils.set_random_seed(0)  # nor may the random numbers of dropout inside the network
    pixels = NETWORKS[name].pixels
    pictures = keras.Input((picture_size, picture_size, 3), name="pictures")
    network = plain_network(name, picture_size, _in_range(pictures, pixels))
    try:
        network.load_weights(weights)
    except (ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        wanted = f"{NETWORKS[name].constructor} without its top"
        raise FrostlineError(f"{weights} does not fit {wanted}: {reason}") from error
    if pixels == "caffe":
        _take_red_first(network)
    return _layer_by_layer(network)


def plain_network(name: str, picture_size: int, pictures: Any = None) -> keras.Model:
    """The network `name` without its top as keras.applications builds it, untrained; `pictures`: its input, if any."""
    constructor = getattr(keras.applications, NETWORKS[name].constructor)
    shape = (picture_size, picture_size, 3)
    return constructor(include_top=False, weights=None, input_tensor=pictures, input_shape=shape)


def _in_range(pictures: Any, pixels: str | None) -> Any:
    """Pictures from 0 to 255 in the range `pixels` (see Network), red first."""
    red_green_blue = np.array([123.68, 116.779, 103.939]), np.array([0.485, 0.456, 0.406])  # as in imagenet_utils
    match pixels:
        case "tf":
            return keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(pictures)
        case "caffe":
            return keras.layers.Normalization(mean=red_green_blue[0], variance=np.ones(3), name="scale")(pictures)
        case "torch":
            variance = (255 * np.array([0.229, 0.224, 0.225])) ** 2
            return keras.layers.Normalization(mean=255 * red_green_blue[1], variance=variance, name="scale")(pictures)
    return pictures


def _take_red_first(network: keras.Model) -> None:
    """Turn the first convolution from blue, green, red to red, green, blue: simpler than turning every picture."""
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

    def is_single(operation: Any) -> bool:
        return isinstance(operation, keras.layers.Layer) and not isinstance(operation, keras.Model)

    if all(map(is_single, network.operations)):
        return network

    def copy(operation: Any) -> Any:
        if not is_single(operation):
            return operation
        config = operation.get_config()
        if _is_depthwise(operation):
            return keras.layers.DepthwiseConv2D(**{key: config[key] for key in _SHARED_WITH_DEPTHWISE})
        return type(operation).from_config(config)

    def call(operation: Any, *inputs: Any, **options: Any) -> Any:
        if isinstance(operation, keras.Sequential):
            (values,) = inputs
            for layer in operation.layers:
                values = copy(layer)(values)
            return values
        return operation(*inputs, **options) if is_single(operation) else _as_layer(operation, *inputs)

    copied = keras.models.clone_model(network, clone_function=copy, call_function=call)
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


def find_layer(backbone: keras.Model, name: str, key: str) -> keras.layers.Layer:
    """Return the layer called `name`; the error for an unknown one names the setting `key` and what is valid."""
    names = [layer.name for layer in backbone.layers]
    if name not in names:
        blocks = _listed(block_outputs(backbone) or names)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FrostlineError(f"{key} is {name!r}: no such layer.{hint}\nValid: {blocks}, or any other layer.")
    return backbone.get_layer(name)


def _listed(blocks: Sequence[str]) -> str:
    """`blocks` for a message, without the middle of a long list: mixed0 to mixed10 are eleven."""
    return ", ".join(blocks if len(blocks) <= 12 else [*blocks[:3], "...", *blocks[-6:]])


def block_outputs(backbone: keras.Model) -> list[str]:
    """Names of the layers that end a block, from the picture upwards: mixed0 to mixed10 in InceptionV3.

    A block ends where branches are added or concatenated to one tensor through which everything passes (a cut vertex of
    the graph), or at the activation of that tensor.
    """
    layers = backbone.layers
    position = {layer.name: number for number, layer in enumerate(layers)}
    following: dict[str, list[keras.layers.Layer]] = defaultdict(list)
    for layer in layers:
        for node in _parents(layer):
            following[node.operation.name].append(layer)

    ends, furthest = [], 0  # how far up anything below the layer at hand is used
    for number, layer in enumerate(layers):
        if furthest <= number and isinstance(layer, keras.layers.Add | keras.layers.Concatenate):
            end = layer
            while len(following[end.name]) == 1:
                (after,) = following[end.name]
                if after.weights or after.output.shape != end.output.shape:
                    break
                end = after
            ends.append(end.name)
        furthest = max([furthest, *(position[after.name] for after in following[layer.name])])
    return ends


def resolve_thaw_from(backbone: keras.Model, cut_layer: str, thaw_from: str) -> str:
    """Return the name of the layer at the frost line: `thaw_from`, or for "auto" one block below `cut_layer`.

    What lies between the last block's end and the cut (a last convolution, say) counts as part of that block.

    Raises FrostlineError for an unknown layer, for a frost line above the cut, and where nothing lies below the cut.
    """
    order = [layer.name for layer in backbone.layers]
    cut = order.index(find_layer(backbone, cut_layer, "model.cut_layer").name)
    blocks = [name for name in block_outputs(backbone) if order.index(name) <= cut]
    if thaw_from == AUTO:
        if len(blocks) < 2:
            raise FrostlineError(
                f"finetune.thaw_from is auto, but no block lies below model.cut_layer={cut_layer}.\n"
                "Name the layer from which to thaw."
            )
        return blocks[-2]
    line = order.index(find_layer(backbone, thaw_from, "finetune.thaw_from").name)
    if line > cut:
        raise FrostlineError(
            f"finetune.thaw_from is {thaw_from!r}, above model.cut_layer={cut_layer!r}: no layer would be thawed.\n"
            f"Valid: {cut_layer} or a layer below it, e.g. {_listed(blocks)}."
        )
    return thaw_from


def frontier(model: keras.Model, thaw_from: str) -> list[str]:
    """Names of the frozen layers whose outputs the layers above the frost line take in.

    A layer without weights at the line itself (mixed6 is a concatenation) counts as frozen: it has nothing to learn,
    so its output, one tensor, can be computed once. At a block's end the frontier is that one layer.
    """
    layers = model.layers
    line = [layer.name for layer in layers].index(thaw_from)
    first_thawed = line if layers[line].weights else line + 1
    frozen = {layer.name for layer in layers[:first_thawed]}
    feeding = {
        node.operation.name
        for layer in layers[first_thawed:]
        for node in _parents(layer)
        if node.operation.name in frozen
    }
    return [layer.name for layer in layers if layer.name in feeding]


def _parents(layer: keras.layers.Layer) -> list[Any]:
    return list(layer._inbound_nodes[0].parent_nodes)


def part(model: keras.Model, start: Sequence[str]) -> keras.Model:
    """The part of `model` from the outputs of the layers `start` to its output.

    It shares the layers and their weights with `model`: training the part trains the whole.
    """
    inputs = [model.get_layer(name).output for name in start]
    return keras.Model(as_model_inputs(inputs), model.output)


def as_model_inputs(items: Sequence[Any]) -> Any:
    """One item per input of a model: as such for a model of one input, as a list for one of several."""
    return list(items) if len(items) > 1 else items[0]


def inference_copy(model: keras.Model, layers: Sequence[str], precision: str) -> keras.Model:
    """A copy of the part of `model` below `layers` that only infers, faster: pictures → the outputs of `layers`.

    Batch norm in inference mode is a scale and a shift, which are folded into the convolution before it
    (Jacob et al. 2018, arXiv:1712.05877, section 3.2); the copy computes in `precision`, "float32" or "bfloat16".
    """
    below = keras.Model(model.inputs, [model.get_layer(name).output for name in layers])
    scaling = set(itertools.takewhile(lambda layer: not layer.weights, below.layers))
    pairs = ((layer.name, _convolution_before(layer)) for layer in below.layers)
    folded = {name: before for name, before in pairs if before is not None and before.name not in layers}
    convolutions = {convolution.name for convolution in folded.values()}

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in folded:
            return keras.layers.Identity(name=layer.name, dtype=precision)
        config = layer.get_config()
        if layer not in scaling:  # bfloat16 would round the pictures
            config["dtype"] = precision
        if layer.name in convolutions:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer: keras.layers.Layer, *inputs: Any, mask: Any = None, **options: Any) -> Any:
        return layer(*inputs, **options)  # Identity takes no mask

    faster = keras.models.clone_model(below, clone_function=copy, call_function=call)
    for layer in below.layers:
        if layer.name in folded:
            convolution = folded[layer.name]
            faster.get_layer(convolution.name).set_weights(_folded_weights(convolution, layer))
        elif layer.weights and layer.name not in convolutions:
            faster.get_layer(layer.name).set_weights(layer.get_weights())
    return faster


_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)


def _convolution_before(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """The convolution into which the batch norm `layer` can be folded: linear, and with no other layer behind it."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return None
    before = _parents(layer)[0].operation
    linear = type(before) in _CONVOLUTIONS and before.activation is keras.activations.linear
    return before if linear and len(before._outbound_nodes) == 1 else None


def _folded_weights(convolution: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> list[np.ndarray]:
    """The kernels and the bias of `convolution` that give what it and `norm` after it give."""
    scale = 1 / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    scale = scale * norm.gamma.numpy() if norm.scale else scale
    shift = norm.beta.numpy() - norm.moving_mean.numpy() * scale
    weights = convolution.get_weights()
    if convolution.use_bias:
        shift = shift + weights.pop() * scale
    *kernels, last = weights
    if isinstance(convolution, keras.layers.DepthwiseConv2D):  # its output channels are the last two axes
        scale = scale.reshape(last.shape[2:])
    return [*kernels, last * scale, shift]


def freeze(model: keras.Model, backbone: keras.Model) -> None:
    """Freeze the layers that `model` has from `backbone`; its head learns."""
    frozen = set(backbone.layers)
    for layer in model.layers:
        layer.trainable = layer not in frozen


def thaw(model: keras.Model, thaw_from: str, batch_norm: str = "train") -> None:
    """Freeze every layer below `thaw_from`, thaw it and every layer after it, the head included.

    `batch_norm`: "train" thaws it like all else; "frozen" leaves it frozen everywhere. A frozen one also computes as in
    inference, by its moving statistics (https://keras.io/guides/transfer_learning).
    """
    above = False
    for layer in model.layers:
        above = above or layer.name == thaw_from
        kept = batch_norm == "frozen" and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = above and not kept
