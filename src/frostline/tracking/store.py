"""The MLflow store: opening it, waiting for it, and naming it in messages."""

import json
import logging
import os
import re
import shlex
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import requests

from frostline.common.urls import hide_credentials
from frostline.config.paths import ROOT
from frostline.runtime.errors import FrostlineError
from frostline.tracking.places import ARTIFACTS, SQLITE_WAIT, follow_project, is_of_another_program, sqlite_file
from frostline.tracking.quiet_mlflow import mlflow
from frostline.tracking.store_errors import NOT_MLFLOW, OTHER, cause_and_advice, check_address, unusable
from frostline.tracking.tags import VIEW

_COLUMNS = (
    "attributes.`Dataset`",
    *(f"metrics.`test/{name}`" for name in ("log_loss", "accuracy")),
    "attributes.`Duration`",
)
_VIEW = {VIEW: json.dumps({"selectedColumns": _COLUMNS})}
"""MLflow shows no metric unless asked: the view "figures" of an experiment's runs, which a link opens (see README)."""
_PATIENCE = 30
"""Seconds, after which it is said what is waited for."""
_ANSWER_WAIT = 60
"""Seconds for a server's first answer, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set; MLflow would wait for 8 minutes."""

_log = logging.getLogger(__name__)


def connect(uri: str, experiment: str) -> str:
    """Let MLflow use the store at `uri`, and return the id of `experiment` there, which is made where there is none.

    A relative SQLite path is taken from the project's folder; of a store in there, the artifacts are where the project
    lies now. Raises whatever MLflow, its drivers and SQLite raise: to be called within `store_is_needed`.
    """
    path, artifacts = _choose(uri), None
    if path:
        with suppress(OSError):  # SQLite says that it cannot open the file
            path.parent.mkdir(parents=True, exist_ok=True)
        artifacts = (path.parent / ARTIFACTS).as_uri()
        _wait_for(path)
        if not path.stat().st_size:
            make_tables(path)
    found = _find(experiment)  # MLflow refuses the tables of another one
    if path:
        follow_project(path)
    if found is None:
        try:
            mlflow.create_experiment(experiment, artifact_location=artifacts, tags=_VIEW)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
    elif found.lifecycle_stage == "deleted":
        raise FrostlineError(
            f"MLflow's experiment {experiment!r} has been deleted. Set another data.name, or restore it:\n"
            f"MLFLOW_TRACKING_URI={shlex.quote(store())} "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return str(mlflow.set_experiment(experiment).experiment_id)


def answers(uri: str) -> bool:
    """Whether the store at `uri` answers; False for an SQLite file that is not there yet: a run makes it.

    Makes nothing. Raises as `connect` does.
    """
    path = _choose(uri)
    if path and not path.exists():
        above = next(folder for folder in path.parents if folder.exists())
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            raise sqlite3.OperationalError("unable to open database file")
        return False
    if path:
        _wait_for(path)
    _find("Default")
    return True


def _find(experiment: str) -> mlflow.entities.Experiment | None:
    found = mlflow.get_experiment_by_name(experiment)
    if found and found.name != experiment:  # whoever answers anything with {}, or with nothing
        raise unusable(store(), *NOT_MLFLOW)
    return found


def _choose(uri: str) -> Path | None:
    """Let MLflow use the store at `uri`; return its file, if it is one."""
    if re.fullmatch("sqlite:/*", uri) or re.match("sqlite:.*(:memory:|mode=memory)", uri):
        raise FrostlineError(f"MLflow's store {uri} is in memory: each stage would lose it.\nWrite sqlite:///PATH.")
    path = sqlite_file(uri)
    if path:
        _, mark, query = uri.partition("?")
        # A "?" begins the query of an address, a "%" an escape: where a folder above has one, the path from here does
        # without it.
        place = os.path.relpath(path) if re.search("[?%]", str(path)) else path
        uri = f"sqlite:///{place}{mark}{query}"
    else:
        check_address(uri)
    mlflow.set_tracking_uri(uri)
    if re.match("(postgresql|mysql|mssql)[+:]", uri):
        _try_database(uri)
    if re.match("(?i)https?:", uri):
        _try_server(uri)
    return path


def _try_server(uri: str) -> None:
    """Raise requests.Timeout where a server takes the connection, but answers nothing."""
    wait = mlflow.environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT
    try:
        requests.get(
            uri, timeout=wait.get() if wait.is_set() else _ANSWER_WAIT, stream=True, allow_redirects=False
        ).close()
    except requests.ReadTimeout:
        raise
    except requests.RequestException:
        return  # MLflow's own request says more: it has the credentials and the certificates


def _try_database(uri: str) -> None:
    """Raise what a database's driver raises, at once: MLflow itself would try again for 100 seconds."""
    import sqlalchemy  # here, as most stores do without

    engine = sqlalchemy.create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


@contextmanager
def store_is_needed() -> Iterator[None]:
    """Turn what goes wrong with the store into a FrostlineError; for what is done before anything is trained."""
    try:
        with waiting_is_said():
            yield
    except FrostlineError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise  # a file of ours, and not the store
        raise unusable(store(), *cause_and_advice(error, mlflow.get_tracking_uri())) from error


@contextmanager
def waiting_is_said() -> Iterator[None]:
    """Say it once where the store lets wait: MLflow asks a server that hangs for minutes, and a database, too."""
    notice = f"waiting for MLflow's store, which has not answered for {_PATIENCE} seconds: %s"
    timer = threading.Timer(_PATIENCE, lambda: _log.info(notice, store()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _wait_for(path: Path) -> None:
    """Wait until the SQLite file can be written; MLflow itself would wait for minutes, and add tables to any database.

    Raises sqlite3.OperationalError where it stays locked, or may only be read, FrostlineError where it is not MLflow's.
    """
    connection = sqlite3.connect(path, timeout=SQLITE_WAIT, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA user_version = 1")  # the lock alone is given for a file that may only be read, too
        connection.rollback()
    finally:
        connection.close()
    if is_of_another_program(path):
        raise unusable(store(), "it is the database of another program", f"Name a file that is not there yet, {OTHER}")


def make_tables(path: Path) -> None:
    """Make MLflow's tables in the SQLite file `path`, which is empty, unless another process is faster: all or none.

    MLflow itself would run its migrations on the file, hundreds of commits that each wait for the disk.
    """
    import sqlalchemy  # here, as only an SQLite store needs it, and it takes a while
    from mlflow.store.db.utils import _initialize_tables

    engine = sqlalchemy.create_engine("sqlite://")  # in memory
    _initialize_tables(engine)
    with closing(engine.raw_connection()) as memory:
        _begin, *statements, _commit = memory.driver_connection.iterdump()  # type: ignore[union-attr]
    engine.dispose()
    with closing(sqlite3.connect(path, timeout=SQLITE_WAIT, isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        if not file.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in statements:
                file.execute(statement)
        file.execute("COMMIT")


def store() -> str:
    """The address of the store in use, without credentials."""
    return hide_credentials(mlflow.get_tracking_uri())


def store_in_project() -> str:
    """The same for notes in the project's folder, which may be moved: a file in there by its path from there."""
    address, project = str(mlflow.get_tracking_uri()), ROOT.resolve()
    path = Path(address.removeprefix("sqlite:///").partition("?")[0]).resolve()
    if address.startswith("sqlite:///") and path.is_relative_to(project):
        return f"sqlite:///{path.relative_to(project)}"
    return store()


def reason(error: Exception) -> str:
    """Why a store cannot be used that raised `error`, and what to do: in one line, without credentials."""
    cause, advice = cause_and_advice(error, mlflow.get_tracking_uri())
    return f"{cause}. {advice}".rstrip(". ")
