"""MLflow: a parent run per pipeline, a child run per phase and for the evaluation; the only module that imports it.

Runs are found by what they made: a phase's run carries the digest of its model as a tag. Stages that DVC restored
from its cache left no run here; `find_or_restore` then logs one that says so.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

import mlflow
import numpy as np
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Param, Run
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from frostline.addresses import hide_credentials
from frostline.errors import FrostlineError
from frostline.files import sha256_of
from frostline.settings import Config

for name in ("mlflow.store.db.utils", "alembic", "mlflow.pyfunc"):  # they tell of every table made, example checked
    logging.getLogger(name).setLevel(logging.WARNING)

PHASE, PIPELINE, MODEL, RESTORED = (
    "frostline.phase",
    "frostline.pipeline",
    "frostline.model",
    "frostline.restored",
)


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
    artifacts = None
    if uri.startswith("sqlite:///"):
        folder = Path(uri.removeprefix("sqlite:///")).resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
        artifacts = (folder / "artifacts").as_uri()
    try:
        mlflow.set_tracking_uri(uri)
        if mlflow.get_experiment_by_name(experiment) is None:
            mlflow.create_experiment(experiment, artifact_location=artifacts)
        return str(mlflow.set_experiment(experiment).experiment_id)
    except Exception as error:
        reason = hide_credentials(" ".join(str(error).split()))[:200]
        raise FrostlineError(
            f"MLflow's store {hide_credentials(uri)} cannot be used: {reason}\n"
            "Start the server, or unset MLFLOW_TRACKING_URI to use the local one."
        ) from error


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


@contextmanager
def phase_run(phase: str, pipeline: Pipeline) -> Iterator[str]:
    """A child run for `phase` below its pipeline's parent run; it ends FINISHED, FAILED or, if interrupted, KILLED."""
    client = mlflow.MlflowClient()
    for left in _search(pipeline, {PIPELINE: pipeline.key, PHASE: phase}, "status = 'RUNNING'"):
        client.set_terminated(left.info.run_id, "KILLED")  # its process was killed: DVC runs a stage once at a time
    parent = _parent(phase, pipeline)
    run_id = _create(phase, pipeline, parent)
    status = "FAILED"
    try:
        with mlflow.start_run(run_id=run_id, log_system_metrics=False):
            yield run_id
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run_id, status)
        client.set_terminated(parent, status)


def find_or_restore(phase: str, pipeline: Pipeline, model: Path, history: Sequence[Mapping[str, float]]) -> str:
    """The id of the newest run of `phase` that made the file `model`.

    Where this store has none (DVC restored the stage from its cache), one is logged from the stage's `history` and
    marked as restored.
    """
    digest = sha256_of(model)
    for run in _search(pipeline, {PHASE: phase, MODEL: digest}):
        return str(run.info.run_id)
    run_id = _create(phase, pipeline, _parent(phase, pipeline), {MODEL: digest, RESTORED: "true"})
    for epoch in history:
        log_epoch(epoch, run_id)
    mlflow.MlflowClient().set_terminated(run_id)
    return run_id


def log_epoch(epoch: Mapping[str, float], run_id: str | None = None) -> None:
    """Log one epoch's figures as they come, on the active run where `run_id` names no other."""
    figures = {name: value for name, value in epoch.items() if name != "epoch"}
    mlflow.log_metrics(figures, step=int(epoch["epoch"]), run_id=run_id)


def log_metrics(run_id: str, metrics: Mapping[str, float]) -> None:
    mlflow.log_metrics(dict(metrics), run_id=run_id)


def log_data(name: str, source: str, digest: str, context: str) -> None:
    """Log the data set as an input of the active run; `digest` is that of its manifest."""
    dataset = MetaDataset(CodeDatasetSource({"source": source}), name=name, digest=digest[:32])
    mlflow.log_input(dataset, context=context)


def log_files(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            mlflow.log_artifacts(str(path), path.name)
        else:
            mlflow.log_artifact(str(path))


def tag_model(path: Path) -> None:
    """Tag the active run with the digest of the model file that it made, so that it can be found by it."""
    mlflow.set_tag(MODEL, sha256_of(path))


def log_model(path: Path, example: np.ndarray) -> None:
    """Log the model file at `path` on the active run, ready to be loaded and served.

    `example`: pictures (1, size, size, 3) uint8, which also give the signature.
    """
    package = Path(__file__).parent
    pictures = Schema([TensorSpec(np.dtype(np.uint8), (-1, *example.shape[1:]))])
    probabilities = Schema([TensorSpec(np.dtype(np.float32), (-1, 1))])
    needed = ("tensorflow", "keras", "numpy", "rich")
    Model.log(
        artifact_path=None,
        name="model",
        flavor=sys.modules[__name__],  # its save_model is called
        loader_module="frostline.serving",
        data_path=str(path),
        code_paths=[str(package)],
        signature=ModelSignature(pictures, probabilities),
        input_example=np.asarray(example),
        pip_requirements=[f"{name}=={version(name)}" for name in needed],
        validate_serving_input=False,
    )


def save_model(path: str, mlflow_model: Model, *, validate_serving_input: bool, **details: Any) -> None:
    """Save as mlflow.pyfunc does, called by `Model.log`.

    mlflow.pyfunc.log_model would also load the model again to try the example, 3 s a phase; it knows no switch for it.
    """
    mlflow.pyfunc.save_model(path, mlflow_model=mlflow_model, **details)


def describe(run_id: str, text: str) -> None:
    """Set the description (Markdown) of the run, and of the parent run that people open first."""
    client = mlflow.MlflowClient()
    parent = client.get_run(run_id).data.tags[MLFLOW_PARENT_RUN_ID]
    for target in (run_id, parent):
        client.set_tag(target, MLFLOW_RUN_NOTE, text)


def _create(phase: str, pipeline: Pipeline, parent: str | None, tags: Mapping[str, str] | None = None) -> str:
    """Create a run with the pipeline's parameters and tags; it has no process behind it until it is started."""
    client = mlflow.MlflowClient()
    all_tags = {
        PHASE: phase,
        PIPELINE: pipeline.key,
        "frostline.experiment": pipeline.name,
        "frostline.data": pipeline.data_digest,
        "frostline.git_commit": _git_commit(),
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
