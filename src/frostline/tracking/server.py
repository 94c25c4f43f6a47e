"""A tracking server to share (`make server`): `mlflow server` on a PostgreSQL of its own.

All that is kept lies in mlruns/server: PostgreSQL's data and its log, and the artifacts, which clients send to the
server and get from it. PostgreSQL listens on a Unix socket only, in a folder that nobody else can enter, and asks the
kernel who connects: it has no port and no password.

Both end with this process. Where it is killed, the kernel ends them (PR_SET_PDEATHSIG), and the next start waits for
that.
"""

import argparse
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from frostline.common.files import locked, replacing
from frostline.config.paths import ROOT
from frostline.runtime.errors import FrostlineError, check_installed, in_one_line
from frostline.runtime.interrupts import take_sigterm_as_ctrl_c
from frostline.runtime.logs import show_as_asked
from frostline.runtime.process_pool import cores

FOLDER = ROOT / "mlruns" / "server"

_PACKAGED = "/usr/lib/postgresql"
"""Debian keeps the programs of each version in a folder of its own below this one, and not on the PATH."""
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for judging language models: eight more processes
}
"""Without what would send PostgreSQL's programs and its driver elsewhere."""


def serve(host: str, port: int, folder: Path = FOLDER) -> None:
    """Serve at `host`:`port`, with all data in `folder`, until the process is interrupted.

    Raises FrostlineError where PostgreSQL or its driver is not installed, the address cannot be used, or one of the
    two servers ends by itself.
    """
    check_installed("a server on PostgreSQL", "server", "psycopg2")
    folder = folder.resolve()
    cluster = folder / "postgres"
    programs = find_postgres(cluster)
    folder.mkdir(parents=True, exist_ok=True)
    notice = f"The server of {folder} is still running; waiting for its end."
    with locked(folder / "lock", notice) as lock, TemporaryDirectory(prefix="frostline-") as sockets:
        _check_address(host, port)
        if not cluster.exists():
            _create(cluster, programs)
        with _postgres(programs, cluster, sockets, lock) as postgres, _mlflow(host, port, folder, sockets, lock):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # until one of the two ends
            if postgres.poll() is not None:
                raise FrostlineError(f"PostgreSQL has ended: {_last_line(_log(cluster))}\nIts log is {_log(cluster)}.")
            raise FrostlineError("MLflow's server has ended; what it said stands above.")


def find_postgres(cluster: Path) -> Path:
    """The folder of PostgreSQL's programs: those of the version that made `cluster`, or else the newest.

    Raises FrostlineError where they are not installed.
    """
    packaged = {path.parts[-3]: path.parent for path in Path(_PACKAGED).glob("*/bin/postgres")}
    made_by = cluster / "PG_VERSION"
    version = made_by.read_text().strip() if made_by.exists() else max(packaged, key=float, default="")
    if version in packaged:
        return packaged[version]
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    name, package = (f"PostgreSQL {version}", f"postgresql-{version}") if version else ("PostgreSQL", "postgresql")
    raise FrostlineError(f"{name} is not installed.\napt-get install {package}")


def _check_address(host: str, port: int) -> None:
    """Raise before seconds are spent on PostgreSQL what uvicorn would end with."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server((str(address[0]), port), family=family).close()
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise FrostlineError(f"{host}:{port} cannot be used: {reason}.\nGive another PORT or HOST.") from error
    if not ip_address(address[0]).is_loopback:
        _say(f"warning: whoever reaches {address[0]} may read and change all runs; this server has no login")


# PostgreSQL


def _as_its_user(**environment: str) -> dict[str, Any]:
    """How subprocesses of PostgreSQL are started: it refuses root, for whom the package has made the user postgres."""
    options: dict[str, Any] = {"cwd": "/", "env": _ENVIRONMENT | environment}
    if os.geteuid() == 0:
        options |= {"user": "postgres", "group": "postgres", "extra_groups": []}
    return options


def _give_to_its_user(folder: str | Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")


def _create(cluster: Path, programs: Path) -> None:
    """Create PostgreSQL's data folder, with a superuser of this process' user name and no way in but the socket."""
    _say("creating PostgreSQL's data folder …")
    with replacing(cluster) as temporary:
        temporary.mkdir(mode=0o700)
        _give_to_its_user(temporary)
        command: list[str | Path] = [programs / "initdb", "--pgdata", temporary, "--username", _user()]
        command += ["--auth-local=peer", "--auth-host=reject", "--encoding=UTF8", "--locale=C.UTF-8"]
        done = subprocess.run(command, capture_output=True, text=True, **_as_its_user())  # noqa: S603 - a list
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error:" in line), done.stderr.strip())
            hint = " As root it runs as the user postgres, who must be able to enter it." if os.geteuid() == 0 else ""
            raise FrostlineError(f"PostgreSQL cannot create {cluster}: {reason}\nSee to its folder and disk.{hint}")


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


@contextmanager
def _postgres(programs: Path, cluster: Path, sockets: str, lock: int) -> Iterator[subprocess.Popen[bytes]]:
    _give_to_its_user(sockets)
    command: list[str | Path] = [programs / "postgres", "-D", cluster, "-k", sockets, "-c", "listen_addresses="]
    is_ready = [str(programs / "pg_isready"), "--quiet", "--host", sockets, "--dbname", "postgres"]
    options = _as_its_user(**_disregarding_killed(cluster))
    with (
        _log(cluster).open("ab") as log,
        _running(command, signal.SIGINT, lock, stdout=log, stderr=log, **options) as process,
    ):
        while subprocess.run(is_ready, env=_ENVIRONMENT).returncode:  # noqa: S603 - a list
            if process.poll() is not None:
                reason = _last_line(_log(cluster))
                raise FrostlineError(f"PostgreSQL does not start: {reason}\nIts log is {_log(cluster)}.")
            time.sleep(0.05)
        yield process


def _disregarding_killed(cluster: Path) -> dict[str, str]:
    """What lets PostgreSQL start over the postmaster.pid of a server that was killed; to be asked with the lock held.

    Its process number may still be there, which PostgreSQL takes for that server: as a zombie, where no parent asks for
    its end (as in many containers), or as any other process after a restart of the machine. The one in this variable
    (which pg_ctl sets to its caller's; CreateLockFile in PostgreSQL's miscinit.c) it disregards, and goes by the old
    server's shared memory alone. So it still refuses to start beside one that was started by hand.
    """
    left = cluster / "postmaster.pid"
    return {"PG_GRANDPARENT_PID": left.read_text().partition("\n")[0]} if left.exists() else {}


def _log(cluster: Path) -> Path:
    return cluster.with_suffix(".log")


def _last_line(log: Path) -> str:
    return log.read_text(errors="replace").strip().rpartition("\n")[2]


# MLflow


@contextmanager
def _mlflow(host: str, port: int, folder: Path, sockets: str, lock: int) -> Iterator[subprocess.Popen[bytes]]:
    address = f"[{host}]" if ":" in host else host
    names = [name + end for name in dict.fromkeys((address, "localhost", "127.0.0.1")) for end in ("", f":{port}")]
    # MLflow's own default takes any name that begins as a private address does: a stranger's 10.example.com, too.
    names += filter(None, [_ENVIRONMENT.get("MLFLOW_SERVER_ALLOWED_HOSTS", "")])  # the user's own, beside ours
    environment = _ENVIRONMENT | {"MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(names)}
    store = f"postgresql+psycopg2://{quote(_user())}@/postgres?host={quote(sockets)}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--serve-artifacts"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", host, "--port", str(port)]
    command += ["--workers", str(min(4, cores()))]
    _say(f"For those who share it: export MLFLOW_TRACKING_URI=http://{address}:{port}")
    with _running(command, signal.SIGTERM, lock, env=environment) as process:
        yield process


@contextmanager
def _running(
    command: Sequence[str | Path], ending: signal.Signals, lock: int, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command`, holding the lock; at the end, or where this process is killed, send it the signal `ending`.

    Ctrl-C does not reach it (it has a session of its own), so that what depends on it can be ended first.
    """
    bound = ["setpriv", "--pdeathsig", ending.name.removeprefix("SIG"), "--", *command]
    process = subprocess.Popen(bound, pass_fds=[lock], start_new_session=True, **options)  # noqa: S603 - a list
    try:
        yield process
    finally:
        process.send_signal(ending)
        process.wait()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main() -> None:
    parser = argparse.ArgumentParser("python -m frostline.tracking.server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="default: %(default)s")
    arguments = parser.parse_args(show_as_asked(sys.argv[1:]))
    take_sigterm_as_ctrl_c()
    try:
        serve(arguments.host, arguments.port)
    except FrostlineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a full disk, a folder that may not be written
        sys.exit(f"error: {in_one_line(error)}")
    except KeyboardInterrupt:
        _say("stopped")


if __name__ == "__main__":
    main()
