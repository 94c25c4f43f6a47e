"""What is on its way to the MLflow store: sent in order, at once, or when a lost store is back."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import requests

from frostline.tracking.quiet_mlflow import mlflow
from frostline.tracking.store import reason, store, waiting_is_said

_ASKED_AGAIN = 30
"""Seconds: a store that took longer to fail hangs, and is not asked whether it is there."""

_log = logging.getLogger(__name__)


@dataclass
class Outbox:
    """What the store has not got of a run."""

    unsent: list[tuple[str, Callable[[], object]]] = field(default_factory=list)
    """Oldest first: what it is, and how to send it."""
    refused: dict[str, list[str]] = field(default_factory=dict)
    """By reason, what the store did not take."""
    away: str = ""
    """Why the store could not be reached at the last try."""
    next_try: float = 0.0
    """Not before this time of `time.monotonic` is a lost store tried again, but for the last time."""

    def put(self, what: str, action: Callable[[], object]) -> None:
        """Do `action`, which sends `what`, after all that waits already; where the store is away, it waits, too."""
        self.unsent.append((what, action))
        if time.monotonic() >= self.next_try:
            self.send()

    def send(self, last: bool = False) -> None:
        """Send what waits, until the store turns out to be away; drop what it refuses.

        At the `last` try also what fails while the store itself answers: the place of its artifacts may be away alone.
        """
        while self.unsent:
            begun, (what, action) = time.monotonic(), self.unsent[0]
            try:
                with waiting_is_said():
                    action()
            except Exception as error:  # noqa: BLE001 - artifact stores raise anything; the phase must not fail for it
                ended = time.monotonic()
                if _is_away(error) and not (last and ended - begun < _ASKED_AGAIN and _is_there()):
                    self.next_try = ended + 10 * (ended - begun)  # a lost store costs at most a tenth of the time
                    self.away = reason(error)
                    return
                self.refused.setdefault(reason(error), []).append(what)
            del self.unsent[0]

    def warn_of_what_is_lacking(self) -> None:
        """Say what the store has not got, if anything."""
        refused = [f"{_listed(each)} ({why})" for why, each in self.refused.items()]
        if refused or self.unsent:
            _log.warning(
                "MLflow's store %s %s\nThe stage's outputs are complete all the same. Not logged: %s.",
                store(),
                f"is away: {self.away}" if self.unsent else "did not take all",
                "; ".join([*refused, *([_listed([what for what, _ in self.unsent])] if self.unsent else [])]),
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _is_away(error: Exception) -> bool:
    if isinstance(error, mlflow.exceptions.MlflowException):
        return bool(error.get_http_status_code() >= 500)
    if isinstance(error, requests.HTTPError) and error.response is not None:  # of artifacts
        return bool(error.response.status_code >= 500)
    return isinstance(error, requests.RequestException)


def _is_there() -> bool:
    try:
        mlflow.search_experiments(max_results=1)
    except Exception:  # noqa: BLE001 - as above
        return False
    return True
