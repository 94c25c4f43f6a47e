"""Settings as one level of dotted keys."""

from collections.abc import Mapping
from typing import Any

BY_CLASS = ("class_weight", "threshold")
"""Settings that may be a mapping whose keys are names of classes."""


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `settings` with dotted keys, in order; a section without settings is left out.

    A setting by class stays one value, whatever the classes are called.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        section = isinstance(value, Mapping) and key not in BY_CLASS
        flat |= flatten(value, f"{prefix}{key}.") if section else {f"{prefix}{key}": value}
    return flat
