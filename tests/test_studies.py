"""What studies answer: from what every model says of images that it never saw, to a sentence, a table and a page."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from frostline.runtime.errors import FrostlineError
from frostline.studies.collected import Training, collect, out_of_fold
from frostline.studies.cross_validation import Estimate, Ranking
from frostline.studies.page import Study, write_study
from frostline.studies.ranking import row

pytestmark = pytest.mark.slow

CLASSES = ("고양이", "dog")
FOLDS = 5


def said(fold, losses, seed, images=200, shares=(0.5, 0.5)):
    """What both phases' models say of the images of `fold`, right with the given mean log losses by phase."""
    rng = np.random.default_rng(0)
    labels = (rng.random(images) >= shares[0]).astype(int)
    difficulty, rows = rng.gamma(1, 1, images), np.flatnonzero(np.arange(images) % FOLDS == fold)
    tables = []
    for phase, loss in losses.items():
        luck = np.random.default_rng([seed, fold, round(loss * 1e6)])
        own = np.exp(-np.maximum(loss * difficulty[rows] * luck.uniform(0.9, 1.1, len(rows)), 1e-6))
        second = np.where(labels[rows] == 1, own, 1 - own)
        table = pd.DataFrame({"image": [f"{row}.png" for row in rows], "class": [CLASSES[n] for n in labels[rows]]})
        tables.append(table.assign(phase=phase, **{f"P({CLASSES[0]})": 1 - second, f"P({CLASSES[1]})": second}))
    return pd.concat(tables, ignore_index=True)


def trainings(points, seeds=(1, 2), **options):
    """Of each point, its values, mean log losses by phase, and training images."""
    return [
        Training(values, seed, fold, count, dict(losses), said(fold, losses, seed, **options))
        for values, losses, count in points
        for seed in seeds
        for fold in range(FOLDS)
    ]


def losses(transfer, finetune):
    return {"transfer": transfer, "finetune": finetune}


@pytest.fixture
def answered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def answer(name, *points, **options):
        study = Study(name, "my run", [("augment", "flip")], f"python -m frostline.sweep -m study={name}", FOLDS)
        return write_study(study, trainings(points, **options))

    return answer


def test_a_choice_in_which_the_test_set_had_a_part_is_said_to_be_that(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    points = [({"a": "1"}, losses(0.3, 0.2), 100), ({"a": "2"}, losses(0.5, 0.4), 100)]
    for of, one_only, said_so in (("all", False, 1), ("train_and_validation", False, 0), ("all", True, 0)):
        study = Study("folds", "run", [], "", FOLDS, of=of)
        answer, _ = write_study(study, trainings(points[:1] if one_only else points))
        assert sum("folds_of=train_and_validation" in note for note in answer.notes) == said_so


def test_out_of_fold_losses_stand_by_seed_and_image(tmp_path):
    found = collect(trainings([({}, losses(0.5, 0.3), 120)], seeds=(3, 1)))
    (point,) = found.points
    assert found.seeds == [1, 3]
    assert (len(found.images), point.losses["transfer"].shape) == (200, (2, 200))
    assert [image for image, fold in zip(found.images, found.folds, strict=True) if fold == 2][:2] == ["2.png", "7.png"]
    for place, seed in enumerate(found.seeds):
        for fold in range(FOLDS):
            table = said(fold, losses(0.5, 0.3), seed)
            table = table[table["phase"] == "finetune"]
            actual = np.where(table["class"] == CLASSES[1], table[f"P({CLASSES[1]})"], table[f"P({CLASSES[0]})"])
            here = [found.images.index(image) for image in table["image"]]
            np.testing.assert_allclose(point.losses["finetune"][place, here], -np.log(actual), rtol=1e-6)
    np.testing.assert_allclose(found.shares.sum(axis=1), 1)
    table = out_of_fold(trainings([({"a": "1"}, losses(0.5, 0.3), 120)], seeds=(1,)))
    assert len(table) == 2 * 200
    assert set(table["trial"]) == {"a=1"}


def test_one_fold_is_no_study():
    with pytest.raises(FrostlineError, match=r"at least two folds\.\nSweep over more of them"):
        collect([each for each in trainings([({}, losses(0.5, 0.3), 120)]) if each.fold == 0])


def test_a_class_that_the_other_judged_folds_lack_was_trained_on_all_the_same():
    """Whoever knows the shares does not say that it cannot be."""
    two = [each for each in trainings([({}, losses(0.5, 0.3), 120)], seeds=(1,)) if each.fold in (0, 1)]
    tables = [two[0].said, two[1].said[two[1].said["class"] == CLASSES[0]]]
    found = collect([replace(each, said=table) for each, table in zip(two, tables, strict=True)])
    assert found.shares.min() > 0
    np.testing.assert_allclose(found.shares.sum(axis=1), 1)


def test_images_in_groups_are_said_to_make_intervals_too_narrow(written):
    trained = trainings([({}, losses(0.5, 0.3), 120)])
    for grouped in (False, True):
        answer = written("worth_it", trained, grouped=grouped)
        assert any(note.startswith("Images are in groups") for note in answer.notes) == grouped


def test_of_two_points_that_one_is_worse_is_asked_one_sided():
    """Where the interval, which has two sides, has 0 in it, the table says so."""
    ranking = Ranking(
        best=0,
        means=[Estimate(0, 1, 0.5, 0.1, 99, 0.0)] * 2,
        differences=[Estimate(0, 0, 0, 0, 99, 1.0), Estimate(-0.002, 0.038, 0.018, 0.01, 99, 0.075)],
        p_values=np.array([1, 0.0375]),
        within=np.array([True, False]),
    )
    found = collect(trainings([({"a": name}, losses(0.5, loss), 120) for name, loss in (("1", 0.3), ("2", 0.31))]))
    assert row(found, ranking, 1)[-1].endswith(", beyond chance (one-sided, 5%)")


def test_a_fold_that_was_not_trained_with_every_seed_is_no_answer():
    with pytest.raises(FrostlineError, match=r"not every fold was trained with every seed\.\nRun the study again"):
        collect(trainings([({}, losses(0.5, 0.3), 120)])[:-1])


@pytest.mark.parametrize(
    ("phases", "title", "advice"),
    [
        (losses(0.5, 0.3), "Fine-tuning was worth it", "Take the fine-tuned model"),
        (losses(0.3, 0.5), "Fine-tuning made it worse", "Take the transfer model"),
        (losses(0.4, 0.4005), "Too close to call", "Take the transfer model: it did better on the validation images."),
        (losses(1.2, 1.0), "Neither phase learned anything beyond guessing", "Check the labels"),
    ],
)
def test_was_it_worth_it(answered, phases, title, advice):
    answer, files = answered("worth_it", ({}, phases, 120))
    assert answer.title == title
    assert advice in answer.text
    assert [path.name for path in files] == [
        "chart.png",
        "chart.svg",
        "out_of_fold.parquet",
        "report.html",
        "study.json",
    ]


def by_validation(losses, *points, **options):
    """Trainings of these points, whose validation losses are `losses` whatever the images held out say."""
    return [replace(training, validation=losses) for training in trainings(points, **options)]


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda name, trained, **how: write_study(Study(name, "my run", [], "", FOLDS, **how), trained)[0]


@pytest.mark.parametrize(
    ("phases", "validation", "chosen", "other", "title"),
    [
        (
            losses(0.5, 0.3),
            losses(0.3, 0.31),
            "transfer",
            "fine-tuned",
            "Fine-tuning did better on the images held out, but was not chosen",
        ),
        (
            losses(0.3, 0.5),
            losses(0.31, 0.3),
            "fine-tuned",
            "transfer",
            "Fine-tuning did worse on the images held out, but was chosen",
        ),
    ],
)
def test_images_held_out_have_no_say_in_which_model_to_take(written, phases, validation, chosen, other, title):
    answer = written("worth_it", by_validation(validation, ({}, phases, 120)))
    assert (answer.title, answer.tone) == (title, "indistinguishable")
    assert answer.text.startswith(f"The {chosen} model was chosen: it did better on the validation images.")
    assert f"On the images held out the {other} model is better by more than chance. The choice stays" in answer.text
    assert answer.figures["take"] == {"transfer": "transfer", "fine-tuned": "finetune"}[chosen]


def test_a_tie_of_validation_losses_is_said(written):
    answer = written("worth_it", by_validation(losses(0.3, 0.3), ({}, losses(0.4, 0.4005), 120)))
    assert answer.text.startswith("Take the transfer model: both did the same on the validation images, and it is the")


@pytest.mark.long
def test_where_only_the_phase_that_was_not_chosen_learned_nothing_is_recommended(written):
    fit = losses(0.9, 0.1)  # by validation, fine-tuning is better
    bad, worse = ({"a": "1"}, losses(0.3, 1.2), 120), ({"a": "2"}, losses(0.3, 1.3), 120)
    answer = written("worth_it", by_validation(fit, ({}, *bad[1:])))
    assert answer.title == "The chosen model learned nothing beyond guessing"
    assert "guessing by how frequent the classes are; the transfer model is. Rely on neither" in answer.text
    for how in ({}, {"first_stays": True}):
        answer = written("recipes", by_validation(fit, bad, worse), **how)
        assert (answer.title, answer.tone) == (
            "The best is no better than guessing, beyond chance",
            "indistinguishable",
        )
        assert answer.text.startswith("That is a=1. Some other model here is better than guessing, but was not chosen")
    cuts = [({"model.cut_layer": values["a"]}, phases, count) for values, phases, count in (bad, worse)]
    answer = written("depth", by_validation(fit, *cuts))
    assert (answer.title, answer.tone) == (
        "model.cut_layer=1 is no better than guessing, beyond chance",
        "indistinguishable",
    )
    sizes = [({"train_share": str(n / 120)}, losses(0.3, 1.5 - n / 600), n) for n in (30, 60, 120)]
    assert written("more_data", by_validation(fit, *sizes)).title == "Too little was learned to tell"


def test_on_unequal_classes_a_model_that_knows_the_shares_only_has_learned_nothing(answered):
    """90% of the images are of one class; accuracy is 0.9 and log loss low without a single right idea."""
    answer, _ = answered("worth_it", ({}, losses(0.5, 0.45), 120), shares=(0.95, 0.05))
    assert answer.title == "Neither phase learned anything beyond guessing"


def test_recipes_within_chance_of_the_best_are_named(answered):
    points = [
        ({"experiment": name}, losses(0.6, loss), 120) for name, loss in zip("abc", (0.3, 0.301, 0.5), strict=True)
    ]
    answer, _ = answered("recipes", *points)
    assert answer.title == "2 of 3 are within chance of the best"
    assert "experiment=c" not in answer.text
    assert answer.take == {"experiment": "a"}
    assert [row[0] for row in answer.rows] == ["experiment=a", "experiment=b", "experiment=c"]
    alone, _ = answered("recipes", points[0], points[2])
    assert alone.title == "Best: experiment=a"
    assert alone.tone == "better"


@pytest.mark.long
def test_a_race_takes_the_first_setting_unless_another_setting_is_clearly_better(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def raced(*finetuned):
        points = [({"rate": name}, losses(0.6, loss), 120) for name, loss in zip("ab", finetuned, strict=True)]
        return write_study(Study("auto", "run", [], "", FOLDS, first_stays=True), trainings(points))[0]

    close = raced(0.301, 0.3)
    assert close.take == {"rate": "a"}
    assert close.text.endswith("None is clearly better than the first, rate=a: that is taken.")
    assert (close.figures["best"], close.figures["taken"]) == ({"rate": "b"}, {"rate": "a"})
    clear = raced(0.5, 0.3)
    assert clear.take == {"rate": "b"}
    assert "the first" not in clear.text
    assert raced(0.3, 0.5).take == {"rate": "a"}


def test_the_phase_of_a_point_is_chosen_by_its_validation_loss_not_by_the_images_that_judge_it(answered):
    point = ({"experiment": "a"}, losses(0.3, 0.4), 120)
    parts = trainings([point, ({"experiment": "b"}, losses(0.6, 0.6), 120)])
    parts = [
        Training(part.values, part.seed, part.fold, 120, losses(0.9, 0.1), part.said) for part in parts
    ]  # by validation, fine-tuning is better
    found = collect(parts)
    assert [each.phase for each in found.points] == ["finetune", "finetune"]


def test_the_lowest_cut_that_is_enough_is_taken(answered):
    cuts = [("mixed1", 0.6), ("mixed2", 0.4), ("mixed3", 0.3), ("mixed4", 0.3001), ("mixed5", 0.299)]
    points = [({"model.cut_layer": name}, losses(0.7, loss), 120) for name, loss in cuts]
    answer, _ = answered("depth", *points)
    assert answer.title == "model.cut_layer=mixed3 is enough"
    assert answer.take == {"model.cut_layer": "mixed3"}
    assert [row[0] for row in answer.rows] == [f"model.cut_layer={name}" for name, _ in cuts]


@pytest.mark.parametrize(
    ("curve", "title"),
    [
        ((0.66, 0.45, 0.3, 0.2), "More images would help"),
        pytest.param((0.66, 0.3, 0.5, 0.28), "More images would probably help", marks=pytest.mark.long),
        pytest.param((0.33, 0.32, 0.31, 0.3), "More images would probably help a little", marks=pytest.mark.long),
        ((0.3, 0.3, 0.3, 0.3), "More images would hardly help"),
        ((1.5, 1.4, 1.4, 1.3), "Too little was learned to tell"),
    ],
)
def test_would_more_images_help(answered, curve, title):
    counts = (15, 30, 60, 120)
    points = [({"train_share": str(n / 120)}, losses(0.7, loss), n) for n, loss in zip(counts, curve, strict=True)]
    answer, _ = answered("more_data", *points[::-1])
    assert answer.title == title
    assert "120 more images would" in answer.text
    assert "360 more images would" in answer.text
    forecast = answer.figures["forecast"]
    assert [each["train_images"] for each in forecast] == [240, 480]
    assert forecast[0]["median"] >= forecast[1]["median"]
    assert [each["train_images"] for each in answer.figures["points"]] == list(counts)


@pytest.mark.parametrize(
    ("name", "points", "title"),
    [
        ("worth_it", [({"model.dropout": "0.2"}, 0.3), ({"model.dropout": "0.5"}, 0.5)], "Best: model.dropout=0.2"),
        ("more_data", [({}, 0.3)], "Fine-tuning was worth it"),
        (
            "more_data",
            [({"train_share": "0.5"}, 0.5), ({"train_share": "1"}, 0.3)],
            "Best: train_share=1",
        ),  # of 120 both
        (
            "depth",
            [({"model.cut_layer": "a", "seed2": "b"}, 0.3), ({"model.cut_layer": "b", "seed2": "b"}, 0.5)],
            "Best: ",
        ),
        ("of_the_users_own", [({"a": "1"}, 0.3), ({"a": "2"}, 0.5)], "Best: a=1"),
    ],
)
def test_a_study_with_other_axes_than_its_own_is_answered_by_what_it_has(answered, name, points, title):
    answer, files = answered(name, *[(values, losses(0.7, loss), 120) for values, loss in points])
    assert answer.title.startswith(title)
    assert files


def test_the_page_loads_nothing_names_all_and_is_the_same_twice(answered):
    answer, files = answered("worth_it", ({}, losses(0.5, 0.3), 120), images=60)
    page = next(path for path in files if path.suffix == ".html").read_text()
    assert "Was fine-tuning worth it?" in page
    assert "Under 30 images of" in page
    assert "60 images in all: of studies with under 150, up to 8 in 100, not 5," in page
    assert "고양이" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "<svg" in page
    for cells in answer.rows:
        assert cells[0].replace("'", "&#39;") in page
    figures = json.loads(next(path for path in files if path.suffix == ".json").read_text())
    assert figures["title"] == answer.title
    assert figures["difference"]["high"] < 0
    before = {path.name: path.read_bytes() for path in files}
    _, again = answered("worth_it", ({}, losses(0.5, 0.3), 120), images=60)
    assert {path.name: path.read_bytes() for path in again} == before
