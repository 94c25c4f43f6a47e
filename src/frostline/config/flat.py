"""Settings as one level of dotted keys."""

from collections.abc import Mapping
from typing import Any


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `settings` with dotted keys, in order; a section without settings is left out.

    A class_weight by class stays one value: its keys are names of classes.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        section = isinstance(value, Mapping) and key != "class_weight"
        flat |= flatten(value, f"{prefix}{key}.") if section else {f"{prefix}{key}": value}
    return flat
