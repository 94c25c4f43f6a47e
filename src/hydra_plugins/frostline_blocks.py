"""The resolver `block_ends` of conf/study: where a backbone can be cut. Hydra imports what lies in this package."""

import functools

from omegaconf import OmegaConf


@functools.cache
def block_ends(backbone: str, last: int | None = None) -> str:
    """The layers of the network `backbone` that end a block, as a list for a sweep: ``mixed1,mixed2``.

    Without the first one: below it there is no block to thaw. `last`: so many of them, the topmost.
    """
    from frostline.config.load import load_params
    from frostline.config.paths import BACKBONE_WEIGHTS
    from frostline.models import backbone as networks  # here: TensorFlow takes seconds
    from frostline.models.architectures import NETWORKS
    from frostline.models.graph import block_outputs

    size, weights = NETWORKS[backbone].smallest, None
    if backbone == "hub":  # which network that is, the prepared file says
        size, weights = load_params().preprocess.image_size, BACKBONE_WEIGHTS
    ends = block_outputs(networks.build_backbone(size, weights, backbone))[1:]
    return ",".join(ends[-last:] if last else ends)


OmegaConf.register_new_resolver("block_ends", block_ends, replace=True)
