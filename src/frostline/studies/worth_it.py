"""Was fine-tuning worth it, over images and the luck of training?"""

import numpy as np
from matplotlib.figure import Figure

from frostline.common.phase_names import PHASES
from frostline.metrics.comparison import CALLED
from frostline.report.style import COLOURS, EDGE
from frostline.report.style import NAMES as PHASE_NAMES
from frostline.studies.answer import (
    Answer,
    Tone,
    as_figures,
    beyond_guessing,
    guess_row,
    interval_text,
    learned_nothing,
    phase_figures,
)
from frostline.studies.collected import Collected
from frostline.studies.cross_validation import mean_difference


def worth_it(found: Collected) -> Answer:
    """Answer from a study of one point."""
    (point,) = found.points
    before, after = (point.losses[phase] for phase in PHASES)
    difference = mean_difference(after - before, found.folds)
    trainings = len(found.seeds) * len(np.unique(found.folds))
    basis = (
        f"{trainings} trainings of each phase, {len(found.images):,} images, each judged by models that never saw it"
    )
    tone: Tone = "indistinguishable"
    take = f"the {CALLED[point.phase]}"
    if learned_nothing(found, point):
        title = "Neither phase learned anything beyond guessing"
        advice = "Check the labels and the weights, or add images."
    elif difference.excludes_zero():
        tone = "better" if difference.mean < 0 else "worse"
        title = "Fine-tuning was worth it" if tone == "better" else "Fine-tuning made it worse"
        advice = f"Take the {CALLED['finetune' if tone == 'better' else 'transfer']}."
    else:
        title = "Too close to call"
        advice = f"Take {take}, whose validation loss is lower, or the simpler one: nobody can tell them apart here."
    hits = " → ".join(f"{point.hits[phase].mean():.3f}" for phase in PHASES)
    text = (
        f"{advice} Log loss {before.mean():.4f} → {after.mean():.4f}, a difference of {interval_text(difference)}; "
        f"accuracy {hits} ({basis})."
    )
    rows = [
        [
            PHASE_NAMES[phase],
            f"{point.losses[phase].mean():.4f}",
            f"{point.hits[phase].mean():.3f}",
            interval_text(beyond_guessing(found, point, phase)),
        ]
        for phase in PHASES
    ]
    return Answer(
        title,
        tone,
        text,
        columns=["", "Log loss ↓", "Accuracy ↑", "Log loss beside guessing"],
        rows=[*rows, guess_row(found)],
        draw=lambda figure: _draw(figure, found),
        chart="Each line is one training, judged on one fold: log loss after transfer and after fine-tuning.",
        figures={"difference": as_figures(difference), "phases": phase_figures(point), "take": point.phase},
    )


def _draw(figure: Figure, found: Collected) -> None:
    axes = figure.subplots()
    (point,) = found.points
    by_fold = [found.folds == fold for fold in np.unique(found.folds)]
    means = np.array([[point.losses[phase][:, images].mean(axis=1) for images in by_fold] for phase in PHASES])
    axes.plot([0, 1], means.reshape(2, -1), color=EDGE, linewidth=1)
    for place, phase in enumerate(PHASES):
        values = means[place].ravel()
        axes.plot(np.full(len(values), place), values, "o", color=COLOURS[phase], markersize=5)
        axes.plot([place - 0.12, place + 0.12], [values.mean()] * 2, color=COLOURS[phase], linewidth=3)
    axes.set_xticks([0, 1], [PHASE_NAMES[phase] for phase in PHASES])
    axes.set(xlim=(-0.4, 1.4), ylabel="Log loss of a fold's images")
