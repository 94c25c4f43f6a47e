"""transfer: train a new head on the frozen backbone."""

from functools import partial

from frostline.config.paths import BACKBONE_WEIGHTS as START
from frostline.config.settings import Config
from frostline.runtime.background_process import Channel
from frostline.stages import run_stage
from frostline.stages._record import record_phase


def main(config: Config, record: Channel) -> None:
    from frostline.stages._phase import run_phase
    from frostline.training.phases import build_classifier, transfer

    run_phase("transfer", config, START, record, lambda data: build_classifier(data, START, config), transfer)


if __name__ == "__main__":
    run_stage(main, partial(record_phase, "transfer"))
