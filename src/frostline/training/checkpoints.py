"""Where a phase stands after each epoch, so that a killed one goes on from there and ends in the same bytes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frostline.common.files import replacing
from frostline.runtime.errors import FrostlineError

History = list[dict[str, float]]


def save(path: Path, variables: Sequence[Any], history: History) -> None:
    """Write the values of `variables` and the epochs' figures to `path`, whole or not at all."""
    header = json.dumps({"history": history, "variables": len(variables)}).encode()
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.frombuffer(header, np.uint8))
        for variable in variables:
            np.save(file, np.asarray(memoryview(variable.value.read_value())))  # numpy() would copy it first


def delete(path: Path) -> None:
    """Delete the checkpoint at `path` and what is kept beside it, if there is any."""
    for file in path.parent.glob(f"{path.stem}*"):
        file.unlink()


def load(path: Path, variables: Sequence[Any]) -> tuple[History, int]:
    """Set `variables`, or as many of the first as `save` was given, to what it left at `path`.

    Returns the history and their number; where there is no file, an empty one and 0.
    Raises FrostlineError for a damaged file.
    """
    if not path.is_file():
        return [], 0
    try:
        with path.open("rb") as file:
            header = json.loads(np.load(file).tobytes())
            saved = variables[: header["variables"]]
            for variable in saved:
                variable.assign(np.load(file))
    except (ValueError, EOFError) as error:
        raise FrostlineError(f"{path} is damaged: {error}\nDelete it; the phase then starts over.") from error
    return header["history"], len(saved)
