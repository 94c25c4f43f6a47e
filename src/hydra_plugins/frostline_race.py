"""Hydra's plugin behind `hydra/sweeper=race`; it lies in the package `hydra_plugins`, where Hydra looks for plugins."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # comes with DVC, without types
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class RaceSweeper(Sweeper):
    """Runs the trials of `frostline.sweep.race`, one after the other (see conf/hydra/sweeper)."""

    def __init__(self, time_limit: str | None, params: Mapping[str, str] | None) -> None:
        self.time_limit, self.params = time_limit, dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config: DictConfig = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from frostline.common.files import read_json
        from frostline.runtime.durations import seconds_of
        from frostline.sweep.plan import trials_of
        from frostline.sweep.race import run_race, write_outcome
        from frostline.sweep.results import RESULT

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")

        def run(number: int, overrides: list[str]) -> Mapping[str, Any]:
            (result,) = self.launcher.launch([overrides], number)
            _ = result.return_value  # raises what the job raised
            return dict(read_json(folder / str(number) / RESULT))

        trials = trials_of([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
        limit = None
        if self.time_limit is not None:  # of the whole command: imports and features take their time, too
            limit = seconds_of(str(self.time_limit)) - (time.time() - psutil.Process().create_time())
        write_outcome(folder, run_race(trials, run, limit))
