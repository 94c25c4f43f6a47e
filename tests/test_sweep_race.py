"""A race: who is trained on which fold, when it ends, and what of it is compared."""

import numpy as np
import pandas as pd
import pytest

from frostline.common.files import read_json
from frostline.runtime.durations import seconds_of
from frostline.runtime.errors import FrostlineError
from frostline.sweep import race, trials
from frostline.sweep.race import longest, read_outcome, run_race, write_outcome
from frostline.sweep.study import _take_best_of_one_fold

LOSS = {"a": 0.5, "b": 0.2, "c": 0.4, "d": 0.3, "e": 0.6}
TRIALS = [[f"model.dropout={name}", f"fold={fold}"] for name in LOSS for fold in range(4)]


def record_of(trial, loss=LOSS):
    name = trial[0].partition("=")[2]
    if loss[name] is None:
        return {"error": "too large"}
    return {phase: {"validation/loss": loss[name] + extra} for phase, extra in (("transfer", 0.1), ("finetune", 0))}


def raced(loss=LOSS, clock=None, takes=10, time_limit=None):
    """The trials that ran, and the outcome."""
    ran = []

    def run(number, trial):
        assert number == len(ran)
        ran.append(trial)
        if clock is not None:
            clock[0] += takes
        return record_of(trial, loss)

    return ran, run_race(TRIALS, run, time_limit)


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which only trials take."""
    now = [0.0]
    monkeypatch.setattr(race.time, "monotonic", lambda: now[0])
    return now


def names(trials, fold):
    return [trial[0].partition("=")[2] for trial in trials if trial[1] == f"fold={fold}"]


def test_the_better_half_and_the_first_go_on_and_two_are_trained_on_every_fold():
    ran, outcome = raced()
    assert [sorted(names(ran, fold)) for fold in range(4)] == [list("abcde"), list("abd"), list("ab"), list("ab")]
    assert len(ran) == longest(TRIALS) == 12
    assert [ran[number] for number in outcome.compared] == [trial for trial in ran if trial[0][-1] in "ab"]
    assert outcome.notes[0].startswith("12 of 20 trainings of 5 settings were run, in ")
    assert outcome.notes[1:] == [
        "Given up after 1 training, with the validation loss: model.dropout=c (0.4000), model.dropout=e (0.6000).",
        "Given up after 2 trainings, with the validation loss: model.dropout=d (0.3000).",
    ]


def test_the_mean_over_the_folds_so_far_decides(monkeypatch):
    ran = []

    def run(number, trial):
        ran.append(trial)
        name, fold = trial[0][-1], trial[1][-1]
        loss = {"a": 0.4, "b": 0.1 if fold == "0" else 0.9, "c": 0.3, "d": 0.35}.get(name, 0.9)
        return {phase: {"validation/loss": loss} for phase in ("transfer", "finetune")}

    run_race(TRIALS, run)
    assert sorted(names(ran, 1)) == list("abc"), "b was best on the first fold"
    assert sorted(names(ran, 2)) == list("ac"), "and is not over both"


def test_one_that_fails_is_out_and_named_and_the_others_go_on():
    ran, outcome = raced({**LOSS, "b": None})
    assert "b" not in [trial[0][-1] for trial in ran if trial[1] != "fold=0"]
    assert {ran[number][0][-1] for number in outcome.compared} == {"a", "d"}
    assert any(note == "Failed: model.dropout=b: too large" for note in outcome.notes)
    ran, outcome = raced({**LOSS, "a": None})
    assert {ran[number][0][-1] for number in outcome.compared} == {"b", "d"}, "the first one failed"
    assert not outcome.first_runs
    _, outcome = raced(dict.fromkeys(LOSS))
    assert outcome.compared == []


def test_the_time_limit_leaves_time_for_the_winners_training(clock):
    # 7 trials of 10 s: an eighth, the winner's training and 45 s for its stages would end after 135 s.
    ran, outcome = raced(clock=clock, time_limit=134)
    assert len(ran) == 7
    assert "The time limit ended it in round 2 of 4." in outcome.notes
    assert {ran[number][1] for number in outcome.compared} == {"fold=0"}, "not all have run the second round"
    assert {ran[number][0][-1] for number in outcome.compared} == {"a", "b", "d"}


def test_between_two_rounds_all_that_ran_counts(clock):
    ran, outcome = raced(clock=clock, time_limit=144)
    assert len(ran) == 8
    assert sorted(outcome.compared) == [number for number, trial in enumerate(ran) if trial[0][-1] in "abd"]


@pytest.mark.parametrize(("time_limit", "last"), [(120, "a"), (130, "b")])
def test_a_limit_that_ends_the_last_round_is_said_and_nobody_is_given_up_by_it(clock, time_limit, last):
    ran, trials = [], [trial for trial in TRIALS if trial[1] in ("fold=0", "fold=1")]

    def run(number, trial):
        ran.append(trial)
        clock[0] += 10
        return record_of(trial)

    outcome = run_race(trials, run, time_limit)
    assert ran[-1] == [f"model.dropout={last}", "fold=1"], "d, too, was to be trained on this fold"
    assert "The time limit ended it in round 2 of 2." in outcome.notes
    (given_up,) = [note for note in outcome.notes if note.startswith("Given up")]
    assert given_up.startswith("Given up after 1 training, with")
    assert [ran[number] for number in outcome.compared] == [[f"model.dropout={name}", "fold=0"] for name in "abd"]


def test_rounds_of_several_seeds_are_not_called_folds():
    trials = [[f"model.dropout={name}", f"fold={f}", f"seed={s}"] for name in LOSS for f in (0, 1) for s in (1, 2)]
    outcome = run_race(trials, lambda number, trial: record_of(trial))
    assert [note.partition(",")[0] for note in outcome.notes[1:]] == [
        "Given up after 1 training",
        "Given up after 2 trainings",
    ]


def test_one_trial_runs_however_short_the_time(clock):
    ran, outcome = raced(clock=clock, time_limit=1)
    assert len(ran) == 1
    assert outcome.compared == [0]


def test_only_folds_that_every_seed_has_judged_are_compared(clock):
    trials = [[f"model.dropout={name}", f"fold={f}", f"seed={s}"] for name in "ab" for f in range(3) for s in (1, 2)]
    ran = []

    def run(number, trial):
        ran.append(trial)
        clock[0] += 10
        return record_of(trial)

    outcome = run_race(trials, run, time_limit=125)
    assert len(ran) == 7, "one fold and a half of the two settings"
    assert {ran[number][1:][0] for number in outcome.compared} == {"fold=0"}
    assert len(outcome.compared) == 4


def test_a_race_that_ran_to_its_end_was_not_ended_by_the_limit(clock):
    ran, outcome = raced(clock=clock, time_limit=184)
    assert len(ran) == longest(TRIALS)
    assert not any("time limit" in note for note in outcome.notes)


def test_two_settings_that_read_alike_are_two():
    trials = [
        [f"finetune.learning_rate={rate}", f"fold={f}"] for rate in ("0.000123451", "0.000123454") for f in (0, 1)
    ]
    outcome = run_race(trials, lambda number, trial: record_of(["model.dropout=a"]))
    assert outcome.compared == [0, 1, 2, 3]
    assert outcome.notes[0].startswith("4 of 4 trainings of 2 settings")


@pytest.mark.parametrize(("second", "first_runs", "taken"), [(0.59, True, "a"), (0.59, False, "b"), (0.3, True, "b")])
def test_by_one_fold_alone_another_setting_has_to_be_far_better(project, capsys, second, first_runs, taken):
    found = []
    trials.TRIALS.mkdir(parents=True)
    for name, loss in {"a": 0.6, "b": second}.items():
        actual = np.exp(-loss * np.random.default_rng(ord(name)).gamma(1, 1, 40))
        table = pd.DataFrame({"image": range(40), "class": "cat", "P(cat)": actual, "P(dog)": 1 - actual})
        pd.concat([table.assign(phase=phase) for phase in ("transfer", "finetune")]).to_parquet(
            trials.TRIALS / f"{name}.parquet"
        )
        setting = [f"name={name}", "fold=0"]
        found.append({"key": name, "overrides": setting, **record_of(setting, {"a": 0.6, "b": second})})
    _take_best_of_one_fold(project, found, ["name"], race.Outcome([0, 1], ["notes"], first_runs))
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("Best by one fold only, which may well be chance: name=b, log loss 0.")
    assert ("that is taken" in said[1]) == (taken == "a")
    assert read_json(project / "winner.json") == {"name": taken}


def test_its_outcome_lies_in_the_sweeps_folder(tmp_path):
    assert read_outcome(tmp_path) is None
    _, outcome = raced()
    write_outcome(tmp_path, outcome)
    assert read_outcome(tmp_path) == outcome


@pytest.mark.parametrize(("said", "seconds"), [("90s", 90), ("10m", 600), (" 1.5 h ", 5400)])
def test_a_time_limit_in_words(said, seconds):
    assert seconds_of(said) == seconds


@pytest.mark.parametrize("said", ["", "10", "0m", "-1m", "ten minutes", "10 min", "1e3s"])
def test_what_is_no_time_limit(said):
    with pytest.raises(FrostlineError, match="valid are seconds, minutes or hours"):
        seconds_of(said)
