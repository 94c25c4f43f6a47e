"""Hydra's plugins behind `hydra/launcher=ray`, `submitit_slurm` and `submitit_local`: the trials of a sweep in
processes of their own, on one machine or many. Their options are in conf/hydra/launcher.

Why not the published plugins: both give up a sweep when the process of one trial is killed, and Ray's needs an older
cloudpickle than ours.
"""

import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from frostline.runtime.logs import show


@dataclass(frozen=True)
class _Trial:
    """One trial with all that a process needs to run it, on any machine that has this project's folder."""

    number: int
    overrides: list[str]
    config: DictConfig
    context: HydraContext
    task: TaskFunction
    project: Path
    environment: dict[str, str]
    hydras_state: Any

    def __call__(self) -> JobReturn:
        os.chdir(self.project)
        os.environ.update(self.environment)
        show()
        Singleton.set_state(self.hydras_state)
        setup_globals()
        return run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=self.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )

    def checkpoint(self) -> Any:
        """What submitit submits when SLURM preempts the job: the same; the trial goes on from its last epoch."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def lost(self, reason: Exception) -> JobReturn:
        """What is left where the process ended before the trial did: a result that says so, unless there is one."""
        from frostline.common.files import write_json
        from frostline.sweep.results import RESULT, new_record

        path = Path(self.config.hydra.sweep.dir) / str(self.number) / RESULT
        if not path.is_file():
            first = next(iter(str(reason).splitlines()), "")
            error = f"its process ended before it did ({type(reason).__name__}: {first})"
            write_json(path, {**new_record(self.overrides), "error": error})
        result = JobReturn(overrides=self.overrides, status=JobStatus.COMPLETED)
        result.return_value = math.inf
        return result


class _ProcessLauncher(Launcher):
    environment: dict[str, str]
    """What is set in each process."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        trials = [self._trial(number, list(each)) for number, each in enumerate(job_overrides, initial_job_idx)]
        results: dict[int, JobReturn] = {}
        for index, end in self._run(trials):
            results[index] = end if isinstance(end, JobReturn) else trials[index].lost(end)
        return [results[index] for index in range(len(trials))]

    def _trial(self, number: int, overrides: list[str]) -> _Trial:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        state = Singleton.get_state()
        return _Trial(number, overrides, config, self.context, self.task, Path.cwd(), self.environment, state)

    @abstractmethod
    def _run(self, trials: Sequence[_Trial]) -> Iterator[tuple[int, JobReturn | Exception]]:
        """Run `trials`; yield the index of each when it ends, with what it returned or why it did not."""


def _threads(count: int | None) -> dict[str, str]:
    """Keeps TensorFlow to its share of the machine, which it takes for its own; None: to all of its cores."""
    from frostline.runtime.process_pool import limited_to

    return limited_to(count) if count else {}


class RayLauncher(_ProcessLauncher):
    """Trials as Ray's tasks. Its processes are reused: TensorFlow is imported once in each."""

    def __init__(self, address: str | None, cpus_per_trial: int, gpus_per_trial: int) -> None:
        self.address, self.cpus, self.gpus = address, cpus_per_trial, gpus_per_trial
        # A Ray that was started before this sweep has not got its environment.
        tracking = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
        self.environment = tracking | _threads(cpus_per_trial)

    def _run(self, trials: Sequence[_Trial]) -> Iterator[tuple[int, JobReturn | Exception]]:
        self._connect()
        import ray

        # A trial that ended its process once would do so again: no retries. The next start of the sweep runs it.
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(_call)
        running = {task.remote(trial): index for index, trial in enumerate(trials)}
        while running:
            (done,), _ = ray.wait(list(running))
            try:
                end = ray.get(done)
            except ray.exceptions.RayError as error:
                end = error
            yield running.pop(done), end

    def _connect(self) -> None:
        from frostline.runtime.errors import FrostlineError
        from frostline.runtime.process_pool import cores
        from frostline.runtime.ray_pool import join

        if not self.address and self.cpus > cores():
            raise SystemExit(
                f"error: hydra.launcher.cpus_per_trial is {self.cpus}, but this process may use {cores()}."
            )
        try:
            join(self.address, _RAYS_LEAST)
        except FrostlineError as error:  # Hydra would print a traceback of any other exception
            raise SystemExit(f"error: {error}") from error


_RAYS_LEAST = 80 * 2**20
"""Bytes of shared memory: results go through files."""


def _call(trial: _Trial) -> JobReturn:
    return trial()


class SubmititLauncher(_ProcessLauncher):
    """Trials as jobs of submitit. Its options are named as those of the published plugin, hydra-submitit-launcher."""

    cluster: str
    """Which of submitit's executors."""

    def __init__(self, submitit_folder: str, max_num_timeout: int = 0, **options: Any) -> None:
        self.folder, self.timeouts = submitit_folder, max_num_timeout
        self.environment = _threads(options.get("cpus_per_task"))  # all else they inherit; trials lie in files there
        self.options = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(options)))

    def _run(self, trials: Sequence[_Trial]) -> Iterator[tuple[int, JobReturn | Exception]]:
        import submitit
        from submitit.helpers import as_completed

        named = {f"{self.cluster}_{name}": value for name, value in self.options.items()}
        try:
            timeouts = {f"{self.cluster}_max_num_timeout": self.timeouts}
            executor = submitit.AutoExecutor(self.folder, self.cluster, **timeouts)
            executor.update_parameters(**named)
            with executor.batch():  # on SLURM one job array
                jobs = [executor.submit(trial) for trial in trials]
        except (RuntimeError, NameError) as error:  # no SLURM here, no such option, no such partition
            raise SystemExit(f"error: {error}") from error
        try:
            for job in as_completed(jobs, poll_frequency=1):
                yield jobs.index(job), job.exception() or job.result()
        finally:
            for job in jobs:
                if not job.done():  # interrupted: the next start of the sweep runs what is missing
                    job.cancel(check=False)


class LocalLauncher(SubmititLauncher):
    cluster = "local"


class SlurmLauncher(SubmititLauncher):
    cluster = "slurm"
