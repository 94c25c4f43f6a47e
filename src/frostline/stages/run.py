"""Run one stage, and say in one or two lines what fails."""

import errno
import gc
import importlib
import os
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from frostline.common.files import digest_of, locked
from frostline.config.load import load_params
from frostline.runtime.errors import FrostlineError, brief
from frostline.runtime.interrupts import INTERRUPTED, interruptible

STAGES = ("fetch_data", "fetch_weights", "preprocess", "transfer", "finetune", "evaluate")

_OBJECTS = 100_000
"""So many new ones, and Python looks for garbage. At its own 700 that takes a twentieth of a training stage's time:
what builds and traces a network makes objects by the hundred thousand, and nearly none of them are garbage."""


def run_stage(name: str, overrides: Sequence[str]) -> None:
    """Run the stage `name` on params.yaml and Hydra `overrides`; exit with one or two lines where it fails.

    A second process for the same stage waits for the first one: `dvc repro` sees to that itself, but it may have been
    killed without its stage.
    """
    try:
        if name not in STAGES:
            raise FrostlineError(f"there is no stage {name!r}.\nThere are: {', '.join(STAGES)}")
        with _alone(name):
            config = load_params(overrides)
            gc.set_threshold(_OBJECTS)
            stage = importlib.import_module(f"frostline.stages.{name}")
            with interruptible():
                stage.main(config)
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
        sys.exit(f"error: {brief(reason)}{place}{advice}")
    except KeyboardInterrupt:
        sys.unraisablehook = lambda unraisable: None  # Python 3.13 says that of half an archive
        sys.stderr.write(INTERRUPTED)
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
