"""What is on its way to the MLflow store: sent in order, at once, or when a lost store is back."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import requests

from frostline.tracking.quiet_mlflow import mlflow
from frostline.tracking.store import reason, store

_log = logging.getLogger(__name__)


@dataclass
class Outbox:
    """What the store has not got of a run."""

    unsent: list[tuple[str, Callable[[], object]]] = field(default_factory=list)
    """Oldest first: what it is, and how to send it."""
    refused: list[str] = field(default_factory=list)
    """What the store did not take, and why."""
    away: str = ""
    """Why the store could not be reached at the last try."""
    next_try: float = 0.0
    """Not before this time of `time.monotonic` is a lost store tried again, but for the last time."""

    def put(self, what: str, action: Callable[[], object]) -> None:
        """Do `action`, which sends `what`, after all that waits already; where the store is away, it waits, too."""
        self.unsent.append((what, action))
        if time.monotonic() >= self.next_try:
            self.send()

    def send(self) -> None:
        """Send what waits, until the store turns out to be away; drop what it refuses."""
        while self.unsent:
            begun, (what, action) = time.monotonic(), self.unsent[0]
            try:
                action()
            except Exception as error:  # noqa: BLE001 - artifact stores raise anything; the phase must not fail for it
                if _is_away(error):
                    ended = time.monotonic()
                    self.next_try = ended + 10 * (ended - begun)  # a lost store costs at most a tenth of the time
                    self.away = reason(error)
                    return
                self.refused.append(f"{what} ({reason(error)})")
            del self.unsent[0]

    def warn_of_what_is_lacking(self) -> None:
        """Say what the store has not got, if anything."""
        lacking = ", ".join(dict.fromkeys([*self.refused, *(what for what, _ in self.unsent)]))
        if lacking:
            problem = f"is away: {self.away}" if self.unsent else "did not take all"
            _log.warning(
                "MLflow's store %s %s\nThe stage's outputs are complete all the same. Not logged: %s.",
                store(),
                problem,
                lacking,
            )


def _is_away(error: Exception) -> bool:
    if isinstance(error, mlflow.exceptions.MlflowException):
        return bool(error.get_http_status_code() >= 500)
    return isinstance(error, requests.RequestException)
