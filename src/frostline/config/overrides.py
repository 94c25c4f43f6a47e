"""Hydra's overrides: ``key=value``, ``key=a,b``, ``key=range(1,4)``, ``key=interval(0,1)``.

Hydra documents this grammar, but not its parser. So no other module imports it, and tests/test_hydra_api.py says
what to do when a release of Hydra changes it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

__all__ = ["Override", "assigned", "interval_in", "parse_overrides", "text_of"]


def parse_overrides(lines: Sequence[str]) -> list[Override]:
    """Parse `lines`. Raises hydra.errors.OverrideParseException, which names the one that is no override."""
    return OverridesParser.create().parse_overrides(list(lines))


def interval_in(override: Override) -> IntervalSweep | None:
    """The interval that `override` says to search (`start`, `end`, `tags`), if it says so."""
    value = override.value()
    return value if isinstance(value, IntervalSweep) else None


def assigned(override: Override) -> list[str]:
    """Each value that `override`, which holds no interval, gives to its key, as text; one where nothing is swept.

    Raises hydra.errors.HydraException for `glob`, which needs the names of files.
    """
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def text_of(value: Any) -> str:
    """`value` of a setting as it stands after ``key=``.

    A mapping is written as its text: it takes the place of another one, where Hydra would merge two of them.
    """
    if isinstance(value, list):
        return f"[{','.join(map(text_of, value))}]"
    if not isinstance(value, str | Mapping):
        return json.dumps(value)
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else value
    if re.fullmatch(r"(?!(true|false|null|inf|nan)$)[a-z]\w*(/\w+)*", text, re.IGNORECASE | re.ASCII):
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), text)
    return f"'{escaped}'"
