"""A phase's model in MLflow, on the run that made it: ready to be loaded and served (see `serving`)."""

import base64
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Map

from frostline.runtime.code_digest import PACKAGE
from frostline.tracking.runs import log


def log_model(path: Path, example: np.ndarray, run_id: str) -> None:
    """Let the model file at `path` be logged on this run, when the store is there; see `send_model`."""
    log("model", lambda: send_model(path, example, run_id))


def send_model(path: Path, example: np.ndarray, run_id: str) -> LoggedModel:
    """Log the model file at `path` on this run, unless one has been logged there, and return what the run has.

    `example`: an image (size, size, 3) uint8; MLflow's UI shows how to ask for its class.
    """
    from frostline.data.images import as_png  # here, since no output of a stage depends on it

    # The one signature that lets through base64 texts and arrays of pixels alike: MLflow takes an object tensor as
    # "anything". What is wrong with them, the model says itself.
    images = Schema([TensorSpec(np.dtype(object), (-1,))])
    answers = Schema(
        [
            ColSpec(DataType.string, "class"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Map(DataType.double), "probabilities"),
        ]
    )
    request = np.array([base64.b64encode(as_png(example)).decode("ascii")], object)
    needed = ("tensorflow", "keras", "numpy", "pillow", "rich")
    for logged in logged_models(run_id):
        if logged.status == LoggedModelStatus.READY:
            return logged
        mlflow.MlflowClient().delete_logged_model(logged.model_id)  # the store was lost in the middle of it
    Model.log(
        artifact_path=None,
        name="model",
        run_id=run_id,
        flavor=sys.modules[__name__],  # its save_model is called
        loader_module="frostline.serving.pyfunc",
        data_path=str(path),
        code_paths=[str(PACKAGE)],
        signature=ModelSignature(images, answers),
        input_example=request,
        pip_requirements=[f"{name}=={version(name)}" for name in needed],
        validate_serving_input=False,
    )
    (logged,) = logged_models(run_id)
    return logged


def save_model(path: str, mlflow_model: Model, *, validate_serving_input: bool, **details: Any) -> None:
    """Save as mlflow.pyfunc does, called by `Model.log`.

    mlflow.pyfunc.log_model would also load the model again to try the example, 3 s a phase; it knows no switch for it.
    """
    mlflow.pyfunc.save_model(path, mlflow_model=mlflow_model, **details)


def logged_models(run_id: str) -> Sequence[LoggedModel]:
    client = mlflow.MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_logged_models([experiment], f"source_run_id = '{run_id}'"))
