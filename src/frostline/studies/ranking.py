"""Which point of a study is best, and which are within chance of it: recipes, or whatever else a sweep compares."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from frostline.metrics.comparison import CALLED
from frostline.metrics.formatting import rounded
from frostline.report.style import COLOURS, EDGE, plain
from frostline.report.style import NAMES as PHASE_NAMES
from frostline.studies.answer import (
    Answer,
    as_figures,
    beyond_guessing,
    interval_text,
    learned_nothing,
    listed,
    none_learned,
    phase_figures,
)
from frostline.studies.collected import Collected, Point
from frostline.studies.cross_validation import Ranking, is_better, within_chance

COLUMNS = ["", "Log loss ↓", "Accuracy ↑", "Taken", "Log loss beside the best"]


def ranked(found: Collected) -> Answer:
    """Answer from a study of several points: each is judged after the phase that its validation images choose."""
    ranking = within_chance(np.stack([point.losses[point.phase] for point in found.points]), found.folds)
    best = found.points[ranking.best]
    others = others_within_chance(found, ranking)
    order = sorted(range(len(found.points)), key=lambda place: ranking.means[place].mean)
    if none_learned(found):
        title, text = (
            "None of them learned anything beyond guessing",
            "Check the labels and the weights, or add images.",
        )
    elif learned_nothing(found, best):
        title, text = (
            "The best is no better than guessing, beyond chance",
            f"That is {best.label}. Some other model here is better than guessing, but was not chosen by its validation"
            " images, or has the higher loss: rely on none, and add images.",
        )
    elif not others:
        title = f"Best: {best.label}"
        text = f"No other one of {len(found.points)} is within chance of it."
    else:
        title = f"{len(others) + 1} of {len(found.points)} are within chance of the best"
        text = f"The best is {best.label}; {listed(others)} could be as good."
    text += (
        f" Log loss {ranking.means[ranking.best].mean:.4f}, accuracy {_accuracy(best)}, by the {CALLED[best.phase]}"
        f" ({len(found.images):,} images, each judged by {len(found.seeds)} model{'s' * (len(found.seeds) > 1)} that"
        " never saw it)."
    )
    return Answer(
        title,
        "better" if not others and not learned_nothing(found, best) else "indistinguishable",
        text,
        COLUMNS,
        rows=[row(found, ranking, place) for place in order],
        draw=lambda figure: _draw(figure, found, ranking, order),
        chart="Log loss above the best one's, with 95% intervals; those within chance of it are filled.",
        take=best.values,
        figures={"best": dict(best.values), "points": [point_figures(found, ranking, place) for place in order]},
    )


def raced(found: Collected) -> Answer:
    """As `ranked`, but the first point is taken unless the best one is better than that (`is_better`)."""
    answer, first = ranked(found), found.points[0]
    best = next(point for point in found.points if point.values == answer.take)
    taken = best
    if best is not first and not is_better(best.losses[best.phase] - first.losses[first.phase], found.folds):
        taken = first
        answer = replace(answer, take=first.values, text=f"{answer.text} {stays(first.label)}")
    if learned_nothing(found, taken) and not learned_nothing(found, best):
        answer = replace(answer, text=f"{answer.text} It is no better than guessing, beyond chance: add images.")
    return replace(answer, figures=answer.figures | {"taken": dict(taken.values)})


def stays(first: str) -> str:
    """What is said where no other setting was better than the `first`."""
    return f"None is clearly better than the first, {first}: that is taken."


def others_within_chance(found: Collected, ranking: Ranking) -> list[str]:
    """What the points are called that could be as good as the best one."""
    within = zip(found.points, ranking.within, strict=True)
    return [point.label for place, (point, close) in enumerate(within) if close and place != ranking.best]


def row(found: Collected, ranking: Ranking, place: int) -> list[str]:
    """The table's row for the point at `place`, as COLUMNS are."""
    point = found.points[place]
    if place == ranking.best:
        beside = "the best"
    else:
        beside = interval_text(ranking.differences[place])
        if ranking.within[place]:
            alone = ranking.differences[place].low > 0  # as if no other point were compared, it would be out
            beside += ", within chance" + f" (corrected for {len(found.points) - 1} comparisons)" * alone
        elif ranking.differences[place].low <= 0:  # of two points: whether one is worse is asked one-sided
            beside += ", beyond chance (one-sided, 5%)"
    loss = f"{ranking.means[place].mean:.4f}"
    return [point.label, loss, _accuracy(point), PHASE_NAMES[point.phase], beside]


def point_figures(found: Collected, ranking: Ranking, place: int) -> dict[str, object]:
    """The point at `place` for study.json."""
    point = found.points[place]
    return {
        "values": dict(point.values),
        "phase": point.phase,
        "phases": phase_figures(point),
        "beside_best": as_figures(ranking.differences[place]),
        "corrected_p": rounded(float(ranking.p_values[place])),
        "within_chance": bool(ranking.within[place]),
        "beyond_guessing": as_figures(beyond_guessing(found, point, point.phase)),
    }


def _accuracy(point: Point) -> str:
    return f"{point.hits[point.phase].mean():.3f}"


def _draw(figure: Figure, found: Collected, ranking: Ranking, order: list[int]) -> None:
    figure.set_figheight(1.2 + 0.35 * len(order))
    axes = figure.subplots()
    for height, place in enumerate(reversed(order)):
        point, beside = found.points[place], ranking.differences[place]
        colour = COLOURS[point.phase]
        axes.plot([beside.low, beside.high], [height] * 2, color=colour)
        filled = colour if ranking.within[place] else "none"
        axes.plot(beside.mean, height, "o", color=colour, markerfacecolor=filled, markersize=7)
    axes.set_yticks(range(len(order)), [plain(found.points[place].label, 24) for place in reversed(order)])
    axes.axvline(0, color=EDGE, linewidth=1)
    axes.set(xlabel="Log loss above the best", ylim=(-0.6, len(order) - 0.4))
