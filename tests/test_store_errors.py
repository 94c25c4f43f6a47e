"""Stores that cannot be used: real files and servers, each with its cause and its own remedy in two lines."""

import os
import shlex
import socket
import sqlite3
import subprocess
import sys

import mlflow
import pytest

from frostline.config.load import compose_conf
from frostline.runtime.errors import FrostlineError
from frostline.tracking import runs as tracking
from permissions import obey_permissions
from servers import Answer, FileServer, running

pytestmark = pytest.mark.slow

SECRET = "s3cret"


@pytest.fixture
def fails(project, monkeypatch):
    """Open the store at an address and return the two lines that come of it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def fails(uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(FrostlineError) as raised:
            tracking.open_pipeline(compose_conf(), "data")
        cause, advice = str(raised.value).splitlines()
        assert SECRET not in str(raised.value)
        assert max(len(cause), len(advice)) < 320
        return cause, advice

    return fails


@pytest.fixture
def database(project, monkeypatch):
    path = project / "store" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    tracking.open_pipeline(compose_conf(), "data")
    return path


@pytest.mark.long
def test_a_deleted_experiment_is_restored_by_the_command_that_is_named(database, fails):
    uri = f"sqlite:///{database}"
    mlflow.MlflowClient(uri).delete_experiment(mlflow.get_experiment_by_name("frostline-sample").experiment_id)
    cause, command = fails(uri)
    assert "experiment 'frostline-sample' has been deleted" in cause
    setting, *arguments = shlex.split(command)
    environment = os.environ | dict([setting.split("=", 1)])
    subprocess.run([sys.executable, "-m", *arguments], env=environment, check=True, capture_output=True)
    tracking.open_pipeline(compose_conf(), "data")


@pytest.mark.parametrize(
    ("version", "cause", "advice"),
    [
        ("0584bdc529eb", "made by an older MLflow", "mlflow db upgrade sqlite:///"),
        ("ffffffffffff", "made by a newer", "Install"),
    ],
)
def test_tables_of_another_mlflow(database, fails, version, cause, advice, project):
    copy = project / "copy.db"
    copy.write_bytes(database.read_bytes())
    with sqlite3.connect(copy) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [version])
    said = fails(f"sqlite:///{copy}")
    assert cause in said[0]
    assert advice in said[1]


def test_a_file_that_is_no_database(project, fails):
    (project / "text.db").write_text("text " * 300)
    cause, advice = fails("sqlite:///text.db")
    assert "no SQLite database" in cause
    assert "Move it away" in advice


def test_a_folder_in_its_place(project, fails):
    cause, advice = fails("sqlite:///conf")
    assert "cannot be opened" in cause
    assert "no folder" in advice


def test_a_file_that_may_not_be_written(database):
    database.chmod(0o444)
    code = (
        "from frostline.config.load import compose_conf; from frostline.tracking.runs import open_pipeline\n"
        "open_pipeline(compose_conf(), 'data')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=obey_permissions)
    assert "it may not be written.\nGive yourself the right" in done.stderr


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("127.0.0.1:5000", "Write http://127.0.0.1:5000 for a server"),
        (f"someone:{SECRET}@localhost:5000/path", "Write http://localhost:5000/path for a server"),
        ("http:/127.0.0.1:5000", "Write http://127.0.0.1:5000 for a server"),
        ("mlruns", "sqlite:///PATH for a file"),
    ],
)
def test_an_address_without_a_scheme(fails, uri, words):
    cause, advice = fails(uri)
    assert "without a scheme" in cause
    assert words in advice


@pytest.mark.parametrize(
    ("uri", "cause", "advice"),
    [
        ("htp://127.0.0.1:5000", "no store has this kind of address", "Write http://"),
        ("http://no-such-host.invalid:5000", "there is no host of this name", "Check the address"),
        (f"http://someone:{SECRET}@127.0.0.1:9", "nothing listens there", "Start the server"),
        ("http://127.0.0.1:port", "its address is not valid", "http://HOST:PORT"),
        ("mysql://u@127.0.0.1/db", "driver of its database is not installed", "frostline[server]"),
    ],
)
def test_an_address_that_leads_nowhere(fails, uri, cause, advice):
    said = fails(uri)
    assert cause in said[0]
    assert advice in said[1]


PAGE = b"<!doctype html><title>Welcome</title>" + b"<p>Text.</p>" * 100


@pytest.mark.parametrize(
    ("answer", "cause", "advice"),
    [
        (Answer(status=401, body=PAGE), "it wants credentials", "MLFLOW_TRACKING_USERNAME"),
        (Answer(status=403, body=PAGE), "refuses access (403)", "MLFLOW_SERVER_ALLOWED_HOSTS"),
        (Answer(status=404, body=PAGE), "no MLflow at this path (404)", "address of its first page"),
        (
            Answer(status=404, body=b'{"detail": "Not Found"}'),
            "no MLflow at this path (404)",
            "address of its first page",
        ),
        (
            Answer(status=401, body=b'{"detail": "Not authenticated"}'),
            "it wants credentials",
            "MLFLOW_TRACKING_USERNAME",
        ),
        (Answer(status=407, body=PAGE), "a proxy wants credentials", "HTTP_PROXY"),
        (Answer(status=200, body=PAGE), "what answers there is not MLflow", "Check the address"),
        (Answer(status=502, body=PAGE), "it answers with errors of its own", "its log"),
    ],
)
def test_a_server_that_answers_otherwise(fails, answer, cause, advice):
    with running(FileServer(b"", *[answer] * 9)) as server:
        said = fails(f"http://127.0.0.1:{server.server_port}")
        assert cause in said[0]
        assert advice in said[1]


def test_a_server_that_hangs(fails, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cause, advice = fails(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "it does not answer in time" in cause
    assert "overloaded" in advice


def test_a_certificate_that_is_not_trusted_and_a_server_without_one(fails, tmp_path):
    server = FileServer(b"")
    server.speak_tls(tmp_path / "certificate.pem")
    with running(server):
        cause, advice = fails(f"https://127.0.0.1:{server.server_port}")
        assert "certificate is not trusted" in cause
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in advice
    with running(FileServer(b"")) as server:
        cause, advice = fails(f"https://127.0.0.1:{server.server_port}")
        assert "does not speak https" in cause
        assert "Write http://" in advice


def test_a_proxy_in_between_is_named(fails, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://someone:{SECRET}@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    cause, advice = fails("http://127.0.0.1:5000")
    assert "its proxy cannot be reached" in cause
    assert advice == "The proxy http://127.0.0.1:9 stands in between; NO_PROXY=127.0.0.1 goes around it."


LOG = """
from pathlib import Path
from frostline.config.load import compose_conf
from frostline.tracking import runs
with runs.phase_run("transfer", runs.open_pipeline(compose_conf(), "data")) as run:
    run.log_files(Path("params.yaml"))
"""


def test_the_store_lies_in_the_project_whatever_its_name(project):
    name = "what? a#b 50%20 off 사진 & more"
    root = project / name
    root.mkdir()
    for part in ("conf", "params.yaml"):
        (project / part).rename(root / part)
    done = subprocess.run([sys.executable, "-c", LOG], cwd=root, capture_output=True, text=True)
    assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr
    assert (root / "mlruns/mlflow.db").is_file()
    assert list((root / "mlruns/artifacts").rglob("params.yaml"))
    assert [path.name for path in project.iterdir()] == [name]
