"""The one place that imports MLflow first: `from frostline.tracking.quiet_mlflow import mlflow`.

Telemetry starts when MLflow is imported, and so does what its loggers say; both are turned off around the import.
The environment says where the store is, who asks and how long is waited; what runs belong to, it does not.
"""

import logging
import os

__all__ = ["mlflow"]

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
# It would take the packages of this project's own environment, tests' and all, for what a model needs.
os.environ["MLFLOW_UV_AUTO_DETECT"] = "false"

import mlflow

# Those of whoever starts a process of ours: a run, model or experiment of theirs, to which ours would be bound, and a
# queue in which the failure of what is sent would be lost (see outbox.py).
_BINDING = ("ACTIVE_MODEL_ID", "RUN_ID", "RUN_CONTEXT", "EXPERIMENT_ID", "EXPERIMENT_NAME", "ENABLE_ASYNC_LOGGING")
for name in [f"MLFLOW_{name}" for name in _BINDING] + ["_MLFLOW_ACTIVE_MODEL_ID"]:
    os.environ.pop(name, None)

for name in ("alembic", "mlflow.pyfunc"):  # they tell of every table made, example checked
    logging.getLogger(name).setLevel(logging.WARNING)
_OF_TRIES = (
    "mlflow.store.db.utils",
    "mlflow.system_metrics.system_metrics_monitor",
    "mlflow.utils.databricks_utils",
    "urllib3.connectionpool",
)
for name in _OF_TRIES:  # they tell of every one, with tracebacks
    logging.getLogger(name).setLevel(logging.CRITICAL)
