import csv
import json
from dataclasses import replace

import pytest

from frostline.config.load import compose_conf, load_params
from frostline.config.paths import SWEPT
from frostline.config.settings import settings_of
from frostline.sweep.plan import compose_trial
from frostline.sweep.results import (
    describe,
    headline,
    in_order,
    lowest_loss,
    rank,
    read_trials,
    recipe,
    swept_keys,
    write_tables,
)
from frostline.sweep.table import print_trials

SPLITS = ("train", "validation")


def trial(loss=None, transfer_loss=0.7, **settings):
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    record = {"trial": " ".join(overrides), "overrides": overrides}
    if loss is not None:
        for phase, value in (("transfer", transfer_loss), ("finetune", loss)):
            record[phase] = {
                f"{split}/{name}": value for split in ("train", "validation") for name in ("loss", "accuracy")
            }
    return record


def test_settings_are_ranked_by_the_mean_over_seeds_not_by_the_luckiest_one():
    trials = [
        trial(0.30, model__cut_layer="mixed5", seed=1),
        trial(0.60, model__cut_layer="mixed5", seed=2),
        trial(0.40, model__cut_layer="mixed6", seed=1),
        trial(0.42, model__cut_layer="mixed6", seed=2),
    ]
    first, second = rank(trials)
    assert first.values == {"model.cut_layer": "mixed6"}
    assert first.mean() == pytest.approx(0.41)
    assert first.spread == pytest.approx(0.0141421, abs=1e-6)  # n - 1
    assert first.best["overrides"] == ["model.cut_layer=mixed6", "seed=1"]
    assert second.mean() == pytest.approx(0.45)


def test_what_a_search_tries_again_is_no_other_seed():
    again, other = trial(0.4, model__dropout="0.2"), trial(0.5, model__dropout="0.5")
    trials = [again, other, again, trial(model__dropout="0.2") | {"pruned": "worse than the median"}]
    first, _ = rank(trials)
    assert (first.label, len(first.trials), first.unfinished) == ("model.dropout=0.2", 1, 0)
    assert headline(trials).endswith("validation loss 0.7000 after transfer, 0.4000 after fine-tuning.")


def test_a_setting_that_was_tried_on_the_easy_fold_alone_is_not_the_best():
    trials = [
        trial(0.15, model__dropout="0.2", fold=0),
        trial(0.20, model__dropout="0.5", fold=0),
        trial(0.35, model__dropout="0.2", fold=1),
    ]
    assert [setting.label for setting in rank(trials)] == ["model.dropout=0.2", "model.dropout=0.5"]


def test_the_better_phase_ranks_and_both_figures_are_said():
    trials = [
        trial(0.40, transfer_loss=0.50, model__cut_layer="mixed5"),
        trial(0.60, transfer_loss=0.30, model__cut_layer="mixed6"),
    ]
    first, second = rank(trials)
    assert (first.label, first.phase, first.mean()) == ("model.cut_layer=mixed6", "transfer", 0.30)
    assert (second.phase, second.mean()) == ("finetune", 0.40)
    assert lowest_loss(trials[1]) == 0.30
    text = describe(trials, None)
    assert "mixed6, validation loss 0.3000 after transfer, 0.6000 after fine-tuning." in text
    assert "In 1 of 2 settings fine-tuning made it worse" in text
    assert "| 1 | `model.cut_layer=mixed6` | 1 | 0.3000 | 0.6000 |" in text


def test_a_setting_of_which_a_seed_failed_cannot_win():
    trials = [
        trial(0.1, model__cut_layer="mixed5", seed=1),
        trial(model__cut_layer="mixed5", seed=2) | {"error": "out of memory\nat once"},
        trial(0.4, model__cut_layer="mixed6", seed=1),
        trial(0.4, model__cut_layer="mixed6", seed=2),
    ]
    assert [setting.values["model.cut_layer"] for setting in rank(trials)] == ["mixed6", "mixed5"]
    assert "`model.cut_layer=mixed5 seed=2`: failed, out of memory\n" in describe(trials, None)
    assert headline(trials).startswith("Best of 3 of 4 trials: ")


def test_only_what_differs_is_named():
    trials = [trial(0.1, transfer__epochs=1, seed=1), trial(0.2, transfer__epochs=1, seed=2)]
    assert swept_keys(trials) == ["seed"]
    (setting,) = rank(trials)
    assert setting.values == {}
    assert headline(trials) == (
        "Best of 2 trials: default, validation loss 0.7000 after transfer, 0.1500 ± 0.0707 after fine-tuning, "
        "mean of 2 seeds."
    )
    assert headline([trial(seed=1) | {"error": "no"}]) == "None of 1 trial finished."


@pytest.mark.parametrize(("luck", "counted"), [({"seed": 1}, "seeds"), ({"seed": 1, "fold": 0}, "trainings")])
def test_what_a_setting_has_several_of_is_called_alike_everywhere(tmp_path, luck, counted, capsys):
    trials = [
        trial(0.1 if number else None, model__dropout=dropout, **{key: value + number for key, value in luck.items()})
        for dropout in (0, 0.5)
        for number in range(3)
    ]
    assert f"mean of 2 {counted}." in headline(trials)
    assert f"| setting | {counted} | transfer loss |" in describe(trials, None)
    write_tables(tmp_path, trials)
    assert [row[counted] for row in csv.DictReader((tmp_path / "settings.csv").open())] == ["2", "2"]
    print_trials(trials)
    said = capsys.readouterr().out
    assert f" {counted} " in said
    assert f"1 more {counted} did not finish" in said


def test_values_are_in_the_order_that_people_expect():
    assert in_order(["mixed10", "mixed2", "mixed2"]) == ["mixed2", "mixed10"]
    assert in_order(["1e-3", "1e-05", "0.01"]) == ["1e-05", "1e-3", "0.01"]
    assert in_order(["auto", "mixed6", "4"]) == ["4", "auto", "mixed6"]


def test_trials_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 0):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "trial.json").write_text(json.dumps(trial(0.1, seed=number)))
    assert [record["overrides"] for record in read_trials(tmp_path)] == [["seed=0"], ["seed=9"], ["seed=10"]]


def test_the_tables_hold_every_point_and_every_setting(tmp_path):
    trials = [
        trial(0.3, model__cut_layer="mixed5", seed=1),
        trial(0.5, model__cut_layer="mixed5", seed=2),
        trial(model__cut_layer="mixed9", seed=1) | {"pruned": "validation loss 2 after epoch 1 of 3"},
    ]
    write_tables(tmp_path, trials)
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [row["status"] for row in rows] == ["finished", "finished", "pruned"]
    assert [row["finetune/validation/loss"] for row in rows] == ["0.3", "0.5", ""]
    assert rows[2]["reason"] == "validation loss 2 after epoch 1 of 3"
    (setting,) = csv.DictReader((tmp_path / "settings.csv").open())
    assert (setting["model.cut_layer"], setting["seeds"], setting["validation/loss mean"]) == ("mixed5", "2", "0.4")
    before = (tmp_path / "trials.csv").read_bytes()
    write_tables(tmp_path, trials)
    assert (tmp_path / "trials.csv").read_bytes() == before


@pytest.mark.parametrize("data", [["data=kaggle"], ["data=folder", "data.path=own"]])
def test_the_recipe_composes_to_the_trial(project, data):
    for picture in (project / "own/cat/1.jpg", project / "own/dog/1.jpg"):
        picture.parent.mkdir(parents=True)
        picture.touch()
    config = compose_conf(
        [*data, "weights=imagenet", "model.cut_layer=mixed5", "finetune.learning_rate=1e-5", "seed=3"]
    )
    assert "swept" not in [path.stem for path in (project / "conf/experiment").iterdir()]
    (project / SWEPT).write_text(recipe(config, "why\nand how"))
    assert compose_conf(["experiment=swept"]) == replace(config, name="swept")


def test_the_recipe_keeps_the_splits_on_which_a_seed_was_chosen(project):
    """Others would have the images that judge it among those by which it was chosen."""
    (project / SWEPT).write_text(recipe(compose_trial(["seed=3"]), "why"))
    rebuilt, prepared = compose_conf(["experiment=swept"]), load_params()
    assert (rebuilt.seed, prepared.seed) == (3, 42)
    assert settings_of(rebuilt, "preprocess") == settings_of(prepared, "preprocess")
    assert compose_conf(["seed=3"]).preprocess.seed == 3, "else another seed draws other splits, too"


def test_the_test_figures_stand_apart_from_the_ranking():
    trials = [trial(0.3, seed=1, model__dropout=0), trial(0.4, seed=1, model__dropout=0.5)]
    text = describe(trials, {"loss": 0.123456, "accuracy": 0.9, "images": 1500})
    assert "log loss 0.1235, accuracy 0.9000 (1,500 images)" in text
    ranking = text[text.index("| |") :]
    assert "0.1235" not in ranking
    assert "| 1 | `model.dropout=0` | 1 | 0.7000 | 0.3000 | 0.3000 |" in ranking
