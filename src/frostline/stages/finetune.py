"""finetune: thaw the backbone's layers above the frost line and train on at a low rate."""

from functools import partial

from frostline.companion import Line
from frostline.paths import MODELS
from frostline.settings import Config
from frostline.stages import run_stage
from frostline.stages._record import record_phase


def main(config: Config, record: Line) -> None:
    from frostline.phases import finetune
    from frostline.saving import load_model
    from frostline.stages._phase import run_phase

    start = MODELS["transfer"]
    run_phase("finetune", config, start, record, lambda data: load_model(start), finetune)


if __name__ == "__main__":
    run_stage(main, partial(record_phase, "finetune"))
