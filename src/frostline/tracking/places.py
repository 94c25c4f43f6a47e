"""Where the artifacts of a store in the project's folder lie once the project has been moved or copied.

MLflow keeps their places as absolute ones: a project that lies elsewhere now would write into the folder that it was in
before, and a copy into its original. So whoever opens such a store first has the places follow the project.
"""

import logging
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from frostline.common.urls import hide_credentials
from frostline.config.load import load_params
from frostline.config.paths import PARAMS, ROOT
from frostline.runtime.errors import FrostlineError
from frostline.runtime.logs import show
from frostline.tracking.tags import VIEW

_DEFAULT = "sqlite:///mlruns/mlflow.db"
"""Where there is no params.yaml to say another."""
ARTIFACTS = "artifacts"
"""Beside the store's file: the folder of the artifacts."""
SQLITE_WAIT = 20.0
"""Seconds to wait for a locked SQLite store before anything is trained; as long as MLflow waits later."""

_PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""By table, the columns in which MLflow keeps them, as file:// addresses or as paths."""

_log = logging.getLogger("frostline.tracking.places")  # also where it is run as a program


def store_address(setting: str) -> str:
    """The address of the store: what MLFLOW_TRACKING_URI says, or else the `setting` tracking.uri."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or setting.strip()


def sqlite_file(address: str) -> Path | None:
    """The file of an SQLite store, absolute; a relative one lies in the project's folder. None for another store."""
    if not address.startswith("sqlite:///"):
        return None
    return (ROOT / address.removeprefix("sqlite:///").partition("?")[0]).resolve()


def is_of_another_program(store: Path) -> bool:
    """Whether the SQLite file `store` (absolute) has tables, but none of MLflow's: it would add its own to them.

    Raises sqlite3.Error where the file cannot be used.
    """
    with closing(sqlite3.connect(store, timeout=SQLITE_WAIT)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return bool(tables) and "experiments" not in tables


def follow_project(store: Path) -> None:
    """Let the places in the SQLite file `store` (absolute) be those below its folder, where the project lies now.

    Only of a store in the project's folder. What lies at its former place alone keeps that: runs that were written
    there after a move, by programs that did not know of it. Raises sqlite3.Error where the file cannot be used.
    """
    if not store.is_relative_to(ROOT.resolve()):
        return
    with closing(sqlite3.connect(store, timeout=SQLITE_WAIT, isolation_level=None)) as connection:
        if not list(_former_folders(connection, store.parent)):
            return
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            moved = list(_former_folders(connection, store.parent))  # none, where another process was faster
            for folder in moved:
                _rewrite(connection, folder, store.parent)
    for folder in moved:
        _log.info("MLflow's files of this project lay in %s; they now lie in %s.", folder, store.parent)


def _former_folders(connection: sqlite3.Connection, folder: Path) -> Iterator[Path]:
    """Where the store's `folder` was: what our experiments say that have their artifacts at the same place of another
    project. Experiments of the user's own may have theirs anywhere."""
    here = (folder / ARTIFACTS).as_uri()
    end = here.removeprefix(ROOT.resolve().as_uri())
    query = (
        "SELECT DISTINCT artifact_location FROM experiments WHERE name LIKE 'frostline%' OR experiment_id IN"
        " (SELECT experiment_id FROM experiment_tags WHERE key = ?)"  # the names are of stores without the tag
    )
    for (place,) in connection.execute(query, [VIEW]):
        if place and place.startswith("file://") and place.endswith(end) and place != here:
            yield _path(place).parent


def _rewrite(connection: sqlite3.Connection, before: Path, now: Path) -> None:
    beginnings = [(f"{before.as_uri()}/", f"{now.as_uri()}/"), (f"{before}/", f"{now}/")]
    cells = [(table, column) for table, columns in _PLACES.items() for column in columns]
    for table, column in cells:
        for old, new in beginnings:
            query = f"SELECT rowid, {column} FROM {table} WHERE substr({column}, 1, ?) = ?"  # noqa: S608 - our names
            for row, place in connection.execute(query, [len(old), old]).fetchall():
                follows = new + place.removeprefix(old)
                if table == "experiments" or _path(follows).exists() or not _path(place).exists():
                    command = f"UPDATE {table} SET {column} = ? WHERE rowid = ?"  # noqa: S608 - our names
                    connection.execute(command, [follows, row])


def _path(place: str) -> Path:
    return Path(unquote(urlsplit(place).path) if place.startswith("file://") else place)


def main() -> None:
    """`make ui`, before MLflow's own server opens the store: print its address, the one that stages use.

    It may hold a password: MLflow's server takes it from the environment, so that no log and no list of processes
    shows it.
    """
    show()
    try:
        address = store_address(load_params().tracking.uri if PARAMS.is_file() else _DEFAULT)
    except FrostlineError as error:
        sys.exit(f"error: {error}")
    if re.match("(?i)https?:", address):
        sys.exit(f"The runs are in a server, which has its own pages; open {hide_credentials(address)} in a browser.")
    store = sqlite_file(address)
    if store and store.exists():
        _make_ready(store)
    print(address)  # noqa: T201 - for the Makefile


def _make_ready(store: Path) -> None:
    """Let the places in the SQLite file `store` follow the project; exit where it is none of MLflow's."""
    try:
        if is_of_another_program(store):
            said = f"error: {store} is the database of another program."
            sys.exit(f"{said}\nName another (MLFLOW_TRACKING_URI, else tracking.uri).")
        follow_project(store)
    except sqlite3.Error as error:
        if re.search("not a database|malformed|unable to open", str(error)):
            sys.exit(f"error: MLflow's store {store} cannot be used: {error}.\nMove it away, and a new one is made.")
        if "no such table" not in str(error):  # those MLflow makes
            _log.warning("%s: if the project was moved, its artifacts may not be found (%s).", store, error)


if __name__ == "__main__":
    main()
