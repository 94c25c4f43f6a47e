"""The MLflow store: opening it, naming it in messages, and what is said where it cannot be used."""

import json
import logging
import os
import re
import shlex
import sqlite3
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import requests

from frostline.config.paths import ROOT
from frostline.runtime.errors import FrostlineError, in_one_line
from frostline.runtime.urls import hide_credentials
from frostline.tracking.places import ARTIFACTS, SQLITE_WAIT, follow_project, is_of_another_program, sqlite_file
from frostline.tracking.quiet_mlflow import mlflow
from frostline.tracking.tags import VIEW

_COLUMNS = (
    "attributes.`Dataset`",
    *(f"metrics.`test/{name}`" for name in ("log_loss", "accuracy")),
    "attributes.`Duration`",
)
_VIEW = {VIEW: json.dumps({"selectedColumns": _COLUMNS})}
"""MLflow shows no metric unless asked: the view "figures" of an experiment's runs, which a link opens (see README)."""

_OTHER = "or name another store (MLFLOW_TRACKING_URI, else tracking.uri)."
_NOT_MLFLOW = "what answers there is not MLflow", f"Check the address, {_OTHER}"
_OF_CERTIFICATES = "Correct MLFLOW_TRACKING_SERVER_CERT_PATH, MLFLOW_TRACKING_CLIENT_CERT_PATH or REQUESTS_CA_BUNDLE."
_KNOWN = (
    # what an error or one behind it says, the cause in words ("": the error's own), what to do
    (r"MLFLOW_\w+ value must|MLFLOW_\w+' environment var|Failed to convert", "", "Correct or unset that variable."),
    ("max_retries", "", "Correct or unset MLFLOW_HTTP_REQUEST_MAX_RETRIES."),
    ("Active workspace", "", "Correct or unset MLFLOW_WORKSPACE."),
    (
        "InvalidHeader|header value|UnicodeEncodeError",
        "the credentials that it gets have a line break or a letter that no header may have",
        "Correct MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    ),
    ("(?i)certificate.*invalid path|NO_CERTIFICATE_OR_CRL|PEM lib", "", _OF_CERTIFICATES),
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
    (
        "no such (table|column)|has no column|found version None|more than one head",
        "its tables are not as MLflow made them",
        "Move it away, and a new one is made; or take it from a backup.",
    ),
    ("Current state is deleted", "its run was deleted", "Who wants it restores it in MLflow."),
    ("disk is full|No space left", "the disk is full", "Make room; `frostline cache prune` deletes cached features."),
    ("disk I/O error", "", "See to its file and the disk; on a shared disk, use a server."),
    (
        "Can't locate revision",
        "it was made by a newer MLflow",
        "Install that one, or name another store in tracking.uri.",
    ),
    (
        "password authentication failed|no password supplied|Access denied for user",
        "its database refuses the user or the password",
        "Correct them in the address.",
    ),
    ("SOCKS support", "its proxy speaks SOCKS, for which a package is not installed", "pip install pysocks"),
    ("unsupported URI 'postgres:", "no store has this kind of address", "Write postgresql+psycopg2://USER@HOST/NAME."),
    (
        "unsupported URI|InvalidSchema|Unity Catalog",
        "no store has this kind of address",
        f"Write http://, https://, sqlite:/// or postgresql+psycopg2://, {_OTHER}",
    ),
    (
        "maintenance mode",
        "MLflow keeps no runs in folders any more",
        "`mlflow migrate-filestore --help` brings them into a database; its address is sqlite:///PATH.",
    ),
    (
        "Databricks credential",
        "there are no credentials for Databricks",
        f"Set DATABRICKS_HOST and DATABRICKS_TOKEN, {_OTHER}",
    ),
    ("InvalidProxyURL|is not a valid host or port", "the address of its proxy is not valid", ""),
    (
        "InvalidUrl|InvalidURL|LocationParse|with base 10|Invalid SQLite URL|Can't load plugin|parse .* URL",
        "its address is not valid",
        f"Write http://HOST:PORT, sqlite:///PATH or postgresql+psycopg2://USER@HOST/NAME, {_OTHER}",
    ),
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
        "there is no MLflow at this path (404), or too old a one",
        "Give the address of its first page, without what follows a #.",
    ),
    (
        "error code 405|TooManyRedirects",
        "it sends on to another address, which loses what is written",
        "Give the address that a browser shows in the end: often https://, not http://.",
    ),
    (
        "error code 407|failed: 407",
        "a proxy wants credentials (407)",
        "Put them into HTTP_PROXY and HTTPS_PROXY: http://USER:PASSWORD@HOST.",
    ),
    ("413 Client Error", "it takes no file of this size (413)", "Raise its limit; nginx: client_max_body_size."),
    ("valid JSON|JSONDecodeError|error code [23]", *_NOT_MLFLOW),
    ("(?i)HTTP request (was sent )?to (an )?HTTPS", "it speaks https", "Write https:// instead."),
    (
        r"(?:error code|too many) ([45]\d\d)",
        r"it answers with errors of its own (\1)",
        "See its log, or try again later.",
    ),
    ("ProxyError", "its proxy cannot be reached", ""),
    ("NameResolution|gaierror|translate host name", "there is no host of this name", f"Check the address, {_OTHER}"),
    (
        "[Hh]ostname mismatch|IP address mismatch|doesn't match",
        "its certificate is for another name",
        "Give the address with the name that the certificate has.",
    ),
    (
        "certificate has expired",
        "its certificate has expired",
        "Ask who runs it for a new one; see to this machine's clock.",
    ),
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
    (
        "ConnectionReset|IncompleteRead|ChunkedEncoding|Broken ?[Pp]ipe",
        "it breaks the connection off",
        "Is it https://? Check the port, and see the server's log.",
    ),
    ("[Cc]onnection ?[Rr]efused", "nothing listens there", f"Start the server, {_OTHER}"),
    ("(?i)time(d )?-?out", "it does not answer in time", f"See whether it is overloaded, {_OTHER}"),
)
_PACKAGES = {
    "MySQLdb": "mysqlclient",
    "azure": "azure-storage-blob azure-identity",
    "google": "google-cloud-storage",
    "psycopg": "'psycopg[binary]', or write postgresql+psycopg2:// and pip install 'frostline[server]'",
    "psycopg2": "'frostline[server]'",
}
"""By module, the packages that have it, where these are called otherwise."""

_PATIENCE = 30
"""Seconds, after which it is said what is waited for."""
_ANSWER_WAIT = 60
"""Seconds for a server's first answer, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set; MLflow would wait for 8 minutes."""

_log = logging.getLogger(__name__)


def connect(uri: str, experiment: str) -> str:
    """Let MLflow use the store at `uri`, and return the id of `experiment` there, which is made where there is none.

    A relative SQLite path is taken from the project's folder; of a store in there, the artifacts are where the project
    lies now. Raises whatever MLflow, its drivers and SQLite raise:
    to be called within `store_is_needed`.
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
        raise _unusable(store(), *_NOT_MLFLOW)
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
        _check_address(uri)
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


def _check_address(uri: str) -> None:
    """Raise FrostlineError where MLflow would take an address for a folder's, or say of it what nobody understands."""
    if not re.match(r"[A-Za-z][\w+.-]*://|file:|databricks", uri):
        bare = uri.strip("'\"")
        server = hide_credentials(f"http://{re.sub('^https?:/*', '', bare)}") + " for a server, "
        if re.match(r"[./~\\]|[A-Za-z]:\\|sqlite:", bare):
            server = ""
        problem = "without a scheme" if bare == uri else "in quotes"
        raise FrostlineError(f"MLflow's store has an address {problem}.\nWrite {server}sqlite:///PATH for a file.")
    if re.match("(?i)https?:", uri):
        try:
            parts = urlsplit(uri)
            valid = parts.hostname and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            advice = f"Write http://HOST:PORT (a / in a password is %2F), {_OTHER}"
            raise _unusable(hide_credentials(uri), "its address is not valid", advice)


def _unusable(address: str, cause: str, advice: str) -> FrostlineError:
    return FrostlineError(f"MLflow's store {address} cannot be used: {cause}.\n{advice}")


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
        raise _unusable(store(), *_cause_and_advice(error)) from error


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
        raise _unusable(
            store(), "it is the database of another program", f"Name a file that is not there yet, {_OTHER}"
        )


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
    cause, advice = _cause_and_advice(error)
    return f"{cause}. {advice}".rstrip(". ")


def _cause_and_advice(error: BaseException) -> tuple[str, str]:
    behind = list(_chain(error))
    text = "\n".join(f"{type(each).__name__}: {each}" for each in behind)
    schema = re.search("out-of-date database schema .found version ([0-9a-f]+)", text)
    if schema:
        return _of_schema(schema[1])
    address = urlsplit(store())
    is_server = address.scheme.lower() in ("http", "https")
    if isinstance(error, OSError) and error.filename:  # of an artifact
        serve = "If that is a path of the server's machine, start the server with --serve-artifacts."
        return in_one_line(error), serve if is_server else "See to its folder and its disk."
    path = sqlite_file(str(mlflow.get_tracking_uri()))
    if path and "readonly database" in text and not path.exists():
        return "its file is gone", "The next run makes a new one."
    missing = [each.name.split(".")[0] for each in behind if isinstance(each, ModuleNotFoundError) and each.name]
    if missing:
        install = f"pip install {_PACKAGES.get(missing[0], missing[0])}"
        return f"the package {missing[0]}, which it takes, is not installed", install
    where = "See the server's log" if is_server else "See to its database"
    cause, advice = _in_its_words(behind[-1]), f"{where}, {_OTHER}"
    for pattern, words, remedy in _KNOWN:
        found = [(match, each) for each in behind if (match := re.search(pattern, f"{type(each).__name__}: {each}"))]
        if found:
            match, told = found[-1]
            cause, advice = match.expand(words) or _in_its_words(told), remedy
            break
    return _with_what_is_in_between(cause, advice, text) if is_server else (cause, advice)


def _in_its_words(error: BaseException) -> str:
    text = hide_credentials(" ".join(str(error).split())) or type(error).__name__
    return textwrap.shorten(text, 300).rstrip(".")


def _with_what_is_in_between(cause: str, advice: str, text: str) -> tuple[str, str]:
    """Of a server: with its proxy, or the other address that it sends on to."""
    uri = str(mlflow.get_tracking_uri())
    address = urlsplit(uri)
    proxy = requests.utils.select_proxy(uri, requests.utils.get_environ_proxies(uri))
    if proxy:
        between = f"The proxy {hide_credentials(proxy)} stands in between; NO_PROXY={address.hostname} goes around it."
        return cause, f"{advice.rstrip('.')}. {between}".removeprefix(". ")
    asked = re.findall(r"ConnectionPool\(host='([^']+)', port=(\d+)", text)
    port = address.port or (443 if address.scheme.lower() == "https" else 80)
    if asked and asked[-1] != (address.hostname, str(port)) and str(address.hostname).isascii():
        cause = f"{cause} ({':'.join(asked[-1])}, to which it leads)"
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
