"""finetune: thaw the backbone's layers above the frost line and train on at a low rate."""

from functools import partial

from frostline.config.paths import MODELS
from frostline.config.settings import Config
from frostline.runtime.background_process import Channel
from frostline.stages import run_stage
from frostline.stages._record import record_phase


def main(config: Config, record: Channel) -> None:
    from frostline.models.saving import load_model
    from frostline.stages._phase import run_phase
    from frostline.training.phases import finetune

    start = MODELS["transfer"]
    run_phase("finetune", config, start, record, lambda data: load_model(start), finetune)


if __name__ == "__main__":
    run_stage(main, partial(record_phase, "finetune"))
