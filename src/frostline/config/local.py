"""Settings that stay (see `config.kept`): how they are changed, and params.yaml with them."""

import difflib
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from frostline.common.files import write_text
from frostline.config.flat import BY_CLASS, flatten
from frostline.config.kept import (
    CONF,
    OVERRIDE,
    OWN,
    SETTINGS,
    gone_choices,
    is_group,
    options_of,
    read_local,
    read_yaml,
)
from frostline.config.load import compose_conf, composition, load_params
from frostline.config.paths import PARAMS
from frostline.config.settings import Config
from frostline.runtime.errors import FrostlineError

_SOURCES = ("data", "weights")
_FORMER = Path(".frostline/params.yaml")
_log = logging.getLogger(__name__)


def set_local(
    changes: Mapping[str, str], unset: Sequence[str] = (), drop_edits: bool = False, conf: Path = CONF
) -> dict[str, Any]:
    """Keep `changes` (by dotted key or group, as text), let go of the keys `unset`, and return all that is kept.

    params.yaml, which `dvc repro` reads, is written from it. Nothing is changed where an error is raised.

    Raises:
        FrostlineError: a key or value is not valid, or, but with `drop_edits`, params.yaml has edits by hand that would
            be lost.
    """
    before = read_local(conf)
    if unknown := [key for key in unset if key not in before]:
        raise FrostlineError(f"{unknown[0]} is not set; `frostline set` lists what is.")
    gone = tuple(f"{key}." for key in unset if is_group(key, conf))  # with a group go the settings of its option
    left = {key: value for key, value in before.items() if key not in unset and not key.startswith(gone)}
    after = _changed(left, changes, conf)
    with tempfile.TemporaryDirectory() as place:  # a kill while all this is composed changes nothing
        trial = shutil.copytree(conf, Path(place, conf.name))
        _write(after, trial)
        config = compose_conf(folder=trial)
        typed = {key: value if is_group(key, conf) else attrgetter(key)(config) for key, value in after.items()}
        _write(typed, trial)
        text = composition(folder=trial)
    if not drop_edits:
        _check_no_edit_is_lost(config, conf)
    try:
        _write(typed, conf)
        write_text(PARAMS, text)
    except BaseException:
        _write(before, conf)
        raise
    return typed


def _changed(kept: Mapping[str, Any], changes: Mapping[str, str], conf: Path) -> dict[str, Any]:
    """`kept` with `changes`, as text; raises FrostlineError where one of them can be none."""
    after = dict(kept)
    # groups first, whatever the order: with another option go the settings that were chosen for the one before
    for key, text in sorted(changes.items(), key=lambda change: not is_group(change[0], conf)):
        if is_group(key, conf):
            _check_option(key, text, conf)
            if text != kept.get(key):  # another source has other settings
                after = {name: value for name, value in after.items() if not name.startswith(f"{key}.")}
        section, _, name = key.partition(".")
        setting, _, name = name.partition(".")
        if name and setting in BY_CLASS:
            value = f"{{{name.replace('.', ': {')}: {text}}}" + "}" * name.count(".")
            raise FrostlineError(f"{key}: give all classes at once: {section}.{setting}='{value}'.")
        after[key] = None if text == "null" else text
        if key == "model.members" and text.startswith("["):
            after[key] = [member.strip() for member in text.strip("[]").split(",")]
    if unclear := [key for key, value in after.items() if "${" in str(value)]:
        raise FrostlineError(f"{unclear[0]} is {after[unclear[0]]!r}; no setting can hold the characters ${{.")
    return after


def edits_of_params(conf: Path = CONF) -> dict[str, Any]:
    """What params.yaml says otherwise than conf/'s composition does: edits by hand, and what `-S` once set."""
    if not PARAMS.is_file():
        return {}
    kept = read_local(conf)
    # what was chosen may be gone since: that is no edit, and another choice is to be possible
    places = {f"{source}.depends_on": kept[f"{source}.path"] for source in _SOURCES if f"{source}.path" in kept}
    there, composed = flatten(asdict(load_params())), flatten(asdict(compose_conf(folder=conf, known=places)))
    return {key: value for key, value in there.items() if composed.get(key, ...) != value}


def _check_no_edit_is_lost(config: Config, conf: Path) -> None:
    """Raise FrostlineError where params.yaml has edits that `config`, which would take its place, has not.

    Where a choice is gone it is not known what params.yaml was without edits: it is put aside.
    """
    if gone := gone_choices(conf):
        if PARAMS.is_file():
            write_text(_FORMER, PARAMS.read_text(encoding="utf-8"))
            choice = next(iter(gone)).replace("/", "=")
            _log.warning(f"{choice} is gone, so edits of {PARAMS} by hand cannot be told; it is kept as {_FORMER}.")
        return
    after = flatten(asdict(config))
    lost = {key: value for key, value in edits_of_params(conf).items() if after.get(key, ...) != value}
    if lost:
        told = " ".join(f"{key}={value}" for key, value in list(lost.items())[:3])
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise FrostlineError(
            f"{PARAMS} has settings that would be dropped: {told}{more}.\n"
            "Keep all of them with `frostline set KEY=VALUE ...`, or drop them with `frostline set --drop-edits`."
        )


def write_recipe(name: str, base: str, values: Mapping[str, str], note: str, conf: Path = CONF) -> None:
    """Write `experiment=name`: that of the name `base` with other `values`, by dotted key, as text; `note`: a line."""
    own = OmegaConf.from_dotlist([f"{key}={value}" for key, value in values.items()])
    content = OmegaConf.merge({"defaults": [base, "_self_"]}, own)
    write_text(conf / "experiment" / f"{name}.yaml", f"# @package _global_\n# {note}\n" + OmegaConf.to_yaml(content))


def _check_option(group: str, option: str, conf: Path) -> None:
    options = options_of(group, conf)
    if option not in options:
        near = difflib.get_close_matches(option, options, n=1)
        raise FrostlineError(
            f"{group}={option}: there is no such option; {f'did you mean {near[0]}? ' if near else ''}"
            f"valid: {', '.join(options)}."
        )


def _write(settings: Mapping[str, Any], conf: Path) -> None:
    groups = {key: value for key, value in settings.items() if is_group(key, conf)}
    # A mapping as its text: a later one takes its place, where Hydra would merge two of them.
    values = {
        key: json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if key not in groups
    }
    for group in _SOURCES:
        inside = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{group}.")}
        file = conf / group / f"{OWN}.yaml"
        if inside:
            write_text(file, _yaml({"defaults": [groups.get(group, _default_of(group, conf)), "_self_"], **inside}))
            groups[group] = OWN
        else:
            file.unlink(missing_ok=True)
    rest = _nested({key: value for key, value in values.items() if key.partition(".")[0] not in _SOURCES})
    if groups or rest:
        choices = [{f"{OVERRIDE}{group}": option} for group, option in groups.items()]
        (conf / SETTINGS).parent.mkdir(exist_ok=True)
        write_text(conf / SETTINGS, "# @package _global_\n" + _yaml({"defaults": choices, **rest}))
    else:
        (conf / SETTINGS).unlink(missing_ok=True)


def _default_of(group: str, conf: Path) -> str:
    defaults = read_yaml(conf / "config.yaml")["defaults"]
    return str(next(entry[group] for entry in defaults if isinstance(entry, dict) and group in entry))


def _yaml(content: Mapping[str, Any]) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(dict(content)))  # it quotes what OmegaConf would take for a number


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`flat` settings, by dotted key, as sections in sections."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = found
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return found
