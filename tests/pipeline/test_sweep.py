"""Sweeps for real, in a temporary clone: killed and gone on with, rebuilt by DVC, searched by Optuna, queued by DVC."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import mlflow
import pandas as pd
import pytest
import yaml

from clone import Clone, ran
from frostline.sweep.results import lowest_loss

pytestmark = [pytest.mark.slow, pytest.mark.long]

RATES = "finetune.learning_rate=1e-5,1e-3"
SMALL = ("model.cut_layer=mixed1", "transfer.epochs=1")  # what is quick to fine-tune
SEED = "seed=7"  # not that of the prepared splits, which the rebuilt winner keeps


class Sweeps(Clone):
    def sweep(self, *arguments, code=0):
        return self.python("-m", "frostline.sweep", "-m", *arguments, code=code)

    def kill_sweep_after(self, trials, *arguments):
        """Start a sweep, kill -9 it as soon as it has so many trials, and return its folder."""
        process = subprocess.Popen(
            [sys.executable, "-m", "frostline.sweep", "-m", *arguments],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        before, folder = set(self.folders()), None
        while folder is None or len(list(folder.glob("*/trial.json"))) < trials:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.1)
            folder = next(iter(set(self.folders()) - before), None)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        return folder

    def folders(self):
        return sorted((self.root / "multirun").glob("*/"))

    def trials(self, folder):
        paths = sorted(folder.glob("*/trial.json"), key=lambda path: int(path.parent.name))
        return [json.loads(path.read_text()) for path in paths]

    def stored(self):
        return {path.name: path.stat().st_mtime_ns for path in (self.root / ".frostline/trials").glob("*.json")}

    def below_sweeps(self):
        """The runs below each sweep's run, by its id."""
        parents = [run for run in self.runs() if run.info.run_name.endswith(" sweep")]
        tag = "mlflow.parentRunId"
        return {
            parent.info.run_id: [run for run in self.runs() if run.data.tags.get(tag) == parent.info.run_id]
            for parent in parents
        }


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = Sweeps(tmp_path_factory.mktemp("clone"))
    clone.dvc("repro", "preprocess", "fetch-weights")
    return clone


def test_a_killed_sweep_goes_on_where_it_stopped(clone):
    killed = clone.kill_sweep_after(1, *SMALL, RATES, SEED)
    before = clone.stored()
    assert len(before) == 1

    output = clone.sweep(*SMALL, RATES, SEED)
    folder = clone.folders()[-1]
    trials = clone.trials(folder)
    assert len(trials) == 2
    assert trials[0] == clone.trials(killed)[0]
    after = clone.stored()
    assert before.items() <= after.items(), "what was finished is not run again"
    assert sum(name.endswith(".test.json") for name in after) == 1, "the test set is for the winner alone"
    losses = [lowest_loss(trial) for trial in trials]
    winner = trials[losses.index(min(losses))]
    rate = next(part for part in winner["overrides"] if part.startswith("finetune.learning_rate"))
    after = [f"{winner[phase]['validation/loss']:.4f}" for phase in ("transfer", "finetune")]
    assert f"Best of 2 trials: {rate}, validation loss {after[0]} after transfer, {after[1]} after fine-" in output
    assert "On the test set, looked at once" in output
    assert trials[0]["transfer"] == trials[1]["transfer"]
    assert "transfer 1/1" not in output, "the trials share the phase that the killed process trained"


def test_mlflow_holds_one_run_for_the_sweep_and_one_for_each_trial(clone):
    ((parent_id, children),) = clone.below_sweeps().items()
    finished = [run for run in children if run.info.status == "FINISHED"]
    assert len(finished) == 2
    assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}
    assert not any(name.startswith("test/") for run in children for name in run.data.metrics)
    for run in finished:
        steps = mlflow.MlflowClient(f"sqlite:///{clone.root}/mlruns/mlflow.db").get_metric_history(
            run.info.run_id, "validation/loss"
        )
        assert [step.step for step in steps] == [1, 2]

    client = mlflow.MlflowClient(f"sqlite:///{clone.root}/mlruns/mlflow.db")
    parent = client.get_run(parent_id)
    assert parent.info.status == "FINISHED"
    assert {"validation/loss", "test/loss", "test/accuracy"} <= set(parent.data.metrics)
    assert parent.data.params["model.cut_layer"] == "mixed1"
    assert "finetune.learning_rate" not in parent.data.params, "its trials differ in it"
    assert "**Test set**, looked at once" in parent.data.tags["mlflow.note.content"]
    names = {artifact.path for artifact in client.list_artifacts(parent_id)}
    assert names == {"trials.csv", "settings.csv", "parallel_coordinates.png"}


def test_the_same_sweep_again_trains_nothing_and_says_the_same(clone):
    first, runs, stored = clone.folders()[-1], len(clone.runs()), clone.stored()
    output = clone.sweep(*SMALL, RATES, SEED)
    assert "finetune 1/1" not in output
    assert "features:" not in output
    again = clone.folders()[-1]
    assert again != first
    assert clone.stored() == stored
    assert len(clone.runs()) == runs
    for name in ("trials.csv", "settings.csv", "parallel_coordinates.png", "best.yaml"):
        assert (again / name).read_bytes() == (first / name).read_bytes()


def test_the_pipeline_rebuilds_the_winner_to_the_same_figures(clone):
    folder = clone.folders()[-1]
    winner = min(clone.trials(folder), key=lowest_loss)
    assert (folder / "best.yaml").read_bytes() == (clone.root / "conf/experiment/swept.yaml").read_bytes()
    assert ran(clone.dvc("exp", "run", "-S", "experiment=swept")) == ["transfer", "finetune", "evaluate"]
    for phase in ("transfer", "finetune"):
        expected = json.dumps(winner[phase], indent=2, sort_keys=True) + "\n"
        assert (clone.root / f"reports/{phase}.json").read_text() == expected
    (test,) = (clone.root / ".frostline/trials").glob("*.test.json")
    log_loss = json.loads(test.read_text())["loss"]
    figures = clone.json("reports/figures.json")
    assert figures[figures["verdict"]["chosen"]]["log_loss"] == pytest.approx(log_loss, rel=1e-4)


@pytest.mark.skipif(find_spec("optuna") is None, reason="needs the extra frostline[optuna]")
def test_a_killed_search_goes_on_with_the_trial_at_hand(clone):
    search = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        *SMALL,
        SEED,
        "transfer.learning_rate=1e-4",
        "model.dropout=0.2",
        "finetune.learning_rate=tag(log,interval(1e-6,1e-2))",
    ]
    killed = clone.kill_sweep_after(1, *search)
    before = clone.trials(killed)
    output = clone.sweep(*search)
    trials = clone.trials(clone.folders()[-1])
    assert len(trials) == 3
    assert trials[: len(before)] == before
    assert len({trial["trial"] for trial in trials}) == 3
    assert all(("finetune" in trial) != ("pruned" in trial) for trial in trials)
    assert "3 trials by validation loss" in output
    assert output.count("transfer 1/1") <= 1, "all trials share their transfer phase"


def test_queued_experiments_run_show_and_apply(clone):
    """The baseline is the rebuilt winner, so that only fine-tuning runs."""
    subprocess.run(["git", "add", "-A"], cwd=clone.root, check=True)
    subprocess.run(["git", "commit", "-qm", "winner"], cwd=clone.root, check=True, env=clone.environment)
    rates = ("0.0002", "0.0005")
    options = ["-S", "experiment=swept", "-S", f"finetune.learning_rate=choice({','.join(rates)})"]
    clone.dvc("exp", "run", "--queue", *options)
    logged = len(clone.phases("finetune"))
    output = clone.dvc("exp", "run", "--run-all")
    assert ran(output) == ["finetune", "evaluate"] * 2
    assert "features:" not in output, "queued experiments use the project's cache"
    assert len(clone.phases("finetune")) == logged + 2, "and log to its MLflow store"

    columns = ["--only-changed", "--drop", ".*/"]  # as README.md has it
    table = clone.run("env", "COLUMNS=120", sys.executable, "-m", "dvc", "exp", "show", *columns)
    assert "finetune.learning_rate" in table
    assert "…" not in table
    table = list(csv.DictReader(io.StringIO(clone.dvc("exp", "show", "--csv", "--only-changed"))))
    done = {row["finetune.learning_rate"]: row for row in table if row["State"] == "Success"}
    assert sorted(done) == sorted(rates)
    losses = {rate: float(row["finetune/log_loss"]) for rate, row in done.items()}
    assert len(set(losses.values())) == 2

    better = min(losses, key=losses.get)
    clone.dvc("exp", "apply", done[better]["Experiment"])
    params = yaml.safe_load((clone.root / "params.yaml").read_text())
    assert params["finetune"]["learning_rate"] == float(better)
    assert clone.json("reports/metrics.json")["finetune/log_loss"] == losses[better]
    assert ran(clone.dvc("repro")) == []


def test_a_single_trial_without_m_is_told_as_well(clone):
    output = clone.python("-m", "frostline.sweep", *SMALL, "finetune.learning_rate=1e-5")
    assert "Best of 1 trial: " in output
    assert "On the test set, looked at once" in output


STUDY = ("study=worth_it", "folds=3", "seed=1", "finetune.epochs=1", *SMALL)


def test_a_study_goes_on_where_it_stopped_and_is_answered(clone):
    killed = clone.kill_sweep_after(1, *STUDY)
    output = clone.sweep(*STUDY)
    assert output.count("transfer 1/1") == 2, "what has run is not run again"
    trials = clone.trials(clone.folders()[-1])
    assert len(trials) == 3
    assert trials[0] == clone.trials(killed)[0]
    folder = clone.root / "reports/studies/worth_it"
    study, said = json.loads((folder / "study.json").read_text()), pd.read_parquet(folder / "out_of_fold.parquet")
    assert f"{study['title']}. {study['text']}" in output
    assert "Report: reports/studies/worth_it/report.html" in output
    manifest = list(csv.DictReader((clone.root / "data/processed/manifest.csv").open(encoding="utf-8")))
    labelled = sorted(row["path"] for row in manifest if row["split"] in ("train", "validation", "test"))
    assert study["images"] == len(labelled)
    for _, of_phase in said.groupby("phase"):
        assert sorted(of_phase["image"]) == labelled, "each image is judged once by each phase"
    for fold, trial in enumerate(trials):
        for phase in ("transfer", "finetune"):
            assert study["phases"][phase]["validation_loss"] > 0
            assert trial[phase]["validation/loss"] > 0
        assert set(said[said["fold"] == fold]["image"]).isdisjoint(said[said["fold"] != fold]["image"])

    before = clone.stored()
    assert "transfer 1/1" not in clone.sweep(*STUDY)
    assert clone.stored() == before
    assert json.loads((folder / "study.json").read_text()) == study

    parents = [run for run in clone.runs() if study["title"] in run.data.tags.get("mlflow.note.content", "")]
    files = {file.path for run in parents for file in clone.client().list_artifacts(run.info.run_id)}
    assert {"report.html", "study.json", "out_of_fold.parquet"} <= files


RACE = ("study=auto", "folds=3", "model.cut_layer=mixed1,mixed2", "finetune.thaw_from=auto")
RACE = (*RACE, "transfer.epochs=1", "finetune.epochs=1")


def test_a_race_leaves_its_winner_as_a_recipe_and_the_test_set_alone(clone):
    output = clone.sweep(*RACE, "finetune.learning_rate=1e-5,1e-3")
    trials = clone.trials(clone.folders()[-1])
    assert [sum(f"fold={fold}" in trial["overrides"] for trial in trials) for fold in range(3)] == [4, 2, 2]
    folder = clone.root / "reports/studies/auto"
    study, said = json.loads((folder / "study.json").read_text()), pd.read_parquet(folder / "out_of_fold.parquet")
    assert "8 of 12 trainings of 4 settings were run" in output
    assert "8 of 12 trainings of 4 settings were run" in (folder / "report.html").read_text()
    manifest = list(csv.DictReader((clone.root / "data/processed/manifest.csv").open(encoding="utf-8")))
    assert set(said["image"]) == {row["path"] for row in manifest if row["split"] in ("train", "validation")}
    assert set(study["best"]) == {"model.cut_layer", "finetune.learning_rate"}
    swept = yaml.safe_load((clone.root / "conf/experiment/swept.yaml").read_text())
    assert swept["model"]["cut_layer"] == study["taken"]["model.cut_layer"]
    assert swept["finetune"]["learning_rate"] == float(study["taken"]["finetune.learning_rate"])
    assert (swept["fold"], swept["folds_of"]) == (None, "all")
    assert json.loads((clone.folders()[-1] / "winner.json").read_text()) == study["taken"]
    for words in ("The training and validation images are dealt out", "probabilities are calibrated on them, too"):
        assert words in (folder / "report.html").read_text()


def test_a_race_with_time_for_one_fold_says_that_it_may_be_chance(clone):
    output = clone.sweep(*RACE, "finetune.learning_rate=1e-4", "hydra.sweeper.time_limit=1s")
    assert "The time limit ended it in round 1 of 3." in output
    assert "There was time for one setting only: " in output
    assert not (clone.folders()[-1] / "winner.json").exists(), "one trial is no choice"


def test_the_audit_takes_what_a_study_found(clone):
    output = clone.python("-m", "frostline.cli", "audit")
    assert "study=worth_it" not in output, "nothing is left out for lack of a study"
    assert (clone.root / "reports/audit.csv").is_file()


def test_a_sweeps_mistakes_cost_one_line_and_no_training(clone):
    for arguments, word in (
        (["finetune.learning_rat=1e-5,1e-4"], "Did you mean 'finetune.learning_rate'"),
        (["transfer.epochs=1,0"], "transfer.epochs is 0"),
        (["data=sample,folder"], "dvc exp run"),
    ):
        output = clone.python("-m", "frostline.sweep", "-m", *arguments, code=1)
        assert word in output
        assert len(output.strip().splitlines()) <= 2


def test_a_trial_that_fails_does_not_stop_the_others_and_force_runs_all_again(clone):
    """The last test: mixed1 above mixed5 cannot be; the other trial has run before."""
    before = clone.stored()
    output = clone.sweep("--force", *SMALL, "finetune.thaw_from=mixed5,auto", "finetune.learning_rate=1e-5", code=1)
    trials = clone.trials(clone.folders()[-1])
    assert "above model.cut_layer" in trials[0]["error"]
    assert "failed: finetune.thaw_from is 'mixed5', above model.cut_layer='mixed1'" in output
    assert "finetune" in trials[1]
    assert "Best of 1 of 2 trials: " in output
    assert "error: 1 of 2 trials failed: finetune.thaw_from is 'mixed5'" in output
    assert "transfer 1/1" in output
    again = [name for name, time_written in clone.stored().items() if before.get(name, 0) != time_written]
    assert any(name in before for name in again), "the same trial, written again"
