"""The MLflow store: opening it, naming it in messages, and what is said where it cannot be used."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frostline.config.paths import ROOT
from frostline.runtime.errors import FrostlineError
from frostline.runtime.urls import hide_credentials
from frostline.tracking.quiet_mlflow import mlflow

_SQLITE_WAIT = 20.0
"""Seconds to wait for a locked SQLite store before anything is trained; as long as MLflow waits later."""


def connect(uri: str, experiment: str) -> str:
    """Let MLflow use the store at `uri`, and return the id of `experiment` there, which is made where there is none.

    A relative SQLite path is taken from the project's folder. Raises whatever MLflow, its drivers and SQLite raise:
    to be called within `store_is_needed`.
    """
    path = None
    if uri.startswith("sqlite:///"):
        name, mark, query = uri.removeprefix("sqlite:///").partition("?")
        path = (ROOT / name).resolve()
        uri = f"sqlite:///{path}{mark}{query}"
    mlflow.set_tracking_uri(uri)
    artifacts = None
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        artifacts = (path.parent / "artifacts").as_uri()
        wait_for_lock(path)
    if mlflow.get_experiment_by_name(experiment) is None:
        try:
            mlflow.create_experiment(experiment, artifact_location=artifacts)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
    return str(mlflow.set_experiment(experiment).experiment_id)


@contextmanager
def store_is_needed() -> Iterator[None]:
    """Turn what goes wrong with the store into a FrostlineError; for what is done before anything is trained."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise  # a file of ours, and not the store
        advice = "Start the server, or unset MLFLOW_TRACKING_URI to use the local one."
        if store().startswith("sqlite:"):
            advice = "End the program that uses it, or see whether its folder can be written and its disk has room."
        raise FrostlineError(f"MLflow's store {store()} cannot be used: {reason(error)}\n{advice}") from error


def wait_for_lock(path: Path) -> None:
    """Wait until the SQLite file can be written; MLflow itself would wait for minutes.

    Raises sqlite3.OperationalError where it stays locked.
    """
    connection = sqlite3.connect(path, timeout=_SQLITE_WAIT, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    finally:
        connection.close()


def store() -> str:
    """The address of the store in use, without credentials."""
    return hide_credentials(mlflow.get_tracking_uri())


def reason(error: Exception) -> str:
    """What `error` says, in one line of at most 200 characters, without credentials."""
    return hide_credentials(" ".join(str(error).split()))[:200]
