"""A real server on a real PostgreSQL, and clients in processes of their own."""

import ctypes
import fcntl
import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import mlflow
import psutil
import pytest
import requests

from frostline.config.load import compose_conf
from frostline.runtime.errors import FrostlineError
from frostline.tracking import runs as tracking
from frostline.tracking import server as tracking_server
from frostline.tracking.tags import MODEL, PHASE, RESTORED
from servers import is_healthy, wait_until

pytestmark = pytest.mark.postgresql

ROOT = Path(__file__).parents[1]
WRITERS, EPOCHS, FIGURES = 8, 20, 4


class Server:
    def __init__(self, folder):
        self.folder = folder
        self.cluster = folder / "mlruns" / "server" / "postgres"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def launch(self):
        """Start it, up to where PostgreSQL is ready."""
        command = [sys.executable, "-m", "frostline.tracking.server", "--port", str(self.port)]
        with (self.folder / "log").open("wb") as log:
            names = f"lab.example:{self.port}"
            environment = os.environ | {"TMPDIR": str(self.folder), "MLFLOW_SERVER_ALLOWED_HOSTS": names}
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        wait_until(lambda: self.is_running() and self.uri in self.said(), seconds=120)

    def start(self):
        self.launch()
        wait_until(lambda: self.is_running() and self.answers(), seconds=120)

    def is_running(self):
        assert self.process.poll() is None, self.said()
        return True

    def answers(self):
        return is_healthy(self.uri)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait()

    def said(self):
        return (self.folder / "log").read_text()

    def postgres(self):
        """The lines of PostgreSQL's postmaster.pid: process, folder, start, port, socket, TCP address, ..."""
        return (self.cluster / "postmaster.pid").read_text().splitlines()


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg2", reason="PostgreSQL's driver is missing: pip install -e .[server]")
    try:
        tracking_server.find_postgres(Path("none"))
    except FrostlineError as error:
        pytest.skip(" ".join(str(error).splitlines()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # for the user postgres, as which it runs where the tests run as root
        server = Server(folder)
        server.start()
        yield server
        if server.process.poll() is None:
            server.end()


_WRITERS = """
import multiprocessing, sys
from pathlib import Path
from frostline.config.load import compose_conf
from frostline.tracking import runs as tracking

def write(number, epochs, figures, together):
    settings, artifact = compose_conf([f"seed={number}"]), Path(f"{number}.bin")
    together.wait()
    with tracking.phase_run("transfer", tracking.open_pipeline(settings, "data")) as run:
        for epoch in range(1, epochs + 1):
            values = {f"figure/{n}": number + epoch / 32 + n / 1024 for n in range(figures)}
            run.log_epoch({"epoch": epoch} | values)
        run.tag_model(artifact)
        run.log_files(artifact)

writers, epochs, figures = map(int, sys.argv[1:])
fork = multiprocessing.get_context("fork")  # imported once
together = fork.Barrier(writers)
processes = [fork.Process(target=write, args=(number, epochs, figures, together)) for number in range(writers)]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit(any(process.exitcode for process in processes))
"""


def test_eight_writers_at_once_lose_nothing(project, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    artifacts = [hashlib.shake_128(bytes([number])).digest(1_000_000 + number) for number in range(WRITERS)]
    for number, artifact in enumerate(artifacts):
        Path(f"{number}.bin").write_bytes(artifact)
    command = [sys.executable, "-c", _WRITERS, *map(str, (WRITERS, EPOCHS, FIGURES))]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "", "nothing was warned of"
    assert done.returncode == 0

    client = mlflow.MlflowClient(server.uri)
    runs = client.search_runs([client.get_experiment_by_name("frostline-sample").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    fetched = project / "fetched"
    fetched.mkdir()
    written = {run.data.params["seed"]: run for run in runs if run.data.tags[PHASE] == "transfer"}
    assert len(written) == WRITERS
    assert len(runs) == 2 * WRITERS, "each lies below a parent run of its own"
    for number, artifact in enumerate(artifacts):
        run = written[str(number)]
        for n in range(FIGURES):
            history = client.get_metric_history(run.info.run_id, f"figure/{n}")
            found = {point.step: point.value for point in history}
            assert len(history) == EPOCHS
            assert found == {epoch: number + epoch / 32 + n / 1024 for epoch in range(1, EPOCHS + 1)}
        settings = tracking.params_of(compose_conf([f"seed={number}"]))
        assert run.data.params == {name: str(value) for name, value in settings.items()}
        assert run.data.tags[MODEL] == hashlib.sha256(artifact).hexdigest()
        assert run.info.artifact_uri.startswith("mlflow-artifacts:"), "they go through the server"
        client.download_artifacts(run.info.run_id, f"{number}.bin", str(fetched))
        assert (fetched / f"{number}.bin").read_bytes() == artifact


def test_a_pipeline_is_tracked_and_its_run_is_found_by_the_model(project, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    model, history = project / "model.keras", [{"epoch": 1, "train/loss": 0.5}]
    model.write_bytes(b"a model")
    pipeline = tracking.open_pipeline(compose_conf(["tracking.experiment=another"]), "data")
    with tracking.phase_run("transfer", pipeline) as made:
        made.log_data("sample", "drawn", "0" * 64, context="training")
        made.tag_computing("float32")
        made.log_epoch(history[0])
        made.tag_model(model)
    assert tracking.find_or_restore("transfer", pipeline, model, history)() == made.id
    restored = mlflow.get_run(tracking.find_or_restore("finetune", pipeline, model, history)())
    assert restored.data.tags[RESTORED] == "true"
    with tracking.phase_run("evaluate", pipeline) as evaluation:
        evaluation.log_metrics({"test/log_loss": 0.25}, on=lambda: made.id)
    run = mlflow.get_run(made.id)
    assert {"train/loss": 0.5, "test/log_loss": 0.25}.items() <= run.data.metrics.items()
    assert run.inputs.dataset_inputs[0].dataset.digest == "0" * 32
    parent = mlflow.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.info.run_id == restored.data.tags["mlflow.parentRunId"]
    assert parent.info.status == "FINISHED"


def test_postgresql_has_no_port_and_its_socket_is_for_its_user_alone(server):
    _, _, _, _, sockets, tcp_address, *_ = server.postgres()
    assert tcp_address.strip() == ""
    assert stat.S_IMODE(Path(sockets).stat().st_mode) == stat.S_IMODE(server.cluster.stat().st_mode) == 0o700
    rules = (server.cluster / "pg_hba.conf").read_text().splitlines()
    ways_in = {(line.split()[0], line.split()[-1]) for line in rules if line and not line.startswith("#")}
    assert ways_in == {("local", "peer"), ("host", "reject")}


@pytest.mark.parametrize("name", ["evil.example", "10.evil.example", "192.168.evil.example"])
def test_a_strangers_name_for_this_machine_is_refused(server, name):
    address = f"{server.uri}/api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(address, timeout=20).status_code == 200
    assert requests.get(address, headers={"Host": f"{name}:{server.port}"}, timeout=20).status_code == 403
    named = requests.get(address, headers={"Host": f"lab.example:{server.port}"}, timeout=20)
    assert named.status_code == 200, "the user's own names are allowed beside this machine's"


def test_a_second_one_waits_and_a_port_in_use_is_said_at_once(server):
    command = [sys.executable, "-m", "frostline.tracking.server", "--port", str(server.port)]
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"error: 127.0.0.1:{server.port} cannot be used" in done.stderr
    assert len(done.stderr.splitlines()) == 2

    second = subprocess.Popen(command, cwd=server.folder, stderr=subprocess.PIPE, text=True)
    assert second.stderr is not None
    assert "still running; waiting" in second.stderr.readline()
    second.send_signal(signal.SIGINT)
    assert second.communicate()[1] == "stopped\n"
    assert second.returncode == 0


def names(server):
    return sorted(experiment.name for experiment in mlflow.MlflowClient(server.uri).search_experiments())


@contextmanager
def orphans_stay_zombies():
    """As in many containers: orphans become children of this process (prctl PR_SET_CHILD_SUBREAPER), which does not
    ask for their end."""
    prctl = ctypes.CDLL(None).prctl
    prctl(36, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(36, 0, 0, 0, 0)
        for child in psutil.Process().children():
            if child.status() == psutil.STATUS_ZOMBIE:
                child.wait()


def test_killed_together_with_postgresql_it_starts_again_with_all_runs(server):
    mlflow.MlflowClient(server.uri).create_experiment("kept")
    before = names(server)
    with orphans_stay_zombies():
        server.process.send_signal(signal.SIGSTOP)
        killed = int(server.postgres()[0])
        os.kill(killed, signal.SIGKILL)
        server.end(signal.SIGKILL)
        assert server.postgres(), "its postmaster.pid stays"
        server.start()  # at once, on the same port
        assert psutil.Process(killed).status() == psutil.STATUS_ZOMBIE
    assert names(server) == before


def test_killed_it_ends_what_it_started(server):
    server.end(signal.SIGKILL)
    with (server.cluster.parent / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # when the last process is gone
    assert not (server.cluster / "postmaster.pid").exists(), "PostgreSQL was shut down"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly(server, number):
    server.launch()
    assert server.postgres()
    assert server.end(number) == 0
    assert server.said().endswith("stopped\n")
    assert not (server.cluster / "postmaster.pid").exists()


def test_where_postgresql_ends_it_says_so(server):
    server.launch()
    os.kill(int(server.postgres()[0]), signal.SIGKILL)
    assert server.process.wait() == 1
    assert server.said().splitlines()[-2].startswith("error: PostgreSQL has ended")
    assert server.said().endswith("postgres.log.\n")


def test_it_does_not_start_beside_a_postgresql_on_its_data(server):
    programs, sockets = tracking_server.find_postgres(server.cluster), str(server.cluster)
    by_hand = [programs / "postgres", "-D", server.cluster, "-k", sockets, "-c", "listen_addresses="]
    ready = [programs / "pg_isready", "--quiet", "--host", sockets]
    with (
        (server.folder / "log").open("wb") as log,
        subprocess.Popen(by_hand, stdout=log, stderr=log, **tracking_server._as_its_user()) as other,
    ):
        wait_until(lambda: subprocess.run(ready).returncode == 0, seconds=60)
        command = [sys.executable, "-m", "frostline.tracking.server", "--port", str(server.port)]
        done = subprocess.run(command, cwd=server.folder, capture_output=True, text=True)
        assert other.poll() is None
        other.send_signal(signal.SIGINT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: PostgreSQL does not start: ")
    assert f'data directory "{server.cluster}"' in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_missing_postgresql_is_two_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_server, "_PACKAGED", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FrostlineError, match=r"^PostgreSQL is not installed\.\napt-get install postgresql$"):
        tracking_server.find_postgres(tmp_path / "postgres")
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("13\n")
    for program in ("15/bin/psql", "16/bin/postgres", "9.6/bin/postgres"):
        (tmp_path / program).parent.mkdir(parents=True)
        (tmp_path / program).touch()
    assert tracking_server.find_postgres(tmp_path / "none") == tmp_path / "16" / "bin"
    with pytest.raises(FrostlineError, match=r"^PostgreSQL 13 is not installed\.\napt-get install postgresql-13$"):
        tracking_server.find_postgres(tmp_path / "postgres")


def test_make_server_listens_on_this_machine_only_whatever_the_environment_calls_it():
    def printed(*arguments):
        command, environment = ["make", "-n", "server", *arguments], os.environ | {"HOST": "mybox", "PORT": "1"}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    assert "--host 127.0.0.1 --port 5000" in printed()
    assert "--host 192.168.0.2 --port 8000" in printed("HOST=192.168.0.2", "PORT=8000")
