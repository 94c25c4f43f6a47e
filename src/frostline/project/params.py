"""`make params`: write conf/'s composition to params.yaml, and say what that drops.

Unlike `frostline set` it refuses no edit: a default that was changed in conf/, for which it is there, differs from
params.yaml just as an edit by hand does.
"""

import logging
import sys
from collections.abc import Sequence

import yaml

from frostline.common.files import write_text
from frostline.common.urls import hide_credentials
from frostline.config.flat import flatten
from frostline.config.load import composition
from frostline.config.paths import PARAMS
from frostline.config.project import check_project
from frostline.project.alone import alone, beside_no_dvc
from frostline.runtime.errors import FrostlineError, in_one_line
from frostline.runtime.logs import show_as_asked

_log = logging.getLogger("frostline.project.params")  # also where it is run as a program


def write(overrides: Sequence[str] = ()) -> None:
    """Compose conf/ with Hydra `overrides` and write the result to params.yaml; first name each value that goes.

    Raises FrostlineError, before anything is changed, where this is no project, an override is not valid, or a DVC
    command runs in it.
    """
    check_project()
    with alone(), beside_no_dvc():
        text = composition(overrides)
        after = flatten(yaml.safe_load(text))
        gone = {key: value for key, value in _there().items() if after.get(key, ...) != value}
        for key, value in gone.items():
            now = f"it is {after[key]} now" if key in after else "there is no such setting now"
            _log.info(hide_credentials(f"{PARAMS}: {key}={value} is dropped; {now}."))
        if gone:
            _log.info("What was an edit by hand is kept by `frostline set KEY=VALUE`.")
        write_text(PARAMS, text)


def _there() -> dict[str, object]:
    """What params.yaml says, be it one of an earlier version; nothing where it is none."""
    try:
        found = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return flatten(found) if isinstance(found, dict) else {}


if __name__ == "__main__":
    try:
        write(show_as_asked(sys.argv[1:]))
    except FrostlineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a full disk, a folder that may not be written
        sys.exit(f"error: {in_one_line(error)}")
