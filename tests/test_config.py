import ast
import copy
import functools
import itertools
import math
import operator
import os
import subprocess
import sys
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.config import settings as config_settings
from frostline.config.flat import flatten
from frostline.config.load import compose_conf, composition, load_params
from frostline.config.settings import FolderData, KaggleData, SampleData, settings_of
from frostline.models.architectures import NETWORKS
from frostline.runtime.errors import FrostlineError
from frostline.sweep.plan import compose_trial
from tracked import tracked_names, tracked_text, write_tracked


def test_params_yaml_is_confs_composition(project):
    assert load_params() == compose_conf()


@pytest.mark.filterwarnings("ignore:experiment=seed")
@pytest.mark.parametrize("experiment", [Path(name).stem for name in tracked_names("conf/experiment")])
def test_every_experiment_composes(project, experiment):
    assert compose_conf([f"experiment={experiment}"]).transfer.epochs >= 1


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["data=sample"], SampleData),
        (["data=kaggle"], KaggleData),
        (["data=folder", "data.path=images"], FolderData),
    ],
)
def test_each_data_source_has_settings_of_its_own(project, overrides, kind):
    for picture in (Path("images/cat/1.jpg"), Path("images/dog/1.jpg")):
        picture.parent.mkdir(parents=True)
        picture.touch()
    assert type(compose_conf(overrides).data) is kind


BACKBONES = {Path(name).stem for name in tracked_names("conf/model")} - {"ensemble"}


@pytest.mark.parametrize("model", sorted(BACKBONES))
def test_each_backbone_brings_its_image_size_and_weights(project, model):
    if model == "hub":
        config = compose_conf(["model=hub", "weights=hub", "model.preset=dinov2_small"])
        assert config.weights.preset == config.model.preset == "dinov2_small"
        return
    config = compose_conf([f"model={model}", "weights=imagenet"])
    assert config.preprocess.image_size == config.model.image_size >= NETWORKS[config.model.backbone].smallest
    assert config.model.pooling == ("flatten" if model == "inception_v3" else "average")
    weights, published = config.weights, config.model.imagenet
    assert (weights.url, weights.size) == (published.url, published.size)
    assert (weights.md5, weights.sha256) == (published.md5, published.sha256)
    assert weights.url.startswith("https://") and (weights.md5 or weights.sha256)
    assert compose_conf([f"model={model}", "preprocess.image_size=96"]).preprocess.image_size == 96


@pytest.mark.long
@pytest.mark.slow
def test_an_ensemble_knows_the_weights_of_each_network_that_has_a_file(project):
    config = compose_conf(["model=ensemble", "weights=imagenet"])
    assert config.model.backbone == "resnet50+xception+inception_v3"
    models = [compose_conf([f"model={name}"]).model for name in BACKBONES - {"hub"}]
    assert config.model.imagenet == {model.backbone: model.imagenet for model in models}
    assert config.weights.url is None
    Path("params.yaml").write_text(composition(["model=ensemble"]))
    assert load_params() == compose_conf(["model=ensemble"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.members=[resnet50,resnet]"], "model.members has 'resnet'; valid: convnext_small, "),
        (["model.members=[resnet50]"], "model.members is ['resnet50']; valid: two or more networks, each once"),
        (["model.members=[xception,xception]"], "valid: two or more networks, each once"),
        (["model.members=xception"], "model.members is 'xception'; valid: a list of text"),
        (["model.members=[1,2]"], "valid: a list of text"),
        (["model.members=[vgg16,xception]", "weights=imagenet"], "weights=imagenet knows no file for the member vgg16"),
        (["model.backbone=resnet50"], "model.members says 'resnet50+xception+inception_v3'"),
        (["model.cut_layer=mixed7"], "model.cut_layer is 'mixed7'"),
        (["model.pooling=flatten"], "model.pooling 'flatten'; valid of an ensemble: joined and average"),
        (["model.imagenet=1"], "model.imagenet"),
        (["preprocess.image_size=70"], "75 to 1024 pixels"),
        (["weights=imagenet", "weights.url=https://x"], "weights.url is 'https://x', one file"),
        (["weights=file", "weights.path=params.yaml"], "An ensemble's has one file for each member"),
        (["model=xception", "model.members=[a,b]"], "model.members is a setting of model=ensemble only"),
    ],
)
def test_a_mistake_in_an_ensemble_is_named_in_two_lines(project, overrides, words):
    with pytest.raises(FrostlineError) as raised:
        compose_conf(["model=ensemble", *overrides] if "model=xception" not in overrides else overrides)
    assert words in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2


def test_every_value_is_reachable_as_an_override(project):
    content = yaml.safe_load((project / "params.yaml").read_text())

    def leaves(mapping, prefix=""):
        for key, value in mapping.items():
            yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]

    found = list(leaves(content))
    assert len(found) > 25
    given = [f"{key}={'null' if value is None else value}" for key, value in found]
    assert compose_conf(given) == load_params()


def test_the_recipe_is_the_default(project):
    config = compose_conf()
    assert (config.model.cut_layer, config.model.dense_units, config.model.dropout) == ("mixed7", 1024, 0.2)
    assert (config.transfer.epochs, config.transfer.learning_rate) == (2, 1e-3)
    assert (config.finetune.epochs, config.finetune.learning_rate) == (2, 1e-5)
    tutorial = compose_conf(["experiment=tutorial"])
    assert (tutorial.model, tutorial.transfer, tutorial.finetune.thaw_from) == (
        config.model,
        config.transfer,
        "mixed6",
    )


RENAMED = "experiment=seed is now called experiment=tutorial."


@pytest.mark.filterwarnings("always:experiment=seed")
def test_the_old_name_of_an_experiment_works_and_says_so(project):
    with pytest.warns(UserWarning, match=RENAMED):
        assert compose_conf(["experiment=seed"]) == compose_conf(["experiment=tutorial"])
    with pytest.warns(UserWarning, match=RENAMED):  # as `python -m frostline.sweep` composes its trials
        compose_trial(["experiment=seed", "seed=2"])


@pytest.mark.slow
def test_make_params_says_in_one_line_that_a_name_is_an_old_one(project):
    command = [sys.executable, "-m", "frostline.config.load"]
    new, old = (
        subprocess.run([*command, f"experiment={name}"], capture_output=True, text=True, check=True)
        for name in ("tutorial", "seed")
    )
    assert (old.stdout, old.stderr) == (new.stdout, f"{RENAMED}\n")
    assert new.stderr == ""


@pytest.mark.long
@pytest.mark.slow
def test_dvc_says_that_a_name_is_an_old_one(project):
    """DVC composes conf/ itself."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    for name in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{name}_NAME": "test", f"GIT_{name}_EMAIL": "test@example.com"}
    Path("dvc.yaml").write_text("stages: {stage: {cmd: ls, params: [transfer]}}")
    dvc = [sys.executable, "-m", "dvc"]
    for command in (
        ["git", "init", "-q"],
        [*dvc, "init", "-q"],
        [*dvc, "config", "hydra.enabled", "True"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "before"],
        [*dvc, "exp", "run", "-S", "experiment=seed"],
    ):
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stderr.count(RENAMED) == 1
    assert load_params() == compose_conf(["experiment=tutorial"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("transfer.epoch=3", ["transfer.epoch", "Did you mean 'transfer.epochs'"]),
        ("trnsfer.epochs=3", ["trnsfer.epochs", "Did you mean 'transfer.epochs'"]),
        ("transfer.epochs=two", ["transfer.epochs is 'two'", "a whole number, 1 or more"]),
        ("transfer.epochs=0", ["transfer.epochs is 0", "1 or more"]),
        ("transfer.learning_rate=nan", ["transfer.learning_rate is nan", "above 0"]),
        ("finetune.learning_rate=-1e-5", ["finetune.learning_rate is -1e-05", "above 0"]),
        ("finetune.learning_rate=auto", ["finetune.learning_rate is 'auto'", "valid: a number above 0."]),
        ("transfer.learning_rate=find", ["transfer.learning_rate is 'find'", "a number above 0, or auto"]),
        ("finetune.batch_size=0", ["finetune.batch_size is 0", "a whole number, 1 or more, or auto"]),
        ("transfer.schedule=linear", ["transfer.schedule is 'linear'", "constant, cosine, warmup_cosine"]),
        (
            "transfer.class_weight=even",
            ["transfer.class_weight is 'even'", "none, balanced, balanced_sampling, or {class: number, ...}"],
        ),
        ("transfer.class_weight={dog: 0}", ["transfer.class_weight.dog is 0", "a number above 0"]),
        ("transfer.class_weight={dog: many}", ["transfer.class_weight.dog is 'many'", "a number above 0"]),
        ("transfer.class_weight='{dog: '", ["transfer.class_weight is '{dog: '"]),
        ("finetune.patience=0", ["finetune.patience is 0", "1 or more, or null"]),
        ("finetune.batch_norm=eval", ["finetune.batch_norm is 'eval'", "train, frozen"]),
        ("transfer.batch_norm=frozen", ["transfer.batch_norm", "there is no setting"]),
        ("model.dropout=1", ["model.dropout is 1;", "below 1"]),
        ("preprocess.train=0.5", ["0.5 + 0.15 + 0.15 = 0.8", "sum to 1"]),
        ("preprocess.image_size=50", ["preprocess.image_size is 50", "75 to 1024"]),
        ("model.backbone=resnet", ["model.backbone is 'resnet'", "resnet50"]),
        ("finetune.mixup=-1", ["finetune.mixup is -1", "0 or more"]),
        ("transfer.label_smoothing=1", ["transfer.label_smoothing is 1", "below 1"]),
        ("model.pooling=max", ["model.pooling is 'max'", "flatten, average, token"]),
        ("model.imagenet.size=2.5", ["model.imagenet.size is 2.5", "1 or more, or null"]),
        ("deterministic=maybe", ["deterministic is 'maybe'", "true, false"]),
        ("name=[1]", ["name is [1]", "text"]),
        ("model.imagenet.md5=d41d8", ["model.imagenet.md5 is 'd41d8'", "32 hexadecimal digits"]),
        ("data.path=x", ["data.path", "data=folder only"]),
        ("augment=rotate", ["augment is 'rotate'", "none, flip, full"]),
        ("data.source=url", ["data.source is 'url'", "sample, filtered, kaggle, folder"]),
        ("seed='한글'", ["seed is '한글'", "a whole number, 0 or more"]),
        ("a b", ["'a b'", "key=value"]),
    ],
)
@pytest.mark.parametrize("load", [load_params, compose_conf])
def test_a_mistake_is_named_in_two_lines_with_what_is_valid(project, load, override, words):
    with pytest.raises(FrostlineError) as raised:
        load([override])
    message = str(raised.value)
    assert len(message.splitlines()) <= 2
    for word in words:
        assert word in message


def test_rates_and_batch_sizes_may_be_auto(project):
    for config in (load_params(["transfer.learning_rate=auto"]), compose_conf(["transfer.learning_rate=auto"])):
        assert (config.transfer.learning_rate, config.finetune.learning_rate) == ("auto", 1e-5)
    config = compose_conf(["finetune.batch_size=auto", "transfer.batch_size=16"])
    assert (config.transfer.batch_size, config.finetune.batch_size) == (16, "auto")


def test_processes_that_train_together_are_given_a_rate(project):
    words = r"transfer.learning_rate is auto; valid with distribution=multi_worker: a number\.\n.*"
    with pytest.raises(FrostlineError, match=words):
        compose_conf(["distribution=multi_worker", "transfer.learning_rate=auto"])
    compose_conf(["distribution=mirrored", "transfer.learning_rate=auto", "finetune.batch_size=auto"])


@pytest.mark.parametrize("text", ["{cat: 1, 2024: 20}", "'{cat: 1, 2024: 20}'"])
def test_a_class_weight_by_class_is_a_mapping_of_names_also_as_text(project, text):
    for config in (load_params([f"finetune.class_weight={text}"]), compose_conf([f"finetune.class_weight={text}"])):
        assert config.finetune.class_weight == {"cat": 1.0, "2024": 20.0}
        assert flatten(settings_of(config, "finetune"))["finetune.class_weight"] == config.finetune.class_weight


def test_every_setting_says_what_it_means_beside_its_rule():
    """But for a source's name, and for sections, which say it themselves."""
    plain = {"source", *(key for key, value in PARAMS.items() if isinstance(value, dict))}
    for kind in ast.parse(Path(config_settings.__file__).read_text(encoding="utf-8")).body:
        lines = kind.body if isinstance(kind, ast.ClassDef) else []
        for line, after in itertools.pairwise([*lines, None]):
            if isinstance(line, ast.AnnAssign) and line.target.id not in plain:
                assert isinstance(after, ast.Expr), f"{kind.name}.{line.target.id} has no docstring"


def test_an_unknown_option_lists_the_valid_ones(project):
    with pytest.raises(FrostlineError, match=r"data=kagle: .*filtered, folder, kaggle, sample"):
        compose_conf(["data=kagle"])


def test_a_folder_needs_its_path(project):
    with pytest.raises(FrostlineError, match=r"data\.path has no value"):
        compose_conf(["data=folder"])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("5\n", "not valid YAML"),
        ("seed: [1\n", "not valid YAML"),
        ("- 1\n", "params.yaml"),
        ("data: kaggle\n", "data is 'kaggle'"),
        ("", "data is None"),
    ],
)
def test_a_broken_params_yaml_is_named_in_two_lines(project, text, word):
    (project / "params.yaml").write_text(text)
    with pytest.raises(FrostlineError) as raised:
        load_params()
    assert word in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2


def test_a_key_that_is_missing_by_hand_is_named(project):
    content = yaml.safe_load((project / "params.yaml").read_text())
    del content["transfer"]["epochs"]
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(FrostlineError, match=r"transfer\.epochs is missing"):
        load_params()


def test_outside_a_project_the_message_says_where_to_go(tmp_path):
    with pytest.raises(FrostlineError, match=r"params.yaml not found"):
        load_params()


# Whatever the values


def dotted(mapping, prefix=""):
    for key, value in mapping.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")


def written_values(config):
    """Every setting as (dotted key, value, declared type)."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from ((f"{field.name}.{key}", *rest) for key, *rest in written_values(value))
        else:
            yield field.name, value, field.type


PARAMS = yaml.safe_load(tracked_text("params.yaml"))
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 200)
    | st.floats()
    | st.floats(0, 1)
    | st.text(max_size=12)
    | st.sampled_from(["${", "${seed}", "${data}", "${oc.env:NOWHERE}", "???", "nan", "1e-5", "auto", "file", "folder"])
    | st.dates()
    | st.binary(max_size=4)
)
ANY = PLAIN | PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(PLAIN, PLAIN, max_size=2)


def is_of(value, kind):
    if get_origin(kind) in (Union, UnionType):
        return any(is_of(value, each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    return type(value) is (get_args(kind)[0] if get_origin(kind) is Annotated else kind)


def is_within_its_rule(config):
    """What no setting may be, whatever its own rule: of another type, infinite, negative."""
    for key, value, kind in written_values(config):
        assert is_of(value, kind), key
        if type(value) in (int, float):
            assert 0 <= value < math.inf, key  # false of nan too
    assert config.transfer.learning_rate > 0 and config.finetune.learning_rate > 0
    assert config.transfer.epochs >= 1 and config.finetune.batch_size >= 1
    assert sum((config.preprocess.train, config.preprocess.validation, config.preprocess.test)) == pytest.approx(1)


def loads_or_is_refused_in_two_lines(load):
    try:
        config = load()
    except FrostlineError as error:
        assert 1 <= len(str(error).splitlines()) <= 2
    else:
        is_within_its_rule(config)


@pytest.mark.long
@pytest.mark.slow
@settings(max_examples=200)
@given(st.sampled_from([*dotted(PARAMS)]), ANY)
def test_any_value_of_any_setting_is_within_its_rule_or_refused_in_two_lines(key, value):
    content = copy.deepcopy(PARAMS)
    *sections, name = key.split(".")
    functools.reduce(operator.getitem, sections, content)[name] = value
    Path("any.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    loads_or_is_refused_in_two_lines(lambda: load_params(path=Path("any.yaml")))


TOKENS = [
    *("\t", "\0", "\n", "\r", "\u2028", "\udcff", "한글", ":", "#", "'", '"', "{", "[", "- ", "? ", "|\n", "---\n"),
    *("&a ", "*a", "<<: *a", "${", ".inf", "1e400", "!!float ", "!!set ", "!!timestamp ", "!!python/name:os.system "),
]


@pytest.mark.long
@pytest.mark.slow
@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 9), st.sampled_from(TOKENS)), min_size=1, max_size=3))
def test_any_damage_to_params_yaml_is_refused_in_two_lines_or_harmless(damages):
    text = tracked_text("params.yaml")
    for place, length, token in damages:
        text = text[: place % len(text)] + token + text[place % len(text) + length :]
    Path("any.yaml").write_text(text, encoding="utf-8", errors="surrogateescape")
    loads_or_is_refused_in_two_lines(lambda: load_params(path=Path("any.yaml")))


@pytest.mark.long
@settings(max_examples=60)
@given(
    st.sampled_from(["data", "weights", "experiment", "transfer", "hydra/launcher", "~data", "+new", *dotted(PARAMS)]),
    st.sampled_from(["=", "=", ""]),
    st.sampled_from(
        ["1", "-1", "nan", "true", "[1]", "{a:1}", "${", "${x}", "'", "", "한글", "a b", "range(1,3)", "file"]
    ),
)
def test_any_override_is_within_its_rule_or_refused_in_two_lines(key, sign, value):
    folder = Path("project")
    if not folder.exists():
        write_tracked(folder, "conf")
    loads_or_is_refused_in_two_lines(lambda: compose_conf([key + sign + value], folder / "conf"))


@pytest.mark.parametrize("model", ["inception_v3", "resnet50", "convnext"])
def test_the_best_recipe_leaves_the_backbone_as_it_was_chosen(project, model):
    plain, best = compose_conf([f"model={model}"]), compose_conf([f"model={model}", "experiment=best"])
    assert best.model == replace(plain.model, dropout=0.5, pooling="average")
    assert best.preprocess.image_size == max(224, plain.preprocess.image_size)
    assert best.finetune.thaw_from == "3"


@pytest.mark.parametrize("model", ["inception_v3", "mobilenet_v3", "xception"])
def test_quick_and_good_are_best_with_less_to_compute(project, model):
    best = flatten(asdict(compose_conf([f"model={model}", "experiment=best"])))

    def changed(recipe):
        found = flatten(asdict(compose_conf([f"model={model}", f"experiment={recipe}"])))
        return {key: value for key, value in found.items() if value != best[key]}

    assert changed("good") == {"name": "sample-good", "finetune.epochs": 4}
    assert changed("quick") == {"name": "sample-quick", "finetune.thaw_from": "1", "finetune.epochs": 3}


def test_the_best_recipe_keeps_larger_images(project):
    assert compose_conf(["model=xception", "experiment=best"]).preprocess.image_size == 299
    assert compose_conf(["experiment=best", "preprocess.image_size=96"]).preprocess.image_size == 96


def test_the_tutorials_recipe_trains_no_other_backbone_than_the_one_that_was_chosen(project):
    assert compose_conf(["experiment=tutorial", "model=resnet50"]).model.backbone == "resnet50"
    assert compose_conf(["experiment=tutorial"]).model.backbone == "inception_v3"
