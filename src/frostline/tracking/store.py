"""The MLflow store: opening it, naming it in messages, and what is said where it cannot be used."""

import json
import os
import re
import shlex
import sqlite3
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests

from frostline.config.paths import ROOT
from frostline.runtime.errors import FrostlineError
from frostline.runtime.urls import hide_credentials
from frostline.tracking.places import ARTIFACTS, SQLITE_WAIT, follow_project, sqlite_file
from frostline.tracking.quiet_mlflow import mlflow
from frostline.tracking.tags import VIEW

_COLUMNS = (
    "attributes.`Dataset`",
    *(f"metrics.`test/{name}`" for name in ("log_loss", "accuracy")),
    "attributes.`Duration`",
)
_VIEW = {VIEW: json.dumps({"selectedColumns": _COLUMNS})}
"""MLflow shows no metric unless asked: the view "figures" of an experiment's runs, which a link opens (see README)."""

_UNSET = "or unset MLFLOW_TRACKING_URI to use the local one."
_KNOWN = (
    # what an error or one behind it says, the cause in words, what to do
    ("database is locked", "database is locked", "End the program that uses it."),
    ("readonly database", "it may not be written", "Give yourself the right to write the file and its folder."),
    (
        "unable to open database",
        "its file cannot be opened",
        "It must be no folder, and its folder one that you may write.",
    ),
    (
        "not a database|is malformed",
        "its file is no SQLite database, or damaged",
        "Move it away, and a new one is made.",
    ),
    ("disk is full", "the disk is full", "Make room; `frostline cache prune` deletes cached features."),
    (
        "Can't locate revision",
        "it was made by a newer MLflow",
        "Install that one, or name another store in tracking.uri.",
    ),
    ("No module named", "the driver of its database is not installed", "PostgreSQL: pip install 'frostline[server]'."),
    (
        "unsupported URI|InvalidSchema",
        "no store has this kind of address",
        f"Write http://, https:// or sqlite:///, {_UNSET}",
    ),
    ("InvalidUrl|InvalidURL|LocationParse", "its address is not valid", f"Write http://HOST:PORT, {_UNSET}"),
    (
        "error code 401|UNAUTHENTICATED|[Nn]ot authenticated|Unauthorized|authentication failed",
        "it wants credentials, or refuses those that it got",
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
    ),
    (
        "error code 403|PERMISSION_DENIED|Forbidden",
        "it refuses access (403)",
        "Ask who runs it for the right; a server that others reach must list its names in MLFLOW_SERVER_ALLOWED_HOSTS.",
    ),
    (
        "error code 404|ENDPOINT_NOT_FOUND|Not Found",
        "there is no MLflow at this path (404)",
        "Give the address of its first page, without what follows a #.",
    ),
    ("error code 407", "a proxy wants credentials (407)", "Put them into HTTP_PROXY, or its host into NO_PROXY."),
    ("valid JSON|JSONDecodeError", "what answers there is not MLflow", f"Check the address, {_UNSET}"),
    ("error code [45]|too many [45]", "it answers with errors of its own", "See its log, or try again later."),
    ("ProxyError", "its proxy cannot be reached", "Check HTTP_PROXY and HTTPS_PROXY."),
    ("NameResolution|gaierror", "there is no host of this name", f"Check the address, {_UNSET}"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is not trusted",
        "MLFLOW_TRACKING_SERVER_CERT_PATH names a file with its authority's certificate.",
    ),
    ("(?i)wrong.version.number|record layer", "it does not speak https", "Write http:// instead."),
    (
        "RemoteDisconnected|BadStatusLine",
        "what answers there does not speak http",
        "Is it https://? Check the port, too.",
    ),
    ("[Cc]onnection ?[Rr]efused", "nothing listens there", f"Start the server, {_UNSET}"),
    ("(?i)time(d )?-?out", "it does not answer in time", f"See whether it is overloaded, {_UNSET}"),
)


def connect(uri: str, experiment: str) -> str:
    """Let MLflow use the store at `uri`, and return the id of `experiment` there, which is made where there is none.

    A relative SQLite path is taken from the project's folder; of a store in there, the artifacts are where the project
    lies now. Raises whatever MLflow, its drivers and SQLite raise:
    to be called within `store_is_needed`.
    """
    path, artifacts = _choose(uri), None
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        artifacts = (path.parent / ARTIFACTS).as_uri()
        wait_for_lock(path)
        if not path.stat().st_size:
            make_tables(path)
    found = mlflow.get_experiment_by_name(experiment)  # which refuses the tables of another MLflow
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
        return False
    if path:
        wait_for_lock(path)
    mlflow.search_experiments(max_results=1)
    return True


def _choose(uri: str) -> Path | None:
    """Let MLflow use the store at `uri`; return its file, if it is one."""
    path = sqlite_file(uri)
    if path:
        _, mark, query = uri.partition("?")
        # A "?" begins the query of an address, a "%" an escape: where a folder above has one, the path from here does
        # without it.
        place = os.path.relpath(path) if re.search("[?%]", str(path)) else path
        uri = f"sqlite:///{place}{mark}{query}"
    elif "://" not in uri and uri != "databricks":
        without = hide_credentials(f"http://{re.sub('^https?:/*', '', uri)}")
        raise FrostlineError(
            f"MLflow's store has an address without a scheme.\nWrite {without} for a server, sqlite:///PATH for a file."
        )
    mlflow.set_tracking_uri(uri)
    return path


@contextmanager
def store_is_needed() -> Iterator[None]:
    """Turn what goes wrong with the store into a FrostlineError; for what is done before anything is trained."""
    try:
        yield
    except FrostlineError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise  # a file of ours, and not the store
        cause, advice = _cause_and_advice(error)
        raise FrostlineError(f"MLflow's store {store()} cannot be used: {cause}.\n{advice}") from error


def wait_for_lock(path: Path) -> None:
    """Wait until the SQLite file can be written; MLflow itself would wait for minutes.

    Raises sqlite3.OperationalError where it stays locked, or may only be read.
    """
    connection = sqlite3.connect(path, timeout=SQLITE_WAIT, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA user_version = 1")  # the lock alone is given for a file that may only be read, too
        connection.rollback()
    finally:
        connection.close()


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
    """Why a store cannot be used that raised `error`: in one line, without credentials."""
    return _cause_and_advice(error)[0]


def _cause_and_advice(error: BaseException) -> tuple[str, str]:
    behind = list(_chain(error))
    text = "\n".join(f"{type(each).__name__}: {each}" for each in behind)
    schema = re.search("out-of-date database schema .found version ([0-9a-f]+)", text)
    if schema:
        return _of_schema(schema[1])
    known = ((cause, advice) for pattern, cause, advice in _KNOWN if re.search(pattern, text))
    said = textwrap.shorten(hide_credentials(" ".join(str(behind[-1]).split())) or type(behind[-1]).__name__, 300)
    cause, advice = next(known, (said.rstrip("."), f"See the server's log, {_UNSET}"))
    proxy = requests.utils.get_environ_proxies(mlflow.get_tracking_uri()).get(urlsplit(store()).scheme)
    if proxy:
        host = urlsplit(store()).hostname
        advice = f"The proxy {hide_credentials(proxy)} stands in between; NO_PROXY={host} goes around it."
    return cause, advice


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and the errors that led to it: MLflow's own wrap those of requests and of drivers."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _of_schema(version: str) -> tuple[str, str]:
    """Of a database whose tables are those of another MLflow: an older one can be brought up to date."""
    migrations = Path(mlflow.__file__).parent / "store/db_migrations/versions"
    if not any(migrations.glob(f"{version}_*.py")):
        return f"it was made by a newer MLflow than {mlflow.__version__}", "Install that one, or use another store."
    return "it was made by an older MLflow", f"Copy it, for safety; then: mlflow db upgrade {shlex.quote(store())}"
