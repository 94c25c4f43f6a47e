"""The networks that can be the backbone: one line for each, read by whoever builds one or checks its settings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """A network of keras.applications."""

    constructor: str
    """Its name there."""
    pixels: str | None
    """What it takes, a mode of ``keras.applications.imagenet_utils.preprocess_input``: "tf" (-1 to 1), "caffe" (blue,
    green, red, each minus its mean over ImageNet) or "torch" (RGB with mean 0 and variance 1 over ImageNet); None: 0 to
    255, where the network scales them itself."""
    smallest: int
    """Side of the smallest image, in pixels."""


NETWORKS = {
    "convnext_small": Network("ConvNeXtSmall", None, 32),
    "convnext_tiny": Network("ConvNeXtTiny", None, 32),
    "densenet121": Network("DenseNet121", "torch", 32),
    "efficientnet_v2_b0": Network("EfficientNetV2B0", None, 32),
    "efficientnet_v2_s": Network("EfficientNetV2S", None, 32),
    "hub": Network("KerasHub", None, 16),  # whichever the file of weights holds: see models.hub
    "inception_v3": Network("InceptionV3", "tf", 75),
    "mobilenet_v2": Network("MobileNetV2", "tf", 32),
    "mobilenet_v3_large": Network("MobileNetV3Large", None, 32),
    "mobilenet_v3_small": Network("MobileNetV3Small", None, 32),
    "resnet101": Network("ResNet101", "caffe", 32),
    "resnet50": Network("ResNet50", "caffe", 32),
    "resnet50_v2": Network("ResNet50V2", "tf", 32),
    "vgg16": Network("VGG16", "caffe", 32),
    "xception": Network("Xception", "tf", 71),
}
"""The tested ones have a file in conf/model/; another one needs its line here and, to get its ImageNet weights, a file
there."""


def members_of(backbone: str) -> list[str]:
    """The networks that `backbone` joins: of "resnet50+xception" these two, of a single network itself."""
    return backbone.split("+")


def smallest_of(backbone: str) -> int:
    """Side of the smallest image that `backbone` takes, in pixels."""
    return max(NETWORKS[member].smallest for member in members_of(backbone))


def title_of(backbone: str) -> str:
    """What `backbone` is called: "ResNet50 + Xception"."""
    return " + ".join(NETWORKS[member].constructor for member in members_of(backbone))
