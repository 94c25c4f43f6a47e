"""What a study answers, ready to be shown: a verdict, a table, a chart and the same as plain figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from frostline.common.phase_names import PHASES, PhaseName
from frostline.metrics.formatting import decimals, rounded, signed
from frostline.metrics.log_loss import log_losses
from frostline.studies.collected import Collected, Point
from frostline.studies.cross_validation import Estimate, mean_difference

Tone = Literal["better", "worse", "indistinguishable"]


@dataclass(frozen=True)
class Answer:
    """One study's answer."""

    title: str
    """In one clause, for somebody without statistics."""
    tone: Tone
    """Good news, bad news or neither: the page's colour."""
    text: str
    """What was found, how sure it is, and what to do."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """The table; of each row the first cell is its name."""
    draw: Callable[[Figure], None]
    """Draws the chart into an empty figure, 5 inches wide."""
    chart: str
    """What the chart shows, in a sentence."""
    figures: dict[str, Any]
    """The same as plain numbers, for study.json."""
    take: Mapping[str, str] | None = None
    """The values of the point to take, where the study chooses one."""
    notes: list[str] = field(default_factory=list)
    """What to keep in mind."""

    @property
    def sentence(self) -> str:
        return f"{self.title}. {self.text}"


def beyond_guessing(found: Collected, point: Point, phase: PhaseName) -> Estimate:
    """The log loss after `phase` minus that of saying the classes' shares to every image; below 0 where it learned."""
    guessed = log_losses(found.labels, found.shares)
    return mean_difference(point.losses[phase] - guessed, found.folds)


def learned_nothing(found: Collected, point: Point, phase: PhaseName | None = None) -> bool:
    """Whether the model after `phase`, by default the chosen one, is not better than guessing the classes' shares,
    beyond chance."""
    return beyond_guessing(found, point, phase or point.phase).high >= 0


def none_learned(found: Collected) -> bool:
    """Whether that is so of every model, the chosen ones and the others."""
    return all(learned_nothing(found, point, phase) for point in found.points for phase in PHASES)


def guess_row(found: Collected) -> list[str]:
    """Of the table of phases: what guessing the classes' shares would reach."""
    loss = float(np.mean(log_losses(found.labels, found.shares)))
    hits = float(np.mean(found.shares.argmax(axis=1) == found.labels))
    return ["guessing the classes' shares", f"{loss:.4f}", f"{hits:.3f}", ""]


def interval_text(estimate: Estimate) -> str:
    """``−0.034 (95% interval −0.051 to −0.018)``."""
    digits = decimals(estimate.mean, estimate.low, estimate.high)
    low, high = signed(estimate.low, digits), signed(estimate.high, digits)
    return f"{signed(estimate.mean, digits)} (95% interval {low} to {high})"


def as_figures(estimate: Estimate) -> dict[str, float]:
    """`estimate` for study.json."""
    return {
        "mean": rounded(estimate.mean),
        "low": rounded(estimate.low),
        "high": rounded(estimate.high),
        "standard_error": rounded(estimate.standard_error),
        "p": rounded(estimate.p_value),
    }


def phase_figures(point: Point) -> dict[str, dict[str, float]]:
    """By phase, the point's mean log loss and accuracy on images that its models never saw, and its validation loss."""
    return {
        phase: {
            "log_loss": rounded(float(point.losses[phase].mean())),
            "accuracy": rounded(float(point.hits[phase].mean())),
            "validation_loss": rounded(point.validation[phase]),
        }
        for phase in PHASES
    }


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
