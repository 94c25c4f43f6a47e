"""What the two phases of the recipe are called, in files, settings, figures and MLflow."""

from typing import Literal, get_args

PhaseName = Literal["transfer", "finetune"]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
"""In the order in which they run."""
