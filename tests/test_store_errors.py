"""Stores that cannot be used: real files and servers, each with its cause and its own remedy in two lines."""

import os
import shlex
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from frostline.config.load import compose_conf
from frostline.runtime.errors import FrostlineError
from frostline.tracking import runs as tracking
from frostline.tracking import store
from permissions import obey_permissions
from servers import Answer, FileServer, running
from tracked import write_tracked

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
    ("change", "cause", "advice"),
    [
        (
            "UPDATE alembic_version SET version_num = '0584bdc529eb'",
            "by an older MLflow",
            "mlflow db upgrade sqlite:///",
        ),
        pytest.param(
            *("UPDATE alembic_version SET version_num = 'ffffffffffff'", "made by a newer", "Install"),
            marks=pytest.mark.long,
        ),
        pytest.param("DELETE FROM alembic_version", "not as MLflow made them", "Move it away", marks=pytest.mark.long),
        pytest.param(
            *("ALTER TABLE experiments RENAME COLUMN name TO other", "not as MLflow made them", "Move it away"),
            marks=pytest.mark.long,
        ),
    ],
)
def test_tables_of_another_mlflow(database, fails, change, cause, advice, project):
    copy = project / "copy.db"
    copy.write_bytes(database.read_bytes())
    with sqlite3.connect(copy) as connection:
        connection.execute(change)
    said = fails(f"sqlite:///{copy}")
    assert cause in said[0]
    assert advice in said[1]


def test_a_file_that_is_no_database(project, fails):
    (project / "text.db").write_text("text " * 300)
    cause, advice = fails("sqlite:///text.db")
    assert "no SQLite database" in cause
    assert "Move it away" in advice


def test_the_database_of_another_program_stays_as_it_is(project, fails):
    with sqlite3.connect(project / "photos.db") as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    before = (project / "photos.db").read_bytes()
    cause, advice = fails("sqlite:///photos.db")
    assert "photos.db cannot be used: it is the database of another program" in cause
    assert "Name a file that is not there yet" in advice
    environment = os.environ | {"MLFLOW_TRACKING_URI": "sqlite:///photos.db"}
    command = [sys.executable, "-m", "frostline.tracking.places"]
    assert "of another program" in subprocess.run(command, env=environment, capture_output=True, text=True).stderr
    assert (project / "photos.db").read_bytes() == before


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"]
)
def test_a_store_in_memory(fails, uri):
    cause, advice = fails(uri)
    assert f"{uri} is in memory: each stage would lose it." in cause
    assert advice == "Write sqlite:///PATH."


def test_a_folder_in_its_place(project, fails):
    cause, advice = fails("sqlite:///conf")
    assert "cannot be opened" in cause
    assert "no folder" in advice


def test_a_file_in_the_place_of_its_folder(project, fails):
    (project / "mlruns").write_text("")
    cause, advice = fails("sqlite:///mlruns/mlflow.db")
    assert "cannot be opened" in cause
    assert "its folder one that you may write" in advice
    with pytest.raises(FrostlineError, match="cannot be opened"), store.store_is_needed():
        store.answers("sqlite:///mlruns/mlflow.db")


def test_before_the_browser_of_runs_a_file_that_is_no_database_is_one_error(project):
    (project / "text.db").write_text("text " * 300)
    environment = os.environ | {"MLFLOW_TRACKING_URI": "sqlite:///text.db"}
    command = [sys.executable, "-m", "frostline.tracking.places"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "text.db cannot be used: file is not a database.\nMove it away" in done.stderr


@pytest.mark.long
def test_the_browser_of_runs_opens_the_store_that_stages_use(tmp_path):
    """`make ui` itself, with an `mlflow` that says what it is told."""
    write_tracked(tmp_path, "Makefile", "params.yaml")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/.installed-core").touch()
    (tmp_path / ".venv/bin/activate").write_text(f"PATH='{tmp_path}/.venv/bin:{Path(sys.executable).parent}':$PATH\n")
    (tmp_path / ".venv/bin/mlflow").write_text('#!/bin/sh\necho "$@ opens $MLFLOW_BACKEND_STORE_URI"\n')
    (tmp_path / ".venv/bin/mlflow").chmod(0o755)

    def ui(**variables):
        command = ["make", "-o", ".venv/.installed-core", "ui"]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines()[-1], done.stdout + done.stderr

    assert ui()[1] == "ui --host 127.0.0.1 --port 5000 opens sqlite:///mlruns/mlflow.db"
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("sqlite:///mlruns/mlflow.db", "sqlite:////srv/shared's $HOME.db"))
    assert ui()[1] == "ui --host 127.0.0.1 --port 5000 opens sqlite:////srv/shared's $HOME.db"
    assert ui(MLFLOW_TRACKING_URI="sqlite:///other.db")[1] == "ui --host 127.0.0.1 --port 5000 opens sqlite:///other.db"
    status, _, said = ui(MLFLOW_TRACKING_URI="http://me:s3cret@127.0.0.1:9")
    assert "which has its own pages; open http://127.0.0.1:9 in a browser." in said
    assert (status, "opens" in said, "s3cret" in said) == (2, False, False)


@pytest.mark.long
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
        ("./mlruns", "Write sqlite:///PATH for a file"),
        ("sqlite:/mlflow.db", "Write sqlite:///PATH for a file"),
        ("'http://127.0.0.1:5000'", "Write http://127.0.0.1:5000 for a server"),
    ],
)
def test_an_address_without_a_scheme(fails, uri, words):
    cause, advice = fails(uri)
    assert ("in quotes" if "'" in uri else "without a scheme") in cause
    assert words in advice


@pytest.mark.parametrize(
    ("uri", "cause", "advice"),
    [
        ("htp://127.0.0.1:5000", "no store has this kind of address", "Write http://"),
        ("http://no-such-host.invalid:5000", "there is no host of this name", "Check the address"),
        (f"http://someone:{SECRET}@127.0.0.1:9", "nothing listens there", "Start the server"),
        ("http://127.0.0.1:port", "its address is not valid", "http://HOST:PORT"),
        ("http://127.0.0.1:9 \n", "http://127.0.0.1:9 cannot be used: nothing listens there", "Start the server"),
        ("http://[::1:5000", "its address is not valid", "http://HOST:PORT"),
        (f"http://someone:{SECRET}/{SECRET}@127.0.0.1:9", "http://127.0.0.1:9 cannot be used", "in a password is %2F"),
        ("mysql://u@127.0.0.1/db", "package MySQLdb, which it takes, is not installed", "pip install mysqlclient"),
        ("postgresql://u@127.0.0.1/db", "package psycopg, which it takes", "write postgresql+psycopg2://"),
        ("postgres://u@127.0.0.1/db", "no store has this kind of address", "Write postgresql+psycopg2://"),
        ("sqlite://mlflow.db", "its address is not valid", "sqlite:///PATH"),
        ("file:./mlruns", "MLflow keeps no runs in folders any more", "mlflow migrate-filestore"),
        ("uc://catalog", "no store has this kind of address", "Write http://"),
    ],
)
def test_an_address_that_leads_nowhere(fails, uri, cause, advice):
    said = fails(uri)
    assert cause in said[0]
    assert advice in said[1]


def test_a_database_that_is_away_is_an_error_at_once(fails):
    pytest.importorskip("psycopg2")
    cause, _ = fails(f"postgresql+psycopg2://someone:{SECRET}@127.0.0.1:9/db")
    assert "nothing listens there" in cause


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
        (Answer(status=502, body=PAGE), "it answers with errors of its own (502)", "its log"),
        (Answer(status=200, body=b"{}"), "what answers there is not MLflow", "Check the address"),
        (Answer(status=405, body=PAGE), "it sends on to another address", "often https://"),
        (Answer(status=400, body=b"The plain HTTP request was sent to HTTPS port"), "speaks https", "Write https://"),
        (
            Answer(status=302, headers={"Location": "http://login.invalid/?state=" + SECRET}),
            "there is no host of this name (login.invalid:80, to which it leads)",
            "Check the address",
        ),
    ],
)
def test_a_server_that_answers_otherwise(fails, answer, cause, advice):
    with running(FileServer(b"", *[answer] * 9)) as server:
        said = fails(f"http://127.0.0.1:{server.server_port}")
        assert cause in said[0]
        assert advice in said[1]


def test_what_a_server_that_answers_anything_is_not(monkeypatch):
    with running(FileServer(b"{}")) as server, pytest.raises(FrostlineError, match="is not MLflow"):
        store.answers(f"http://127.0.0.1:{server.server_port}")


@pytest.mark.parametrize(
    ("name", "value", "cause", "advice"),
    [
        ("MLFLOW_TRACKING_TOKEN", f"{SECRET}\n{SECRET}", "credentials that it gets have", "MLFLOW_TRACKING_TOKEN"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10s", "'10s' for MLFLOW_HTTP_REQUEST_TIMEOUT", "Correct or unset"),
        ("MLFLOW_TRACKING_SERVER_CERT_PATH", "no.pem", "invalid path: no.pem", "MLFLOW_TRACKING_SERVER_CERT_PATH"),
    ],
)
def test_what_the_environment_sets_wrongly_is_named(fails, monkeypatch, name, value, cause, advice):
    monkeypatch.setenv(name, value)
    said = fails("https://127.0.0.1:9")
    assert cause in said[0]
    assert advice in said[1]


def test_a_server_that_hangs(fails, monkeypatch, capfd):
    monkeypatch.setattr(store, "_PATIENCE", 0.1)
    monkeypatch.setattr(store, "_ANSWER_WAIT", 1)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cause, advice = fails(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "it does not answer in time" in cause
    assert "overloaded" in advice
    assert "waiting for MLflow's store" in capfd.readouterr().err


def test_a_certificate_that_is_not_trusted_and_a_server_without_one(fails, tmp_path, monkeypatch):
    server = FileServer(b"")
    server.speak_tls(tmp_path / "certificate.pem")
    with running(server):
        cause, advice = fails(f"https://127.0.0.1:{server.server_port}")
        assert "certificate is not trusted" in cause
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in advice
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "certificate.pem"))
        cause, advice = fails(f"https://localhost:{server.server_port}")
        assert "its certificate is for another name" in cause
        assert "with the name that the certificate has" in advice
        monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
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


def test_a_proxy_of_all_schemes_is_named_and_what_the_server_wants_is_said_too(fails, monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with running(FileServer(b"", *[Answer(status=401)] * 3)) as proxy:
        monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{proxy.server_port}")
        cause, advice = fails("http://mlflow.invalid")
    assert "it wants credentials" in cause
    assert "MLFLOW_TRACKING_TOKEN. The proxy http://127.0.0.1:" in advice
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    cause, advice = fails("http://mlflow.invalid")
    assert "SOCKS" in cause
    assert "NO_PROXY=mlflow.invalid" in advice


@pytest.mark.long
def test_where_artifacts_alone_cannot_be_sent_all_else_is_and_the_run_ends(database, capfd):
    client = mlflow.MlflowClient()
    client.create_experiment("frostline-odd", artifact_location="odd://place")
    with tracking.phase_run("transfer", tracking.open_pipeline(compose_conf(["data.name=odd"]), "data")) as run:
        run.log_files(database)
        run.log_epoch({"epoch": 1, "loss": 0.5})
    found = client.get_run(run.id)
    assert (found.info.status, found.data.metrics["loss"]) == ("FINISHED", 0.5)
    warning = capfd.readouterr().err
    assert "did not take all" in warning
    assert len(warning.splitlines()) == 2


@pytest.mark.long
def test_a_run_that_is_deleted_while_it_goes_on_is_told_of_once_and_closed_where_it_comes_back(database, capfd):
    client = mlflow.MlflowClient()
    with tracking.phase_run("transfer", tracking.open_pipeline(compose_conf(), "data")) as run:
        client.delete_run(run.id)
        for epoch in (1, 2, 3):
            run.log_epoch({"epoch": epoch, "loss": 0.5})
    warning = capfd.readouterr().err
    assert "epoch 1, epoch 2, epoch 3, the run's end (its run was deleted" in warning
    assert warning.count("its run was deleted") == 1
    client.restore_run(run.id)
    tracking.open_pipeline(compose_conf(), "data")
    assert client.get_run(run.id).info.status == "KILLED"


LOG = """
from pathlib import Path
from frostline.config.load import compose_conf
from frostline.tracking import runs
with runs.phase_run("transfer", runs.open_pipeline(compose_conf(), "data")) as run:
    run.log_files(Path("params.yaml"))
"""


@pytest.mark.long
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
