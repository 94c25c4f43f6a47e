"""The resolver `at_least` of conf/experiment. Hydra imports what lies in this package."""

from omegaconf import OmegaConf


def at_least(least: int, own: int, backbone: str) -> int:
    """The larger one of a recipe's least size of images and the backbone's own, in pixels.

    Always its own for a preset of KerasHub: most transformers take no other.
    """
    return own if backbone == "hub" else max(least, own)


OmegaConf.register_new_resolver("at_least", at_least, replace=True)
