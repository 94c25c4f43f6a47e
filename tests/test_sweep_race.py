"""A race: who is trained on which fold, when it ends, and what of it is compared."""

import pytest

from frostline.runtime.errors import FrostlineError
from frostline.runtime.progress import seconds_of
from frostline.sweep import race
from frostline.sweep.race import longest, read_outcome, run_race, write_outcome

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


def test_the_better_half_goes_on_and_two_are_trained_on_every_fold():
    ran, outcome = raced()
    assert [sorted(names(ran, fold)) for fold in range(4)] == [list("abcde"), list("bcd"), list("bd"), list("bd")]
    assert len(ran) == longest(TRIALS) == 12
    assert [ran[number] for number in outcome.compared] == [trial for trial in ran if trial[0][-1] in "bd"]
    assert outcome.notes[0].startswith("12 of 20 trainings of 5 settings were run, in ")
    assert outcome.notes[1:] == [
        "Given up after 1 fold, with the validation loss: model.dropout=a (0.5000), model.dropout=e (0.6000).",
        "Given up after 2 folds, with the validation loss: model.dropout=c (0.4000).",
    ]


def test_the_mean_over_the_folds_so_far_decides(monkeypatch):
    ran = []

    def run(number, trial):
        ran.append(trial)
        name, fold = trial[0][-1], trial[1][-1]
        loss = {"a": 0.1 if fold == "0" else 0.9, "b": 0.3, "c": 0.35}.get(name, 0.9)
        return {phase: {"validation/loss": loss} for phase in ("transfer", "finetune")}

    run_race(TRIALS, run)
    assert sorted(names(ran, 1)) == list("abc"), "a was best on the first fold"
    assert sorted(names(ran, 2)) == list("bc"), "and is not over both"


def test_one_that_fails_is_out_and_named_and_the_others_go_on():
    ran, outcome = raced({**LOSS, "b": None})
    assert "b" not in [trial[0][-1] for trial in ran if trial[1] != "fold=0"]
    assert {ran[number][0][-1] for number in outcome.compared} == {"c", "d"}
    assert any(note == "Failed: model.dropout=b: too large" for note in outcome.notes)
    _, outcome = raced(dict.fromkeys(LOSS))
    assert outcome.compared == []


def test_the_time_limit_leaves_time_for_the_winners_training(clock):
    # 7 trials of 10 s: an eighth, the winner's training and 45 s for its stages would end after 135 s.
    ran, outcome = raced(clock=clock, time_limit=134)
    assert len(ran) == 7
    assert "The time limit ended it in round 2 of 4." in outcome.notes
    assert {ran[number][1] for number in outcome.compared} == {"fold=0"}, "not all have run the second round"
    assert {ran[number][0][-1] for number in outcome.compared} == {"b", "c", "d"}


def test_between_two_rounds_all_that_ran_counts(clock):
    ran, outcome = raced(clock=clock, time_limit=144)
    assert len(ran) == 8
    assert sorted(outcome.compared) == [number for number, trial in enumerate(ran) if trial[0][-1] in "bcd"]


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
