"""Stage finetune: thaw the backbone's layers above the frost line and train on at a low rate."""

from frostline.config.paths import MODELS
from frostline.config.settings import Config
from frostline.models.saving import load_model
from frostline.stages._phase import run_phase
from frostline.training.phases import finetune


def main(config: Config) -> None:
    start = MODELS["transfer"]
    run_phase("finetune", config, start, lambda data: load_model(start), finetune)
