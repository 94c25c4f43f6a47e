"""Where a phase stands after each epoch, so that a killed one goes on from there and ends in the same bytes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frostline.errors import FrostlineError
from frostline.files import replacing

History = list[dict[str, float]]


def save(path: Path, variables: Sequence[Any], history: History) -> None:
    """Write the values of `variables` and the epochs' figures to `path`, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.frombuffer(json.dumps(history).encode(), np.uint8))
        for variable in variables:
            np.save(file, np.asarray(memoryview(variable.value.read_value())))  # numpy() would copy it first


def load(path: Path, variables: Sequence[Any]) -> History:
    """Set `variables` to what `save` left at `path` and return its history; where there is nothing, an empty one.

    Raises FrostlineError for a damaged file.
    """
    if not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            history: History = json.loads(np.load(file).tobytes())
            for variable in variables:
                variable.assign(np.load(file))
    except (ValueError, EOFError) as error:
        raise FrostlineError(f"{path} is damaged: {error}\nDelete it; the phase then starts over.") from error
    return history
