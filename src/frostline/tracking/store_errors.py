"""What is said where MLflow's store cannot be used: the cause, and its own remedy.

Whatever MLflow, databases' drivers, requests and SQLite raise is known by its words: they have no classes in common.
"""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import requests

from frostline.common.urls import hide_credentials
from frostline.runtime.errors import FrostlineError, in_one_line
from frostline.tracking.places import sqlite_file
from frostline.tracking.quiet_mlflow import mlflow

OTHER = "or name another store (MLFLOW_TRACKING_URI, else tracking.uri)."
NOT_MLFLOW = "what answers there is not MLflow", f"Check the address, {OTHER}"
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
        f"Write http://, https://, sqlite:/// or postgresql+psycopg2://, {OTHER}",
    ),
    (
        "maintenance mode",
        "MLflow keeps no runs in folders any more",
        "`mlflow migrate-filestore --help` brings them into a database; its address is sqlite:///PATH.",
    ),
    (
        "Databricks credential",
        "there are no credentials for Databricks",
        f"Set DATABRICKS_HOST and DATABRICKS_TOKEN, {OTHER}",
    ),
    ("InvalidProxyURL|is not a valid host or port", "the address of its proxy is not valid", ""),
    (
        "InvalidUrl|InvalidURL|LocationParse|with base 10|Invalid SQLite URL|Can't load plugin|parse .* URL",
        "its address is not valid",
        f"Write http://HOST:PORT, sqlite:///PATH or postgresql+psycopg2://USER@HOST/NAME, {OTHER}",
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
    ("valid JSON|JSONDecodeError|error code [23]", *NOT_MLFLOW),
    ("(?i)HTTP request (was sent )?to (an )?HTTPS", "it speaks https", "Write https:// instead."),
    (
        r"(?:error code|too many) ([45]\d\d)",
        r"it answers with errors of its own (\1)",
        "See its log, or try again later.",
    ),
    ("ProxyError", "its proxy cannot be reached", ""),
    ("NameResolution|gaierror|translate host name", "there is no host of this name", f"Check the address, {OTHER}"),
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
    ("[Cc]onnection ?[Rr]efused", "nothing listens there", f"Start the server, {OTHER}"),
    ("(?i)time(d )?-?out", "it does not answer in time", f"See whether it is overloaded, {OTHER}"),
)
_PACKAGES = {
    "MySQLdb": "mysqlclient",
    "azure": "azure-storage-blob azure-identity",
    "google": "google-cloud-storage",
    "psycopg": "'psycopg[binary]', or write postgresql+psycopg2:// and pip install 'frostline[server]'",
    "psycopg2": "'frostline[server]'",
}
"""By module, the packages that have it, where these are called otherwise."""


def check_address(uri: str) -> None:
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
            advice = f"Write http://HOST:PORT (a / in a password is %2F), {OTHER}"
            raise unusable(hide_credentials(uri), "its address is not valid", advice)


def unusable(address: str, cause: str, advice: str) -> FrostlineError:
    """The error of a store; `address` without credentials."""
    return FrostlineError(f"MLflow's store {address} cannot be used: {cause}.\n{advice}")


def cause_and_advice(error: BaseException, uri: str) -> tuple[str, str]:
    """Why the store at `uri` cannot be used that raised `error`, and what to do; without credentials."""
    behind = list(_chain(error))
    text = "\n".join(f"{type(each).__name__}: {each}" for each in behind)
    schema = re.search("out-of-date database schema .found version ([0-9a-f]+)", text)
    if schema:
        return _of_schema(schema[1], uri)
    address = urlsplit(uri)
    is_server = address.scheme.lower() in ("http", "https")
    if isinstance(error, OSError) and error.filename:  # of an artifact
        serve = "If that is a path of the server's machine, start the server with --serve-artifacts."
        return in_one_line(error), serve if is_server else "See to its folder and its disk."
    path = sqlite_file(uri)
    if path and "readonly database" in text and not path.exists():
        return "its file is gone", "The next run makes a new one."
    missing = [each.name.split(".")[0] for each in behind if isinstance(each, ModuleNotFoundError) and each.name]
    if missing:
        install = f"pip install {_PACKAGES.get(missing[0], missing[0])}"
        return f"the package {missing[0]}, which it takes, is not installed", install
    where = "See the server's log" if is_server else "See to its database"
    cause, advice = _in_its_words(behind[-1]), f"{where}, {OTHER}"
    for pattern, words, remedy in _KNOWN:
        found = [(match, each) for each in behind if (match := re.search(pattern, f"{type(each).__name__}: {each}"))]
        if found:
            match, told = found[-1]
            cause, advice = match.expand(words) or _in_its_words(told), remedy
            break
    return _with_what_is_in_between(cause, advice, text, uri) if is_server else (cause, advice)


def _in_its_words(error: BaseException) -> str:
    text = hide_credentials(" ".join(str(error).split())) or type(error).__name__
    return textwrap.shorten(text, 300).rstrip(".")


def _with_what_is_in_between(cause: str, advice: str, text: str, uri: str) -> tuple[str, str]:
    """Of a server: with its proxy, or the other address that it sends on to."""
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


def _of_schema(version: str, uri: str) -> tuple[str, str]:
    """Of a database whose tables are those of another MLflow: an older one can be brought up to date."""
    migrations = Path(mlflow.__file__).parent / "store/db_migrations/versions"
    if not any(migrations.glob(f"{version}_*.py")):
        return f"it was made by a newer MLflow than {mlflow.__version__}", "Install that one, or use another store."
    return (
        "it was made by an older MLflow",
        f"Copy it, for safety; then: mlflow db upgrade {shlex.quote(hide_credentials(uri))}",
    )
