"""MLflow's model registry: each pipeline's classifier is a version of one registered model.

The alias `champion` is moved only where the paired test says that the new version is better on the same test images,
or where it is the champion with another threshold; otherwise the new version becomes the `challenger`.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from frostline.common.files import sha256_of
from frostline.common.phase_names import PhaseName
from frostline.config.paths import EVALUATION
from frostline.tracking.champion import Contest, challenge
from frostline.tracking.logged_model import send_model
from frostline.tracking.quiet_mlflow import mlflow
from frostline.tracking.runs import Run
from frostline.tracking.tags import MODEL, PHASE

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
_EVALUATION_RUN, _THRESHOLD = "frostline.evaluation_run", "frostline.threshold"
_PREDICTIONS = EVALUATION / "predictions.csv"


@dataclass(frozen=True)
class Candidate:
    """The better phase's model with its threshold, and where its figures come from."""

    model: Path
    trained: Path
    """The phase's own file, whose digest its run has as a tag, too."""
    phase: PhaseName
    threshold: float | None
    """That of `model`; None for more than two classes."""
    note: str
    """The verdict, Markdown."""


def register(
    run: Run, name: str, new: Candidate, classes: Sequence[str], *, example: np.ndarray, resamples: int, seed: int
) -> None:
    """Log the `new` model on `run`, make it a version of the registered model `name`, and give it its alias.

    `run`: the evaluation's, which has predictions.csv among its artifacts.
    Of `name`, what MLflow does not take in a name becomes "-". `example`: see `send_model`.

    A model is logged and registered once: a version of the same weights and threshold is taken again, with the figures
    of its newest evaluation.
    """
    digest, name = sha256_of(new.trained), re.sub(r"[/:'\"]", "-", name)
    identity = {MODEL: digest, _THRESHOLD: str(new.threshold)}

    def send() -> None:
        client = mlflow.MlflowClient()
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=f"Classifiers of {', '.join(classes)}.")
        clauses = [f"name = '{name}'", *(f"tags.`{key}` = '{value}'" for key, value in identity.items())]
        same = client.search_model_versions(" and ".join(clauses))
        tags = {**identity, PHASE: new.phase, _EVALUATION_RUN: run.id}
        if same:
            entry = same[0]
            for key, value in tags.items():
                client.set_model_version_tag(name, entry.version, key, value)
        else:
            logged = send_model(new.model, example, run.id)
            source = f"models:/{logged.model_id}"
            entry = client.create_model_version(name, source, run.id, tags, model_id=logged.model_id)
        _give_alias(name, entry, new, lambda champion: _contest(champion, new, classes, resamples, seed))

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
            outcome = Contest(True, "The champion's weights, with another threshold.")
        else:
            outcome = contest(champion)
    client.update_model_version(name, entry.version, f"{new.note}\n\n{outcome.reason}")
    client.set_registered_model_alias(name, CHAMPION if outcome.wins else CHALLENGER, entry.version)
    if outcome.wins and str(aliases.get(CHALLENGER)) == str(entry.version):
        client.delete_registered_model_alias(name, CHALLENGER)


def _contest(champion: "ModelVersion", new: Candidate, classes: Sequence[str], resamples: int, seed: int) -> Contest:
    with tempfile.TemporaryDirectory() as folder:
        artifact = f"{EVALUATION.name}/{_PREDICTIONS.name}"
        try:
            path = mlflow.MlflowClient().download_artifacts(champion.tags[_EVALUATION_RUN], artifact, folder)
        except (mlflow.exceptions.MlflowException, OSError, KeyError):
            return Contest(False, "The champion's predictions are not in the store any more: not comparable.")
        before, after = (Path(path), champion.tags[PHASE]), (_PREDICTIONS, new.phase)
        return challenge(before, after, classes, resamples=resamples, seed=seed)
