"""MLflow's model registry: each pipeline's classifier is a version of one registered model.

The alias `champion` is moved only where a paired test says that the new version is better on the same validation
images, or where it is the champion's weights with another threshold or temperature; otherwise the new version becomes
the `challenger`. Its description says what the test images say of that. A champion that was tested on other images
answers for these anew; where it cannot, a new line of versions begins.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.common.files import digest_of, sha256_of
from frostline.common.urls import hide_credentials
from frostline.config.paths import EVALUATION
from frostline.data.dataset import Dataset
from frostline.metrics.choice import Choice
from frostline.runtime.errors import FrostlineError
from frostline.tracking.champion import FILES, Contest, NotComparableError, answer_anew, challenge
from frostline.tracking.logged_model import send_model
from frostline.tracking.quiet_mlflow import mlflow
from frostline.tracking.runs import Pipeline, Run
from frostline.tracking.store import store
from frostline.tracking.tags import DATA, MODEL, PHASE

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
_EVALUATION_RUN, _THRESHOLD = "frostline.evaluation_run", "frostline.threshold"
_TEMPERATURE = "frostline.temperature"
_DESCRIPTION = "Classifiers of "
_LONGEST = 5000
"""Characters of a description that databases take which, unlike SQLite, mind."""


@dataclass(frozen=True)
class Candidate:
    """The chosen phase's model as it is used, and where its figures come from."""

    model: Path
    trained: Path
    """The phase's own file, whose digest its run has as a tag, too."""
    choice: Choice
    note: str
    """The verdict, Markdown."""


def register(run: Run, pipeline: Pipeline, new: Candidate, data: Dataset, *, resamples: int, seed: int) -> None:
    """Log the `new` model on `run`, make it a version of the data set's registered model, and give it its alias.

    `run`: the evaluation's in `pipeline`, which has the folder EVALUATION among its artifacts. `data`: the images that
    this is about.

    A model is logged and registered once: a version of the same weights, threshold and temperature is taken again, with
    the figures of its newest evaluation.
    """
    digest, name = sha256_of(new.trained), pipeline.experiment
    threshold = new.choice.threshold
    said = digest_of(threshold) if isinstance(threshold, Sequence) else str(threshold)  # a tag's text may not be long
    used = {_THRESHOLD: said, _TEMPERATURE: str(new.choice.temperature)}
    identity = {MODEL: digest, **used}

    def send() -> None:
        client = mlflow.MlflowClient()
        _describe(name, f"{_DESCRIPTION}{pipeline.settings['data.name']}: {', '.join(data.classes)}.")
        clauses = [f"name = '{name}'", *(f"tags.`{key}` = '{value}'" for key, value in identity.items())]
        same = client.search_model_versions(" and ".join(clauses))
        tags = {**identity, PHASE: new.choice.phase, _EVALUATION_RUN: run.id}
        if same:
            entry = same[0]
            for key, value in tags.items():
                client.set_model_version_tag(name, entry.version, key, value)
        else:
            logged = send_model(new.model, data.images("test")[0], run.id, evaluated=True)
            source = f"models:/{logged.model_id}"
            entry = client.create_model_version(name, source, run.id, tags, model_id=logged.model_id)
        _give_alias(name, entry, new, lambda champion: _contest(champion, pipeline, data, resamples, seed))

    place = hide_credentials(mlflow.get_registry_uri())
    elsewhere = "" if place == store() else f" in {place}, which MLFLOW_REGISTRY_URI names"
    run.outbox.put(f"registered model{elsewhere}", send)


def _describe(name: str, text: str) -> None:
    """Make the registered model `name`, and describe it by `text`, unless somebody has described it."""
    client, text = mlflow.MlflowClient(), text[:_LONGEST]
    found = client.search_registered_models(f"name = '{name}'")
    if not found:
        client.create_registered_model(name, description=text)
    elif (found[0].description or _DESCRIPTION).startswith(_DESCRIPTION):
        client.update_registered_model(name, text)


def _give_alias(name: str, entry: "ModelVersion", new: Candidate, contest: Callable[["ModelVersion"], Contest]) -> None:
    client = mlflow.MlflowClient()
    aliases = client.get_registered_model(name).aliases
    holder = aliases.get(CHAMPION)
    if holder is None:
        outcome = Contest(True, "The first version.")
    elif str(holder) == str(entry.version):
        outcome = Contest(True, "The champion, evaluated again.")
    else:
        champion = client.get_model_version(name, holder)
        if champion.tags.get(MODEL) == entry.tags[MODEL]:
            outcome = Contest(True, "The champion's weights, used with another threshold or temperature.")
        else:
            outcome = contest(champion)
    client.update_model_version(name, entry.version, f"{new.note}\n\n{outcome.reason}"[:_LONGEST])
    client.set_registered_model_alias(name, CHAMPION if outcome.wins else CHALLENGER, entry.version)
    if outcome.wins and str(aliases.get(CHALLENGER)) == str(entry.version):
        client.delete_registered_model_alias(name, CHALLENGER)


def _is_gone(error: Exception) -> bool:
    """Whether the artifacts that could not be had are there no more; else a disk or a connection has failed."""
    return bool(re.search("(?i)no such|not found|does not exist|404", f"{error} {error.__cause__}"))


def _contest(champion: "ModelVersion", pipeline: Pipeline, data: Dataset, resamples: int, seed: int) -> Contest:
    client = mlflow.MlflowClient()

    def compare(folder: Path) -> Contest:
        return challenge(folder, EVALUATION, data.classes, resamples=resamples, seed=seed)

    with tempfile.TemporaryDirectory() as name:
        folder, same_images = Path(name), False
        try:
            evaluation = client.get_run(champion.tags[_EVALUATION_RUN])
            same_images = evaluation.data.tags.get(DATA) == pipeline.data_digest  # in the same splits
            if same_images:
                for file in FILES.values():
                    path = client.download_artifacts(evaluation.info.run_id, f"{EVALUATION.name}/{file}", name)
                return compare(Path(path).parent)
        except (mlflow.exceptions.MlflowException, OSError, KeyError, NotComparableError):
            pass  # not there any more, or of an older form
        try:
            address = f"models:/{champion.name}/{champion.version}"
            model = Path(mlflow.artifacts.download_artifacts(address, dst_path=str(folder / "model")))
            (classifier,) = model.glob("data/*.keras")
            answer_anew(classifier, data, folder)
        except (mlflow.exceptions.MlflowException, OSError, ValueError, FrostlineError, NotComparableError) as error:
            client.get_model_version(champion.name, champion.version)  # raises where the store is away, not the model
            if isinstance(error, mlflow.exceptions.MlflowException | OSError) and not _is_gone(error):
                raise
            why = str(error) if isinstance(error, NotComparableError) else "its model cannot be had"
            told = f"version {champion.version}, the champion before, cannot be judged on these images"
            return Contest(True, f"A new line of versions begins: {told} ({why}).")
        outcome = compare(folder)
    seen = "" if same_images else ", some of which it may have been trained on"
    return Contest(outcome.wins, f"The champion was judged anew on these images{seen}. {outcome.reason}")
