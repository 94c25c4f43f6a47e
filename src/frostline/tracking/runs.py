"""MLflow: a parent run per pipeline, a child run per phase and for the evaluation.

With `logged_model` and `model_registry`, the only module that imports it, but for `serving`, which MLflow itself loads.

Runs are found by what they made: a phase's run carries the digest of its model as a tag. Stages that DVC restored
from its cache left no run here; `find_or_restore` then logs one that says so.

A store that cannot be used ends a phase before it begins. One that is lost later does not: what it has not got waits
and is sent, in order, when it is back, at the latest try at the end of the phase. If it is away then, too, a warning
says what it lacks; no output of a stage depends on it. A locked SQLite store is waited for, then it counts as lost.
"""

import fcntl
import functools
import hashlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

import mlflow
import requests
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from frostline.common.files import read_json, replacing, sha256_of
from frostline.config.paths import ROOT, WORK
from frostline.config.settings import Config
from frostline.runtime.errors import FrostlineError
from frostline.runtime.process_pool import threads
from frostline.runtime.urls import hide_credentials

for name in ("alembic", "mlflow.pyfunc"):  # they tell of every table made, example checked
    logging.getLogger(name).setLevel(logging.WARNING)
_OF_TRIES = ("mlflow.store.db.utils", "mlflow.system_metrics.system_metrics_monitor", "urllib3.connectionpool")
for name in _OF_TRIES:  # they tell of every one, with tracebacks
    logging.getLogger(name).setLevel(logging.CRITICAL)

PHASE, PIPELINE, MODEL, RESTORED, TOKEN = (
    "frostline.phase",
    "frostline.pipeline",
    "frostline.model",
    "frostline.restored",
    "frostline.token",
)

_MARKERS = WORK / "runs"
_SYSTEM_METRICS_EVERY, _SYSTEM_METRICS_END = 5, 2  # seconds
_SQLITE_WAIT = 20.0
"""Seconds to wait for a locked SQLite store before anything is trained; as long as MLflow waits later."""


@dataclass(frozen=True)
class Pipeline:
    """What one pipeline's (or sweep's) runs have in common."""

    experiment_id: str
    name: str
    settings: Mapping[str, Any]
    """Flattened parameters, without secrets (see `flatten`)."""
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
    experiment_id = _connect(
        os.environ.get("MLFLOW_TRACKING_URI") or settings.tracking.uri, settings.tracking.experiment
    )
    flat = flatten(asdict(settings))
    text = group or json.dumps([flat, data_digest], sort_keys=True)
    return Pipeline(experiment_id, settings.name, flat, data_digest, hashlib.sha256(text.encode()).hexdigest()[:16])


def _connect(uri: str, experiment: str) -> str:
    path = None
    if uri.startswith("sqlite:///"):
        name, mark, query = uri.removeprefix("sqlite:///").partition("?")
        path = (ROOT / name).resolve()
        uri = f"sqlite:///{path}{mark}{query}"
    mlflow.set_tracking_uri(uri)
    with _store_is_needed():
        artifacts = None
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            artifacts = (path.parent / "artifacts").as_uri()
            _wait_for_lock(path)
        if mlflow.get_experiment_by_name(experiment) is None:
            try:
                mlflow.create_experiment(experiment, artifact_location=artifacts)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                    raise
        experiment_id = str(mlflow.set_experiment(experiment).experiment_id)
        _close_what_was_killed()
        return experiment_id


@contextmanager
def _store_is_needed() -> Iterator[None]:
    """Turn what goes wrong with the store into a FrostlineError; for what is done before anything is trained."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise  # a file of ours, and not the store
        advice = "Start the server, or unset MLFLOW_TRACKING_URI to use the local one."
        if _store().startswith("sqlite:"):
            advice = "End the program that uses it, or see whether its folder can be written and its disk has room."
        raise FrostlineError(f"MLflow's store {_store()} cannot be used: {_reason(error)}\n{advice}") from error


def _wait_for_lock(path: Path) -> None:
    """Wait until the SQLite file can be written; MLflow itself would wait for minutes."""
    connection = sqlite3.connect(path, timeout=_SQLITE_WAIT, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    finally:
        connection.close()


def _store() -> str:
    return hide_credentials(mlflow.get_tracking_uri())


def _reason(error: Exception) -> str:
    return hide_credentials(" ".join(str(error).split()))[:200]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `settings` with dotted keys, without the section `tracking`, whose address may hold a password;
    user names, passwords and query strings are cut out of every other address."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            if prefix or key != "tracking":
                flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = hide_credentials(value) if isinstance(value, str) else value
    return flat


@dataclass
class _Outbox:
    """The run that this process logs to, and what the store has not got of it."""

    run_id: str = ""
    token: str = ""
    """A tag of the runs that are made for it (see _marked)."""
    unsent: list[tuple[str, Callable[[], object]]] = field(default_factory=list)
    """Oldest first: what it is, and how to send it."""
    refused: list[str] = field(default_factory=list)
    """What the store did not take, and why."""
    away: str = ""
    """Why the store could not be reached at the last try."""
    next_try: float = 0.0


_outbox = _Outbox()


def phase_run(phase: str, pipeline: Pipeline) -> AbstractContextManager[str]:
    """A child run for `phase` below its pipeline's parent run; it ends FINISHED, FAILED or, if interrupted, KILLED.

    The functions below log to it. Where its process is killed, or the store is away at its end, the next one that
    opens a pipeline in this folder closes it as KILLED.

    Raises FrostlineError, before anything is trained, where the store cannot be used.
    """

    def begin() -> list[str]:
        parent = _parent(phase, pipeline)
        return [_create(phase, pipeline, parent), parent]

    return _running(pipeline, begin)


def sweep_run(pipeline: Pipeline, new: bool = False) -> AbstractContextManager[str]:
    """The newest parent run of `pipeline` (a sweep's), or a `new` one; otherwise as phase_run."""
    return _running(pipeline, lambda: [_create("pipeline", pipeline, parent=None) if new else _newest_parent(pipeline)])


@contextmanager
def _running(pipeline: Pipeline, begin: Callable[[], list[str]]) -> Iterator[str]:
    """Log to the first of the runs that `begin` gives, yield its id, and end all of them."""
    global _outbox
    outer, _outbox = _outbox, _Outbox(token=uuid.uuid4().hex)
    try:
        with _marked(pipeline.experiment_id):
            with _store_is_needed():
                runs = begin()
            _outbox.run_id, status = runs[0], "FAILED"
            try:
                with _system_metrics(runs[0]):
                    yield runs[0]
                status = "FINISHED"
            except KeyboardInterrupt:
                status = "KILLED"
                raise
            finally:
                client = mlflow.MlflowClient()
                log("the run's end", lambda: [client.set_terminated(run, status) for run in runs])
                if status != "KILLED":  # who interrupts does not want to wait for a lost server
                    _send()
                    _warn_of_what_is_lacking()
    finally:
        _outbox = outer


@contextmanager
def _system_metrics(run_id: str) -> Iterator[None]:
    """Let MLflow log the use of processor, memory and GPUs meanwhile; no run fails or waits long for it."""
    monitor = None
    with suppress(Exception):  # a machine that psutil cannot read
        monitor = SystemMetricsMonitor(run_id, sampling_interval=_SYSTEM_METRICS_EVERY)
        # Eight names would push a phase's own figures out of sight where runs are compared.
        monitor.monitors = [each for each in monitor.monitors if not isinstance(each, DiskMonitor | NetworkMonitor)]
        monitor.start()
    try:
        yield
    finally:
        if monitor:
            end = threading.Thread(target=monitor.finish, daemon=True)  # it waits for a store that is away
            end.start()
            end.join(_SYSTEM_METRICS_END)


@contextmanager
def _marked(experiment_id: str) -> Iterator[None]:
    """Keep a locked file while runs are unfinished; a process that is killed leaves it behind, unlocked.

    The file stays, too, where the store was lost before it got all.
    """
    path = _MARKERS / f"{_outbox.token}.json"
    with ExitStack() as stack:
        with replacing(path) as temporary:
            file = stack.enter_context(temporary.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
            json.dump({"store": _store(), "experiment": experiment_id}, file)
            file.flush()
        yield
        if not _outbox.unsent:
            path.unlink(missing_ok=True)


def _close_what_was_killed() -> None:
    """Close as KILLED what processes that are gone left running in this store."""
    client = mlflow.MlflowClient()
    for path in _MARKERS.glob("*.json"):
        with suppress(FileNotFoundError), path.open() as file:  # its process may end just now
            if not _lock(file) or (left := read_json(path))["store"] != _store():
                continue
            condition = f"tags.`{TOKEN}` = '{path.stem}' and status = 'RUNNING'"
            for run in client.search_runs([left["experiment"]], condition):
                client.set_terminated(run.info.run_id, "KILLED")
            path.unlink()


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def log(what: str, action: Callable[[], object]) -> None:
    """Do `action`, which sends `what`, after all that waits already; where the store is away, it waits, too."""
    _outbox.unsent.append((what, action))
    if time.monotonic() >= _outbox.next_try:
        _send()


def _send() -> None:
    """Send what waits, until the store turns out to be away; drop what it refuses."""
    while _outbox.unsent:
        begun, (what, action) = time.monotonic(), _outbox.unsent[0]
        try:
            action()
        except Exception as error:  # noqa: BLE001 - artifact stores raise anything; the phase must not fail for it
            if _is_away(error):
                ended = time.monotonic()
                _outbox.next_try = ended + 10 * (ended - begun)  # a lost store costs at most a tenth of the time
                _outbox.away = _reason(error)
                return
            _outbox.refused.append(f"{what} ({_reason(error)})")
        del _outbox.unsent[0]


def _is_away(error: Exception) -> bool:
    if isinstance(error, MlflowException):
        return bool(error.get_http_status_code() >= 500)
    return isinstance(error, requests.RequestException)


def _warn_of_what_is_lacking() -> None:
    lacking = ", ".join(dict.fromkeys([*_outbox.refused, *(what for what, _ in _outbox.unsent)]))
    if lacking:
        problem = f"is away: {_outbox.away}" if _outbox.unsent else "did not take all"
        sys.stderr.write(
            f"warning: MLflow's store {_store()} {problem}\n"
            f"The stage's outputs are complete all the same. Not logged: {lacking}.\n"
        )


def find_or_restore(
    phase: str, pipeline: Pipeline, model: Path, history: Sequence[Mapping[str, float]]
) -> Callable[[], str]:
    """Return a function that gives the id of the newest run of `phase` that made the file `model`.

    Where this store has none (DVC restored the stage from its cache, or the store was away), one is logged from the
    stage's `history` and marked as restored. The store is asked when the function is called first.
    """

    @functools.cache
    def run_id() -> str:
        digest = sha256_of(model)
        for run in _search(pipeline, {PHASE: phase, MODEL: digest}, "status = 'FINISHED'"):
            return str(run.info.run_id)
        return _restore(phase, pipeline, _parent(phase, pipeline), history, {MODEL: digest})

    return run_id


def restore_phase(phase: str, pipeline: Pipeline, history: Sequence[Mapping[str, float]]) -> None:
    """Log `phase` from its `history`, marked as restored, unless it has finished below the newest parent run."""
    with _store_is_needed():
        parent = _newest_parent(pipeline)
        if not _search(pipeline, {MLFLOW_PARENT_RUN_ID: parent, PHASE: phase}, "status = 'FINISHED'"):
            _restore(phase, pipeline, parent, history, {})


def _restore(
    phase: str,
    pipeline: Pipeline,
    parent: str,
    history: Sequence[Mapping[str, float]],
    tags: Mapping[str, str],
) -> str:
    client = mlflow.MlflowClient()
    run_id = _create(phase, pipeline, parent, {**tags, RESTORED: "true"})
    for epoch in history:
        client.log_batch(run_id, metrics=_metrics_of(epoch))
    client.set_terminated(run_id)
    return run_id


def log_epoch(epoch: Mapping[str, float]) -> None:
    """Log one epoch's figures as they come."""
    run_id, metrics = _outbox.run_id, _metrics_of(epoch)
    log(f"epoch {epoch['epoch']}", lambda: mlflow.MlflowClient().log_batch(run_id, metrics=metrics))


def log_metrics(run: str | Callable[[], str], metrics: Mapping[str, float]) -> None:
    """Log final figures on `run`, an id or what find_or_restore returned."""
    values = _metrics_of(metrics)
    log("figures", lambda: mlflow.MlflowClient().log_batch(run if isinstance(run, str) else run(), metrics=values))


def _metrics_of(figures: Mapping[str, float]) -> list[Metric]:
    """`figures` but for the epoch, with the present time: sent twice, they are still logged once."""
    now, step = int(time.time() * 1000), int(figures.get("epoch", 0))
    return [Metric(name, float(value), now, step) for name, value in figures.items() if name != "epoch"]


def log_data(name: str, source: str, digest: str, context: str) -> None:
    """Log the data set as an input of the run; `digest` is that of its manifest."""
    dataset = MetaDataset(CodeDatasetSource({"source": source}), name=name, digest=digest[:32])
    described = DatasetInput(dataset._to_mlflow_entity(), [InputTag(MLFLOW_DATASET_CONTEXT, context)])
    run_id = _outbox.run_id
    log("data set", lambda: mlflow.MlflowClient().log_inputs(run_id, [described]))


def log_files(*paths: Path) -> None:
    run_id = _outbox.run_id

    def send(path: Path) -> None:
        if path.is_dir():
            mlflow.MlflowClient().log_artifacts(run_id, str(path), path.name)
        else:
            mlflow.MlflowClient().log_artifact(run_id, str(path))

    for path in paths:
        log(str(path), functools.partial(send, path))


def tag_model(path: Path) -> None:
    """Tag the run with the digest of the model file that it made, so that it can be found by it."""
    run_id, digest = _outbox.run_id, sha256_of(path)
    log("digest of the model", lambda: mlflow.MlflowClient().set_tag(run_id, MODEL, digest))


def tag_computing(precision: str) -> None:
    """Tag the run with what its figures' last bits depend on beside settings and data: precision, number of cores."""
    run_id, tags = _outbox.run_id, [RunTag("frostline.precision", precision), RunTag("frostline.cores", str(threads()))]
    log("precision and cores", lambda: mlflow.MlflowClient().log_batch(run_id, tags=tags))


def describe(run_id: str, text: str, metrics: Mapping[str, float]) -> None:
    """Set the description (Markdown) of the run and of its parent, which people open first and which gets `metrics`."""
    values = _metrics_of(metrics)

    def send() -> None:
        client = mlflow.MlflowClient()
        parent = client.get_run(run_id).data.tags.get(MLFLOW_PARENT_RUN_ID, run_id)
        for target in (run_id, parent):
            client.set_tag(target, MLFLOW_RUN_NOTE, text)
        client.log_batch(parent, metrics=values)

    log("description", send)


def _create(phase: str, pipeline: Pipeline, parent: str | None, tags: Mapping[str, str] | None = None) -> str:
    """Create a run with the pipeline's parameters and tags; it has no process behind it until it is started."""
    client = mlflow.MlflowClient()
    all_tags = {
        PHASE: phase,
        PIPELINE: pipeline.key,
        "frostline.experiment": pipeline.name,
        "frostline.data": pipeline.data_digest,
        "frostline.git_commit": _git_commit(),
        TOKEN: _outbox.token,
        **({MLFLOW_PARENT_RUN_ID: parent} if parent else {}),
        **(tags or {}),
    }
    name = pipeline.name if parent is None else f"{phase} {pipeline.name}"
    run = client.create_run(pipeline.experiment_id, tags=all_tags, run_name=name)
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in pipeline.settings.items()])
    return str(run.info.run_id)


def _parent(phase: str, pipeline: Pipeline) -> str:
    """The newest parent run of this pipeline, unless it has finished `phase` before: then this is a new pipeline."""
    for parent in _search(pipeline, {PIPELINE: pipeline.key, PHASE: "pipeline"})[:1]:
        parent_id = str(parent.info.run_id)
        if not _search(pipeline, {MLFLOW_PARENT_RUN_ID: parent_id, PHASE: phase}, "status = 'FINISHED'"):
            return parent_id
    return _create("pipeline", pipeline, parent=None)


def _newest_parent(pipeline: Pipeline) -> str:
    found = _search(pipeline, {PIPELINE: pipeline.key, PHASE: "pipeline"})
    return str(found[0].info.run_id) if found else _create("pipeline", pipeline, parent=None)


def _search(pipeline: Pipeline, tags: Mapping[str, str], *conditions: str) -> list[Run]:
    """Runs of the experiment with these tags, newest first."""
    clauses = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    found = mlflow.MlflowClient().search_runs(
        [pipeline.experiment_id],
        " and ".join([*clauses, *conditions]),
        order_by=["attributes.start_time DESC"],
    )
    return list(found)


def _git_commit() -> str:
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
