"""Sweep the two-phase recipe over settings: a Hydra multirun on the data that `dvc repro` prepared.

    python -m frostline.sweep -m model.cut_layer=mixed5,mixed7 finetune.learning_rate=1e-5,1e-4

Settings come from conf/ and the command line; the sections data, weights and preprocess are those of params.yaml,
since these made what lies in data/processed. The test set is never looked at: points are chosen by validation loss.
"""

import gc
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from frostline.config import compose_conf, load_params, parse
from frostline.errors import FrostlineError
from frostline.feature_cache import prune
from frostline.files import read_json, sha256_of, write_json
from frostline.paths import BACKBONE_WEIGHTS, PROCESSED, WORK
from frostline.settings import Config
from frostline.sweep_table import RESULT

if TYPE_CHECKING:
    from frostline.dataset import Dataset
    from frostline.quiet_tensorflow import keras
    from frostline.training import Epoch

_PREPARED = ("data", "weights", "preprocess")


@hydra.main(version_base="1.3", config_path=str(Path("conf").resolve()), config_name="config")
def main(raw: DictConfig) -> float:
    """Run one point; return its validation loss, which Hydra's optimizing sweepers minimize."""
    this = HydraConfig.get()
    point: dict[str, Any] = {"point": this.job.override_dirname.replace(",", " ") or "default"}
    loss = math.inf
    try:
        point |= run_point(_with_prepared_data(parse(raw, "conf/")), point["point"], group=this.sweep.dir)
        loss = float(point["finetune"]["validation/loss"])
    except FrostlineError as error:  # the other points go on; the table shows this one
        point["error"] = str(error)
    write_json(Path(this.runtime.output_dir) / RESULT, point)
    return loss


def run_point(config: Config, name: str, group: str) -> dict[str, "Epoch"]:
    """Run both phases as the MLflow run `name` below the sweep's run `group`; return the figures of the last epochs."""
    # TensorFlow and MLflow are imported once per sweep, and not for a mistyped key.
    from frostline import phases, tracking
    from frostline.dataset import load_dataset
    from frostline.quiet_tensorflow import keras

    keras.utils.clear_session()  # the last point's models and graphs
    gc.collect()
    data = load_dataset(PROCESSED)
    pipeline = tracking.open_pipeline(config, data.digest, group)
    with tracking.phase_run(name, pipeline):
        tracking.log_data(config.data.source, config.data.depends_on, data.digest, context="training")
        model, first = _transfer_once(data, config)
        for epoch in first:
            tracking.log_epoch(epoch)

        def log_after_transfer(epoch: "Epoch") -> None:
            tracking.log_epoch({**epoch, "epoch": epoch["epoch"] + len(first)})

        second = phases.finetune(model, data, config, log_after_transfer)
    prune(config.feature_cache_gib)
    return {"transfer": first[-1], "finetune": second[-1]}


def _transfer_once(data: "Dataset", config: Config) -> tuple["keras.Model", list["Epoch"]]:
    """The transfer phase, trained once for all points that differ only in fine-tuning, and kept for later sweeps."""
    from frostline import phases
    from frostline.saving import load_model, save_model

    facts = [
        asdict(config.model),
        asdict(config.transfer),
        config.seed,
        config.augment,
        config.feature_precision,
        data.digest,
        sha256_of(BACKBONE_WEIGHTS),
    ]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    model_path, history_path = WORK / "transfer" / f"{key}.keras", WORK / "transfer" / f"{key}.json"
    if not history_path.is_file():
        model, history = phases.transfer(data, BACKBONE_WEIGHTS, config, on_epoch=lambda epoch: None)
        save_model(model, model_path, data.classes)
        write_json(history_path, history)  # last: it says that the model is there
    return load_model(model_path), read_json(history_path)


def _with_prepared_data(config: Config) -> Config:
    prepared = load_params()
    return replace(config, name=prepared.name, **{section: getattr(prepared, section) for section in _PREPARED})


def check_points(overrides: Sequence[str]) -> None:
    """Compose every point of a multirun before the first one runs, so that a mistyped key costs no training.

    Raises FrostlineError as `config.compose_conf` does, and for settings that only `dvc repro` can change.
    """
    try:
        parsed = [item for item in OverridesParser.create().parse_overrides(list(overrides)) if not _is_hydras(item)]
    except HydraException as error:
        raise FrostlineError(f"not a list of overrides: {' '.join(str(error).split())}") from error
    for override in parsed:
        if override.key_or_group.split(".")[0] in _PREPARED:
            raise FrostlineError(
                f"{override.input_line}: a sweep runs on the data that is prepared in {PROCESSED}.\n"
                f"Change it first: dvc exp run -S {override.key_or_group}=..."
            )
    if all(not item.is_sweep_override() or item.is_discrete_sweep() for item in parsed):
        for point in BasicSweeper.split_arguments(parsed, None)[0]:
            compose_conf(point)


def _is_hydras(override: Override) -> bool:
    return override.key_or_group.split(".")[0].split("/")[0] == "hydra"


if __name__ == "__main__":
    try:
        check_points([argument for argument in sys.argv[1:] if not argument.startswith("-")])
        main()
    except FrostlineError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
