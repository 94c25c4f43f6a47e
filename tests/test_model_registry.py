"""Versions and aliases in a real SQLite store."""

import json
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pytest

from frostline.common.files import zip_entry
from frostline.config.load import compose_conf
from frostline.config.paths import EVALUATION
from frostline.models.saving import load_metadata, save_for_use
from frostline.tracking import runs
from frostline.tracking.champion import FILES
from frostline.tracking.logged_model import logged_models
from frostline.tracking.registry import Candidate, register
from results import chosen, noisy, write_answers

pytestmark = pytest.mark.slow

NAME = "frostline-sample"
LABELS, GOOD = noisy(200, 1.0)
BAD = np.full_like(GOOD, 0.5)
PIXELS = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def pipeline(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlruns/mlflow.db")
    return runs.open_pipeline(compose_conf(), "data digest")


def write_file(path, content):
    """What of a model file is read here: the names of its classes, and `content` in the place of weights."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zip_entry("metadata.json"), json.dumps({"classes": ["c0", "c1"]}))
        archive.writestr(zip_entry("model.weights.h5"), content)


def threshold_in_use():
    """The threshold of the champion's file."""
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion"))
    return load_metadata(folder / "data/model.keras").threshold


def evaluate(
    pipeline,
    content,
    probabilities,
    threshold=0.5,
    temperature=1.0,
    **options,
):
    """What the stage does for a fine-tuned model: its predictions are logged, then it is; return the run's id."""
    trained, model = Path("finetune.keras"), Path("model.keras")
    write_file(trained, content)
    save_for_use(trained, model, threshold=threshold, temperature=temperature)
    with runs.phase_run("evaluate", pipeline) as run:
        EVALUATION.mkdir(parents=True, exist_ok=True)
        for name in FILES.values():
            write_answers(EVALUATION / name, LABELS, probabilities, **options)
        run.log_files(EVALUATION)
        new = Candidate(model, trained, chosen("finetune", temperature, threshold), "**verdict**")
        register(run, NAME, new, ["c0", "c1"], example=PIXELS, resamples=300, seed=1)
    return run.id


def state():
    """The aliases, and each version's last paragraph."""
    client = mlflow.MlflowClient()
    versions = client.search_model_versions(f"name = '{NAME}'")
    aliases = {alias: str(version) for alias, version in client.get_registered_model(NAME).aliases.items()}
    return aliases, {str(entry.version): entry.description.split("\n\n")[1] for entry in versions}


def test_the_champion_changes_only_for_a_better_model_on_the_same_images(pipeline):
    evaluate(pipeline, b"first", BAD)
    assert state() == ({"champion": "1"}, {"1": "The first version."})

    evaluate(pipeline, b"other images", GOOD, names=[f"other{n}" for n in range(200)])
    aliases, reasons = state()
    assert aliases == {"champion": "1", "challenger": "2"}
    assert reasons["2"] == "The champion has other validation images: not comparable."

    evaluate(pipeline, b"better", GOOD)
    aliases, reasons = state()
    assert aliases == {"champion": "3", "challenger": "2"}
    assert reasons["3"].startswith("Better than the champion on the same 200 validation images")

    evaluate(pipeline, b"worse", BAD)
    aliases, reasons = state()
    assert aliases == {"champion": "3", "challenger": "4"}
    assert reasons["4"].startswith("Not better than the champion beyond chance")


def test_a_model_is_registered_once_and_can_be_loaded_from_there(pipeline):
    first, second = (evaluate(pipeline, b"a model", GOOD) for _ in range(2))
    assert [len(logged_models(run)) for run in (first, second)] == [1, 0], "nor is it logged twice"
    assert state() == ({"champion": "1"}, {"1": "The champion, evaluated again."})
    assert threshold_in_use() == 0.5


def test_the_champion_with_another_threshold_or_temperature_is_the_champion(pipeline):
    """As the report decides by it; the log loss, which the paired test compares, is the same."""
    evaluate(pipeline, b"a model", GOOD)
    evaluate(pipeline, b"a model", GOOD, threshold=0.3)
    aliases, reasons = state()
    assert aliases == {"champion": "2"}
    assert reasons["2"] == "The champion's weights, used with another threshold or temperature."
    assert threshold_in_use() == 0.3
    evaluate(pipeline, b"a model", GOOD)
    assert state()[0] == {"champion": "1"}
    evaluate(pipeline, b"a model", GOOD, temperature=1.5)
    assert state()[0] == {"champion": "3"}


def test_a_challenger_that_is_better_now_becomes_champion_and_challenger_no_more(pipeline):
    evaluate(pipeline, b"first", BAD)
    evaluate(pipeline, b"second", BAD)
    assert state()[0] == {"champion": "1", "challenger": "2"}
    evaluate(pipeline, b"second", GOOD)  # say, its test images were chosen anew
    assert state()[0] == {"champion": "2"}


def test_a_champion_whose_predictions_are_gone_stays(pipeline):
    evaluate(pipeline, b"first", BAD)
    for path in Path("mlruns").rglob("predictions.csv"):
        path.unlink()
    evaluate(pipeline, b"second", GOOD)
    aliases, reasons = state()
    assert aliases == {"champion": "1", "challenger": "2"}
    assert "not in the store any more" in reasons["2"]
