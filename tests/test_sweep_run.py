"""The command `python -m frostline.sweep`, on real images and a real backbone, the smallest."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.config.load import composition
from frostline.config.paths import BACKBONE_WEIGHTS, WORK
from frostline.runtime.errors import FrostlineError
from frostline.sweep import run as sweep_run
from frostline.sweep.run import run
from small import SIZE
from tracked import write_tracked

pytestmark = pytest.mark.slow

SMALL = (
    "model.cut_layer=mixed1",
    "finetune.thaw_from=mixed0",
    "model.dense_units=8",
    "transfer.epochs=1",
    "finetune.epochs=1",
)


@pytest.fixture(scope="module")
def folder(lay_prepared, tmp_path_factory):
    """A project with prepared data, for all tests of this module."""
    folder = tmp_path_factory.mktemp("sweeps")
    write_tracked(folder, "conf", "dvc.yaml")
    (folder / "params.yaml").write_text(composition([f"preprocess.image_size={SIZE}"], folder / "conf"))
    lay_prepared(folder)
    return folder


@pytest.fixture
def sweep(folder, monkeypatch):
    """Runs it in a process of its own, as Hydra takes over the logs; what it says."""
    monkeypatch.chdir(folder)

    def sweep(*overrides, code=0, before=""):
        command = f"{before}\nimport runpy; runpy.run_module('frostline.sweep', run_name='__main__')"
        asked = [sys.executable, "-c", command, "-m", *SMALL, *overrides]
        done = subprocess.run(asked, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return sweep


@pytest.fixture
def refused(folder, monkeypatch):
    """Gives both lines of the error, of a sweep that does not begin."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["sweep"])

    def refused(*overrides):
        with pytest.raises(FrostlineError) as raised:
            run(["-m", *SMALL, *overrides])
        first, second = str(raised.value).splitlines()
        return first, second

    return refused


def rows(folder):
    return list(csv.DictReader((folder / "trials.csv").open()))


@pytest.mark.long
def test_only_what_was_asked_for_is_ranked_whatever_the_folder_holds(sweep):
    folder = Path("multirun/my sweep (1), b")
    there = f"hydra.sweep.dir='{folder}'"
    assert "by 16 validation images" in sweep("finetune.learning_rate=1e-5,1.1e-5", there)
    assert len(rows(folder)) == 2
    (folder / "winner.json").write_text("{}")
    (folder / "race.json").write_text('{"compared": [1], "notes": []}')
    assert "Best of 1 trial: " in sweep("finetune.learning_rate=1e-5", there)
    assert len(rows(folder)) == 1
    assert not (folder / "winner.json").exists()
    assert not (folder / "race.json").exists()


@pytest.mark.long
def test_a_folds_test_images_do_not_say_which_settings_are_close(sweep):
    said = sweep("finetune.learning_rate=1e-5,1.1e-5", "fold=0", "hydra.sweep.dir=multirun/fold")
    assert "Best of 2 trials: " in said
    assert "validation images" not in said


@pytest.mark.parametrize(
    ("overrides", "one", "other"),
    [
        (["evaluate.threshold=0.3,0.7", "seed=1,2"], "evaluate.threshold=0.3", "evaluate.threshold=0.7"),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (
                (["feature_cache_gib=1,2"], "feature_cache_gib=1", "feature_cache_gib=2"),
                (["checkpoint_every=1,2"], "checkpoint_every=1", "checkpoint_every=2"),
                (["tracking.experiment=a,b", "model.dropout=0,0.5"], "tracking.experiment=a", "tracking.experiment=b"),
                (["evaluate.calibrate=none,temperature"], "evaluate.calibrate=none", "evaluate.calibrate=temperature"),
                (
                    [
                        *("hydra/sweeper=optuna", "finetune.learning_rate=interval(1e-5,1e-3)"),
                        "evaluate.threshold=0.3,0.7",
                    ],
                    "evaluate.threshold=0.3",
                    "evaluate.threshold=0.7",
                ),
            )
        ),
    ],
)
def test_settings_on_which_no_trial_depends_are_not_ranked(refused, overrides, one, other):
    if "hydra/sweeper=optuna" in overrides:
        pytest.importorskip("optuna")
    first, second = refused(*overrides)
    assert first.startswith(f"no trial depends on what differs between {one} and {other}: ")
    assert second.startswith(f"Give {one.partition('=')[0]} one value")


def test_two_sweeps_are_not_in_one_folder_at_once(refused):
    with sweep_run._alone_in(Path("multirun/one")):
        first, second = refused("seed=1,2", "hydra.sweep.dir=multirun/one")
    assert first == "another sweep runs in multirun/one."
    assert "hydra.sweep.dir" in second


def test_nor_is_the_same_search_in_two(refused, monkeypatch):
    """Both would try the trials that the other one is at."""
    monkeypatch.setattr(sweep_run, "digest_of", lambda facts: "0" * 32)
    with sweep_run._alone_in(WORK / "searches" / ("0" * 16)):
        first, second = refused("hydra/sweeper=optuna", "model.dropout=0.2,0.5", "hydra.sweep.dir=multirun/two")
    assert first == "the same search runs already."
    assert "n_jobs" in second


CHANGED = """
from contextlib import contextmanager
from frostline.config.paths import BACKBONE_WEIGHTS
from frostline.sweep import table

@contextmanager
def watching(*_):
    BACKBONE_WEIGHTS.open("ab").write(b"other")
    yield

table.watching = watching
"""
"""`dvc repro fetch-weights` ends just after the sweep has looked at the weights."""


@pytest.mark.long
def test_trials_of_two_data_sets_are_not_ranked_together(sweep, folder, weights):
    try:
        said = sweep("seed=1,2", "hydra.sweep.dir=multirun/changed", code=1, before=CHANGED)
    finally:
        shutil.copy(weights, folder / BACKBONE_WEIGHTS)
    first, second = said.strip().splitlines()[-2:]
    assert first.startswith("error: ") and "has changed since the sweep began" in first
    assert "the same command again" in second
    trials = [path.read_text() for path in (folder / "multirun/changed").glob("*/trial.json")]
    assert len(trials) == 2
    assert all("has changed since the sweep began" in trial for trial in trials), "none was trained"
