"""How deep to cut the backbone: the lowest cut that is enough."""

import numpy as np
from matplotlib.figure import Figure

from frostline.common.phase_names import PHASES
from frostline.metrics.comparison import CALLED
from frostline.report.style import COLOURS, INK, plain
from frostline.report.style import NAMES as PHASE_NAMES
from frostline.studies.answer import Answer, learned_nothing, listed, none_learned
from frostline.studies.collected import Collected
from frostline.studies.cross_validation import shallowest_enough, within_chance
from frostline.studies.ranking import COLUMNS, others_within_chance, point_figures, row


def depth(found: Collected) -> Answer:
    """Answer from a study whose points are cuts, the lowest one first."""
    losses = np.stack([point.losses[point.phase] for point in found.points])
    ranking = within_chance(losses, found.folds)
    enough = shallowest_enough(losses, found.folds)
    best, taken = found.points[ranking.best], found.points[enough]
    others = others_within_chance(found, ranking)
    if none_learned(found):
        title, text = "No cut learned anything beyond guessing", "Check the labels and the weights, or add images."
    elif learned_nothing(found, taken):
        title = f"{taken.label} is no better than guessing, beyond chance"
        text = (
            f"Its log loss, {ranking.means[enough].mean:.4f} by the {CALLED[taken.phase]}, is within one standard error"
            " of the best. Some other model here is better than guessing, but was not chosen by its validation images,"
            " or is of another cut: rely on none, and add images."
        )
    else:
        title = f"{taken.label} is enough"
        higher = "it is the best" if taken is best else f"the best, {best.label}, is within one standard error of it"
        text = (
            f"Log loss {ranking.means[enough].mean:.4f} by the {CALLED[taken.phase]}; {higher}. "
            f"Within chance of the best: {listed(others) if others else 'no other'}."
        )
    return Answer(
        title,
        "indistinguishable" if learned_nothing(found, taken) else "better",
        text,
        COLUMNS,
        rows=[row(found, ranking, place) for place in range(len(found.points))],
        draw=lambda figure: _draw(figure, found, enough),
        chart="Log loss by cut layer after each phase, from the lowest cut to the highest; the dotted line is the cut"
        " that is enough.",
        take=taken.values,
        figures={
            "enough": dict(taken.values),
            "best": dict(best.values),
            "points": [point_figures(found, ranking, place) for place in range(len(found.points))],
        },
    )


def _draw(figure: Figure, found: Collected, enough: int) -> None:
    axes = figure.subplots()
    places = np.arange(len(found.points))
    for phase in PHASES:
        means = [point.losses[phase].mean() for point in found.points]
        axes.plot(places, means, "-o", color=COLOURS[phase], markersize=4, label=PHASE_NAMES[phase])
    axes.axvline(enough, color=INK, linewidth=1, linestyle=":")
    names = [plain(next(iter(point.values.values()), ""), 14) for point in found.points]
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel("Log loss")
    axes.legend()
