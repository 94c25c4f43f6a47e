"""The tags by which runs and registered models are found again."""

PHASE = "frostline.phase"
PIPELINE = "frostline.pipeline"
DATA = "frostline.data"
MODEL = "frostline.model"
VIEW = "mlflow.sharedViewState.figures"
"""Of our experiments."""
RESTORED = "frostline.restored"
TOKEN = "frostline.token"  # noqa: S105 - no secret: it tells which process made a run
