"""MLflow: a parent run per pipeline, a child run per phase and for the evaluation.

Runs are found by what they made: a phase's run carries the digest of its model as a tag. Stages that DVC restored
from its cache left no run here; `find_or_restore` then logs one that says so.

A store that cannot be used ends a phase before it begins. One that is lost later does not: what it has not got waits
and is sent, in order, when it is back, at the latest try at the end of the phase. If it is away then, too, a warning
says what it lacks; no output of a stage depends on it. A locked SQLite store is waited for, then it counts as lost.
"""

import functools
import hashlib
import json
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from frostline.common.files import sha256_of
from frostline.common.urls import hide_credentials
from frostline.config.flat import flatten
from frostline.config.settings import Config
from frostline.runtime.process_pool import threads
from frostline.tracking.outbox import Outbox
from frostline.tracking.places import store_address
from frostline.tracking.quiet_mlflow import mlflow
from frostline.tracking.store import connect, store_is_needed
from frostline.tracking.tags import DATA, MODEL, PHASE, PIPELINE, RESTORED, TOKEN
from frostline.tracking.unfinished import close_what_was_killed, marked
from frostline.training.resolved import Found

_PARENT, _NOTE = mlflow.utils.mlflow_tags.MLFLOW_PARENT_RUN_ID, mlflow.utils.mlflow_tags.MLFLOW_RUN_NOTE
_SYSTEM_METRICS_EVERY, _SYSTEM_METRICS_END = 5, 2  # seconds
_LONGEST_NAME = 250
"""Characters of a run's name that databases take which, unlike SQLite, mind."""


@dataclass(frozen=True)
class Pipeline:
    """What one pipeline's (or sweep's) runs have in common."""

    experiment_id: str
    experiment: str
    """What the experiment is called, and the registered model."""
    name: str
    settings: Mapping[str, Any]
    """Flattened parameters, without secrets (see `params_of`)."""
    data_digest: str
    key: str
    """The same for all runs below one parent."""


def import_store() -> None:
    """Import what a local store needs, which takes a second, before there is a pipeline to open."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def open_pipeline(settings: Config, data_digest: str, group: str = "") -> Pipeline:
    """Open the MLflow store that `settings` names (MLFLOW_TRACKING_URI wins) for the runs of one pipeline.

    Runs of the same settings and data lie below one parent run; those of a `group` (a sweep) below the group's.

    Raises FrostlineError, before anything is trained, where the store cannot be used.
    """
    with store_is_needed():
        experiment = experiment_of(settings)
        experiment_id = connect(store_address(settings.tracking.uri), experiment)
        close_what_was_killed()
    flat = params_of(settings)
    text = group or json.dumps([flat, data_digest], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Pipeline(experiment_id, experiment, settings.name, flat, data_digest, key)


def experiment_of(settings: Config) -> str:
    """What the experiment of this data set is called, and its registered model.

    "-" stands for what MLflow does not take in the name of a model, or in asking for it; and no store has room for
    more than 256 characters.
    """
    return re.sub(r"[/:'\"]", "-", f"{settings.tracking.experiment}-{settings.data.name}")[:256]


def params_of(settings: Config) -> dict[str, Any]:
    """All settings by dotted key, as a run's parameters, but for the section `tracking`, whose address may hold a
    password; user names, passwords and query strings are cut out of every other address."""
    flat = flatten({key: value for key, value in asdict(settings).items() if key != "tracking"})
    return {key: hide_credentials(value) if isinstance(value, str) else value for key, value in flat.items()}


@dataclass(frozen=True)
class Run:
    """A run that is going on. What its methods log is sent at once, or waits where the store is away (see `Outbox`)."""

    id: str
    token: str
    """A tag of all runs that are made for it, by which they are closed where its process is killed."""
    outbox: Outbox

    def log_epoch(self, epoch: Mapping[str, float]) -> None:
        """Log one epoch's figures as they come."""
        metrics = _metrics_of(epoch)
        self.outbox.put(f"epoch {epoch['epoch']}", lambda: mlflow.MlflowClient().log_batch(self.id, metrics=metrics))

    def log_found(self, phase: str, found: Found) -> None:
        """Log what settings of `phase` that say auto were found to be, as parameters (found.transfer.learning_rate),
        and the curve of its range test, by step."""
        batch = _batch_of(phase, found)
        if found != Found():
            self.outbox.put("what auto is", lambda: mlflow.MlflowClient().log_batch(self.id, **batch))

    def log_metrics(self, metrics: Mapping[str, float], on: Callable[[], str] | None = None) -> None:
        """Log final figures on this run, or on the one whose id `on` gives: what find_or_restore returned."""
        values = _metrics_of(metrics)
        self.outbox.put("figures", lambda: mlflow.MlflowClient().log_batch(on() if on else self.id, metrics=values))

    def log_data(self, name: str, source: str, digest: str, context: str) -> None:
        """Log the data set as an input of the run; `digest` is that of its manifest."""
        described = _data_set(name, source, digest, context)
        self.outbox.put("data set", lambda: _log_data_set(self.id, described))

    def log_files(self, *paths: Path) -> None:
        """Log each file, and each folder under its own name."""

        def send(path: Path) -> None:
            if path.is_dir():
                mlflow.MlflowClient().log_artifacts(self.id, str(path), path.name)
            else:
                mlflow.MlflowClient().log_artifact(self.id, str(path))

        for path in paths:
            self.outbox.put(str(path), functools.partial(send, path))

    def tag_model(self, path: Path) -> None:
        """Tag the run with the digest of the model file that it made, so that it can be found by it."""
        digest = sha256_of(path)
        self.outbox.put("digest of the model", lambda: mlflow.MlflowClient().set_tag(self.id, MODEL, digest))

    def tag_computing(self, precision: str) -> None:
        """Tag the run with what its figures' last bits depend on beside settings and data: precision, cores."""
        texts = {"frostline.precision": precision, "frostline.cores": str(threads())}
        tags = [mlflow.entities.RunTag(name, text) for name, text in texts.items()]
        self.outbox.put("precision and cores", lambda: mlflow.MlflowClient().log_batch(self.id, tags=tags))

    def describe(self, text: str, metrics: Mapping[str, float]) -> None:
        """Set the description (Markdown) of the run and of its parent, which people open first, and which gets
        `metrics`."""
        values = _metrics_of(metrics)

        def send() -> None:
            client = mlflow.MlflowClient()
            parent = client.get_run(self.id).data.tags.get(_PARENT, self.id)
            for target in (self.id, parent):
                client.set_tag(target, _NOTE, text)
            client.log_batch(parent, metrics=values)

        self.outbox.put("description", send)


def phase_run(name: str, pipeline: Pipeline, of_sweep: bool = False) -> AbstractContextManager[Run]:
    """A child run below its pipeline's parent run; it ends FINISHED, FAILED or, if interrupted, KILLED.

    `name`: a phase, "evaluate" or, `of_sweep`, a trial, which a search may try again. Where its process is killed, or
    the store is away at its end, the next one that opens a pipeline in this folder closes it as KILLED.

    Raises FrostlineError, before anything is trained, where the store cannot be used.
    """

    def begin(tags: Mapping[str, str]) -> list[str]:
        parent = _newest_parent(pipeline, tags) if of_sweep else _parent(name, pipeline, tags)
        return [_create(name, pipeline, parent, tags), parent]

    return _running(pipeline, begin)


def sweep_run(pipeline: Pipeline, new: bool = False) -> AbstractContextManager[Run]:
    """The newest parent run of `pipeline` (a sweep's), or a `new` one; otherwise as phase_run."""

    def begin(tags: Mapping[str, str]) -> list[str]:
        return [_create("pipeline", pipeline, None, tags) if new else _newest_parent(pipeline, tags)]

    return _running(pipeline, begin)


@contextmanager
def _running(pipeline: Pipeline, begin: Callable[[Mapping[str, str]], list[str]]) -> Iterator[Run]:
    """Yield the first of the runs that `begin` gives, and end all of them; it makes new ones with the given tags."""
    token, outbox = uuid.uuid4().hex, Outbox()
    with marked(token, pipeline.experiment_id, outbox):
        with store_is_needed():
            runs = begin({TOKEN: token})
        status = "FAILED"
        try:
            with _system_metrics(runs[-1]):  # the parent: MLflow would show them before a phase's own figures
                yield Run(runs[0], token, outbox)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            client = mlflow.MlflowClient()
            outbox.put("the run's end", lambda: [client.set_terminated(run, status) for run in runs])
            if status != "KILLED":  # who interrupts does not want to wait for a lost server
                outbox.send(last=True)
                outbox.warn_of_what_is_lacking()


@contextmanager
def _system_metrics(run_id: str) -> Iterator[None]:
    """Let MLflow log the use of processor, memory and GPUs meanwhile; no run fails or waits long for it."""
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = None
    with suppress(Exception):  # a machine that psutil cannot read
        monitor = SystemMetricsMonitor(run_id, sampling_interval=_SYSTEM_METRICS_EVERY, resume_logging=True)
        # Eight names more, which say nothing of a training.
        monitor.monitors = [each for each in monitor.monitors if not isinstance(each, DiskMonitor | NetworkMonitor)]
        monitor.start()
    try:
        yield
    finally:
        if monitor:
            end = threading.Thread(target=monitor.finish, daemon=True)  # it waits for a store that is away
            end.start()
            end.join(_SYSTEM_METRICS_END)


def find_or_restore(
    name: str,
    pipeline: Pipeline,
    model: Path,
    history: Sequence[Mapping[str, float]],
    found: Mapping[str, Found] = MappingProxyType({}),
    asked_by: Run | None = None,
) -> Callable[[], str]:
    """Return a function that gives the id of the newest run of the phase `name` that made the file `model`.

    Where this store has none (DVC restored the stage from its cache, or the store was away), one is logged from the
    stage's `history` and what it `found`, by phase, and marked as restored; it is closed with the run `asked_by` where
    the process is killed. The store is asked when the function is called first.
    """
    tags = {TOKEN: asked_by.token} if asked_by else {}

    @functools.cache
    def run_id() -> str:
        digest = sha256_of(model)
        for run in _search(pipeline, {PHASE: name, MODEL: digest}, "status = 'FINISHED'"):
            return str(run.info.run_id)
        return _restore(name, pipeline, _parent(name, pipeline, tags), history, found, {**tags, MODEL: digest})

    return run_id


def times_judged(pipeline: Pipeline) -> int:
    """How many pipelines the images of `pipeline` have judged, itself included: those of other settings in this store.

    Raises FrostlineError where the store cannot be used.
    """
    with store_is_needed():
        everywhere = [each.experiment_id for each in mlflow.MlflowClient().search_experiments()]  # whatever its name
        judged = {PHASE: "evaluate", DATA: pipeline.data_digest}
        found = _search(pipeline, judged, "status = 'FINISHED'", experiments=everywhere)
    return len({run.data.tags[PIPELINE] for run in found} | {pipeline.key})


def restore_phase(
    name: str,
    pipeline: Pipeline,
    history: Sequence[Mapping[str, float]],
    found: Mapping[str, Found] = MappingProxyType({}),
) -> None:
    """Log the trial `name` from its `history` and what it `found`, by phase, marked as restored, unless it finished
    below the newest parent run."""
    with store_is_needed():
        parent = _newest_parent(pipeline, {})
        if not _search(pipeline, {_PARENT: parent, PHASE: name}, "status = 'FINISHED'"):
            _restore(name, pipeline, parent, history, found, {})


def _restore(
    name: str,
    pipeline: Pipeline,
    parent: str,
    history: Sequence[Mapping[str, float]],
    found: Mapping[str, Found],
    tags: Mapping[str, str],
) -> str:
    client = mlflow.MlflowClient()
    run_id = _create(name, pipeline, parent, {**tags, RESTORED: "true"})
    for epoch in history:
        client.log_batch(run_id, metrics=_metrics_of(epoch))
    for phase, what in found.items():
        client.log_batch(run_id, **_batch_of(phase, what))
    client.set_terminated(run_id)
    return run_id


def _batch_of(phase: str, found: Found) -> dict[str, Any]:
    """What `log_found` logs, as MLflow takes it."""
    params = [mlflow.entities.Param(f"found.{phase}.{name}", str(value)) for name, value in found.numbers().items()]
    steps = [{f"{phase}/range_test_{name}": value for name, value in point.items()} for point in found.rate_test]
    metrics = [metric for step, point in enumerate(steps, 1) for metric in _metrics_of({**point, "epoch": step})]
    return {"params": params, "metrics": metrics}


def _metrics_of(figures: Mapping[str, float]) -> list[mlflow.entities.Metric]:
    """`figures` but for the epoch, with the present time: sent twice, they are still logged once."""
    now, step = int(time.time() * 1000), int(figures.get("epoch", 0))
    return [mlflow.entities.Metric(name, float(value), now, step) for name, value in figures.items() if name != "epoch"]


def _create(name: str, pipeline: Pipeline, parent: str | None, tags: Mapping[str, str]) -> str:
    """Create a run with the pipeline's parameters and tags; it has no process behind it until it is started."""
    client = mlflow.MlflowClient()
    all_tags = {
        PHASE: name,
        PIPELINE: pipeline.key,
        "frostline.experiment": pipeline.name,
        DATA: pipeline.data_digest,
        "frostline.git_commit": _git_commit(),
        **({_PARENT: parent} if parent else {}),
        **tags,
    }
    shown = pipeline.name if parent is None else f"{_with_short_numbers(name)} {pipeline.name}"
    run = client.create_run(pipeline.experiment_id, tags=all_tags, run_name=shown[:_LONGEST_NAME])
    params = [mlflow.entities.Param(key, str(value)) for key, value in pipeline.settings.items()]
    client.log_batch(run.info.run_id, params=params)
    if parent is None:  # people see it first, and MLflow has a column for its data set
        name, source = (str(pipeline.settings[f"data.{key}"]) for key in ("name", "depends_on"))
        _log_data_set(run.info.run_id, _data_set(name, source, pipeline.data_digest, "pipeline"))
    return str(run.info.run_id)


def _data_set(name: str, source: str, digest: str, context: str) -> mlflow.entities.DatasetInput:
    origin = mlflow.data.code_dataset_source.CodeDatasetSource({"source": source})
    dataset = mlflow.data.meta_dataset.MetaDataset(origin, name=name, digest=digest[:32])
    tag = mlflow.entities.InputTag(mlflow.utils.mlflow_tags.MLFLOW_DATASET_CONTEXT, context)
    return mlflow.entities.DatasetInput(mlflow.entities.Dataset(**dataset.to_dict()), [tag])


def _log_data_set(run_id: str, described: mlflow.entities.DatasetInput) -> None:
    """Where several processes send a new data set at once, a server refuses all but the first: the others ask again."""
    client = mlflow.MlflowClient()
    try:
        client.log_inputs(run_id, [described])
    except mlflow.exceptions.MlflowException as error:
        if not re.search("(?i)unique|duplicate", str(error)):
            raise
        client.log_inputs(run_id, [described])


def _with_short_numbers(trial: str) -> str:
    """ "learning_rate=9.999999747378752e-06" as "learning_rate=1e-05": its parameters have all digits."""
    return re.sub(r"(?<==)-?\d*\.\d+(e[+-]?\d+)?", lambda number: f"{float(number[0]):.4g}", trial)


def _parent(name: str, pipeline: Pipeline, tags: Mapping[str, str]) -> str:
    """The newest parent run of this pipeline, unless it has finished `name` before: then this is a new pipeline.

    `tags`: of a new one.
    """
    for parent in _search(pipeline, {PIPELINE: pipeline.key, PHASE: "pipeline"})[:1]:
        parent_id = str(parent.info.run_id)
        if not _search(pipeline, {_PARENT: parent_id, PHASE: name}, "status = 'FINISHED'"):
            return parent_id
    return _create("pipeline", pipeline, None, tags)


def _newest_parent(pipeline: Pipeline, tags: Mapping[str, str]) -> str:
    found = _search(pipeline, {PIPELINE: pipeline.key, PHASE: "pipeline"})
    return str(found[0].info.run_id) if found else _create("pipeline", pipeline, None, tags)


def _search(
    pipeline: Pipeline, tags: Mapping[str, str], *conditions: str, experiments: Sequence[str] = ()
) -> list[mlflow.entities.Run]:
    """Runs with these tags of the pipeline's experiment, or of `experiments`, newest first."""
    # A filter knows no way to write a quote: a tag with one is compared here.
    clauses = [f"tags.`{key}` = '{value}'" for key, value in tags.items() if not re.search(r"['\\]", value)]
    found = mlflow.MlflowClient().search_runs(
        list(experiments) or [pipeline.experiment_id],
        " and ".join([*clauses, *conditions]),
        order_by=["attributes.start_time DESC"],
    )
    return [run for run in found if all(run.data.tags.get(key) == value for key, value in tags.items())]


def _git_commit() -> str:
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
