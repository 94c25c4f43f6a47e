"""The trial that a sweep chose, as the recipe `experiment=swept`, and the command that rebuilds it."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from frostline.common.files import write_text
from frostline.config.flat import flatten
from frostline.config.load import compose_conf
from frostline.config.overrides import text_of
from frostline.config.paths import SWEPT
from frostline.config.settings import Config
from frostline.runtime.errors import FrostlineError
from frostline.sweep.results import REBUILD, recipe

_RECIPE = "experiment=swept"


def write_swept(config: Config, note: str, *copies: Path) -> str:
    """Leave `config` as the recipe, with `note` and the command that rebuilds it, which is returned, as a comment;
    `copies`: more files for the same text."""
    write_text(SWEPT, recipe(config, note))
    command = rebuild_command()
    text = recipe(config, f"{note}\nRebuild it: {command}")
    for path in (SWEPT, *copies):
        write_text(path, text)
    return command


def rebuild_command() -> str:
    """What trains the recipe that was left last through the pipeline.

    Settings that stay (`frostline set`) win over any recipe; where they differ from it, the command says the recipe's.
    """
    if not SWEPT.is_file():
        return REBUILD
    content: dict[str, Any] = yaml.safe_load(SWEPT.read_text(encoding="utf-8"))
    choices = [
        f"{group.removeprefix('override /')}={option}"
        for choice in content.pop("defaults")
        for group, option in choice.items()
    ]
    del content["name"]  # the user's own
    wanted = flatten(content)
    for groups in ([], choices):  # a group that stays is another one, or it has the recipe's settings
        try:
            composed = flatten(asdict(compose_conf([_RECIPE, *groups])))
        except FrostlineError:
            continue
        if composed.keys() >= wanted.keys():
            values = [f"{key}={text_of(value)}" for key, value in wanted.items() if composed[key] != value]
            return shlex.join([*REBUILD.split(), *(word for text in groups + values for word in ("-S", text))])
    return REBUILD
