"""transfer: train a new head on the frozen backbone."""

from frostline.paths import BACKBONE_WEIGHTS
from frostline.phases import transfer
from frostline.settings import Config
from frostline.stages import run_stage
from frostline.stages._phase import run_phase


def main(config: Config) -> None:
    run_phase("transfer", config, lambda data, on_epoch: transfer(data, BACKBONE_WEIGHTS, config, on_epoch))


if __name__ == "__main__":
    run_stage(main)
