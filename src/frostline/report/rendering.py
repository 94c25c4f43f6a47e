"""Pages from templates: HTML that loads nothing else, the same bytes for the same content."""

from collections.abc import Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def rendered(template: str, content: Mapping[str, Any], package: str = "frostline.report") -> str:
    """Fill the `template` of `package` with `content`; it may include those of the report, report.css among them."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("frostline.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(content)
