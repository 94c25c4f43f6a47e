"""One thin entry point per DVC stage, named as the stage is: read the settings, call the package, write the outputs."""

import errno
import gc
import importlib
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from frostline.common.files import digest_of, locked
from frostline.runtime import own_process
from frostline.runtime.background_process import background_process
from frostline.runtime.errors import FrostlineError

_INTERRUPTED = "interrupted; `dvc repro` goes on from here.\n"


def run_stage(main: Callable[..., None], record: Callable[..., None] | None = None) -> None:
    """Run `main` on params.yaml with the command line's Hydra overrides; end with one or two lines where it fails.

    `record`: what keeps the stage's run in MLflow, given its end of a channel and the settings. It runs in a
    background process; `main`, which gets the other end, needs TensorFlow, and this is imported meanwhile.
    A second process for the same stage waits for the first one: `dvc repro` sees to that itself, but it may have been
    killed without its stage.
    """
    from frostline.config.load import load_params  # here: worker processes import this module, too, and need no Hydra

    own_process.begin()
    try:
        with _alone(Path(sys.argv[0]).stem), ExitStack() as stack:
            config = load_params(sys.argv[1:])
            channels = []
            if record:
                channels = [stack.enter_context(background_process(record, config))]
                importlib.import_module("frostline.runtime.quiet_tensorflow")
            with _interruptible():
                main(config, *channels)
            sys.stdout.flush()
            gc.freeze()  # the interpreter's last collection would go through all of TensorFlow for a second
    except FrostlineError as error:
        sys.exit(f"error: {error}")
    except (OSError, RuntimeError) as error:  # a full disk, a read-only folder
        number = _errno(error)
        if number is None and isinstance(error, RuntimeError):
            raise
        with suppress(OSError):
            sys.stdout.close()  # it may be what is full
        reason = getattr(error, "strerror", None) or str(error)
        place = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
        advice = ""
        if number in (errno.ENOSPC, errno.EDQUOT):
            advice = "\nMake room (`frostline cache prune` deletes cached features); `dvc repro` goes on from here."
        sys.exit(f"error: {' '.join(reason.split())[:200]}{place}{advice}")
    except KeyboardInterrupt:
        sys.stderr.write(_INTERRUPTED)
        sys.exit(130)


def _errno(error: OSError | RuntimeError) -> int | None:
    """The system's number of the error; HDF5 has it in its text, and says RuntimeError where closing a file fails."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"errno = (\d+)", str(error))
    return int(found[1]) if found else None


def _alone(stage: str) -> AbstractContextManager[int]:
    cluster = os.environ.get("TF_CONFIG")  # each process of a training of several has its own, and waits for the others
    name = f"{stage}-{digest_of(cluster)}" if cluster else stage
    path = Path(".frostline/stages", f"{name}.lock")  # not in WORK: queued experiments may run side by side
    path.parent.mkdir(parents=True, exist_ok=True)
    return locked(path, f"{stage} is running in another process; waiting for it to end.")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt meanwhile, so that what is begun is cleaned up."""
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is _end_at_once]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except Exception as error:
        if _was_interrupted(error):  # and then could not close what it was at: an archive with half an entry, say
            raise KeyboardInterrupt from error
        raise
    finally:
        for number in numbers:
            signal.signal(number, _end_at_once)


def _was_interrupted(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, KeyboardInterrupt) or _was_interrupted(error.__context__))


def _end_at_once(number: int, frame: FrameType | None) -> None:
    os.write(_stderr, _INTERRUPTED.encode())
    os._exit(130)


# A stage imports TensorFlow and others, which takes seconds. Meanwhile nothing is begun yet, and an exception raised
# within their imports may come out as another one.
if multiprocessing.current_process().name != "MainProcess":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a worker process: Ctrl-C is for its parent to answer
elif sys.argv[:1] == ["-m"]:  # so it is while `python -m` looks for a stage, and at no other time
    _stderr = os.dup(2)  # what the process' stderr is now: an import may send it elsewhere
    signal.signal(signal.SIGTERM, _end_at_once)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is ignored in the background of a script
        signal.signal(signal.SIGINT, _end_at_once)
