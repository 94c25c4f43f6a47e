"""transfer: train a new head on the frozen backbone."""

from frostline.paths import BACKBONE_WEIGHTS as START
from frostline.phases import transfer
from frostline.settings import Config
from frostline.stages import run_stage
from frostline.stages._phase import run_phase


def main(config: Config) -> None:
    run_phase("transfer", config, START, lambda data, *options: transfer(data, START, config, *options))


if __name__ == "__main__":
    run_stage(main)
