"""Stage transfer: train a new head on the frozen backbone."""

from frostline.config.paths import BACKBONE_WEIGHTS as START
from frostline.config.settings import Config
from frostline.stages._phase import run_phase
from frostline.training.phases import build_classifier, transfer


def main(config: Config) -> None:
    run_phase("transfer", config, START, lambda data: build_classifier(data, START, config), transfer)
