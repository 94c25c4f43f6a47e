"""Versions and aliases in a real SQLite store."""

import errno
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest

from frostline.config.load import compose_conf
from frostline.config.paths import EVALUATION
from frostline.data.dataset import Dataset, images_file, labels_file
from frostline.models.saving import load_metadata, save_for_use
from frostline.tracking import runs
from frostline.tracking.champion import FILES
from frostline.tracking.logged_model import logged_models
from frostline.tracking.registry import Candidate, register
from results import chosen, noisy, write_answers
from zips import write_model_like

pytestmark = pytest.mark.slow

NAME = "frostline-sample"
CLASSES = ("c0", "c1")
LABELS, GOOD = noisy(200, 1.0)
BAD = np.full_like(GOOD, 0.5)
NAMES = [f"{row}.jpg" for row in range(200)]
BRIGHT = np.broadcast_to((40 + 160 * LABELS)[:, None, None, None], (200, 8, 8, 3)).astype(np.uint8)
"""Images that are brighter where they are of the second class."""


@pytest.fixture
def pipeline(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlruns/mlflow.db")
    return runs.open_pipeline(compose_conf(), "data digest")


def data_of(names, classes=CLASSES, size=8):
    """The same images, as validation and as test images."""
    folder = Path("processed")
    folder.mkdir(exist_ok=True)
    for split in ("validation", "test"):
        np.save(folder / images_file(split), BRIGHT[:, :1, :1].repeat(size, 1).repeat(size, 2))
        np.save(folder / labels_file(split), LABELS.astype(np.uint8))
    return Dataset(folder, tuple(classes), "digest", {"validation": names, "test": names}, "digest")


def model_of_brightness(weight):
    """A real model's file: the brighter the image, the likelier the second class."""
    from frostline.models.saving import save_model
    from frostline.runtime.quiet_tensorflow import keras

    image = keras.Input((8, 8, 3))
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 80, -1.5)(image))
    answer = keras.layers.Dense(1, "sigmoid")
    model = keras.Model(image, answer(mean))
    answer.set_weights([np.full((3, 1), weight / 3), np.zeros(1)])
    save_model(model, Path("made.keras"), CLASSES)
    return Path("made.keras").read_bytes()


def evaluate(pipeline, content, probabilities, threshold=0.5, temperature=1.0, names=None, data=None, as_used=None):
    """What the stage does for a fine-tuned model: its predictions are logged, then it is; return the run's id."""
    trained, model = Path("finetune.keras"), Path("model.keras")
    write_model_like(trained, content, CLASSES)
    if as_used:
        model.write_bytes(as_used)
    else:
        save_for_use(trained, model, threshold=threshold, temperature=temperature)
    with runs.phase_run("evaluate", pipeline) as run:
        EVALUATION.mkdir(parents=True, exist_ok=True)
        for name in FILES.values():
            write_answers(EVALUATION / name, LABELS, probabilities, names=names)
        run.log_files(EVALUATION)
        new = Candidate(model, trained, chosen("finetune", temperature, threshold), "**verdict**")
        register(run, pipeline, new, data or data_of(names or NAMES), resamples=300, seed=1)
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

    evaluate(pipeline, b"better", GOOD)
    aliases, reasons = state()
    assert aliases == {"champion": "2"}
    assert reasons["2"].startswith("Better than the champion on the same 200 validation images")

    evaluate(pipeline, b"worse", BAD)
    aliases, reasons = state()
    assert aliases == {"champion": "2", "challenger": "3"}
    assert reasons["3"].startswith("Not better than the champion beyond chance")


@pytest.mark.long
def test_a_champion_of_other_images_is_judged_anew_on_these(pipeline):
    others = [f"other{row}.jpg" for row in range(200)]
    evaluate(pipeline, b"of brightness", GOOD, names=others, as_used=model_of_brightness(3.0))
    evaluate(pipeline, b"no better", BAD)
    aliases, reasons = state()
    assert aliases == {"champion": "1", "challenger": "2"}
    assert reasons["2"].startswith("The champion was judged anew on these images. Not better than the champion beyond")
    assert "log loss 0.049 → 0.693" in reasons["2"], "it is sure of each by the sigmoid of 3"

    evaluate(pipeline, b"nor this", BAD, data=data_of(NAMES, size=9))
    assert state()[0] == {"champion": "1", "challenger": "3"}, "images may have another size"

    sure = np.stack([1 - LABELS, LABELS], axis=1) * 0.998 + 0.001
    evaluate(replace(pipeline, data_digest="in other splits"), b"the best", sure)
    aliases, reasons = state()
    assert aliases["champion"] == "4"
    assert reasons["4"].startswith(
        "The champion was judged anew on these images, some of which it may have been trained on. Better than"
    )


@pytest.mark.long
def test_images_of_the_same_names_may_be_others(pipeline):
    evaluate(pipeline, b"of brightness", GOOD, as_used=model_of_brightness(3.0))
    evaluate(replace(pipeline, data_digest="other pixels", key="another"), b"better than the answers of then", GOOD)
    told = "The champion was judged anew on these images, some of which it may have been trained on. "
    assert state()[1]["2"].startswith(told)


@pytest.mark.long
def test_where_the_champion_cannot_be_judged_a_new_line_begins_and_says_so(pipeline):
    evaluate(pipeline, b"of brightness", GOOD, as_used=model_of_brightness(3.0))
    others = [f"other{row}.jpg" for row in range(200)]
    evaluate(pipeline, b"others", BAD, names=others, data=data_of(others, classes=["bird", "c1"]))
    aliases, reasons = state()
    assert aliases == {"champion": "2"}
    assert reasons["2"] == (
        "A new line of versions begins: version 1, the champion before, cannot be judged on these images "
        "(it tells other classes apart: c0, c1)."
    )
    assert mlflow.MlflowClient().get_registered_model(NAME).description == "Classifiers of sample: bird, c1."

    evaluate(pipeline, b"third", BAD)  # the second's file is no model
    aliases, reasons = state()
    assert aliases == {"champion": "3"}
    assert reasons["3"].startswith("A new line of versions begins: version 2, ")
    assert reasons["3"].endswith(" (its model cannot be had).")


@pytest.mark.long
def test_a_disk_that_is_full_moves_no_champion(pipeline, monkeypatch):
    evaluate(pipeline, b"of brightness", GOOD, as_used=model_of_brightness(3.0))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", full)
    evaluate(pipeline, b"others", BAD, names=[f"other{row}.jpg" for row in range(200)])
    assert str(mlflow.MlflowClient().get_registered_model(NAME).aliases["champion"]) == "1"


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "called"),
    [("개와 고양이", "개와 고양이"), ("a/b:c", "a-b-c"), ('it\'s "so"', "it-s -so-"), ("x" * 300, "x" * 246)],
)
def test_each_data_set_has_an_experiment_and_a_registered_model_of_its_own(pipeline, name, called):
    settings = compose_conf()
    named = runs.open_pipeline(replace(settings, data=replace(settings.data, name=name)), "data digest")
    evaluate(named, b"a model", GOOD)
    evaluate(pipeline, b"of other data", GOOD)
    client = mlflow.MlflowClient()
    registered = {model.name: model.description for model in client.search_registered_models()}
    assert registered == {
        f"frostline-{called}": f"Classifiers of {name}: c0, c1.",
        NAME: "Classifiers of sample: c0, c1.",
    }
    assert {client.get_experiment(each.experiment_id).name for each in (named, pipeline)} == set(registered)


@pytest.mark.long
def test_a_description_that_somebody_wrote_stays(pipeline):
    evaluate(pipeline, b"first", GOOD)
    mlflow.MlflowClient().update_registered_model(NAME, "Ours.")
    evaluate(pipeline, b"second", GOOD)
    assert mlflow.MlflowClient().get_registered_model(NAME).description == "Ours."


@pytest.mark.long
def test_a_model_is_registered_once_and_can_be_loaded_from_there(pipeline):
    first, second = (evaluate(pipeline, b"a model", GOOD) for _ in range(2))
    assert [len(logged_models(run)) for run in (first, second)] == [1, 0], "nor is it logged twice"
    assert state() == ({"champion": "1"}, {"1": "The champion, evaluated again."})
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion"))
    assert load_metadata(folder / "data" / "model.keras").threshold == 0.5


@pytest.mark.long
def test_the_champion_with_another_threshold_or_temperature_is_the_champion(pipeline):
    """As the report decides by it; the log loss, which the paired test compares, is the same."""
    evaluate(pipeline, b"a model", GOOD)
    evaluate(pipeline, b"a model", GOOD, threshold=0.3)
    aliases, reasons = state()
    assert aliases == {"champion": "2"}
    assert reasons["2"] == "The champion's weights, used with another threshold or temperature."
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion"))
    assert load_metadata(folder / "data" / "model.keras").threshold == 0.3
    evaluate(pipeline, b"a model", GOOD)
    assert state()[0] == {"champion": "1"}
    evaluate(pipeline, b"a model", GOOD, temperature=1.5)
    assert state()[0] == {"champion": "3"}


@pytest.mark.long
def test_a_challenger_that_is_better_now_becomes_champion_and_challenger_no_more(pipeline):
    evaluate(pipeline, b"first", BAD)
    evaluate(pipeline, b"second", BAD)
    assert state()[0] == {"champion": "1", "challenger": "2"}
    evaluate(pipeline, b"second", GOOD)  # say, its test images were chosen anew
    assert state()[0] == {"champion": "2"}


@pytest.mark.long
def test_a_champion_whose_predictions_are_gone_is_judged_anew(pipeline):
    evaluate(pipeline, b"first", BAD, as_used=model_of_brightness(3.0))
    for path in Path("mlruns").rglob("predictions.csv"):
        path.unlink()
    evaluate(pipeline, b"second", GOOD)
    aliases, reasons = state()
    assert aliases == {"champion": "1", "challenger": "2"}
    assert reasons["2"].startswith("The champion was judged anew")


@pytest.mark.long
def test_a_registry_elsewhere_that_is_away_is_named_and_the_run_ends(pipeline, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://someone:s3cret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = evaluate(pipeline, b"first", GOOD)
    assert mlflow.get_run(run).info.status == "FINISHED"
    warning = capfd.readouterr().err
    assert "registered model in http://127.0.0.1:9, which MLFLOW_REGISTRY_URI names (nothing listens there" in warning
    assert "s3cret" not in warning
