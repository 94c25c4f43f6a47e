"""Which settings of a sweep are within chance of the best, by what their models say of the validation images."""

import numpy as np
import pandas as pd
import pytest

from frostline.sweep import trials
from frostline.sweep.closeness import close_to_best
from frostline.sweep.results import headline, rank


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Makes the record and the files of a trial that ran: with that mean loss on 120 images."""
    monkeypatch.setattr(trials, "TRIALS", tmp_path)
    difficulty = np.random.default_rng(0).gamma(1, 1, 120)

    def trial(loss, transfer=0.9, **values):
        overrides = [f"{name}={value}" for name, value in values.items()]
        key, luck = " ".join(overrides), np.random.default_rng(round(loss * 1e6)).uniform(0.9, 1.1, 120)
        both = []
        for phase, mean in (("transfer", transfer), ("finetune", loss)):
            right = np.exp(-mean * difficulty * luck)
            said = {"image": [f"{n}.png" for n in range(120)], "class": "dog", "P(cat)": 1 - right, "P(dog)": right}
            both.append(pd.DataFrame(said | {"phase": phase}))
        pd.concat(both).to_parquet(tmp_path / f"{key}.parquet")
        found = float(np.mean(loss * difficulty * luck))
        phases = {"transfer": {"validation/loss": transfer}, "finetune": {"validation/loss": found}}
        return {"trial": key, "overrides": overrides, "key": key, **phases}

    return trial


def test_those_within_chance_of_the_best_are_named(ran):
    settings = rank([ran(0.301, cut="a"), ran(0.3, cut="b"), ran(0.5, cut="c")])
    best, second = (setting.label for setting in settings[:2])
    assert {best, second} == {"cut=a", "cut=b"}
    assert close_to_best(settings) == f"2 of 3 are within chance of the best, by 120 validation images: also {second}."
    assert close_to_best(rank([ran(0.3, cut="b"), ran(0.5, cut="c")])) == (
        "No other one is within chance of it, by 120 validation images."
    )


def test_seeds_are_taken_together_and_must_be_the_same(ran):
    both = [
        ran(0.3, cut="a", seed=1),
        ran(0.32, cut="a", seed=2),
        ran(0.6, cut="b", seed=2),
        ran(0.58, cut="b", seed=1),
    ]
    assert close_to_best(rank(both)).startswith("No other one")
    assert close_to_best(rank(both[:3])) == ""
    assert close_to_best(rank(both[:1])) == ""


def test_luck_that_is_the_same_for_all_images_is_luck(ran):
    """By each seed alone one is far better than the other; the two seeds disagree which."""
    of_seeds = {1: {"a": 0.3, "b": 0.6}, 2: {"a": 0.4, "b": 0.3}}
    trials = [ran(loss, cut=name, seed=seed) for seed, both in of_seeds.items() for name, loss in both.items()]
    assert close_to_best(rank(trials)).startswith("2 of 2 are within chance of the best")


def test_each_is_judged_by_its_better_phase(ran):
    settings = rank([ran(0.5, transfer=0.29, cut="a"), ran(0.5, cut="b")])  # after fine-tuning they are the same
    assert settings[0].phase == "transfer"
    assert close_to_best(settings).startswith("No other one"), "the table of phase transfer is read"


def test_that_the_transfer_model_alone_was_better_is_said(ran):
    worse, better = ran(0.5, transfer=0.2, cut="a"), ran(0.3, cut="b")
    assert "In 1 of 2 settings fine-tuning made it worse" in headline([worse, better])
    assert "In all settings fine-tuning made it worse" in headline([worse])
    assert "made it worse" not in headline([better])
