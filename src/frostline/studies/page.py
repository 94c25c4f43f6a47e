"""A study's files: one self-contained page, its chart, its figures, and what every model says of every image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from frostline.common.files import replacing, write_json, write_text
from frostline.config.paths import STUDIES
from frostline.fonts.lettering import isolated
from frostline.metrics.cautions import ALIKE, FEW_IMAGES
from frostline.report.rendering import rendered
from frostline.report.style import drawing
from frostline.studies.answer import Answer
from frostline.studies.collected import Collected, Training, collect, out_of_fold
from frostline.studies.depth import depth
from frostline.studies.more_data import more_data
from frostline.studies.ranking import raced, ranked
from frostline.studies.tables import OUT_OF_FOLD
from frostline.studies.worth_it import worth_it

QUESTIONS = {
    "worth_it": "Was fine-tuning worth it?",
    "depth": "How deep to cut the backbone?",
    "more_data": "Would more images help?",
    "recipes": "Which recipe is best?",
    "auto": "Which settings are best, as far as the time allows to say?",
    "folds": "Which setting is best?",
}
"""By option of conf/study; and of any other sweep over folds."""
_NAMED = 6  # classes, at most
_FEW_IN_ALL = 150
"""Images below which intervals miss more than they should: `benchmarks/study_intervals.py`, networks, 3 seeds."""


@dataclass(frozen=True)
class Study:
    """A study that ran."""

    name: str
    """An option of conf/study, or "folds"."""
    run: str
    """The name of its run."""
    settings: Sequence[tuple[str, str]]
    """What all its trainings share, for those who read the page."""
    command: str
    """By which it can be run again."""
    folds: int
    """Into how many parts the images were dealt."""
    of: str = "all"
    """Which images: see `Config.folds_of`."""
    grouped: bool = False
    """Whether images belong to groups (preprocess.group)."""
    first_stays: bool = False
    """Whether the first point is taken unless another one is clearly better."""


def write_study(study: Study, trainings: Sequence[Training], notes: Sequence[str] = ()) -> tuple[Answer, list[Path]]:
    """Answer the study, write its files to reports/studies/<name> and return both.

    `notes`: what else to say of it. The files are report.html, chart.png, chart.svg, study.json, out_of_fold.parquet.

    Raises FrostlineError where trainings are missing, or diverged.
    """
    found = collect(trainings)
    answer = _judge(study, found)(found)
    said = [*_few_images(found), *([f"Images are in groups: {ALIKE}"] if study.grouped else [])]
    answer = replace(answer, notes=[*notes, *answer.notes, *said, *_test_images(study, answer)])
    folder = STUDIES / study.name
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        with drawing(temporary / "chart.png", 3.6) as figure:
            answer.draw(figure)
        write_json(temporary / "study.json", _as_json(study, answer, found))
        out_of_fold(trainings).to_parquet(temporary / OUT_OF_FOLD, index=False)
        write_text(temporary / "report.html", _page(study, answer, found, (temporary / "chart.svg").read_text("utf-8")))
    return answer, sorted(folder.iterdir())


def _judge(study: Study, found: Collected) -> Callable[[Collected], Answer]:
    """What answers: the study's own judge where its points differ as it expects, not where axes were added or taken."""
    if len(found.points) == 1:
        return worth_it
    if study.first_stays:
        return raced
    own = {"depth": depth, "more_data": more_data}.get(study.name, ranked)
    if own is depth and set(found.points[0].values) != {"model.cut_layer"}:
        return ranked
    sizes = {point.train_images for point in found.points}
    if own is more_data and (set(found.points[0].values) != {"train_share"} or len(sizes) < len(found.points)):
        return ranked
    return own


def _test_images(study: Study, answer: Answer) -> list[str]:
    if answer.take is None or study.of != "all":
        return []
    return [
        "The prepared test set is among these images: it had a part in this choice, so it flatters what was taken. "
        "folds_of=train_and_validation leaves it out."
    ]


def _few_images(found: Collected) -> list[str]:
    notes = []
    if len(found.images) < _FEW_IN_ALL:
        notes.append(
            f"{len(found.images)} images in all: of studies with under {_FEW_IN_ALL}, up to 8 in 100, not 5, call a "
            "difference certain where there is none."
        )
    few = [isolated(name) for label, name in enumerate(found.classes) if (found.labels == label).sum() < FEW_IMAGES]
    if not few:
        return notes
    names = ", ".join(few[:_NAMED]) + (f" and {len(few) - _NAMED} more classes" if len(few) > _NAMED else "")
    notes.append(f"Under {FEW_IMAGES} images of {names}: with so few, intervals are too narrow; do not rely on them.")
    return notes


def _as_json(study: Study, answer: Answer, found: Collected) -> dict[str, object]:
    return {
        "study": study.name,
        "title": answer.title,
        "text": answer.text,
        "images": len(found.images),
        "classes": found.classes,
        "folds": study.folds,
        "seeds": found.seeds,
        **answer.figures,
    }


def _page(study: Study, answer: Answer, found: Collected, chart: str) -> str:
    content = {
        "study": study,
        "answer": answer,
        "question": QUESTIONS["worth_it"] if len(found.points) == 1 else QUESTIONS.get(study.name, QUESTIONS["folds"]),
        "chart": Markup(chart),  # noqa: S704  (our own drawing, whose text is escaped by matplotlib)
        "images": len(found.images),
        "classes": len(found.classes),
        "judged": len(set(found.folds.tolist())),
        "seeds": found.seeds,
    }
    return rendered("study.html.jinja", content, "frostline.studies")
