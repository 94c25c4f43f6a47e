"""The resolver `joined_names` of conf/model/ensemble.yaml. Hydra imports what lies in this package."""

from typing import Any

from omegaconf import ListConfig, OmegaConf


def joined_names(members: Any) -> str:
    """What an ensemble of `members` is called; anything but a list is refused where settings are checked."""
    return "+".join(map(str, members)) if isinstance(members, ListConfig) else str(members)


OmegaConf.register_new_resolver("joined_names", joined_names, replace=True)
