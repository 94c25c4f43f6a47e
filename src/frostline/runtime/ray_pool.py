"""`workers.mapped` on Ray: work on many pictures by processes on many machines.

The cluster is the one that Ray's own variable RAY_ADDRESS names; without it, a Ray of this process' own is started on
this machine. As for a sweep, all machines need the same packages, and the project's folder at the same path: files are
read there, not sent.
"""

import functools
import logging
import os
import platform
import secrets
import signal
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from frostline.runtime.errors import FrostlineError
from frostline.runtime.process_pool import AHEAD, cores, limited_to

if TYPE_CHECKING:  # Ray is an extra, and takes a second to import
    from ray import ObjectRef


Item = TypeVar("Item")
Result = TypeVar("Result")

_CANCELLED_WITHIN = 30
"""Seconds; a machine may have gone with what it was at."""


def mapped(
    function: Callable[[Item], Result], items: Iterable[Item], cpus: int = 1, gpus: int = 0
) -> Generator[Result]:
    """As `workers.mapped`, by as many processes as the cluster has room for, each with so many `cpus` and `gpus`.

    Each process gets `function` once, and calls it in this process' folder. What one was at when it died another does
    again.

    Raises FrostlineError where Ray is not installed, its cluster is out of reach or has no room, or one item ends
    process after process.
    """
    with _joined() as ray:
        room = _room(cpus, gpus)
        # Processes of their own, as TensorFlow reads its variables once. Ray tries three times more where one dies.
        environment = {"env_vars": limited_to(cpus)}
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, runtime_env=environment)(_apply)
        shared, folder = [ray.put(function)], Path.cwd()  # in a list: else Ray would unpickle it for every task
        waiting: deque[ObjectRef[Result]] = deque()
        try:
            for item in items:
                waiting.append(task.remote(shared, folder, item))
                if len(waiting) >= AHEAD * room:
                    yield ray.get(waiting[0])
                    waiting.popleft()
            while waiting:
                yield ray.get(waiting[0])
                waiting.popleft()
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # as if `function` had been called here
        except ray.exceptions.RayError as error:
            raise FrostlineError(
                f"Ray gave up: {_one_line(error)}\n"
                "Processes that die again and again want memory, most likely: give the cluster more, or fewer CPUs."
            ) from error
        finally:  # nothing runs on where this is left early: its files may be deleted now
            for each in waiting:
                ray.cancel(each)
            if waiting:
                ray.wait(list(waiting), num_returns=len(waiting), timeout=_CANCELLED_WITHIN)


def join(address: str | None, store: int | None = None) -> None:
    """Join the Ray cluster at `address`; without one, start a Ray on this machine, which ends with this process.

    A process that is in a cluster stays there. `store`: bytes of shared memory for the objects of a Ray that is
    started; None: Ray's default, up to 30% of the memory.

    Raises FrostlineError where Ray is not installed, or the cluster is out of reach.
    """
    ray = _ray()
    if ray.is_initialized():
        return
    on_terminate = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address:
            _knock(address)
            ray.init(address, **quiet)
        else:
            # Ray lets in who knows this; without it, it would leave a token in the home folder.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex())
            ray.init("local", num_cpus=cores(), include_dashboard=False, object_store_memory=store, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = f"join the Ray cluster at {address}" if address else "start Ray"
        raise FrostlineError(f"cannot {where}: {_one_line(error)}") from error
    finally:
        signal.signal(signal.SIGTERM, on_terminate or signal.SIG_DFL)  # Ray has set its own


@contextmanager
def _joined() -> Iterator[Any]:
    """Within, the module `ray` is in a cluster; one that it was not in before, it leaves."""
    ray = _ray()
    before = ray.is_initialized()  # so is a process of Ray's own: one that runs a point of a sweep
    join(os.environ.get("RAY_ADDRESS"))
    try:
        yield ray
    finally:
        if not before:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise FrostlineError("Ray is not installed.\nInstall it: pip install 'frostline[ray]'") from error
    return ray


def _knock(address: str) -> None:
    """Raise the OSError of a machine that does not answer, which Ray would try to reach for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _room(cpus: int, gpus: int) -> int:
    """How many processes with so many `cpus` and `gpus` the cluster has room for."""
    wanted = {name: count for name, count in (("CPU", cpus), ("GPU", gpus)) if count}
    machines = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
    room = sum(min(int(each.get(name, 0) // count) for name, count in wanted.items()) for each in machines)
    if not room:
        asked = " and ".join(f"{count} {name}" for name, count in wanted.items())
        raise FrostlineError(f"no machine of the Ray cluster has {asked}.\nAdd one; `ray status` shows what there is.")
    return room


def _apply(shared: "list[ObjectRef[Any]]", folder: Path, item: Any) -> Any:
    """In a process of the cluster: what the function that is `shared` makes of `item`."""
    try:
        os.chdir(folder)
    except FileNotFoundError as error:
        raise FrostlineError(
            f"the machine {platform.node()} of the Ray cluster has no folder {folder}.\n"
            "All of them need the project at the same path: on a shared file system."
        ) from error
    return _function(shared[0])(item)


@functools.lru_cache(maxsize=1)
def _function(shared: "ObjectRef[Any]") -> Any:
    return _ray().get(shared)  # once in each process: it may hold a model


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
