"""A phase's model in MLflow, on the run that made it: ready to be loaded and served (see `serving`)."""

import base64
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from frostline.models.saving import load_metadata, needs_keras_hub
from frostline.runtime.code_digest import PACKAGE
from frostline.serving.model_card import CARD, current_origin, model_card
from frostline.tracking.quiet_mlflow import mlflow
from frostline.tracking.runs import Run


def log_model(run: Run, path: Path, example: np.ndarray) -> None:
    """Let the model file at `path` be logged on `run`, when the store is there; see `send_model`."""
    run.outbox.put("model", lambda: send_model(path, example, run.id))


def send_model(path: Path, example: np.ndarray, run_id: str, evaluated: bool = False) -> mlflow.entities.LoggedModel:
    """Log the model file at `path`, with its card, on this run, unless one is logged there; return what the run has.

    `example`: an image (size, size, 3) uint8; MLflow's UI shows how to ask for its class. `evaluated`: the figures in
    reports/figures.json are this model's.
    """
    from frostline.data.images import as_png  # here, since no output of a stage depends on it

    # The one signature that lets through base64 texts and arrays of pixels alike: MLflow takes an object tensor as
    # "anything". What is wrong with them, the model says itself.
    types = mlflow.types
    images = types.Schema([types.TensorSpec(np.dtype(object), (-1,))])
    answers = types.Schema(
        [
            types.ColSpec(types.DataType.string, "class"),
            types.ColSpec(types.DataType.double, "probability"),
            types.ColSpec(types.schema.Map(types.DataType.double), "probabilities"),
        ]
    )
    request = np.array([base64.b64encode(as_png(example)).decode("ascii")], object)
    # With what these and MLflow bring, all that frostline.serving.pyfunc imports.
    needed = ["tensorflow", "keras", "numpy", "pillow", "rich", "psutil", "filelock"]
    needed += ["keras-hub"] * needs_keras_hub(path)
    for logged in logged_models(run_id):
        if logged.status == mlflow.entities.LoggedModelStatus.READY:
            return logged
        mlflow.MlflowClient().delete_logged_model(logged.model_id)  # the store was lost in the middle of it
    mlflow.models.Model.log(
        artifact_path=None,
        name="model",
        run_id=run_id,
        flavor=sys.modules[__name__],  # its save_model is called
        loader_module="frostline.serving.pyfunc",
        data_path=str(path),
        card=_card(path, len(example), evaluated),
        code_paths=[str(PACKAGE)],
        signature=mlflow.models.ModelSignature(images, answers),
        input_example=request,
        pip_requirements=[f"{name}=={version(name)}" for name in needed],
        validate_serving_input=False,
    )
    (logged,) = logged_models(run_id)
    return logged


def _card(path: Path, size: int, evaluated: bool) -> str:
    origin = current_origin(evaluated)
    return model_card(load_metadata(path), size, origin, "mlflow", "models:/…")


def save_model(
    path: str, mlflow_model: mlflow.models.Model, *, card: str, validate_serving_input: bool, **details: Any
) -> None:
    """Save as mlflow.pyfunc does, called by `Model.log`, and the `card` beside it.

    mlflow.pyfunc.log_model would also load the model again to try the example, 3 s a phase; it knows no switch for it.
    """
    mlflow.pyfunc.save_model(path, mlflow_model=mlflow_model, **details)
    (Path(path) / CARD).write_text(card, encoding="utf-8")


def logged_models(run_id: str) -> Sequence[mlflow.entities.LoggedModel]:
    client = mlflow.MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_logged_models([experiment], f"source_run_id = '{run_id}'"))
