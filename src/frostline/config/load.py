"""The typed configuration: read from params.yaml (or composed from conf/), checked, with errors a user can act on."""

import difflib
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException

from frostline.config.kept import gone_choices
from frostline.config.overrides import parse_overrides
from frostline.config.paths import PARAMS
from frostline.config.settings import AUTO, Config, Ensemble, ImagenetWeights, Model, Rule
from frostline.runtime.errors import FrostlineError

Section = TypeVar("Section")

_NODES: dict[type, Any] = {
    int: IntegerNode(0, is_optional=False),
    float: FloatNode(0.0, is_optional=False),
    bool: BooleanNode(False, is_optional=False),
    str: StringNode("", is_optional=False),
}
"""What converts values of other types, or refuses them: "2" is 2, but 2.5 is no whole number."""
_VALID = {int: "a whole number", float: "a number", bool: "true, false", str: "text"}

_LARGEST_IMAGE = 1024


def load_params(overrides: Sequence[str] = (), path: Path = PARAMS) -> Config:
    """Read `path` as Hydra's primary config, apply Hydra `overrides` (``key=value``) and check the result.

    Raises FrostlineError naming the key, its value and what would be valid.
    """
    if not path.is_file():
        raise FrostlineError(f"{path} not found in {Path.cwd()}.\nRun this from the root of a Frostline project.")
    there = _load(path)
    if not overrides:
        return parse(there, str(path))  # no composition, so that this also works within a Hydra job
    return parse(_compose(path.resolve().parent, path.stem, overrides), str(path))


def compose_conf(
    overrides: Sequence[str] = (), folder: Path = Path("conf"), known: Mapping[str, str] | None = None
) -> Config:
    """Compose `folder`/config.yaml with Hydra `overrides` and check the result; errors as in load_params.

    `known`: values, by dotted key, that stand for what conf/ would look up on the disk.
    """
    composed = _compose(folder.resolve(), "config", overrides)
    for key, value in (known or {}).items():
        OmegaConf.update(composed, key, value)
    return parse(composed, f"{folder.name}/")


def composition(overrides: Sequence[str] = (), folder: Path = Path("conf")) -> str:
    """The text of params.yaml: `folder`/config.yaml composed with Hydra `overrides`; errors as in load_params."""
    composed = _compose(folder.resolve(), "config", overrides)
    parse(composed, f"{folder.name}/")
    with _warnings_in_one_line():
        return OmegaConf.to_yaml(composed, resolve=True)


def _load(path: Path) -> DictConfig:
    try:
        raw, text = OmegaConf.load(path), _as_written(path.read_bytes())
    except Exception as error:  # PyYAML and OmegaConf raise errors of many kinds on text that is none
        if isinstance(error, OSError) and error.errno:  # cannot be read
            raise
        raise FrostlineError(f"{path} is not valid YAML: {_one_line(error)}") from error
    if not isinstance(raw, DictConfig):
        raise FrostlineError(f"{path} holds a list; valid: sections with settings, as `make params` writes them.")
    _check_names(OmegaConf.to_container(raw), text, str(path))
    return raw


class _AsWritten(yaml.BaseLoader):
    """YAML whose names and values stay the text that they are written as: a class may be called no, or 01."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a name is given twice", node.start_mark)
        return found


def _as_written(text: str | bytes) -> Any:
    return yaml.load(text, _AsWritten)  # noqa: S506 - it makes nothing but text


def _check_names(read: Any, written: Any, where: str) -> None:
    """Raise FrostlineError where YAML has `read` a name as something else than its text, as no and 01."""
    if not isinstance(written, dict) or "<<" in written:
        return
    for (name, inner), (text, below) in zip(read.items(), written.items(), strict=True):
        if str(name) != text:
            shown = " ".join(text.split())
            raise FrostlineError(f"{where}: the name {shown} reads as {name}; put it in quotes: '{shown}'.")
        _check_names(inner, below, where)


def _compose(folder: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    with initialize_config_dir(str(folder), version_base="1.3"):
        try:
            return compose(name, overrides=list(overrides))
        except OverrideParseException as error:
            raise FrostlineError(
                f"{error.override!r} is not an override; write key=value, and key=\"'value'\" for text with signs."
            ) from error
        except Exception as error:  # Hydra's own, and what values of the wrong type lead to in it
            raise _composition_error(folder, name, overrides, error) from error


def _composition_error(folder: Path, name: str, overrides: Sequence[str], error: Exception) -> FrostlineError:
    """Say which of the overrides or choices that stay Hydra stumbled over, and what would have been valid."""
    if isinstance(error, MissingConfigException) and (gone := gone_choices(folder).get(error.missing_cfg_file or "")):
        return FrostlineError(gone)
    for override in parse_overrides(overrides):
        key, text = override.key_or_group, override.input_line
        group = folder / key
        if group.is_dir():
            options = sorted(file.stem for file in group.glob("*.yaml"))
            value = override.value() if isinstance(override.value(), str) else None
            if value not in options:
                return FrostlineError(f"{text}: {key} has no such option; valid: {', '.join(options)}.")
            continue
        if key not in _known_keys(Config):
            return FrostlineError(f"{text}: there is no setting {key!r}. {_suggest(key, _known_keys(Config))}")
        owners = _owners(key)
        if owners:
            section = key.partition(".")[0]
            return FrostlineError(f"{text}: {key} is a setting of {section}={'|'.join(owners)} only; choose that too.")
    return FrostlineError(f"{name}.yaml: {_one_line(error)}")


def parse(raw: DictConfig, where: str) -> Config:
    """Turn the untyped `raw` into a checked Config; `where` names its origin in errors."""
    try:
        with _warnings_in_one_line():
            content = cast(dict[str, Any], OmegaConf.to_container(raw, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        missing = re.search(r"Missing mandatory value: (\S+)", str(error))
        if missing:
            key = missing[1]
            raise FrostlineError(f"{where}: {key} has no value; give it one, e.g. {key}=...") from error
        raise FrostlineError(f"{where}: {_one_line(error)}") from error
    config = _section(Config, content, "", where)
    _check(config, where)
    return config


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Within, warnings are written without the code that warns: by them conf/ says that a name is an old one."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *rest, **more: f"{message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _section(kind: type[Section], content: dict[str, Any], prefix: str, where: str) -> Section:
    """`content` as the dataclass `kind`; its settings' keys begin with `prefix` ("transfer.")."""
    hints = get_type_hints(kind, include_extras=True)
    for name in content:
        if name not in hints:
            key, known = f"{prefix}{name}", _known_keys(kind, prefix)
            raise FrostlineError(
                f"{where}: there is no setting {key!r} (value {content[name]!r}). {_suggest(key, known)}"
            )
    values: dict[str, Any] = {}
    sections = {name: _dataclasses_in(hint) for name, hint in hints.items()}
    for name in sorted(hints, key=lambda name: not sections[name]):  # sections first: the greater mistake
        key = f"{prefix}{name}"
        if get_origin(hints[name]) is dict:
            values[name] = _sections(sections[name][0], content.get(name), key, where)
        elif sections[name]:
            chosen = _chosen(sections[name], content.get(name), key, where)
            values[name] = _section(chosen, content[name], f"{key}.", where)
        elif name in content:
            values[name] = _value(hints[name], content[name], key, where)
        else:
            raise FrostlineError(f"{where}: {key} is missing.")
    return kind(**values)


def _sections(kind: type, content: Any, key: str, where: str) -> dict[str, Any]:
    """`content`, which has a section of the dataclass `kind` under each name."""
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise FrostlineError(f"{where}: {key} is {content!r}; valid: a section of settings for each name.")
    return {name: _section(kind, section, f"{key}.{name}.", where) for name, section in content.items()}


def _chosen(kinds: Sequence[type], content: Any, key: str, where: str) -> type:
    """Of the dataclasses that the section `key` may be, the one whose source `content` names; a single one as it is.

    A model has no source: it is an ensemble where it has members.
    """
    if not isinstance(content, dict):
        among = f", among them {key}.source" if len(kinds) > 1 else ""
        raise FrostlineError(f"{where}: {key} is {content!r}; valid: settings{among}.")
    if len(kinds) == 1:
        return kinds[0]
    if Ensemble in kinds:
        return Ensemble if "members" in content else Model
    for kind in kinds:
        if content.get("source") == _source(kind):
            return kind
    raise FrostlineError(
        f"{where}: {key}.source is {content.get('source')!r}; valid: {', '.join(map(_source, kinds))}."
    )


def _value(hint: Any, value: Any, key: str, where: str) -> Any:
    """`value` converted to the type `hint` of the setting `key`, where that is one of its valid values."""
    if get_origin(hint) is list:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise FrostlineError(f"{where}: {key} is {value!r}; valid: a list of text, [a, b].")
        return value
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in hints:
        return None
    by_class = [one for one in hints if get_origin(one) is dict]
    if by_class and str(value).startswith("{"):
        return _mapping(by_class[0], value, key, where)
    rules = [_type_and_rule(one) for one in hints if one is not NoneType and one not in by_class]
    for kind, rule in rules:
        with suppress(OmegaConfBaseException, OverflowError):  # is not of this type
            converted = _NODES[kind].validate_and_convert(value)
            if rule.holds(converted):
                return converted
    valid = [rule.valid for _, rule in rules] + ["null"] * (NoneType in hints) + [_form(one) for one in by_class]
    raise FrostlineError(f"{where}: {key} is {value!r}; valid: {', or '.join(valid)}.")


def _form(by_class: Any) -> str:
    """How a mapping of the type `by_class`, whose keys are classes, is written."""
    _, kind = get_args(by_class)
    return f"{{class: {_form(kind) if get_origin(kind) is dict else 'number'}, ...}}"


def _mapping(hint: Any, value: Any, key: str, where: str) -> dict[str, Any]:
    """`value`, a mapping or, from the command line, its text, as the dict that `hint` says."""
    _, kind = get_args(hint)
    try:
        content: Any = _as_written(value) if isinstance(value, str) else value
    except Exception as error:  # as in _load
        raise FrostlineError(f"{where}: {key} is {value!r}: {_one_line(error)}") from error
    if unclear := [name for name in content if name is None or isinstance(name, bool)]:
        raise FrostlineError(
            f"{where}: {key} names {unclear[0]}, which is no text; put it all in quotes: \"'{{...}}'\"."
        )
    return {str(name): _value(kind, one, f"{key}.{name}", where) for name, one in content.items()}


def _type_and_rule(hint: Any) -> tuple[type, Rule]:
    """What the annotation `hint` of a setting says."""
    if get_origin(hint) is Literal:
        words = get_args(hint)
        return str, Rule(lambda value: value in words, ", ".join(words))
    if get_origin(hint) is Annotated:
        kind, rule = get_args(hint)
        return kind, rule
    return hint, Rule(lambda value: True, _VALID[hint])


def _dataclasses_in(hint: Any) -> list[type]:
    """The dataclasses that a section may be: one, or one for each source. None for a plain setting."""
    return [kind for kind in get_args(hint) or [hint] if isinstance(kind, type) and is_dataclass(kind)]


def _source(kind: type) -> str:
    """What `source` is for the dataclass `kind`; what a model without one is called."""
    hints = get_type_hints(kind)
    return str(get_args(hints["source"])[0]) if "source" in hints else kind.__name__.lower()


def _known_keys(kind: type, prefix: str = "") -> list[str]:
    """Every dotted key in the dataclass `kind`, those of all sources included."""
    keys: set[str] = set()
    for name, hint in get_type_hints(kind).items():
        sections = _dataclasses_in(hint)
        for section in sections:
            keys.update(_known_keys(section, f"{prefix}{name}."))
        if not sections:
            keys.add(f"{prefix}{name}")
    return sorted(keys)


def _owners(key: str) -> list[str]:
    """The sources that alone have the setting `key`; none where all have it."""
    section, _, name = key.partition(".")
    kinds = _dataclasses_in(get_type_hints(Config)[section])
    owners = [_source(kind) for kind in kinds if name in get_type_hints(kind)]
    return owners if len(owners) < len(kinds) else []


def _suggest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    section = key.split(".")[0]
    inside = [name for name in known if name.startswith(section + ".")]
    return f"Valid: {', '.join(inside or sorted({name.split('.')[0] for name in known}))}."


def _check(config: Config, where: str) -> None:
    _check_backbone(config, where)
    if config.fold is not None and config.fold >= config.folds:
        valid = f"0 to {config.folds - 1}, as folds is {config.folds}; or null"
        raise FrostlineError(f"{where}: fold is {config.fold}; valid: {valid}.")
    if config.transfer.learning_rate == AUTO and config.distribution == "multi_worker":
        raise FrostlineError(
            f"{where}: transfer.learning_rate is auto; valid with distribution=multi_worker: a number.\n"
            "A run on one machine, shortened perhaps, says which one auto is."
        )
    for name, section in (("data", config.data), ("weights", config.weights)):
        path = getattr(section, "path", section.depends_on)
        if section.depends_on != path:
            raise FrostlineError(
                f"{where}: {name}.path is {path!r}, but DVC watches {name}.depends_on, which is "
                f"{section.depends_on!r}.\nGive both the same value."
            )
    shares = config.preprocess
    total = shares.train + shares.validation + shares.test
    if abs(total - 1) > 1e-6:
        raise FrostlineError(
            f"{where}: preprocess.train + validation + test is "
            f"{shares.train:g} + {shares.validation:g} + {shares.test:g} = {total:g}; valid: shares that sum to 1."
        )


def _check_backbone(config: Config, where: str) -> None:
    from frostline.models.architectures import (  # here: only the stages with a backbone depend on this table
        NETWORKS,
        smallest_of,
    )

    name, size = config.model.backbone, config.preprocess.image_size
    if isinstance(config.model, Ensemble):
        _check_ensemble(config, config.model, where)
    elif name not in NETWORKS:
        raise FrostlineError(f"{where}: model.backbone is {name!r}; valid: {', '.join(NETWORKS)}.")
    elif isinstance(config.weights, ImagenetWeights) and config.weights.url is None:
        raise FrostlineError(f"{where}: weights.url is None; valid: text.")
    smallest = smallest_of(name)
    if not smallest <= size <= _LARGEST_IMAGE:
        raise FrostlineError(
            f"{where}: preprocess.image_size is {size}; valid with model.backbone={name}: "
            f"{smallest} to {_LARGEST_IMAGE} pixels."
        )


def _check_ensemble(config: Config, model: Ensemble, where: str) -> None:
    from frostline.models.architectures import NETWORKS
    from frostline.models.ensemble import JOINED

    valid = [name for name in NETWORKS if name != "hub"]
    if unknown := [member for member in model.members if member not in valid]:
        raise FrostlineError(f"{where}: model.members has {unknown[0]!r}; valid: {', '.join(valid)}.")
    if len(set(model.members)) < len(model.members) or len(model.members) < 2:
        raise FrostlineError(f"{where}: model.members is {model.members}; valid: two or more networks, each once.")
    if model.backbone != "+".join(model.members):
        raise FrostlineError(
            f"{where}: model.backbone is {model.backbone!r}, but model.members says {'+'.join(model.members)!r}.\n"
            "Set model.members, and in a file edited by hand both."
        )
    if (model.cut_layer, model.pooling) != (JOINED, "average"):
        raise FrostlineError(
            f"{where}: model.cut_layer is {model.cut_layer!r} and model.pooling {model.pooling!r}; "
            f"valid of an ensemble: {JOINED} and average.\nChoose one network to cut elsewhere: model=resnet50."
        )
    if isinstance(config.weights, ImagenetWeights):
        if config.weights.url is not None:
            raise FrostlineError(
                f"{where}: weights.url is {config.weights.url!r}, one file; valid of an ensemble: null.\n"
                f"Its members' are model.imagenet.{model.members[0]}.url and so on."
            )
        if unknown := [member for member in model.members if member not in model.imagenet]:
            raise FrostlineError(
                f"{where}: weights=imagenet knows no file for the member {unknown[0]}; it does for "
                f"{', '.join(model.imagenet)}.\nTake weights=file, or name one in model.imagenet.{unknown[0]}."
            )


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error).split("\n    full_key")[0], 300)


def main() -> None:
    """`python -m frostline.config.load OVERRIDE …`: print conf/'s composition, as `make params` writes it."""
    try:
        text = composition(sys.argv[1:])
    except FrostlineError as error:
        sys.exit(f"error: {error}")
    sys.stdout.buffer.write(text.encode())  # whatever the terminal's encoding


if __name__ == "__main__":
    main()
