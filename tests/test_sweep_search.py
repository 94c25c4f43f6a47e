"""Optuna for real, on its SQLite database; trials are formulas here."""

import math

import pytest

optuna = pytest.importorskip("optuna")

from omegaconf import OmegaConf  # noqa: E402  (needs optuna, as all below)

from frostline.common.files import write_json  # noqa: E402
from frostline.sweep import search as sweep_search  # noqa: E402
from frostline.sweep.results import begin, read_trials  # noqa: E402
from hydra_plugins.frostline_optuna import OptunaSweeper  # noqa: E402

pytestmark = pytest.mark.slow

STORAGE = "sqlite:///.frostline/studies.db"
SPACE, FIXED = sweep_search.space_of(
    [
        "finetune.learning_rate=interval(0.5,0.6)",
        "finetune.learning_rate=tag(log,interval(1e-6,1e-2))",
        "model.cut_layer=mixed5,mixed6",
        "transfer.epochs=1",
    ]
)


def loss_of(params):
    return abs(math.log10(params["finetune.learning_rate"]) + 4) + (params["model.cut_layer"] == "mixed5")


def record_of(trial):
    return {
        "overrides": sweep_search.overrides_of(trial, FIXED),
        "transfer": {"validation/loss": loss_of(trial.params) + 1},
        "finetune": {"validation/loss": loss_of(trial.params)},
    }


def search(until, killed_at=-1):
    """Search up to `until` trials; the process is gone in the middle of number `killed_at`."""
    study = sweep_search.open_study(STORAGE, "name")
    left = sweep_search.unfinished_trials(study, SPACE)
    while left or sweep_search.count(study) < until:
        trial = left.pop(0) if left else sweep_search.next_trial(study, SPACE, seed=1, parallel=False)
        if trial.number == killed_at:
            break
        sweep_search.tell(study, trial, record_of(trial))
    return [trial.params for trial in study.trials if trial.params]


def test_the_space_is_what_hydras_overrides_say():
    assert FIXED == ["transfer.epochs=1"]
    assert SPACE["finetune.learning_rate"] == optuna.distributions.FloatDistribution(1e-6, 1e-2, log=True)
    assert SPACE["model.cut_layer"] == optuna.distributions.CategoricalDistribution(["mixed5", "mixed6"])


@pytest.mark.long
def test_a_search_that_was_killed_tries_what_it_would_have_tried(tmp_path, monkeypatch):
    whole = search(until=14)
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    search(until=14, killed_at=5)
    search(until=14, killed_at=12)
    sweep_search.open_study(STORAGE, "name").ask()  # killed before it had its settings
    assert search(until=14) == whole
    assert len({str(params) for params in whole}) == 14
    study = sweep_search.open_study(STORAGE, "name")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 13 + ["FAIL", "COMPLETE"]
    assert sorted(sweep_search.told(study)) == [*range(13), 14]


def test_a_trial_worse_than_the_median_after_as_many_epochs_is_given_up():
    study = sweep_search.open_study(STORAGE, "name")
    for loss in (1.0, 2.0, 3.0):
        trial = sweep_search.next_trial(study, SPACE, seed=1, parallel=False)
        hopeless = sweep_search.reporter(STORAGE, "name", trial.number)
        assert not hopeless(1, loss), "three trials are needed to learn from"
        assert not hopeless(2, loss / 2)
        sweep_search.tell(
            study,
            trial,
            {"overrides": [], **{phase: {"validation/loss": loss / 2} for phase in ("transfer", "finetune")}},
        )
    trial = sweep_search.next_trial(study, SPACE, seed=1, parallel=True)
    assert not sweep_search.reporter(STORAGE, "name", trial.number)(1, 1.9)
    again = sweep_search.reporter(STORAGE, "name", trial.number)  # as after its process was killed
    assert not again(1, 1.9)
    assert again(2, 1.2), "the median after two epochs is 1.0"
    sweep_search.tell(study, trial, {"overrides": [], "pruned": "no hope"})
    failed = sweep_search.next_trial(study, SPACE, seed=1, parallel=True)
    sweep_search.tell(study, failed, {"overrides": [], "error": "no memory"})
    states = [trial.state.name for trial in sweep_search.open_study(STORAGE, "name").trials]
    assert states == ["COMPLETE"] * 3 + ["PRUNED", "FAIL"]


def test_a_deleted_study_names_its_trials():
    search(until=2)
    trials = sweep_search.delete_study(STORAGE, "name")
    assert len(trials) == 2
    assert all(overrides[0] == "transfer.epochs=1" for overrides in trials)
    assert sweep_search.told(sweep_search.open_study(STORAGE, "name")) == {}


def test_trials_that_failed_before_do_not_count_and_others_take_their_places(tmp_path):
    """By the sweeper itself, with a launcher that leaves what a trial would."""
    states = iter(["error", "error", "finetune", "finetune", "finetune"])
    asked = []

    class Launched:
        return_value = 0.0

    class Launcher:
        def launch(self, jobs, number):
            for place, job in enumerate(jobs, number):
                asked.append(job)
                figures = {phase: {"validation/loss": 0.5} for phase in ("transfer", "finetune")}
                found = figures if next(states) == "finetune" else {"error": "no space left"}
                write_json(tmp_path / f"out/{place}/trial.json", {"overrides": job, **found})
            return [Launched()] * len(jobs)

    def sweep():
        begin(tmp_path / "out", "group", "inputs")
        sweeper = OptunaSweeper(n_trials=3, n_jobs=1, seed=1, storage=STORAGE, params=None)
        sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "out")}}})
        sweeper.launcher = Launcher()
        sweeper.sweep(["finetune.learning_rate=interval(0,1)"])
        return ["error" in record for record in read_trials(tmp_path / "out")]

    assert sweep() == [True, True, False]
    assert sweep() == [False, False, False]
    assert len({str(job) for job in asked}) == 5, "others, not the same again"
    assert sweep() == [False, False, False]
    assert len(asked) == 5
