"""MLflow's model registry: each pipeline's winner is a version of one registered model.

The alias `champion` is moved only where the paired test says that the new version is better on the same test pictures;
otherwise the new version becomes the `challenger`.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from frostline.common.files import sha256_of
from frostline.config.paths import EVALUATION
from frostline.tracking.champion import Contest, challenge
from frostline.tracking.logged_model import logged_models
from frostline.tracking.runs import MODEL, PHASE, log

CHAMPION, CHALLENGER = "champion", "challenger"
_EVALUATION_RUN = "frostline.evaluation_run"
_PREDICTIONS = EVALUATION / "predictions.csv"


@dataclass(frozen=True)
class Winner:
    """The better phase's model, and where its figures come from."""

    model: Path
    phase: str
    run: Callable[[], str]
    """Gives the id of the run that made it."""
    evaluation_run: str
    """The id of the run that has predictions.csv among its artifacts."""
    note: str
    """The verdict, Markdown."""


def register(name: str, winner: Winner, classes: Sequence[str], *, resamples: int, seed: int) -> None:
    """Make the `winner`, whose model is logged, a version of the registered model `name`, and give it its alias.

    Of `name`, what MLflow does not take in a name becomes "-".

    A model is registered once: a version of the same file is taken again, with the figures of its newest evaluation.
    """
    digest, name = sha256_of(winner.model), re.sub(r"[/:'\"]", "-", name)

    def send() -> None:
        client, run_id = mlflow.MlflowClient(), winner.run()
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=f"Classifiers of {', '.join(classes)}.")
        same = client.search_model_versions(f"name = '{name}' and tags.`{MODEL}` = '{digest}'")
        tags = {MODEL: digest, PHASE: winner.phase, _EVALUATION_RUN: winner.evaluation_run}
        if same:
            entry = same[0]
            for key, value in tags.items():
                client.set_model_version_tag(name, entry.version, key, value)
        else:
            (logged, *_) = logged_models(run_id)
            source = f"models:/{logged.model_id}"
            entry = client.create_model_version(name, source, run_id, tags, model_id=logged.model_id)
        _give_alias(name, entry, winner, lambda champion: _contest(champion, winner, classes, resamples, seed))

    log("registered model", send)


def _give_alias(name: str, entry: ModelVersion, winner: Winner, contest: Callable[[ModelVersion], Contest]) -> None:
    client = mlflow.MlflowClient()
    aliases = client.get_registered_model(name).aliases
    holder = aliases.get(CHAMPION)
    if holder is None:
        outcome = Contest(True, "The first version.")
    elif str(holder) == str(entry.version):
        outcome = Contest(True, "The champion, evaluated again.")
    else:
        outcome = contest(client.get_model_version(name, holder))
    client.update_model_version(name, entry.version, f"{winner.note}\n\n{outcome.reason}")
    client.set_registered_model_alias(name, CHAMPION if outcome.wins else CHALLENGER, entry.version)
    if outcome.wins and str(aliases.get(CHALLENGER)) == str(entry.version):
        client.delete_registered_model_alias(name, CHALLENGER)


def _contest(champion: ModelVersion, winner: Winner, classes: Sequence[str], resamples: int, seed: int) -> Contest:
    with tempfile.TemporaryDirectory() as folder:
        artifact = f"{EVALUATION.name}/{_PREDICTIONS.name}"
        try:
            path = mlflow.MlflowClient().download_artifacts(champion.tags[_EVALUATION_RUN], artifact, folder)
        except (MlflowException, OSError, KeyError):
            return Contest(False, "The champion's predictions are not in the store any more: not comparable.")
        before, after = (Path(path), champion.tags[PHASE]), (_PREDICTIONS, winner.phase)
        return challenge(before, after, classes, resamples=resamples, seed=seed)
