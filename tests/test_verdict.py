"""What is chosen by validation images, what test images say of it, and what is said of it in words."""

import dataclasses

import numpy as np
import pytest

from frostline.metrics.bootstrap import Interval, Pair
from frostline.metrics.cautions import cautions
from frostline.metrics.choice import Choice
from frostline.metrics.comparison import Evaluation, Guessing, McNemar
from frostline.metrics.threshold import cost_matrix
from results import chosen, judged, noisy, noisy_of_many, of, predictions

LEARNED = {"transfer": Interval(-0.8, -0.5), "finetune": Interval(-0.8, -0.5)}
CHANCE = Interval(-0.02, 0.03)
GUESSED = {"log_loss": 0.693147, "accuracy": 0.5}


def found(losses, difference, choice, changes, guessing=LEARNED):
    """An evaluation of 90 images with these test log losses and intervals, for its words."""
    return Evaluation(
        images=90,
        choice=choice,
        figures={phase: {"log_loss": loss, "accuracy": 0.95} for phase, loss in losses.items()},
        confusion={},
        difference={},
        intervals={"difference": {"log_loss": difference}},
        mcnemar=changes,
        in_use={"log_loss": losses[choice.phase]},
        guessing=Guessing(GUESSED, guessing),
    )


def phases(transfer, finetune):
    return {"transfer": transfer, "finetune": finetune}


def test_worth_it():
    verdict = found(phases(0.071, 0.052), Interval(-0.027, -0.010), chosen(), McNemar(14, 5, 0.0636)).verdict
    assert (verdict.outcome, verdict.chosen, verdict.disputed) == ("better", "finetune", False)
    assert verdict.headline == (
        "Fine-tuning was worth it. Take the fine-tuned model: on the test images, too, it is better, by more than "
        "chance; of 90 answers, fine-tuning set 14 right and got 5 wrong. "
        "Log loss 0.071 → 0.052 (difference −0.019, 95% CI −0.027 to −0.010); accuracy 0.950 → 0.950; "
        "14 of 19 changed answers for the better (McNemar p = 0.06). "
        "The fine-tuned model's log loss is 0.052; guessing has 0.693, with accuracy 0.500."
    )


def test_worse():
    verdict = found(phases(0.071, 0.09), Interval(0.00004, 0.04), chosen("transfer"), McNemar(0, 1, 0.00001)).verdict
    assert (verdict.outcome, verdict.chosen, verdict.disputed) == ("worse", "transfer", False)
    assert verdict.headline.startswith(  # as many decimals as the interval's end needs
        "Fine-tuning made it worse. Take the transfer model: on the test images, too, it is better, by more than "
        "chance; of 90 answers, fine-tuning set 0 right and got 1 wrong. "
        "Log loss 0.07100 → 0.09000 (difference +0.01900, 95% CI +0.00004 to +0.04000); accuracy 0.950 → 0.950; "
        "0 of 1 changed answer for the better (McNemar p < 0.001)."
    )


def test_too_close_to_call():
    ahead = found(phases(0.071, 0.07), Interval(-0.01, 0.008), chosen(), McNemar(1, 1, 1.0)).verdict
    assert (ahead.outcome, ahead.chosen) == ("indistinguishable", "finetune")
    assert ahead.headline.startswith(
        "Too close to call. Take the fine-tuned model: it did better on the validation images. "
        "On the test images the difference could be chance; of 90 answers, fine-tuning set 1 right and got 1 wrong. "
        "Log loss 0.071 → 0.070"
    )


def test_a_tie_goes_to_the_simpler_model():
    choice = Choice(phases(0.1, 0.1), phases(1.0, 1.0), 0.5)
    tie = found(phases(0.07, 0.07), Interval(0, 0), choice, McNemar(0, 0, 1.0)).verdict
    assert (tie.outcome, tie.chosen) == ("indistinguishable", "transfer")
    assert tie.choice == (
        "Take the transfer model: both did the same on the validation images, and it is the simpler one. "
        "On the test images the difference could be chance; "
        "fine-tuning set none of 90 answers right and got none wrong."
    )
    assert "(difference 0.000, 95% CI 0.000 to 0.000)" in tie.detail
    assert "no answer changed" in tie.detail


def test_the_other_model_is_ahead_on_the_test_images_by_what_may_be_chance():
    verdict = found(phases(0.071, 0.06), Interval(-0.03, 0.008), chosen("transfer"), McNemar(2, 1, 1.0)).verdict
    assert (verdict.outcome, verdict.chosen, verdict.disputed) == ("indistinguishable", "transfer", False)
    assert "On the test images the fine-tuned model is ahead, which could be chance" in verdict.choice


@pytest.mark.parametrize(
    ("phase", "losses", "difference", "title", "other"),
    [
        (
            "transfer",
            phases(0.09, 0.05),
            Interval(-0.06, -0.02),
            "Fine-tuning did better on the test images, but was not chosen",
            "fine-tuned",
        ),
        (
            "finetune",
            phases(0.05, 0.09),
            Interval(0.02, 0.06),
            "Fine-tuning did worse on the test images, but was chosen",
            "transfer",
        ),
    ],
)
def test_the_test_images_disagree_with_the_choice(phase, losses, difference, title, other):
    """They do not change it: then they could no longer judge it."""
    verdict = found(losses, difference, chosen(phase), McNemar(9, 2, 0.06)).verdict
    assert (verdict.chosen, verdict.disputed, verdict.title) == (phase, True, title)
    assert f"On the test images the {other} model is better by more than chance" in verdict.choice


@pytest.mark.parametrize("images", [1, 2, 5, 6])
@pytest.mark.parametrize(("before", "after"), [(0.6, 0.9), (0.9, 0.6), (0.1, 0.05)])
def test_five_test_images_or_fewer_settle_nothing(images, before, after):
    """Were all for the same model: a coin says so as well, in over 5 of 100 cases."""
    labels = np.arange(images) % 2
    pair = Pair(labels, *(of(np.where(labels == 1, right, 1 - right)) for right in (before, after)))
    verdict = judged(pair).verdict
    if images > 5:
        assert verdict.outcome != "indistinguishable"
        return
    assert (verdict.outcome, verdict.disputed) == ("indistinguishable", False)
    assert verdict.title == "Too few test images to tell"
    assert verdict.choice.startswith(
        "Take the fine-tuned model: it did better on the validation images. By "
        f"{images} test image{'s' * (images > 1)} alone, whatever they say could be chance; "
    )
    assert "CI" not in verdict.detail


def test_the_choice_is_by_validation_loss_alone():
    labels, good = noisy(300, 1)
    bad = noisy(300, 4)[1]
    for phase in ("transfer", "finetune"):
        for pair in (Pair(labels, good, bad), Pair(labels, bad, good)):
            assert judged(pair, chosen(phase)).verdict.chosen == phase


# Guessing


def test_a_model_that_only_knows_how_frequent_classes_are_has_learned_nothing():
    """300 images of one class and 30 of another: accuracy is 0.91, and F1 0."""
    labels = np.repeat([0, 1], [300, 30])
    rng = np.random.default_rng(0)
    transfer, finetune = (of(rng.uniform(0.05, high, 330)) for high in (0.3, 0.15))
    result = judged(Pair(labels, transfer, finetune), shares=[10 / 11, 1 / 11], resamples=500)
    assert result.intervals["difference"]["log_loss"].excludes_zero(), "else the title would be another anyway"
    assert result.figures["finetune"]["f1"] == 0
    assert result.figures["finetune"]["accuracy"] == pytest.approx(10 / 11)
    assert result.figures["finetune"]["balanced_accuracy"] == 0.5
    assert (result.figures["finetune"]["lowest_recall"], result.lowest_recall_class("finetune")) == (0, 1)
    verdict = result.verdict
    assert (verdict.outcome, verdict.title) == ("nothing_learned", "Neither phase learned anything beyond guessing")
    assert "do not use it" in verdict.choice
    assert result.as_metrics(["cat", "dog"])["finetune"]["lowest_recall_class"] == "dog"


def test_guessing_is_by_the_class_shares_of_the_training_images():
    labels = np.array([0, 0, 1, 1, 1])
    sure = np.eye(2)[labels] * 0.8 + 0.1
    guessing = judged(Pair(labels, sure, sure), shares=[0.75, 0.25]).guessing
    assert guessing.figures["log_loss"] == pytest.approx(-(2 * np.log(0.75) + 3 * np.log(0.25)) / 5)
    assert guessing.figures["accuracy"] == 2 / 5
    assert guessing.figures["balanced_accuracy"] == guessing.figures["roc_auc"] == 0.5
    assert guessing.beaten_by("transfer")


def test_a_model_that_is_right_and_too_sure_has_learned_something():
    """It is judged as it is used: calibrated."""
    labels = np.tile([0, 1], 100)
    wrong = np.arange(200) < 30
    sure = of(np.where(wrong, 1 - labels, labels))  # 15% wrong, each at a log loss of 16
    assert judged(Pair(labels, sure, sure)).verdict.outcome == "nothing_learned"
    result = judged(Pair(labels, sure, sure), chosen(temperature=9))
    assert result.verdict.outcome != "nothing_learned"
    assert result.in_use["log_loss"] < 0.5 < result.figures["finetune"]["log_loss"]
    assert "calibrated (temperature 9)" in result.verdict.detail


def test_neither_is_said_only_where_it_is_so():
    beaten = phases(Interval(-0.8, -0.5), CHANCE)
    pair = (phases(0.2, 0.7), Interval(0.3, 0.7))
    verdict = found(*pair, chosen("finetune"), McNemar(1, 9, 0.02), beaten).verdict
    assert verdict.title == "The chosen model learned nothing beyond guessing"
    assert "the transfer model is better" in verdict.choice
    verdict = found(*pair, chosen("transfer"), McNemar(1, 9, 0.02), beaten).verdict
    assert verdict.outcome == "worse"


def test_many_classes():
    labels, finetune = noisy_of_many(200, 5, 1)
    guess = np.full((200, 5), 0.2)
    assert judged(Pair(labels, guess, finetune)).verdict.outcome == "better"
    assert judged(Pair(labels, guess, guess)).verdict.outcome == "nothing_learned"


def test_in_use_are_the_chosen_ones_calibrated_probabilities():
    pair = predictions(90)
    choice = dataclasses.replace(chosen("transfer", 2.0), temperatures=phases(2.0, 3.0))
    result = judged(pair, choice)
    logit = np.log(pair.baseline[:, 1] / pair.baseline[:, 0]) / 2
    np.testing.assert_allclose(choice.in_use(pair)[:, 1], 1 / (1 + np.exp(-logit)), atol=1e-6)
    assert result.in_use["accuracy"] == result.figures["transfer"]["accuracy"]
    assert result.in_use["log_loss"] != result.figures["transfer"]["log_loss"]
    assert result.as_metrics(["cat", "dog"])["in_use"]["temperature"] == 2


# Cautions


def test_images_in_groups_are_said_to_make_intervals_too_narrow():
    counts = {"train": {"cat": 30, "dog": 30}, "test": {"cat": 30, "dog": 30}}
    (said,) = cautions(counts, 0.5, grouped=True)
    assert said.startswith("Grouped images: those of one group (preprocess.group) are alike")


def test_few_test_images_of_a_class_are_named():
    enough = {"cat": 300, "dog": 200}
    assert cautions({"train": enough, "test": {"cat": 30, "dog": 30}}, 0.5) == []
    (said,) = cautions({"train": enough, "test": {"cat": 29, "dog": 300}}, 0.5)
    assert said.startswith("Few test images: 29 of cat. Under 30 of a class")
    many = {f"c{number}": number for number in range(10)}
    (said,) = cautions({"train": dict.fromkeys(many, 5), "test": many}, 0.5)
    assert said.startswith("Few test images: 0 of c0, 1 of c1, 2 of c2 and 7 more classes.")


def test_unequal_classes_are_named():
    enough = {"cat": 100, "dog": 100}
    assert cautions({"train": {"cat": 200, "dog": 100}, "test": enough}, 0.5) == []
    (said,) = cautions({"train": {"cat": 2001, "dog": 1000}, "test": enough}, 0.5)
    assert said.startswith("Unequal classes: 2,001 training images of cat, 1,000 of dog.")
    assert said.endswith("lowest recall. evaluate.threshold=balanced_accuracy has both classes in mind.")


@pytest.mark.parametrize("classes", [("cat", "dog"), ("bird", "cat", "dog")])
def test_where_costs_decide_no_other_rule_is_advised(classes):
    counts = {"train": {name: 2001 - 500 * at for at, name in enumerate(classes)} | {"dog": 90}}
    counts["test"] = dict.fromkeys(classes, 100)
    (said,) = cautions(counts, cost_matrix({"cat": {"dog": 5}}, classes))
    assert said.startswith("Unequal classes: 2,001 training images of")
    assert said.endswith("the lowest recall.")
