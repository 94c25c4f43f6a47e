"""Trials on real images and a real backbone, the smallest that InceptionV3 takes."""

import gc
import json
import pickle
from dataclasses import asdict, replace

import mlflow
import numpy as np
import pytest

from frostline.config.load import compose_conf
from frostline.config.paths import BACKBONE_WEIGHTS, PROCESSED
from frostline.data.dataset import load_dataset
from frostline.features.cache import entries
from frostline.models.saving import load_model, save_model
from frostline.runtime.code_digest import code_of
from frostline.sweep import trials
from frostline.sweep.memory import Memory
from frostline.sweep.run import run_trial
from frostline.training import phases
from frostline.training.loop import Trainer
from tracked import write_tracked

pytestmark = pytest.mark.slow

TINY = (
    "preprocess.image_size=75",
    "model.dense_units=8",
    "transfer.epochs=1",
    "finetune.epochs=2",
    "checkpoint_every=0",
)


@pytest.fixture(scope="module")
def folder(lay_prepared, tmp_path_factory):
    """A project with prepared data, for all tests of this module."""
    folder = tmp_path_factory.mktemp("sweep")
    write_tracked(folder, "conf")
    lay_prepared(folder)
    return folder


@pytest.fixture
def shared(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return trials.open_shared()


def compose(*overrides):
    return compose_conf([*TINY, *overrides])


def bars(capsys):
    """What was computed since the last call: the names of the bars that came to an end."""
    return [line.split(":")[0] for line in capsys.readouterr().err.splitlines() if "images/s" in line]


def nothing(epoch):
    pass


def test_a_key_holds_what_the_result_depends_on_and_nothing_else(shared, monkeypatch):
    config = compose()
    key = trials.trial_key(config, shared)
    for same in (
        replace(config, name="other", feature_cache_gib=1.0, workers="ray"),
        replace(config, evaluate=replace(config.evaluate, threshold=0.9)),
        replace(config, tracking=replace(config.tracking, experiment="other")),
        replace(config, model=replace(config.model, image_size=299)),
    ):
        assert trials.trial_key(same, shared) == key
    for other in (
        compose("seed=1"),
        compose("model.dropout=0"),
        compose("finetune.batch_size=16"),
        compose("transfer.learning_rate=0.1"),
        compose("augment=flip"),
        compose("fold=1"),
        compose("train_share=0.5"),
        compose("distribution=mirrored"),
    ):
        assert trials.trial_key(other, shared) != key
    assert {"training/loop.py", "metrics/log_loss.py", "models/saving.py"} <= set(code_of(trials.__name__))
    assert trials.open_shared().digest == shared.digest
    monkeypatch.setattr(trials, "code_digest", lambda module: "as if the code had changed")
    assert trials.open_shared().digest != shared.digest


@pytest.mark.long
def test_all_layers_come_from_one_pass_and_a_killed_trial_ends_in_the_bytes_of_one_alone(
    shared, folder, capsys, tmp_path, monkeypatch
):
    memory = Memory()
    upper, lower = compose("model.cut_layer=mixed1"), compose("model.cut_layer=mixed0", "finetune.thaw_from=mixed0")
    wrong = compose("model.cut_layer=mixed0", "finetune.thaw_from=mixed5")
    trials.extract_features([upper, lower, wrong], shared.data)
    assert bars(capsys) == ["features", "features"], "one pass for each of training and validation"
    assert sorted(entry.layer for entry in entries()) == ["mixed0", "mixed0", "mixed1", "mixed1"]

    epochs = []

    def killed(epoch):
        epochs.append(epoch["epoch"])
        if epoch["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trials.run(upper, shared, memory, killed)
    assert bars(capsys) == ["transfer 1/1", "finetune 1/2"], "no features are computed again"
    assert trials.stored(upper, shared) is None
    result = trials.run(upper, shared, memory, lambda epoch: epochs.append(epoch["epoch"]))
    assert bars(capsys) == ["finetune 2/2"], "the transfer phase and the first epoch are kept"
    assert epochs == [1, 2, 1, 2, 3]
    assert [epoch["epoch"] for epoch in result.epochs(upper)] == [1, 2, 3]
    assert trials.stored(upper, shared) == result
    assert not list((folder / ".frostline/checkpoints").iterdir())

    # Alone: in a folder with no features and no other trials.
    monkeypatch.chdir(tmp_path)
    data = load_dataset(folder / PROCESSED)
    model = phases.build_classifier(data, folder / BACKBONE_WEIGHTS, upper)
    first = phases.transfer(model, data, upper)
    save_model(model, tmp_path / "model.keras", data.classes)
    second = phases.finetune(load_model(tmp_path / "model.keras"), data, upper)
    assert "features" in bars(capsys)
    alone = {"transfer": first, "finetune": second, "found": {"transfer": {}, "finetune": {}}}
    assert json.dumps(asdict(result), sort_keys=True) == json.dumps(alone, sort_keys=True)


@pytest.mark.long
def test_a_trial_that_is_given_up_leaves_nothing_and_its_transfer_phase_serves_the_next(
    shared, folder, capsys, monkeypatch
):
    memory = Memory()
    config = compose("model.cut_layer=mixed0", "finetune.thaw_from=mixed0", "finetune.epochs=1")

    def give_up(epoch):
        if epoch["epoch"] == 2:
            raise trials.PrunedError("no hope")

    with pytest.raises(trials.PrunedError):
        trials.run(config, shared, memory, give_up)
    assert trials.stored(config, shared) is None
    assert not list((folder / ".frostline/checkpoints").iterdir())
    bars(capsys)

    other = compose(
        "model.cut_layer=mixed0", "finetune.thaw_from=mixed0", "finetune.epochs=1", "finetune.batch_size=16"
    )
    result = trials.run(other, shared, memory, nothing)
    assert not any(name.startswith("transfer") for name in bars(capsys))
    memory = pickle.loads(pickle.dumps(memory))
    assert memory.start is None, "another process has the model only as a file"
    assert trials.run(other, shared, memory, nothing) == result, "the model was set back to the last bit"
    bars(capsys)

    figures = trials.score_on_test(other, shared, memory, "finetune")
    assert figures["images"] == len(shared.data.labels("test"))
    assert figures["loss"] > 0
    assert bars(capsys) == ["features"], "the best trial's model is in memory"
    assert trials.score_on_test(other, shared, memory, "finetune") == figures
    assert bars(capsys) == [], "the test set is looked at once"

    (folder / f".frostline/trials/{trials.trial_key(other, shared)}.finetune.test.json").unlink()
    memory.best_key = "another trial's"
    assert trials.score_on_test(other, shared, memory, "finetune") == figures
    assert bars(capsys) == ["finetune 1/1"], "its model is made again"
    after_transfer = trials.score_on_test(other, shared, memory, "transfer")
    assert after_transfer["images"] == figures["images"]
    assert after_transfer["loss"] != figures["loss"]
    assert not any("/" in name for name in bars(capsys)), "the transfer phase's model is in its file"

    trials.forget(other, shared)
    assert trials.stored(other, shared) is None
    assert not list((folder / ".frostline/trials").glob("*.test.json"))


def test_a_trials_figures_are_those_of_the_epochs_that_it_kept(shared):
    first = [{"epoch": 1, "validation/loss": 3}, {"epoch": 2, "validation/loss": 2}]
    second = [{"epoch": 1, "validation/loss": 1}, {"epoch": 2, "validation/loss": 4}]
    result = trials.Result(first, second)
    patient = compose("finetune.patience=1")
    assert result.kept(patient) == {"transfer": first[1], "finetune": second[0]}
    assert [epoch["validation/loss"] for epoch in result.epochs(patient)] == [3, 2, 1, 4, 1]
    assert [epoch["epoch"] for epoch in result.epochs(patient)] == [1, 2, 3, 4, 5]
    assert result.kept(compose()) == {"transfer": first[1], "finetune": second[1]}
    assert len(result.epochs(compose())) == 4


@pytest.mark.long
def test_what_the_cache_cannot_hold_is_left_to_the_trials(shared, capsys):
    config = replace(compose("model.cut_layer=mixed2"), feature_cache_gib=0.0001)
    before = len(entries())
    trials.extract_features([config], shared.data)
    assert "each trial computes its own" in capsys.readouterr().err
    assert len(entries()) == before


@pytest.mark.long
def test_folds_and_seeds_in_a_row_end_in_the_bytes_of_one_alone_and_say_what_they_think_of_their_images(shared, folder):
    memory = Memory(frozenset())
    small = ("model.cut_layer=mixed1", "finetune.thaw_from=mixed0", "folds=3")
    configs = [compose(*small, f"fold={fold}", f"seed={seed}") for fold, seed in ((0, 1), (0, 2), (1, 2))]
    results = [trials.run(config, shared, memory, nothing) for config in configs]
    assert len({json.dumps(asdict(result)) for result in results}) == 3
    said = [trials.held_out(trials.trial_key(config, shared)) for config in configs]
    for config, table in zip(configs, said, strict=True):
        data = shared.images(config)
        for _, of_phase in table.groupby("phase"):
            assert of_phase["image"].tolist() == data.names("test")
            assert of_phase["class"].tolist() == [data.classes[label] for label in data.labels("test")]
        assert table.filter(like="P(").sum(axis=1).to_numpy() == pytest.approx(1)
    assert not list((folder / trials.TRANSFERS).glob(f"{trials._transfer_key(configs[0], shared)}/model.keras"))

    trials.forget(configs[1], shared)
    assert trials.run(configs[1], shared, Memory(), nothing) == results[1]
    again = trials.held_out(trials.trial_key(configs[1], shared))
    assert again.equals(said[1])


@pytest.mark.long
def test_images_of_a_fold_are_judged_by_the_probabilities_in_use(shared, folder):
    small = ("model.cut_layer=mixed0", "finetune.thaw_from=mixed0", "finetune.epochs=1", "folds=3", "fold=0")
    said = {}
    for calibrate in ("temperature", "none"):
        config = compose(*small, f"evaluate.calibrate={calibrate}")
        trials.run(config, shared, Memory(), nothing)
        said[calibrate] = trials.held_out(trials.trial_key(config, shared))
    for phase in ("transfer", "finetune"):
        second = {name: table[table["phase"] == phase]["P(dog)"].to_numpy() for name, table in said.items()}
        in_use, raw = (np.log(p / (1 - p)) for p in (second["temperature"], second["none"]))
        temperature = raw / in_use
        assert temperature == pytest.approx(temperature[0])
        assert temperature[0] != pytest.approx(1)


@pytest.mark.long
def test_a_phase_that_several_trials_go_on_from_is_kept(shared, folder):
    configs = [compose("model.cut_layer=mixed1", "fold=0", f"finetune.learning_rate={rate}") for rate in (1e-5, 1e-4)]
    several = trials.several_go_on_from(configs, shared)
    assert len(several) == 1
    assert not trials.several_go_on_from([configs[0], compose("fold=1")], shared)
    trials.run(configs[0], shared, Memory(several), nothing)
    assert (folder / trials.TRANSFERS / next(iter(several)) / "model.keras").is_file()


@pytest.mark.long
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("model.dropout=0.2", "model.dropout=0.5", marks=pytest.mark.long),
        ("finetune.batch_norm=train", "finetune.batch_norm=frozen"),
    ],
)
def test_what_trained_the_last_trial_does_not_train_another_one(shared, before, after):
    """It is kept for the next one, and must not train the last model in its place, nor what was thawed of it."""
    small = ("model.cut_layer=mixed1", "finetune.thaw_from=mixed0", "finetune.epochs=1")
    first, second = compose(*small, before), compose(*small, after)
    memory = Memory()
    trials.run(first, shared, memory, nothing)
    after = trials.run(second, shared, memory, nothing)
    trials.forget(second, shared)
    assert trials.run(second, shared, Memory(), nothing) == after


@pytest.mark.long
def test_a_saved_head_of_another_seed_has_its_own_dropout(shared):
    small = ("model.cut_layer=mixed1", "finetune.thaw_from=mixed0", "finetune.epochs=1", "model.dropout=0.5")
    rates = [
        [compose(*small, f"seed={seed}", f"finetune.learning_rate={rate}") for seed in (5, 6)] for rate in (1e-4, 1e-3)
    ]
    memory = Memory()
    results = [trials.run(config, shared, memory, nothing) for row in rates for config in row]
    again = rates[1][1]  # went on from the file that the second trial left
    trials.forget(again, shared)
    assert trials.run(again, shared, Memory(), nothing) == results[-1]


@pytest.mark.long
def test_only_the_last_training_of_each_phase_is_kept(shared):
    """Each holds Adam's moments: a sweep would grow by them with every trial."""

    def alive():
        gc.collect()
        return sum(type(item) is Trainer for item in gc.get_objects())

    memory, before = Memory(), alive()
    for rate in (1e-4, 1e-3, 1e-2):
        config = compose("model.cut_layer=mixed1", "finetune.epochs=1", f"finetune.learning_rate={rate}")
        trials.run(config, shared, memory, nothing)
    assert memory.trainers, "the next trial trains by what this one has left"
    assert alive() - before <= 2


@pytest.mark.long
@pytest.mark.usefixtures("any_fall")
def test_each_trial_finds_its_own_rate_and_tells_it_again(shared):
    """Also from what the last trial left: trainers, the head's file, and the result on the disk."""
    small = ("model.cut_layer=mixed1", "finetune.epochs=1", "transfer.learning_rate=auto", "transfer.batch_size=auto")
    configs = [
        compose(*small, f"finetune.learning_rate={rate}", f"seed={seed}")
        for rate, seed in ((1e-5, 5), (1e-4, 5), (1e-5, 6))
    ]
    memory = Memory()
    first, second, third = (trials.run(config, shared, memory, nothing) for config in configs)
    assert set(first.found["transfer"]) == {"learning_rate", "batch_size", "rate_test"}
    assert second.found == {"transfer": first.found["transfer"], "finetune": {}}, "they share the head"
    assert third.found["transfer"]["rate_test"] != first.found["transfer"]["rate_test"], "of another head"
    assert trials.stored(configs[0], shared) == first
    trials.forget(configs[2], shared)
    assert trials.run(configs[2], shared, Memory(), nothing) == third
    numbers = [f"transfer.{name}={third.found['transfer'][name]}" for name in ("learning_rate", "batch_size")]
    same = compose(*small[:2], *numbers, "seed=6")
    given = trials.run(same, shared, Memory(), nothing)
    assert (given.transfer, given.finetune) == (third.transfer, third.finetune)


@pytest.mark.long
@pytest.mark.usefixtures("any_fall")
def test_a_trial_from_the_disk_logs_the_rate_that_it_found(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    config = compose("model.cut_layer=mixed1", "finetune.epochs=1", "transfer.learning_rate=auto")
    found = trials.run(config, shared, Memory(), nothing).found["transfer"]
    run_trial(config, "a trial", "a sweep", None, Memory())
    (run,) = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.`frostline.phase` = 'a trial'", output_format="list"
    )
    assert run.data.tags["frostline.restored"] == "true"
    assert run.data.params["found.transfer.learning_rate"] == str(found["learning_rate"])
    assert run.data.metrics["transfer/range_test_loss"] == found["rate_test"][-1]["loss"]
