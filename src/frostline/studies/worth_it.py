"""Was fine-tuning worth it, over images and the luck of training?"""

import numpy as np
from matplotlib.figure import Figure

from frostline.common.phase_names import PHASES, PhaseName
from frostline.metrics.choice import why_chosen
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
    none_learned,
    phase_figures,
)
from frostline.studies.collected import Collected, Point
from frostline.studies.cross_validation import Estimate, mean_difference


def worth_it(found: Collected) -> Answer:
    """Answer from a study of one point."""
    (point,) = found.points
    before, after = (point.losses[phase] for phase in PHASES)
    difference = mean_difference(after - before, found.folds)
    trainings = len(found.seeds) * len(np.unique(found.folds))
    basis = (
        f"{trainings} trainings of each phase, {len(found.images):,} images, each judged by models that never saw it"
    )
    title, tone, advice = _in_words(found, point, difference)
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


def _in_words(found: Collected, point: Point, difference: Estimate) -> tuple[str, Tone, str]:
    """The title, its tone and which model to take: always the one that the validation images chose."""
    better: PhaseName = "finetune" if difference.mean < 0 else "transfer"
    other: PhaseName = "transfer" if point.phase == "finetune" else "finetune"
    this, that, why = CALLED[point.phase], CALLED[other], why_chosen(point.validation)
    tone: Tone = "indistinguishable"
    if none_learned(found):
        title = "Neither phase learned anything beyond guessing"
        advice = "Check the labels and the weights, or add images."
    elif learned_nothing(found, point):
        title = "The chosen model learned nothing beyond guessing"
        advice = (
            f"The {this} was chosen: {why}. On the images held out it is no better, beyond chance, than guessing by "
            f"how frequent the classes are; the {that} is. Rely on neither: validation images and those held out "
            "disagree, and more of both would settle it."
        )
    elif not difference.excludes_zero():
        title = "Too close to call"
        advice = f"Take the {this}: {why}. On the images held out the difference could be chance."
    elif better == point.phase:
        tone = "better" if better == "finetune" else "worse"
        title = "Fine-tuning was worth it" if tone == "better" else "Fine-tuning made it worse"
        advice = f"Take the {this}."
    else:
        did, chosen = ("better", "not chosen") if better == "finetune" else ("worse", "chosen")
        title = f"Fine-tuning did {did} on the images held out, but was {chosen}"
        advice = (
            f"The {this} was chosen: {why}. On the images held out the {that} is better by more than chance. The "
            "choice stays: images that choose can no longer judge. More validation images make it surer."
        )
    return title, tone, advice


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
