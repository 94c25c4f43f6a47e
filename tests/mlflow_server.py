"""A real `mlflow server` on loopback, that can be killed and started again with the runs that it had."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import mlflow

from servers import is_healthy, wait_until


class MlflowServer:
    """`with` it, it runs; its SQLite store and its artifacts stay in `folder`."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.environment = {"MLFLOW_TRACKING_URI": self.uri}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self):
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "server", *store, *artifacts, *where]
        lean = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes fewer
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=lean, start_new_session=True)
        self._wait()

    def _wait(self):
        def answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            return self.is_up()

        wait_until(answers, seconds=120)

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def is_up(self):
        return is_healthy(self.uri)

    @contextmanager
    def hanging(self):
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)
            self._wait()

    def has_begun(self, stage):
        """Whether the run of a stage goes on that has all it is made with."""
        return any(run.info.status == "RUNNING" and run.data.params for run in self._runs(stage))

    def statuses(self, stage=""):
        """Of all runs, or of those of a stage; newest first."""
        return [run.info.status for run in self._runs(stage)]

    def _runs(self, stage):
        client = mlflow.MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("frostline-sample")
        condition = f"tags.`frostline.phase` = '{stage}'" if stage else ""
        return list(client.search_runs([experiment.experiment_id], condition)) if experiment else []
