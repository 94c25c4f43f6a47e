"""Settings that stay: this project's own choices, kept beside conf/'s defaults, where every composition reads them.

`conf/local/settings.yaml` has them; those of the sections data and weights, which belong to one source of these, stand
in `conf/data/own.yaml` and `conf/weights/own.yaml`, so that another source can still be chosen. git ignores all three.
`config.local` changes them.
"""

import json
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from frostline.config.flat import BY_CLASS, flatten

CONF = Path("conf")
SETTINGS = Path("local/settings.yaml")
OWN = "own"
OVERRIDE = "override /"


def read_local(conf: Path = CONF) -> dict[str, Any]:
    """The settings that stay, by dotted key; by group ("model") where an option of conf/'s is chosen."""
    content = read_yaml(conf / SETTINGS)
    found: dict[str, Any] = {}
    for choice in content.pop("defaults", []):
        for key, option in choice.items():
            group = key.removeprefix(OVERRIDE)
            own = read_yaml(conf / group / f"{OWN}.yaml") if option == OWN else {}
            found[group] = own.pop("defaults")[0] if own else option
            found |= flatten(own, f"{group}.")
    found |= flatten(content)
    return {key: json.loads(value) if _is_mapping(key, value) else value for key, value in found.items()}


def gone_choices(conf: Path = CONF) -> dict[str, str]:
    """What to say of options that stay and that conf/ has no more, by their names there ("experiment/mine")."""
    kept = {key: str(option) for key, option in read_local(conf).items() if is_group(key, conf)}
    return {
        f"{group}/{option}": f"{group}={option}, kept by `frostline set`, is gone.\n"
        f"Choose another: `frostline set {group}={options_of(group, conf)[0]}`; "
        f"valid: {', '.join(options_of(group, conf))}."
        for group, option in kept.items()
        if option not in options_of(group, conf)
    }


def is_group(key: str, conf: Path) -> bool:
    return "." not in key and (conf / key).is_dir()


def options_of(group: str, conf: Path) -> list[str]:
    return sorted(file.stem for file in (conf / group).glob("*.yaml") if file.stem != OWN)


def read_yaml(file: Path) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(file))) if file.is_file() else {}


def _is_mapping(key: str, value: Any) -> bool:
    """Whether `value` is the text of one, as `config.local` leaves it."""
    return key.rpartition(".")[2] in BY_CLASS and str(value).startswith("{")
