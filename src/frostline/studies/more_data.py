"""Would more images help: the learning curve, and where it leads."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from frostline.common.phase_names import PHASES
from frostline.metrics.formatting import rounded
from frostline.report.style import COLOURS, EDGE
from frostline.report.style import NAMES as PHASE_NAMES
from frostline.studies.answer import Answer, Tone, learned_nothing, phase_figures
from frostline.studies.collected import Collected, Point
from frostline.studies.learning_curve import HARDLY, LearningCurve, fit_learning_curve, what_more_images_give

_AHEAD = (2, 4)
"""Times the images of the largest trainings that are looked ahead: further, three or four sizes say little."""


def more_data(found: Collected) -> Answer:
    """Answer from a study whose points differ in how many images they were trained on."""
    points = sorted(found.points, key=lambda point: point.train_images)
    whole = points[-1]
    phase = whole.phase
    sizes = np.array([point.train_images for point in points])
    curve = fit_learning_curve(sizes, np.stack([_by_fold(point.losses[phase], found.folds) for point in points]))
    now = whole.train_images
    forecasts = {now * times: curve.forecast(now * times) for times in _AHEAD}
    today = curve.forecast(now)[0]
    twice, _, high = forecasts[now * 2]
    tone: Tone = "indistinguishable"
    if learned_nothing(found, whole):
        title = "Too little was learned to tell"
    elif twice < 0.95 * today and high < today:
        title, tone = "More images would help", "better"
    elif twice < 0.95 * today:
        title = "More images would probably help"
    elif twice >= HARDLY * today:
        title = "More images would hardly help"
    else:
        title = "More images would probably help a little"
    clauses = [what_more_images_give(curve, now, now * (times - 1)) for times in _AHEAD]
    return Answer(
        title,
        tone,
        f"{clauses[0]}; {clauses[1]} (80% intervals; {PHASE_NAMES[phase].lower()}; beside the {now:,} images of the "
        "largest trainings here, each of which leaves two folds out).",
        columns=[
            "Training images",
            *(f"{PHASE_NAMES[each]}, log loss ↓" for each in PHASES),
            "Forecast (80% interval)",
        ],
        rows=[
            *(
                [f"{point.train_images:,}", *(f"{point.losses[each].mean():.4f}" for each in PHASES), ""]
                for point in points
            ),
            *(
                [f"{size:,}", "", "", f"{mid:.4f} ({low:.4f} to {top:.4f})"]
                for size, (mid, low, top) in forecasts.items()
            ),
        ],
        draw=lambda figure: _draw(figure, points, curve, phase),
        chart="Log loss by the number of training images, both on logarithmic scales; the band is the forecast's 80%"
        " interval.",
        figures={
            "phase": phase,
            "points": [{"train_images": point.train_images, "phases": phase_figures(point)} for point in points],
            "forecast": [
                {"train_images": size, "median": rounded(mid), "low": rounded(low), "high": rounded(top)}
                for size, (mid, low, top) in forecasts.items()
            ],
        },
    )


def _by_fold(losses: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The mean loss of each fold's images over all seeds."""
    return np.array([losses[:, folds == fold].mean() for fold in np.unique(folds)])


def _draw(figure: Figure, points: list[Point], curve: LearningCurve, phase: str) -> None:
    axes = figure.subplots()
    sizes = np.geomspace(points[0].train_images, points[-1].train_images * max(_AHEAD), 60)
    middle, low, high = np.array([curve.forecast(size) for size in sizes]).T
    axes.fill_between(sizes, low, high, color=EDGE, alpha=0.25, linewidth=0)
    axes.plot(sizes, middle, color=EDGE, linewidth=1.5)
    for each in PHASES:
        means = [point.losses[each].mean() for point in points]
        style = "-o" if each == phase else ":o"
        axes.plot([point.train_images for point in points], means, style, color=COLOURS[each], label=PHASE_NAMES[each])
    axes.axvline(points[-1].train_images, color=EDGE, linewidth=1, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="Training images", ylabel="Log loss")
    ahead = [points[-1].train_images * times for times in _AHEAD]
    axes.set_xticks([*(point.train_images for point in points), *ahead])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,g}"))
        axis.set_minor_locator(NullLocator())
    axes.legend()
