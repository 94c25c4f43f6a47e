"""Hydra's plugin behind `hydra/sweeper=optuna`; it lies in the package `hydra_plugins`, where Hydra looks for plugins.

Why not the published plugin: the release for Hydra 1.3 needs Optuna 2, and none ends hopeless trials early or goes on
with the trials that a killed search left.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class OptunaSweeper(Sweeper):
    """Asks for `n_trials` trials in all, `n_jobs` at a time; the launcher runs them (see conf/hydra/sweeper).
    Those that failed under an earlier command do not count.

    Optuna is imported when a search begins: Hydra imports this module whenever it starts.
    """

    def __init__(self, n_trials: int, n_jobs: int, seed: int, storage: str, params: Mapping[str, str] | None) -> None:
        self.n_trials, self.n_jobs, self.seed, self.storage = n_trials, n_jobs, seed, storage
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config: DictConfig = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from frostline.common.files import read_json, write_json
        from frostline.sweep import search
        from frostline.sweep.results import RESULT, group_of

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        space, fixed = search.space_of([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
        study = search.open_study(self.storage, group_of(folder))
        failed = search.failed(study)  # of earlier commands: others take their places
        for number, record in search.told(study).items():
            if number not in failed:
                write_json(folder / str(number) / RESULT, record)
        until = self.n_trials + len(failed)
        left = search.unfinished_trials(study, space)
        while left or search.count(study) < until:
            if left:
                batch = [left.pop(0)]
            else:
                count = min(self.n_jobs, until - search.count(study))
                batch = [search.next_trial(study, space, self.seed, count > 1) for _ in range(count)]
            jobs = [search.overrides_of(trial, fixed) for trial in batch]
            for trial, result in zip(batch, self.launcher.launch(jobs, batch[0].number), strict=True):
                _ = result.return_value  # raises what the job raised
                search.tell(study, trial, read_json(folder / str(trial.number) / RESULT))
