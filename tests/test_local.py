"""Settings that stay: kept beside conf/'s defaults, read by every composition."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from frostline.config import local
from frostline.config.load import compose_conf, composition, load_params
from frostline.config.local import edits_of_params, read_local, set_local
from frostline.project.train import keep
from frostline.runtime.errors import FrostlineError
from frostline.sweep.plan import plan


@pytest.mark.slow
def test_they_are_in_every_composition_and_in_params_yaml(project):
    kept = set_local({"transfer.epochs": "3", "finetune.learning_rate": "3e-5", "transfer.patience": "null"})
    assert kept == {"transfer.epochs": 3, "finetune.learning_rate": 3e-5, "transfer.patience": None}
    assert read_local() == kept
    for config in (compose_conf(), load_params(), compose_conf(["seed=7"])):
        assert (config.transfer.epochs, config.finetune.learning_rate) == (3, 3e-5)
    assert compose_conf(["transfer.epochs=4"]).transfer.epochs == 4, "what is asked for once wins"
    assert yaml.safe_load(Path("params.yaml").read_text())["transfer"]["epochs"] == 3

    assert set_local({"seed": "5"}, unset=["transfer.epochs", "finetune.learning_rate"]) == {
        "transfer.patience": None,
        "seed": 5,
    }
    set_local({}, unset=["transfer.patience", "seed"])
    assert not Path("conf/local/settings.yaml").exists()
    assert load_params() == compose_conf()


@pytest.mark.slow
def test_weights_of_classes_stay_as_one_setting(project):
    """Whatever the classes are called."""
    kept = set_local(
        {
            "transfer.class_weight": "{'a.b': 2, cat: 1}",
            "finetune.class_weight": "balanced",
            "evaluate.threshold": "{'a.b': {cat: 5}}",
        }
    )
    assert kept == {
        "transfer.class_weight": {"a.b": 2.0, "cat": 1.0},
        "finetune.class_weight": "balanced",
        "evaluate.threshold": {"a.b": {"cat": 5.0}},
    }
    assert read_local() == kept
    assert set_local({"seed": "3"}) == {**kept, "seed": 3}
    composed = compose_conf()
    assert not edits_of_params()
    assert load_params() == composed
    assert load_params().transfer.class_weight == kept["transfer.class_weight"]
    assert load_params().evaluate.threshold == kept["evaluate.threshold"]
    set_local({}, unset=[*kept, "seed"])
    assert compose_conf().transfer.class_weight == "none"
    assert compose_conf().evaluate.threshold == 0.5


@pytest.mark.slow
def test_a_class_has_the_name_that_is_written(project):
    """Not what YAML makes of it."""
    kept = set_local(
        {
            "evaluate.threshold": "{no: {yes: 5}, ~: {on: 2}}",
            "transfer.class_weight": "{00001: 5, 007: 2, true: 1, 1e3: 1, 1.50: 1, 0x10: 3, null: 2, 2024-01-01: 4}",
        }
    )
    assert kept["evaluate.threshold"] == {"no": {"yes": 5.0}, "~": {"on": 2.0}}
    assert list(kept["transfer.class_weight"]) == ["00001", "007", "true", "1e3", "1.50", "0x10", "null", "2024-01-01"]
    assert set_local({"seed": "3"}) == {**kept, "seed": 3}
    for config in (compose_conf(), load_params(), load_params(["seed=4"])):
        assert config.evaluate.threshold == kept["evaluate.threshold"]
        assert config.transfer.class_weight == kept["transfer.class_weight"]
    for text in ("{yes: 1, yes: 2}", "{cat: {dog: 1}", "{a, b}"):
        with pytest.raises(FrostlineError, match="class_weight"):
            set_local({"transfer.class_weight": text})


@pytest.mark.slow
def test_a_mapping_takes_the_place_of_one_that_stays(project):
    set_local({"transfer.class_weight": "{a: 1, b: 5}"})
    assert compose_conf(["transfer.class_weight={a:3}"]).transfer.class_weight == {"a": 3}
    set_local({"transfer.class_weight": "{c: 2}"})
    assert compose_conf().transfer.class_weight == {"c": 2}
    before = read_local()
    with pytest.raises(FrostlineError, match=r"give all classes at once: transfer\.class_weight='\{dog: 5\}'"):
        set_local({"transfer.class_weight.dog": "5"})
    with pytest.raises(FrostlineError, match=r"give all classes at once: evaluate\.threshold='\{cat: \{dog: 5\}\}'"):
        set_local({"evaluate.threshold.cat.dog": "5"})
    assert read_local() == before


def test_the_members_of_an_ensemble_are_a_list(project):
    set_local({"model": "ensemble", "model.members": "[resnet50, xception]"})
    assert compose_conf().model.backbone == "resnet50+xception"


@pytest.mark.slow
def test_options_of_groups_stay_and_another_source_can_still_be_chosen(project):
    Path("pictures").mkdir()
    Path("pictures/1.jpg").touch()
    set_local({"data": "folder", "data.path": "pictures", "experiment": "best", "model": "resnet50"})
    config = compose_conf()
    assert (config.data.source, config.data.path, config.name) == ("folder", "pictures", "pictures-best")
    assert config.preprocess.image_size == 224
    assert compose_conf(["data=sample"]).data.source == "sample"
    assert read_local()["data"] == "folder"
    assert set_local({"data": "sample", "data.images": "40"})["data.images"] == 40
    assert "data.path" not in read_local(), "that is a setting of the other source"
    assert compose_conf().data.images == 40
    assert compose_conf(["data=folder", "data.path=./pictures"]).data.path == "./pictures"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"model.dense_units": "64", "model": "resnet50"},
        {"model.members": "[resnet50, xception]", "model": "ensemble"},
        {"data.images": "100", "data.seed": "2", "data": "sample"},
    ],
)
def test_a_setting_may_be_given_before_its_group(project, changes):
    kept = set_local(changes)
    assert set(kept) == set(changes)
    assert set_local(dict(reversed(changes.items()))) == kept


@pytest.mark.parametrize(
    "text",
    [
        *("사진 (1)", "a=b,c", "x #y", "~", 'say "hi"', "back\\slash", "[1]{2}", "2024"),
        *(
            pytest.param(text, marks=[pytest.mark.slow, pytest.mark.long])
            for text in (
                *("a b", "it's", "a: b", " spaces ", "%s%%", "$HOME", "강아지*?", "- x", "null ", "true", "1e3"),
                *("a\tb", "!tag", "&a", "@x", "`c`"),
            )
        ),
    ],
)
def test_any_text_is_kept_as_it_is(project, text):
    Path(text).mkdir()
    Path(text, "1.jpg").touch()
    set_local({"data": "folder", "data.path": text, "name": text})
    for config in (compose_conf(), load_params()):
        assert (config.data.path, config.name) == (text, text)
    assert read_local()["data.path"] == text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transfer.epoch": "3"}, "Did you mean 'transfer.epochs'?"),
        ({"transfer.epochs": "many"}, "transfer.epochs is 'many'; valid: "),
        ({"model": "resnet5"}, "did you mean resnet50?"),
        ({"experiment": ""}, "valid: best, demo"),
        ({"data.path": "/x"}, "'data.path'"),
        ({"name": "${seed}"}, "no setting can hold the characters ${"),
        ({"preprocess.train": "0.9"}, "valid: shares that sum to 1"),
        ({"transfer": "fast"}, "valid: default"),
    ],
)
def test_nothing_is_changed_by_what_is_not_valid(project, changes, said):
    set_local({"seed": "5", "data": "sample", "data.images": "40"})
    files = {path: path.read_bytes() for path in Path("conf").rglob("*.yaml")}
    with pytest.raises(FrostlineError) as raised:
        set_local(changes)
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2
    assert {path: path.read_bytes() for path in Path("conf").rglob("*.yaml")} == files
    with pytest.raises(FrostlineError, match="name is not set"):
        set_local({}, unset=["name"])


def test_with_a_group_its_settings_go_back_to_the_default(project):
    (project / "pictures/cat").mkdir(parents=True)
    (project / "pictures/cat/1.jpg").touch()
    set_local({"data": "folder", "data.path": "pictures", "seed": "5"})
    assert set_local({}, unset=["data"]) == {"seed": 5}
    assert load_params().data.source == "sample"


def edit(before, after):
    """Change a line of params.yaml by hand."""
    text = Path("params.yaml").read_text()
    assert text.count(before) == 1
    Path("params.yaml").write_text(text.replace(before, after))


@pytest.mark.slow
def test_edits_of_params_yaml_are_said_before_they_are_dropped(project):
    set_local({"seed": "5"})
    assert not edits_of_params()
    edit("dropout: 0.2", "dropout: 0.35")
    params = Path("params.yaml").read_bytes()
    for changes in ({"seed": "6"}, {"model.dropout": "0.3"}, {"model": "resnet50"}):
        with pytest.raises(FrostlineError, match=r"be dropped: model\.dropout=0\.35\.\n.*frostline set KEY=VALUE"):
            set_local(changes)
    assert read_local() == {"seed": 5}
    assert Path("params.yaml").read_bytes() == params
    set_local({"seed": "6"}, drop_edits=True)
    assert load_params().model.dropout == 0.2


@pytest.mark.long
@pytest.mark.slow
def test_an_edit_is_kept_as_its_error_says(project):
    """By the command; with what else follows from the setting."""
    (project / "pictures/cat").mkdir(parents=True)
    (project / "pictures/cat/1.jpg").touch()
    set_local({"data": "folder", "data.path": "pictures"})
    edit("path: pictures", "path: ./pictures")
    edit("depends_on: pictures", "depends_on: ./pictures")
    edit("dropout: 0.2", "dropout: 0.35")
    (project / ".git").mkdir()
    (project / "dvc.yaml").touch()
    kept = keep({"model.dropout": "0.35", "data.path": "./pictures"})
    assert kept == {"data": "folder", "data.path": "./pictures", "model.dropout": 0.35}
    assert not edits_of_params()


@pytest.mark.slow
@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("last", [pytest.param(False, marks=pytest.mark.long), True])
def test_an_end_in_the_middle_changes_nothing(project, monkeypatch, end, last):
    """Settings that stay and params.yaml would differ, which looks like edits by hand."""
    set_local({"seed": "5", "data": "sample", "data.images": "40"})
    before = {path: path.read_bytes() for path in Path().rglob("*.yaml")}
    real = local.write_text

    def write_text(path, text):
        if path == (local.PARAMS if last else Path("conf/local/settings.yaml")):
            patched.undo()
            raise end
        real(path, text)

    with monkeypatch.context() as patched, pytest.raises(type(end)):
        patched.setattr(local, "write_text", write_text)
        set_local({"seed": "6", "data.images": "50"})
    assert {path: path.read_bytes() for path in Path().rglob("*.yaml")} == before
    assert not edits_of_params()


@pytest.mark.long
@pytest.mark.slow
def test_a_kill_while_settings_are_composed_changes_nothing(project):
    set_local({"seed": "5"})
    before = {path: path.read_bytes() for path in Path().rglob("*.yaml")}
    code = """
import os, signal, sys
from frostline.config import local
setattr(local, sys.argv[1], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
local.set_local({"seed": "6"})
"""
    for name in ("compose_conf", "composition"):
        assert subprocess.run([sys.executable, "-c", code, name], env=os.environ | {"TMPDIR": "."}).returncode == -9
        assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(("written", "name"), [("{no: {yes: 5}}", "no"), ("{'01': {02: 5}}", "02")])
def test_a_name_that_yaml_reads_as_something_else_needs_quotes_in_params_yaml(project, written, name):
    edit("threshold: 0.5", f"threshold: {written}")
    for overrides in ((), ["seed=3"]):
        with pytest.raises(FrostlineError, match=f"the name {name} reads as .*; put it in quotes: '{name}'"):
            load_params(overrides)
    edit(written, "{'no': {'02': 5, 3: 1}}")
    assert load_params().evaluate.threshold == {"no": {"02": 5, "3": 1}}


def test_so_does_one_that_hydra_reads_as_something_else(project):
    with pytest.raises(FrostlineError, match=r"evaluate\.threshold names True, .*; put it all in quotes: \"'{...}'\""):
        compose_conf(["evaluate.threshold={true: {no: 5}}"])
    for text, said in (
        ("{no: {01: 5}}", {"no": {"01": 5}}),
        ("'{no: {01: 5, true: 1}}'", {"no": {"01": 5, "true": 1}}),
    ):
        Path("params.yaml").write_text(composition([f"evaluate.threshold={text}"]))
        assert load_params().evaluate.threshold == said


@pytest.mark.slow
def test_a_folder_that_is_gone_can_be_replaced_by_another(project):
    for name in ("old", "new"):
        (project / name / "cat").mkdir(parents=True)
        (project / name / "cat/1.jpg").touch()
    (project / "w.h5").touch()
    set_local({"data": "folder", "data.path": "old", "weights": "file", "weights.path": "w.h5"})
    (project / "old").rename(project / "elsewhere")
    (project / "w.h5").unlink()
    assert not edits_of_params()
    with pytest.raises(FrostlineError, match="no such folder"):
        set_local({"weights": "random"})
    set_local({"data.path": "new", "weights": "random"})
    assert not edits_of_params()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("changes", "unset"), [({"experiment": "best"}, []), ({}, ["experiment"])])
def test_a_recipe_that_is_gone_can_be_replaced_by_another(project, caplog, changes, unset):
    mine = Path("conf/experiment/mine.yaml")
    mine.write_text("# @package _global_\nseed: 7\n")
    set_local({"experiment": "mine", "name": "n"})
    mine.unlink()
    edit("dropout: 0.2", "dropout: 0.35")
    params = Path("params.yaml").read_text()
    for command in (
        compose_conf,
        composition,
        lambda: plan([]),
        lambda: set_local({"seed": "3"}),
        lambda: set_local({}, drop_edits=True),
    ):
        with pytest.raises(FrostlineError) as raised:
            command()
        assert str(raised.value).startswith(
            "experiment=mine, kept by `frostline set`, is gone.\nChoose another: `frostline set experiment=best`; "
        )
    assert compose_conf(["experiment=best"]).finetune.batch_norm == "frozen", "what is asked for once wins"
    assert set_local(changes, unset) == {"name": "n", **changes}
    assert load_params() == compose_conf()
    assert "experiment=mine is gone, so edits of params.yaml by hand cannot be told" in caplog.text
    assert Path(".frostline/params.yaml").read_text() == params
