"""The resolver `block_ends` of conf/study: where a backbone can be cut. Hydra imports what lies in this package."""

import functools

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError


@functools.cache
def block_ends(backbone: str) -> str:
    """The layers of the network `backbone` that end a block, as a list for a sweep: ``mixed1,mixed2``.

    Without the first one: below it there is no block to thaw.
    """
    from frostline.config.load import load_params
    from frostline.config.paths import BACKBONE_WEIGHTS
    from frostline.models import backbone as networks  # here: TensorFlow takes seconds
    from frostline.models.architectures import members_of, smallest_of
    from frostline.models.graph import block_outputs

    if len(members_of(backbone)) > 1:
        raise InterpolationResolutionError("an ensemble is cut where its members are joined only; choose one network.")
    size, weights = smallest_of(backbone), None
    if backbone == "hub":  # which network that is, the prepared file says
        size, weights = load_params().preprocess.image_size, BACKBONE_WEIGHTS
    return ",".join(block_outputs(networks.build_backbone(size, weights, backbone))[1:])


OmegaConf.register_new_resolver("block_ends", block_ends, replace=True)
