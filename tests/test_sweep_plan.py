import re
import sys

import pytest
import yaml

from frostline.config.load import composition
from frostline.runtime.errors import FrostlineError
from frostline.sweep.plan import _say_other, check_prepared, compose_trial, is_search, plan
from frostline.sweep.run import run
from tracked import write_tracked


def test_a_grid_is_every_combination(project):
    asked = plan(["model.cut_layer=mixed5,mixed6", "seed=range(1,4)", "transfer.epochs=1"])
    assert asked.total == len(asked.trials) == 6
    assert asked.trials[0] == ["model.cut_layer=mixed5", "seed=1", "transfer.epochs=1"]
    assert not is_search(asked.hydra)
    assert compose_trial(asked.trials[-1]).seed == 3


def test_the_prepared_data_comes_from_params_yaml(project):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("images: 600", "images: 80"))
    assert compose_trial(["seed=1"]).data.images == 80


def test_images_that_were_prepared_otherwise_are_named(project):
    check_prepared()  # nothing is recorded
    write_tracked(project, "dvc.lock")
    check_prepared()
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("group: null", r"group: patient\d"))
    with pytest.raises(FrostlineError, match=r"preprocess\.group in params.yaml is not that by which"):
        check_prepared()


@pytest.mark.parametrize(
    ("before", "after", "key", "stages"),
    [
        ("images: 600", "images: 500", "data.images", "preprocess"),
        ("name: sample", "name: other", "data.name", "preprocess"),
        ("random_weights.py\n  seed: 1", "random_weights.py\n  seed: 9", "weights.seed", "fetch-weights"),
        ("backbone: inception_v3", "backbone: xception", "model.backbone", "fetch-weights"),
        ("  image_size: 150\n  fit", "  image_size: 160\n  fit", "preprocess.image_size", "preprocess fetch-weights"),
    ],
)
def test_data_and_weights_that_are_not_those_of_the_settings_by_now_are_named(project, before, after, key, stages):
    """A sweep would train on the old ones, and record the new settings."""
    write_tracked(project, "dvc.lock")
    params = project / "params.yaml"
    params.write_text(params.read_text().replace(before, after))
    with pytest.raises(FrostlineError) as raised:
        check_prepared()
    first, second = str(raised.value).splitlines()
    assert first.startswith(f"{key} in params.yaml is not that by which the ")
    assert second == f"Run `dvc repro {stages}` first."


def test_images_of_another_archive_than_the_fetched_one_are_named(project):
    write_tracked(project, "dvc.lock")
    path = project / "dvc.lock"
    lock = yaml.safe_load(path.read_text())
    lock["stages"]["fetch-data"]["outs"][0]["md5"] = "0" * 32
    path.write_text(yaml.safe_dump(lock))
    with pytest.raises(FrostlineError, match=r"not of data/raw/archive.zip.\nRun `dvc repro preprocess` first"):
        check_prepared()
    del lock["stages"]["fetch-data"]
    path.write_text(yaml.safe_dump(lock))
    check_prepared()


def test_a_setting_that_the_record_lacks_is_of_a_later_release(project):
    write_tracked(project, "dvc.lock")
    path = project / "dvc.lock"
    lock = yaml.safe_load(path.read_text())
    known = {stage: lock["stages"][stage]["params"]["params.yaml"] for stage in ("fetch-data", "fetch-weights")}
    del known["fetch-data"]["data"]["code"], known["fetch-weights"]["model.imagenet"]
    path.write_text(yaml.safe_dump(lock))
    check_prepared()


def test_images_of_a_release_without_a_fit_were_squashed(project):
    write_tracked(project, "dvc.lock")
    lock, params = project / "dvc.lock", project / "params.yaml"
    assert "fit: squash" in lock.read_text()
    lock.write_text(re.sub(" +preprocess.fit: squash\n| +fit: squash\n", "", lock.read_text()))
    check_prepared()
    params.write_text(params.read_text().replace("fit: squash", "fit: pad"))
    with pytest.raises(FrostlineError, match=r"preprocess\.fit in params.yaml is not that by which"):
        check_prepared()


def test_images_of_a_release_in_which_the_runs_seed_drew_the_splits(project):
    write_tracked(project, "dvc.lock")
    path, params = project / "dvc.lock", project / "params.yaml"
    lock = yaml.safe_load(path.read_text())
    known = lock["stages"]["preprocess"]["params"]["params.yaml"]
    known["seed"] = known["preprocess"].pop("seed", 42)
    path.write_text(yaml.safe_dump(lock))
    check_prepared()
    params.write_text(params.read_text().replace("  seed: 42\n  splits", "  seed: 43\n  splits"))
    with pytest.raises(FrostlineError, match=r"preprocess\.seed in params.yaml is not that by which"):
        check_prepared()


def test_another_backbone_than_the_prepared_one_is_named(project):
    with pytest.raises(FrostlineError, match=r"model.backbone is resnet50, but .* is for inception_v3"):
        compose_trial(["model=resnet50"])


def test_another_preset_than_the_prepared_one_is_named(project):
    made = composition(["model=hub", "weights=hub", "model.preset=dinov2_small"], project / "conf")
    (project / "params.yaml").write_text(made)
    assert compose_trial(["model=hub", "model.preset=dinov2_small"]).weights.preset == "dinov2_small"
    with pytest.raises(FrostlineError, match=r"model.preset is None, but .* is dinov2_small"):
        compose_trial(["model=hub"])


@pytest.mark.slow
def test_a_search_is_checked_at_both_ends_of_its_intervals(project):
    pytest.importorskip("optuna")
    rates = "finetune.learning_rate=tag(log,interval(1e-5,1))"
    asked = plan(["hydra/sweeper=optuna", "hydra.sweeper.n_trials=7", rates])
    assert asked.trials == [["finetune.learning_rate=1e-05"], ["finetune.learning_rate=1.0"]], (
        "what was asked for alone"
    )
    asked = plan(["hydra/sweeper=optuna_recipe", "hydra.sweeper.n_trials=7", rates])
    assert asked.total == 7
    assert is_search(asked.hydra)
    joined = [" ".join(trial) for trial in asked.trials]
    assert any("finetune.learning_rate=1e-05" in trial for trial in joined)
    assert any("finetune.learning_rate=1.0" in trial for trial in joined)
    for layer in ("mixed5", "mixed6", "mixed7"):  # of conf/hydra/sweeper/optuna_recipe.yaml
        assert any(f"model.cut_layer={layer}" in trial for trial in joined)
    for trial in asked.trials:
        compose_trial(trial)


def test_what_is_searched_names_the_search_and_how_long_does_not(project):
    pytest.importorskip("optuna")
    first, longer, other = (
        plan(["hydra/sweeper=optuna_recipe", *more]).text
        for more in (["hydra.sweeper.n_trials=3"], ["hydra.sweeper.n_trials=30"], ["model.dropout=0"])
    )
    assert first == longer != other


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data=sample,folder"], ["data=sample,folder", "dvc exp run -S data="]),
        (["preprocess.image_size=75,150"], ["prepared in data/processed"]),
        (["study=worth_it,depth"], ["one study at a time"]),
        (["fold=0,1", "folds=3,5"], ["folds=3,5", "the same for all trials"]),
        (["fold=0,1", "folds_of=all,train_and_validation"], ["folds_of=all,", "the same for all trials"]),
        (["study=worth_it", "hydra/sweeper=optuna"], ["a search takes no folds"]),
        (
            ["hydra/sweeper=optuna", "model.dropout=0.2,0.5", "seed=1,2"],
            ["seed=1,2: a search would choose the luckiest"],
        ),
        (["finetune.learning_rate=interval(1e-5,1e-3)"], ["hydra/sweeper=optuna"]),
        (["hydra/sweeper=optna"], ["optna"]),
        (["hydra/sweeper=optuna", "transfer.epochs=1"], ["nothing to search", "optuna_recipe"]),
        (["hydra/sweeper=race", "fold=0,1"], ["at least two of each", "study=auto"]),
        (["hydra/sweeper=race", "seed=1", "model.dropout=0.2,0.5"], ["at least two of each"]),
        (
            ["hydra/sweeper=race", "fold=0,1", "model.dropout=0,0.5", "hydra.sweeper.time_limit=soon"],
            ["soon"],
        ),
        (["model=glob(*)"], ["not a list of values"]),
        (["a b"], ["not a list of overrides"]),
        (["seed=1,2", "seed=3"], ["seed is given twice, seed=1,2 and seed=3"]),
        (["study=nosuch"], ["study/nosuch: there is no such option; valid: auto, depth, more_data, recipes, worth_it"]),
    ],
)
def test_a_mistake_is_named_in_two_lines(project, overrides, words):
    with pytest.raises(FrostlineError) as raised:
        plan(overrides)
    message = str(raised.value)
    assert len(message.splitlines()) <= 2
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("swept", "twice"),
    [
        (["seed=3,3"], "settings: seed=3."),
        (["seed=1,3,'3'"], "settings: seed=3 and seed='3'."),
        (["finetune.learning_rate=1e-4,0.0001", "seed=1"], "settings: finetune.learning_rate=0.0001 seed=1."),
        (["seed=range(1,4),2"], "not a list of"),
        (["model.cut_layer=mixed5,'mixed5'"], "settings: model.cut_layer=mixed5 and model.cut_layer='mixed5'."),
    ],
)
def test_a_value_that_stands_there_twice_is_no_second_seed(project, monkeypatch, swept, twice):
    monkeypatch.setattr(sys, "argv", ["sweep"])
    with pytest.raises(FrostlineError) as raised:
        run(["-m", *swept])
    assert twice in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2


@pytest.mark.long
@pytest.mark.slow
def test_a_study_names_its_axes_and_the_command_line_changes_them(project):
    (project / "conf/experiment/mine.yaml").write_text("# @package _global_\nfolds: 10\n")
    for overrides, total in (
        (["study=worth_it"], 15),
        (["study=worth_it", "folds=3", "seed=7"], 3),
        (["study=worth_it", "experiment=mine"], 30),
        (["study=more_data"], 40),
        (["study=recipes", "experiment=tutorial,best,demo"], 30),
    ):
        asked = plan(overrides)
        assert asked.total == total
        assert asked.study == overrides[0].removeprefix("study=")
        assert len({part for trial in asked.trials for part in trial if part.startswith("fold=")}) > 2
        assert compose_trial(asked.trials[-1]).fold is not None
    assert plan(["seed=1,2"]).study is None


@pytest.mark.slow
def test_auto_races_rates_and_depths_without_the_test_set(project):
    asked = plan(["study=auto", "hydra.sweeper.time_limit=10m"])
    assert len(asked.trials) == 2 * 3 * 5
    assert asked.total == 6 + 3 + 2 + 2 + 2
    first, best = compose_trial(asked.trials[0]), compose_trial(["experiment=best"])
    assert first.finetune == best.finetune, "the recipe's own settings come first"
    assert first.folds_of == "train_and_validation"


@pytest.mark.slow
@pytest.mark.parametrize(("study", "test_set"), [("depth", False), ("recipes", False), ("worth_it", True)])
def test_the_test_set_is_not_among_the_images_by_which_a_winner_is_chosen(project, study, test_set):
    asked = plan([f"study={study}"])
    assert compose_trial(asked.trials[0]).folds_of == ("all" if test_set else "train_and_validation")


@pytest.mark.slow
def test_depth_cuts_at_every_blocks_end_but_the_first(project):
    asked = plan(["study=depth", "fold=0,1"])
    assert [trial[0] for trial in asked.trials[::2]] == [f"model.cut_layer=mixed{number}" for number in range(1, 11)]
    assert compose_trial(asked.trials[0]).model.pooling == "average"


@pytest.mark.slow
def test_a_recipe_of_other_images_is_said_to_take_the_prepared_ones(project, caplog):
    _say_other.cache_clear()
    tutorial, best = (compose_trial([f"experiment={name}"]) for name in ("tutorial", "best"))
    assert tutorial.preprocess == best.preprocess
    (said,) = [record.getMessage() for record in caplog.records]
    assert "preprocess.image_size=224, but all trials take the images as they are prepared, by 150" in said
    compose_trial(["experiment=best"])
    assert len(caplog.records) == 1
    (project / "conf/experiment/padded.yaml").write_text("# @package _global_\npreprocess: {fit: pad}\n")
    assert compose_trial(["experiment=padded"]).preprocess.fit == "squash"
    assert "preprocess.fit=pad, but all trials take the images as they are prepared, by squash" in caplog.messages[-1]


def test_the_prepared_splits_are_not_one_of_the_folds(project):
    with pytest.raises(FrostlineError, match="fold=null is the prepared splits"):
        run(["-m", "fold=null,0,1"])
