"""The end of a sweep over folds: which setting is taken, and what of it is left to be trained."""

import numpy as np
import pandas as pd
import pytest
import yaml

from frostline.common.files import read_json, write_json
from frostline.config.paths import SWEPT
from frostline.sweep import trials
from frostline.sweep.plan import compose_trial
from frostline.sweep.race import Outcome, write_outcome
from frostline.sweep.study import _take_best_of_one_fold, answer_study
from frostline.tracking import runs

pytestmark = pytest.mark.slow

FOLDS = 3
IMAGES = 90


@pytest.fixture
def swept(project, prepared, monkeypatch):
    """Make a sweep that ran: of each setting, an override, the log loss after fine-tuning, on every fold."""
    # MLflow keeps one store per address and process, so each test needs an address of its own.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlruns/mlflow.db")
    trials.TRIALS.mkdir(parents=True)
    shared = trials.Shared(prepared, "digest", "inputs")

    def make(settings, folds=FOLDS):
        configs, records = [], []
        for fold in range(folds):
            for setting, loss in settings.items():
                overrides = [setting, f"fold={fold}", f"folds={FOLDS}", "folds_of=train_and_validation"]
                config = compose_trial(overrides)
                key = trials.trial_key(config, shared)
                said(fold, {"transfer": 0.6, "finetune": loss}).to_parquet(trials.TRIALS / f"{key}.parquet")
                figures = {
                    phase: {"validation/loss": value} for phase, value in (("transfer", 0.6), ("finetune", loss))
                }
                figures = {phase: values | {"validation/accuracy": 0.9} for phase, values in figures.items()}
                record = {"trial": " ".join(overrides), "overrides": overrides, "key": key, **figures}
                write_json(project / "sweep" / str(len(records)) / "trial.json", record)
                configs.append(config)
                records.append(record)
        return project / "sweep", configs, records, shared

    return make


def said(fold, losses):
    """What both phases' models say of the images of `fold`, right with these mean log losses."""
    rows = np.flatnonzero(np.arange(IMAGES) % FOLDS == fold)
    difficulty = np.random.default_rng(0).gamma(1, 1, IMAGES)[rows]
    names = np.array(["cat", "dog"])[rows % 2]
    tables = []
    for phase, loss in losses.items():
        luck = np.random.default_rng([fold, round(loss * 1e6)]).uniform(0.9, 1.1, len(rows))
        own = np.exp(-loss * difficulty * luck)
        dog = np.where(names == "dog", own, 1 - own)
        table = pd.DataFrame({"image": [f"{row}.png" for row in rows], "class": names, "phase": phase})
        tables.append(table.assign(**{"P(cat)": 1 - dog, "P(dog)": dog}))
    return pd.concat(tables, ignore_index=True)


def answer(sweep, configs, shared):
    answer_study("folds", [], sweep, configs, shared, runs.open_pipeline(configs[0], "digest", "group"))
    return yaml.safe_load(SWEPT.read_text())


@pytest.mark.long
def test_the_first_setting_of_a_race_is_the_one_that_was_named_first_whatever_is_compared(swept, capsys):
    sweep, configs, records, shared = swept({"model.cut_layer=mixed8": 0.3, "model.cut_layer=mixed5": 0.295})
    write_outcome(sweep, Outcome(list(range(len(records))), ["notes"]))
    assert answer(sweep, configs, shared)["model"]["cut_layer"] == "mixed8"
    assert "None is clearly better than the first, model.cut_layer=mixed8: that is taken." in capsys.readouterr().out
    assert read_json(sweep / "winner.json") == {"model.cut_layer": "mixed8"}


@pytest.mark.long
def test_of_settings_that_train_alike_the_one_that_is_taken_is_left(swept):
    """A threshold changes no training: trials that differ there only have one key."""
    sweep, configs, _, shared = swept({"evaluate.threshold=0.3": 0.3, "evaluate.threshold=f1": 0.3})
    assert answer(sweep, configs, shared)["evaluate"]["threshold"] == 0.3


def test_of_settings_that_train_alike_on_one_fold_the_one_that_is_taken_is_left(swept):
    sweep, _, records, _ = swept({"evaluate.threshold=0.3": 0.3, "evaluate.threshold=f1": 0.3}, folds=1)
    _take_best_of_one_fold(sweep, records, ["evaluate.threshold"], Outcome([0, 1], ["notes"]))
    assert yaml.safe_load(SWEPT.read_text())["evaluate"]["threshold"] == 0.3
