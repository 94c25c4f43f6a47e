"""Runs whose process was killed: each process marks what it has not finished, and the next one closes it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from frostline.common.files import read_json, replacing
from frostline.config.paths import WORK
from frostline.tracking.outbox import Outbox
from frostline.tracking.quiet_mlflow import mlflow
from frostline.tracking.store import store_in_project
from frostline.tracking.tags import TOKEN

_MARKERS = WORK / "runs"


@contextmanager
def marked(token: str, experiment_id: str, outbox: Outbox) -> Iterator[None]:
    """Keep a locked file while the runs with the tag `token` are unfinished; who is killed leaves it, unlocked.

    The file stays, too, where the store has not got all that was in `outbox`: it may lack the runs' end.
    """
    path = _MARKERS / f"{token}.json"
    with ExitStack() as stack:
        with replacing(path) as temporary:
            file = stack.enter_context(temporary.open("w"))
            lock_descriptor(file.fileno())  # before it has its name: nobody finds it unlocked
            json.dump({"store": store_in_project(), "experiment": experiment_id}, file)
            file.flush()
        yield
        if not (outbox.unsent or outbox.refused):
            path.unlink(missing_ok=True)


def close_what_was_killed() -> None:
    """Close as KILLED what processes that are gone left running in the store in use."""
    client, here = mlflow.MlflowClient(), store_in_project()
    for path in _MARKERS.glob("*.json"):
        # Its process may end just now; it may be another user's. NFS locks only what is open for writing.
        with suppress(FileNotFoundError, PermissionError), path.open("r+") as file:
            if not lock_descriptor(file.fileno(), blocking=False):
                continue
            left = _content(path)
            if left is None:  # the machine lost its power before it was on the disk: whose run it was is lost, too
                path.unlink()
                continue
            if left["store"] != here:
                continue
            condition = f"tags.`{TOKEN}` = '{path.stem}' and status = 'RUNNING'"
            for run in client.search_runs([left["experiment"]], condition):
                client.set_terminated(run.info.run_id, "KILLED")
            path.unlink()


def _content(path: Path) -> dict[str, str] | None:
    """What `marked` wrote into the file; None where it is not that."""
    try:
        found = read_json(path)
    except ValueError:
        return None
    is_ours = isinstance(found, dict) and all(isinstance(found.get(key), str) for key in ("store", "experiment"))
    return found if is_ours else None
