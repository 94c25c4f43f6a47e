"""`process_pool.mapped` on Ray: work on many images by processes on many machines.

The cluster is the one that Ray's own variable RAY_ADDRESS names; without it, a Ray of this process' own is started on
this machine. As for a sweep, all machines need the same packages, and the project's folder at the same path: files are
read there, not sent.
"""

import logging
import os
import platform
import secrets
import signal
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from frostline.runtime.errors import FrostlineError, brief, check_installed
from frostline.runtime.process_pool import AHEAD, cores, limited_to

if TYPE_CHECKING:  # Ray is an extra, and takes a second to import
    from ray import ObjectRef


Item = TypeVar("Item")
Result = TypeVar("Result")

_TRIES = 4
"""An item whose process dies is tried so many times in all, as often as Ray tries a task."""
_DEAD_WITHIN = 30
"""Seconds; a machine may have gone with what it was at."""


def mapped(
    function: Callable[[Item], Result], items: Iterable[Item], cpus: int = 1, gpus: int = 0
) -> Generator[Result]:
    """As `process_pool.mapped`, by as many processes as the cluster has room for, each with so many `cpus` and `gpus`.

    Each process gets `function` once, and calls it in this process' folder. What one was at when it died another does
    again. They are killed when the last result has been taken, or this is left before.

    Raises FrostlineError where Ray is not installed, its cluster is out of reach or has no room, or one item ends
    process after process.
    """
    with _joined() as ray:
        room = _room(cpus, gpus)
        # Processes of their own, as TensorFlow reads its variables once. Ray hides no GPU from who asks for none.
        variables = limited_to(cpus) | ({} if gpus else {"CUDA_VISIBLE_DEVICES": "-1"})
        options = {"num_cpus": cpus, "num_gpus": gpus, "runtime_env": {"env_vars": variables}}
        pool: _Pool[Item, Result] = _Pool(ray.remote(**options)(_Process), function, room)
        waiting: deque[_Call[Item, Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.call(item))
                if len(waiting) >= AHEAD * room:
                    yield pool.result(waiting.popleft())
            while waiting:
                yield pool.result(waiting.popleft())
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # as if `function` had been called here
        except ray.exceptions.RayError as error:
            raise FrostlineError(
                f"Ray gave up: {brief(error)}\n"
                "Processes that die again and again want memory, most likely: give the cluster more, or fewer CPUs."
            ) from error
        finally:  # nothing runs on where this is left early: its files may be deleted now
            pool.kill()


class _Process:
    """An actor: a process of the cluster that calls the function which is `shared` in `folder`."""

    def __init__(self, shared: "list[ObjectRef[Any]]", folder: Path) -> None:
        self.shared, self.folder = shared, folder

    @cached_property
    def function(self) -> Any:
        return _ray().get(self.shared[0])  # once in each process: it may hold a model

    def apply(self, item: Any) -> Any:
        try:
            os.chdir(self.folder)
        except FileNotFoundError as error:
            raise FrostlineError(
                f"the machine {platform.node()} of the Ray cluster has no folder {self.folder}.\n"
                "All of them need the project at the same path: on a shared file system."
            ) from error
        return self.function(item)


@dataclass
class _Call(Generic[Item, Result]):
    """An item, and what becomes of it."""

    item: Item
    outcome: Future[Result] = field(default_factory=Future)
    answer: "ObjectRef[Result] | None" = None
    deaths: int = 0
    """How many processes died of it."""


class _Pool(Generic[Item, Result]):
    """`size` actors with a few calls each, which they do in order; one that dies is replaced.

    Why not Ray's tasks: one that ends while it is cancelled makes Ray 2.60 abort this process, while an actor can be
    killed at any time. Why not Ray's own ActorPool: it loses what a dead actor was given.
    """

    def __init__(self, actor: Any, function: Callable[[Item], Result], size: int) -> None:
        # In a list: else Ray would unpickle the function as it starts the process, where no error of it is seen.
        self._actor, self._arguments = actor, ([_ray().put(function)], Path.cwd())
        self._starting: dict[ObjectRef[Any], tuple[Any, int]] = {}
        self._queues: dict[Any, deque[_Call[Item, Result]]] = {}
        self._todo: deque[_Call[Item, Result]] = deque()
        for _ in range(size):
            self._start(_TRIES)

    def call(self, item: Item) -> _Call[Item, Result]:
        call: _Call[Item, Result] = _Call(item)
        self._todo.append(call)
        self._hand_out()
        return call

    def result(self, call: _Call[Item, Result]) -> Result:
        """Wait for it. Raises RayTaskError where the function failed, another RayError where its processes died."""
        while not call.outcome.done():
            firsts = {queue[0].answer: actor for actor, queue in self._queues.items() if queue}
            (answer,), _ = _ray().wait([*self._starting, *firsts])
            if answer in firsts:
                self._take(firsts[answer])
            else:
                self._open(answer)
            self._hand_out()
        return call.outcome.result()

    def kill(self) -> None:
        """Kill the actors, whatever they are at."""
        ray = _ray()
        for actor in (*self._queues, *(actor for actor, _ in self._starting.values())):
            ray.kill(actor)
        answers = [call.answer for queue in self._queues.values() for call in queue]
        if answers:
            ray.wait(answers, num_returns=len(answers), timeout=_DEAD_WITHIN)

    def _start(self, tries: int) -> None:
        actor = self._actor.remote(*self._arguments)
        self._starting[actor.__ray_ready__.remote()] = actor, tries

    def _open(self, answer: "ObjectRef[Any]") -> None:
        """Open a queue for the actor that has started; where it failed to, start another."""
        ray = _ray()
        actor, tries = self._starting.pop(answer)
        try:
            ray.get(answer)
        except ray.exceptions.RayError:
            if tries == 1:
                raise
            self._start(tries - 1)
        else:
            self._queues[actor] = deque()

    def _hand_out(self) -> None:
        """Give calls to the actors that run, the shortest queue first. Others may wait long for room on a machine."""
        while self._todo and self._queues:
            actor, queue = min(self._queues.items(), key=lambda each: len(each[1]))
            if len(queue) == AHEAD:
                break
            queue.append(self._todo.popleft())
            queue[-1].answer = actor.apply.remote(queue[-1].item)

    def _take(self, actor: Any) -> None:
        """Take the answer to the first call of `actor`; where that is its death, let others do its calls."""
        ray = _ray()
        first = self._queues[actor][0]
        try:
            first.outcome.set_result(ray.get(first.answer))
        except ray.exceptions.RayTaskError as error:
            first.outcome.set_exception(error)
        except ray.exceptions.RayError as error:
            first.deaths += 1
            if first.deaths == _TRIES:
                first.outcome.set_exception(error)
            ray.kill(actor)  # it may be merely out of reach
            lost = [call for call in self._queues.pop(actor) if not call.outcome.done()]
            self._todo.extendleft(reversed(lost))
            self._start(_TRIES)
            return
        self._queues[actor].popleft()


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
        raise FrostlineError(f"cannot {where}: {brief(error)}") from error
    finally:
        signal.signal(signal.SIGTERM, on_terminate or signal.SIG_DFL)  # Ray has set its own


@contextmanager
def _joined() -> Iterator[Any]:
    """Within, the module `ray` is in a cluster; one that it was not in before, it leaves."""
    ray = _ray()
    before = ray.is_initialized()  # so is a process of Ray's own: one that runs a trial of a sweep
    join(os.environ.get("RAY_ADDRESS"))
    try:
        yield ray
    finally:
        if not before:
            ray.shutdown()


def _ray() -> Any:
    check_installed("workers=ray", "sweeps", "ray")
    import ray

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
