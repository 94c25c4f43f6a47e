import subprocess
from pathlib import Path

import pytest
import yaml

from frostline.config import compose_conf, load_params
from frostline.errors import FrostlineError
from frostline.settings import FolderData, KaggleData, SampleData

ROOT = Path(__file__).parents[1]


def test_params_yaml_as_committed_is_confs_composition(project):
    """As committed, since `dvc exp run -S` and people change the file at hand."""
    committed = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=ROOT, capture_output=True, text=True)
    if committed.returncode == 0:
        (project / "params.yaml").write_text(committed.stdout)
    assert load_params() == compose_conf()


@pytest.mark.parametrize("experiment", [file.stem for file in (ROOT / "conf/experiment").glob("*.yaml")])
def test_every_experiment_composes(project, experiment):
    assert compose_conf([f"experiment={experiment}"]).transfer.epochs >= 1


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["data=sample"], SampleData),
        (["data=kaggle"], KaggleData),
        (["data=folder", "data.path=../pictures"], FolderData),
    ],
)
def test_each_data_source_has_settings_of_its_own(project, overrides, kind):
    assert type(compose_conf(overrides).data) is kind


def test_every_value_is_reachable_as_an_override(project):
    content = yaml.safe_load((project / "params.yaml").read_text())

    def leaves(mapping, prefix=""):
        for key, value in mapping.items():
            yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]

    found = list(leaves(content))
    assert len(found) > 25
    assert compose_conf([f"{key}={value}" for key, value in found]) == load_params()


def test_the_recipe_is_the_default(project):
    config = compose_conf()
    assert (config.model.cut_layer, config.model.dense_units, config.model.dropout) == ("mixed7", 1024, 0.2)
    assert (config.transfer.epochs, config.transfer.learning_rate) == (2, 1e-3)
    assert (config.finetune.epochs, config.finetune.learning_rate) == (2, 1e-5)
    seed = compose_conf(["experiment=seed"])
    assert (seed.model, seed.transfer, seed.finetune.thaw_from) == (config.model, config.transfer, "mixed6")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("transfer.epoch=3", ["transfer.epoch", "Did you mean 'transfer.epochs'"]),
        ("trnsfer.epochs=3", ["trnsfer.epochs", "Did you mean 'transfer.epochs'"]),
        ("transfer.epochs=two", ["transfer.epochs", "'two'", "Integer"]),
        ("transfer.epochs=0", ["transfer.epochs is 0", "1 or more"]),
        ("transfer.learning_rate=nan", ["transfer.learning_rate is nan", "above 0"]),
        ("finetune.learning_rate=-1e-5", ["finetune.learning_rate is -1e-05", "above 0"]),
        ("model.dropout=1", ["model.dropout is 1.0", "below 1"]),
        ("preprocess.train=0.5", ["0.5 + 0.15 + 0.15 = 0.8", "sum to 1"]),
        ("preprocess.picture_size=50", ["preprocess.picture_size is 50", "75 to 1024"]),
        ("data.path=x", ["data.path", "data=folder only"]),
        ("augment=rotate", ["augment is 'rotate'", "none, flip, full"]),
        ("data.source=url", ["data.source is 'url'", "sample, filtered, kaggle, folder"]),
        ("seed='한글'", ["seed is '한글'", "Integer"]),
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


def test_an_unknown_option_lists_the_valid_ones(project):
    with pytest.raises(FrostlineError, match=r"data=kagle: .*filtered, folder, kaggle, sample"):
        compose_conf(["data=kagle"])


def test_a_folder_needs_its_path(project):
    with pytest.raises(FrostlineError, match=r"data\.path has no value"):
        compose_conf(["data=folder"])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("seed:\t1\n", "not valid YAML"),
        ("seed: 1\nseed: 2\n", "duplicate key"),
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
