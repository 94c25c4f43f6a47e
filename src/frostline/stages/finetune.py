"""finetune: thaw the backbone's layers above the frost line and train on at a low rate."""

from frostline.paths import MODELS
from frostline.phases import finetune
from frostline.saving import load_model
from frostline.settings import Config
from frostline.stages import run_stage
from frostline.stages._phase import run_phase


def main(config: Config) -> None:
    model = load_model(MODELS["transfer"])
    run_phase("finetune", config, lambda data, on_epoch: (model, finetune(model, data, config, on_epoch)))


if __name__ == "__main__":
    run_stage(main)
