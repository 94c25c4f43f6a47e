"""An untrained backbone whose features still tell shapes apart: seeded kernels, calibrated batch-norm."""

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from frostline.common.seeds import derive_seed, generator
from frostline.models.architectures import NETWORKS
from frostline.sources.sample import draw_images

_CALIBRATION_IMAGES = 64

# The batch-norm shifts (beta), in standard deviations of what enters the ReLU. Inside the network +1 lets 84% of
# it pass: a nearly linear network, in which what tells two images apart survives thirty layers. What feeds the
# recipe's cut layer in InceptionV3 is sparse instead, as in a trained network: 7% passes, so that the sum over its
# 37,632 features stays small and the head's first steps with Adam at 1e-3 do not overshoot.
_SHIFT = 1.0
_SPARSE_SHIFT = -1.5
_SPARSE_LAYERS = {"inception_v3": "mixed7"}


def write_random_weights(path: Path, image_size: int, seed: int, name: str = "inception_v3") -> None:
    """Write to `path` what ``load_weights`` of the network `name` (see NETWORKS) without its top reads.

    Kernels are He-normal (He et al. 2015, arXiv:1502.01852, eq. 10), those of each layer from a stream of their own.
    Batch-norm statistics are those of one training-mode pass over drawn images of `image_size` pixels, so every
    layer's input to its shift has mean 0 and variance 1 on such images. Layer normalization needs none; the scales of
    ConvNeXt's branches, which begin at 1e-6 where a network is trained from scratch, are 1.
    """
    from frostline.models.backbone import (  # here, so that importing this module stays quick
        plain_network,
        single_layers,
    )
    from frostline.runtime.quiet_tensorflow import keras

    network = plain_network(name, image_size)
    sparse = _batch_norms_before(network, _SPARSE_LAYERS[name]) if name in _SPARSE_LAYERS else set()
    for position, layer in enumerate(single_layers(network)):
        if isinstance(layer, keras.layers.BatchNormalization):
            shift = _SPARSE_SHIFT if layer.name in sparse else _SHIFT
            layer.beta.assign(np.full(layer.beta.shape, shift, np.float32))
            layer.momentum = 0.0  # the moving statistics become those of the next batch
        elif isinstance(layer, keras.layers.Dropout):
            layer.rate = 0
        elif type(layer).__name__ == "LayerScale":
            layer.gamma.assign(np.ones(layer.gamma.shape, np.float32))
        else:
            rng = generator(seed, "backbone", position)
            for kernel in (weight for weight in layer.weights if len(weight.shape) > 1):
                depthwise = isinstance(layer, keras.layers.DepthwiseConv2D) or kernel.name == "depthwise_kernel"
                kernel.assign(_he_normal(kernel.shape, depthwise, rng))

    if any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers):
        images = draw_images(_CALIBRATION_IMAGES, image_size, derive_seed(seed, "calibration"))
        network(_in_range(images.astype(np.float32), NETWORKS[name].pixels), training=True)
    _save(path, network)


def _in_range(images: np.ndarray, pixels: str | None) -> np.ndarray:
    """Images from 0 to 255 as the network takes them, see `Network.pixels`."""
    from frostline.runtime.quiet_tensorflow import keras

    preprocess = keras.applications.imagenet_utils.preprocess_input
    return np.asarray(preprocess(images, mode=pixels)) if pixels else images


def _he_normal(shape: tuple[int, ...], depthwise: bool, rng: np.random.Generator) -> np.ndarray:
    """A kernel of a convolution (height, width, inputs, outputs) or of a dense layer (inputs, outputs)."""
    inputs = np.prod(shape[:2] if depthwise else shape[:-1])
    return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / inputs))


def _batch_norms_before(model: Any, name: str) -> set[str]:
    """Names of the batch-norm layers whose ReLU is an input of the concatenation `name`."""
    inputs = {id(tensor) for tensor in model.get_layer(name).input}
    before_relu = {id(layer.input) for layer in model.layers if id(layer.output) in inputs}
    return {layer.name for layer in model.layers if id(layer.output) in before_relu}


def _save(path: Path, model: Any) -> None:
    """Write the layout that Keras reads from a plain ``.h5`` name (keras/src/legacy/saving/legacy_h5_format.py).

    Keras matches layers by order, so they are named by position: its automatic names depend on what else was
    built in the process. HDF5 stores no times here (h5py's default), so equal weights give equal bytes.
    """
    from frostline.runtime.quiet_tensorflow import keras

    content = io.BytesIO()  # HDF5's own writing crashes the process where the disk is full
    with h5py.File(content, "w") as file:
        layers = {f"layer_{n:03d}": layer for n, layer in enumerate(model.layers) if layer.weights}
        file.attrs["layer_names"] = [name.encode() for name in layers]
        file.attrs["backend"] = keras.backend.backend().encode()
        file.attrs["keras_version"] = keras.__version__.encode()
        for name, layer in layers.items():
            group = file.create_group(name)
            weights = layer.trainable_weights + layer.non_trainable_weights  # the order Keras reads
            group.attrs["weight_names"] = [weight.name.encode() for weight in weights]
            for weight in weights:
                group.create_dataset(weight.name, data=np.asarray(weight))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getbuffer())
