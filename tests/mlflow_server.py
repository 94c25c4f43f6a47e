"""A real `mlflow server` on loopback, that can be killed and started again with the runs that it had."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow

from servers import is_healthy, wait_until


class MlflowServer:
    """`with` it, it runs; its SQLite store and its artifacts stay in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.environment = {"MLFLOW_TRACKING_URI": self.uri}

    def __enter__(self) -> "MlflowServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "server", *store, *artifacts, *where]
        lean = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes fewer
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=lean, start_new_session=True)
        self._wait()

    def _wait(self) -> None:
        def answers() -> bool:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            return self.is_up()

        wait_until(answers, seconds=120)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def is_up(self) -> bool:
        return is_healthy(self.uri)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)
            self._wait()

    def has_begun(self, stage: str) -> bool:
        """Whether the run of a stage goes on that has all it is made with."""
        return any(run.info.status == "RUNNING" and run.data.params for run in self._runs(stage))

    def statuses(self, stage: str = "") -> list[str]:
        """Of all runs, or of those of a stage; newest first."""
        return [run.info.status for run in self._runs(stage)]

    def _runs(self, stage: str) -> list[mlflow.entities.Run]:
        client = mlflow.MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("frostline")
        condition = f"tags.`frostline.phase` = '{stage}'" if stage else ""
        return list(client.search_runs([experiment.experiment_id], condition)) if experiment else []
