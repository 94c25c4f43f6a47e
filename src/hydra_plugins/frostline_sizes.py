"""The resolver `at_least` of conf/experiment: the larger of two numbers. Hydra imports what lies in this package."""

from omegaconf import OmegaConf

OmegaConf.register_new_resolver("at_least", max, replace=True)
