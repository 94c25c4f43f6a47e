"""The typed configuration: read from params.yaml (or composed from conf/), checked, with errors a user can act on."""

import difflib
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from frostline.config.paths import PARAMS
from frostline.config.settings import (
    Config,
    FileWeights,
    FilteredData,
    FolderData,
    ImagenetWeights,
    KaggleData,
    RandomWeights,
    SampleData,
)
from frostline.runtime.errors import FrostlineError

_SOURCES: dict[str, dict[str, type]] = {
    "data": {"sample": SampleData, "filtered": FilteredData, "kaggle": KaggleData, "folder": FolderData},
    "weights": {"random": RandomWeights, "imagenet": ImagenetWeights, "file": FileWeights},
}
"""These sections have other settings for each source."""

Rule = tuple[Callable[[Any], bool], str]
_POSITIVE: Rule = (lambda v: 0 < v < math.inf, "a number above 0")
_COUNT: Rule = (lambda v: v >= 1, "a whole number, 1 or more")
_SHARE: Rule = (lambda v: 0 < v < 1, "a share between 0 and 1")
_MD5: Rule = (lambda v: bool(re.fullmatch(r"[0-9a-fA-F]{32}", v)), "32 hexadecimal digits, or null")
_SHA256: Rule = (lambda v: bool(re.fullmatch(r"[0-9a-fA-F]{64}", v)), "64 hexadecimal digits, or null")
_SEED: Rule = (lambda v: v >= 0, "a whole number, 0 or more")
_SCHEDULE: Rule = (lambda v: v in ("constant", "cosine"), "constant, cosine")
_PATIENCE: Rule = (lambda v: v >= 1, "a whole number of epochs, 1 or more, or null")

_LARGEST_IMAGE = 1024

_RULES: dict[str, Rule] = {
    "seed": _SEED,
    "augment": (lambda v: v in ("none", "flip", "full"), "none, flip, full"),
    "feature_cache_gib": (lambda v: 0 <= v < math.inf, "a number of GiB, 0 or more"),
    "precision": (lambda v: v in ("auto", "float32", "bfloat16"), "auto, float32, bfloat16"),
    "distribution": (lambda v: v in ("none", "mirrored", "multi_worker"), "none, mirrored, multi_worker"),
    "workers": (lambda v: v in ("local", "ray"), "local, ray"),
    "data.seed": _SEED,
    "data.size": _COUNT,
    "weights.seed": _SEED,
    "weights.size": _COUNT,
    "weights.md5": _MD5,
    "weights.sha256": _SHA256,
    "data.images": (lambda v: v >= 20, "a whole number, 20 or more"),
    "data.unlabelled": (lambda v: v >= 0, "a whole number, 0 or more"),
    "preprocess.train": _SHARE,
    "preprocess.validation": _SHARE,
    "preprocess.test": _SHARE,
    "preprocess.max_rejected": (lambda v: 0 <= v <= 1, "a share from 0 to 1"),
    "model.pooling": (lambda v: v in ("flatten", "average"), "flatten, average"),
    "model.dense_units": _COUNT,
    "model.dropout": (lambda v: 0 <= v < 1, "a share from 0, below 1"),
    "model.image_size": _COUNT,
    "model.imagenet.size": _COUNT,
    "model.imagenet.md5": _MD5,
    "model.imagenet.sha256": _SHA256,
    "transfer.epochs": _COUNT,
    "transfer.learning_rate": _POSITIVE,
    "transfer.schedule": _SCHEDULE,
    "transfer.patience": _PATIENCE,
    "transfer.batch_size": _COUNT,
    "finetune.epochs": _COUNT,
    "finetune.learning_rate": _POSITIVE,
    "finetune.schedule": _SCHEDULE,
    "finetune.patience": _PATIENCE,
    "finetune.batch_size": _COUNT,
    "finetune.batch_norm": (lambda v: v in ("train", "frozen"), "train, frozen"),
    "evaluate.threshold": _SHARE,
    "evaluate.bootstrap": (lambda v: v >= 100, "a whole number, 100 or more"),
    "evaluate.calibration_bins": _COUNT,
}


def load_params(overrides: Sequence[str] = (), path: Path = PARAMS) -> Config:
    """Read `path` as Hydra's primary config, apply Hydra `overrides` (``key=value``) and check the result.

    Raises FrostlineError naming the key, its value and what would be valid.
    """
    if not path.is_file():
        raise FrostlineError(f"{path} not found in {Path.cwd()}.\nRun this from the root of a Frostline project.")
    if not overrides:
        return parse(_load(path), str(path))  # no composition, so that this also works within a Hydra job
    return parse(_compose(path.resolve().parent, path.stem, overrides), str(path))


def compose_conf(overrides: Sequence[str] = (), folder: Path = Path("conf")) -> Config:
    """Compose `folder`/config.yaml with Hydra `overrides` and check the result; errors as in load_params."""
    return parse(_compose(folder.resolve(), "config", overrides), f"{folder}/")


def _load(path: Path) -> DictConfig:
    try:
        raw = OmegaConf.load(path)
    except Exception as error:  # PyYAML and OmegaConf raise errors of many kinds on text that is none
        if isinstance(error, OSError) and error.errno:  # cannot be read
            raise
        raise FrostlineError(f"{path} is not valid YAML: {_one_line(error)}") from error
    if not isinstance(raw, DictConfig):
        raise FrostlineError(f"{path} holds a list; valid: sections with settings, as `make params` writes them.")
    return raw


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
    """Say which of the overrides Hydra stumbled over, and what would have been valid."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, text = override.key_or_group, override.input_line
        group = folder / key
        if group.is_dir():
            options = sorted(file.stem for file in group.glob("*.yaml"))
            value = override.value() if isinstance(override.value(), str) else None
            if value not in options:
                return FrostlineError(f"{text}: {key} has no such option; valid: {', '.join(options)}.")
            continue
        if key not in _known_keys(None):
            return FrostlineError(f"{text}: there is no setting {key!r}. {_suggest(key, _known_keys(None))}")
        section, _, field = key.partition(".")
        owners = [source for source, kind in _SOURCES.get(section, {}).items() if field in _names(kind)]
        if owners:
            return FrostlineError(f"{text}: {key} is a setting of {section}={'|'.join(owners)} only; choose that too.")
    return FrostlineError(f"{name}.yaml: {_one_line(error)}")


def parse(raw: DictConfig, where: str) -> Config:
    """Turn the untyped `raw` into a checked Config; `where` names its origin in errors."""
    try:
        content = cast(dict[str, Any], OmegaConf.to_container(raw, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        missing = re.search(r"Missing mandatory value: (\S+)", str(error))
        if missing:
            key = missing[1]
            raise FrostlineError(f"{where}: {key} has no value; give it one, e.g. {key}=...") from error
        raise FrostlineError(f"{where}: {_one_line(error)}") from error

    schema = OmegaConf.structured(Config)
    for section in (field.name for field in fields(Config) if is_dataclass(field.type)):
        chosen = content.get(section)
        among = f", among them {section}.source" if section in _SOURCES else ""
        if not isinstance(chosen, dict):
            raise FrostlineError(f"{where}: {section} is {chosen!r}; valid: settings{among}.")
    for section, kinds in _SOURCES.items():
        source = content[section].get("source")
        if not isinstance(source, str) or source not in kinds:
            raise FrostlineError(f"{where}: {section}.source is {source!r}; valid: {', '.join(kinds)}.")
        schema[section] = OmegaConf.structured(kinds[source])
    try:
        merged = OmegaConf.merge(schema, content)
        config = cast(Config, OmegaConf.to_object(merged))
    except MissingMandatoryValue as error:
        raise FrostlineError(f"{where}: {error.full_key} is missing.") from error
    except OmegaConfBaseException as error:
        raise _schema_error(where, content, error) from error
    _check(config, where)
    return config


def _schema_error(where: str, content: dict[str, Any], error: OmegaConfBaseException) -> FrostlineError:
    key = str(error.full_key)
    value: Any = content
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    known = _known_keys(content)
    if key not in known and not any(name.startswith(key + ".") for name in known):
        return FrostlineError(f"{where}: there is no setting {key!r} (value {value!r}). {_suggest(key, known)}")
    return FrostlineError(f"{where}: {key} is {value!r}: {_one_line(error)}")


def _known_keys(content: dict[str, Any] | None) -> list[str]:
    """Every dotted key; with `content`, only those of its data and weights sources."""

    def leaves(kind: type, prefix: str) -> Iterable[str]:
        for field in fields(kind):
            if is_dataclass(field.type):
                yield from leaves(cast(type, field.type), f"{prefix}{field.name}.")
            else:
                yield prefix + field.name

    keys = set(leaves(Config, ""))
    for section, kinds in _SOURCES.items():
        source = content[section]["source"] if content is not None else None
        for name, kind in kinds.items():
            if source in (None, name):
                keys.update(leaves(kind, f"{section}."))
    return sorted(keys)


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def _suggest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    section = key.split(".")[0]
    inside = [name for name in known if name.startswith(section + ".")]
    return f"Valid: {', '.join(inside or sorted({name.split('.')[0] for name in known}))}."


def _check(config: Config, where: str) -> None:
    for key, (holds, valid) in _RULES.items():
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part, None)
        if value is not None and not holds(value):
            raise FrostlineError(f"{where}: {key} is {value!r}; valid: {valid}.")
    _check_backbone(config, where)
    shares = config.preprocess
    total = shares.train + shares.validation + shares.test
    if abs(total - 1) > 1e-6:
        raise FrostlineError(
            f"{where}: preprocess.train + validation + test is "
            f"{shares.train:g} + {shares.validation:g} + {shares.test:g} = {total:g}; valid: shares that sum to 1."
        )


def _check_backbone(config: Config, where: str) -> None:
    from frostline.models.architectures import NETWORKS  # here: only the stages with a backbone depend on this table

    name, size = config.model.backbone, config.preprocess.image_size
    if name not in NETWORKS:
        raise FrostlineError(f"{where}: model.backbone is {name!r}; valid: {', '.join(NETWORKS)}.")
    smallest = NETWORKS[name].smallest
    if not smallest <= size <= _LARGEST_IMAGE:
        raise FrostlineError(
            f"{where}: preprocess.image_size is {size}; valid with model.backbone={name}: "
            f"{smallest} to {_LARGEST_IMAGE} pixels."
        )


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error).split("\n    full_key")[0], 300)


if __name__ == "__main__":  # `make params`: write conf/'s composition where `dvc repro` reads it
    sys.stdout.write(OmegaConf.to_yaml(_compose(Path("conf").resolve(), "config", sys.argv[1:]), resolve=True))
