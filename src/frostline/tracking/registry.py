"""MLflow's model registry: each pipeline's classifier is a version of one registered model.

The alias `champion` is moved only where a paired test says that the new version is better on the same validation
images, or where it is the champion's weights with another threshold or temperature; otherwise the new version becomes
the `challenger`. Its description says what the test images say of that.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from frostline.common.files import sha256_of
from frostline.config.paths import EVALUATION
from frostline.metrics.choice import Choice
from frostline.tracking.champion import FILES, Contest, challenge
from frostline.tracking.logged_model import send_model
from frostline.tracking.quiet_mlflow import mlflow
from frostline.tracking.runs import Run
from frostline.tracking.tags import MODEL, PHASE

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
_EVALUATION_RUN, _THRESHOLD = "frostline.evaluation_run", "frostline.threshold"
_TEMPERATURE = "frostline.temperature"


@dataclass(frozen=True)
class Candidate:
    """The chosen phase's model as it is used, and where its figures come from."""

    model: Path
    trained: Path
    """The phase's own file, whose digest its run has as a tag, too."""
    choice: Choice
    note: str
    """The verdict, Markdown."""


def register(
    run: Run, name: str, new: Candidate, classes: Sequence[str], *, example: np.ndarray, resamples: int, seed: int
) -> None:
    """Log the `new` model on `run`, make it a version of the registered model `name`, and give it its alias.

    `run`: the evaluation's, which has the folder EVALUATION among its artifacts.
    Of `name`, what MLflow does not take in a name becomes "-". `example`: see `send_model`.

    A model is logged and registered once: a version of the same weights, threshold and temperature is taken again, with
    the figures of its newest evaluation.
    """
    digest, name = sha256_of(new.trained), re.sub(r"[/:'\"]", "-", name)
    threshold = new.choice.threshold if len(classes) == 2 else None
    used = {_THRESHOLD: str(threshold), _TEMPERATURE: str(new.choice.temperature)}
    identity = {MODEL: digest, **used}

    def send() -> None:
        client = mlflow.MlflowClient()
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=f"Classifiers of {', '.join(classes)}.")
        clauses = [f"name = '{name}'", *(f"tags.`{key}` = '{value}'" for key, value in identity.items())]
        same = client.search_model_versions(" and ".join(clauses))
        tags = {**identity, PHASE: new.choice.phase, _EVALUATION_RUN: run.id}
        if same:
            entry = same[0]
            for key, value in tags.items():
                client.set_model_version_tag(name, entry.version, key, value)
        else:
            logged = send_model(new.model, example, run.id, evaluated=True)
            source = f"models:/{logged.model_id}"
            entry = client.create_model_version(name, source, run.id, tags, model_id=logged.model_id)
        _give_alias(name, entry, new, lambda champion: _contest(champion, classes, resamples, seed))

    run.outbox.put("registered model", send)


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
    client.update_model_version(name, entry.version, f"{new.note}\n\n{outcome.reason}")
    client.set_registered_model_alias(name, CHAMPION if outcome.wins else CHALLENGER, entry.version)
    if outcome.wins and str(aliases.get(CHALLENGER)) == str(entry.version):
        client.delete_registered_model_alias(name, CHALLENGER)


def _contest(champion: "ModelVersion", classes: Sequence[str], resamples: int, seed: int) -> Contest:
    client = mlflow.MlflowClient()
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in FILES.values():
                path = client.download_artifacts(champion.tags[_EVALUATION_RUN], f"{EVALUATION.name}/{name}", folder)
            return challenge(Path(path).parent, EVALUATION, classes, resamples=resamples, seed=seed)
        except (mlflow.exceptions.MlflowException, OSError, KeyError):
            return Contest(False, "The champion's predictions are not in the store any more, or of an older form.")
