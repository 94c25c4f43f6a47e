"""Both phases on the same test set: what it says of the model that was chosen before, on the validation images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy.stats import binomtest

from frostline.common.phase_names import PhaseName
from frostline.common.thresholds import Threshold
from frostline.metrics.bootstrap import Interval, Intervals, Pair, bootstrap_intervals, by_phase
from frostline.metrics.choice import Choice, why_chosen
from frostline.metrics.classification import actual_probabilities, confusion_matrix, figures, mistake_costs, recalls
from frostline.metrics.formatting import decimals, p_text, rounded, signed
from frostline.metrics.predicted import costs_in, predicted_classes
from frostline.runtime.errors import FrostlineError

Phase = PhaseName
Outcome = Literal["better", "worse", "indistinguishable", "nothing_learned"]
TOO_FEW = 5
"""So few test images settle nothing: were all for one model, a two-sided sign test gives 2 * 0.5**5 = 0.06."""
CALLED: Mapping[Phase, str] = {"transfer": "transfer model", "finetune": "fine-tuned model"}
"""What the phases' models are called in sentences."""


@dataclass(frozen=True)
class McNemar:
    """Predictions that the candidate changes: `n_better` from wrong to right, `n_worse` from right to wrong."""

    n_better: int
    n_worse: int
    p_value: float

    @property
    def n_changed(self) -> int:
        return self.n_better + self.n_worse


@dataclass(frozen=True)
class Verdict:
    """What the test images say of the model that was `chosen` on the validation images.

    `outcome` is that of fine-tuning; nothing_learned: the chosen model is not better than guessing. `title` says it in
    one clause, `choice` which model to take and how sure that is, `detail` gives the numbers.
    """

    outcome: Outcome
    chosen: Phase
    title: str
    choice: str
    detail: str

    @property
    def disputed(self) -> bool:
        """Whether the other model is better on the test images, beyond chance."""
        return (self.outcome, self.chosen) in (("better", "transfer"), ("worse", "finetune"))

    @property
    def headline(self) -> str:
        return f"{self.title}. {self.choice} {self.detail}"


@dataclass(frozen=True)
class Guessing:
    """What always guessing the class shares of the training images comes to on the test images."""

    figures: dict[str, float]
    """As `figures` has them; the most frequent class of the training images is predicted. Where costs decide, cost is
    that of always predicting the class that costs the least."""
    intervals: dict[str, Interval]
    """By phase, of the difference in log loss: the phase's calibrated model - guessing."""

    def beaten_by(self, phase: str) -> bool:
        return self.intervals[phase].high < 0


@dataclass(frozen=True)
class Evaluation:
    """All that the test set says; `figures` and `confusion` by phase, `difference` is finetune - transfer.

    The phases' probabilities are judged as they were trained; the classes that they predict are those by the threshold
    on calibrated ones. `in_use` are the figures of the chosen phase, whose probabilities are calibrated, too.
    """

    images: int
    choice: Choice
    figures: dict[str, dict[str, float]]
    confusion: dict[str, np.ndarray]
    difference: dict[str, float]
    intervals: Intervals
    """By "transfer", "finetune" and "difference"."""
    mcnemar: McNemar
    in_use: dict[str, float]
    guessing: Guessing

    @cached_property
    def verdict(self) -> Verdict:
        """Judged by log loss alone; the other figures are context."""
        return judge(self)

    def lowest_recall_class(self, phase: str) -> int:
        """The class that has the figure lowest_recall, the first of several."""
        return int(np.nanargmin(recalls(self.confusion[phase])))

    def compared(self) -> dict[str, float]:
        """The few figures by which people compare runs, six significant digits, as reports/metrics.json has them.

        Accuracy and log loss (and the cost, where costs decide) of the model in use, on the test images; the validation
        loss that chose it; and, as "transfer/log_loss", by phase the log loss as in `as_metrics`.
        """
        wanted = ["accuracy", "log_loss", *["cost"] * ("cost" in self.in_use)]
        found = {name: self.in_use[name] for name in wanted}
        found["validation_loss"] = self.choice.losses[self.choice.phase]
        found |= {f"{phase}/log_loss": values["log_loss"] for phase, values in self.figures.items()}
        return {name: rounded(value) for name, value in found.items()}

    def as_metrics(self, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return plain numbers, six significant digits, nested as reports/figures.json is; `classes`: their names.

        The ends of a 95% interval are ``<figure>_low`` and ``<figure>_high``.
        """
        parts: dict[str, dict[str, Any]] = {
            **{phase: {**values} for phase, values in self.figures.items()},
            "difference": {**self.difference},
            "in_use": {"temperature": self.choice.temperature, **self.in_use},
            "guessing": {**self.guessing.figures},
        }
        for name, intervals in self.intervals.items():
            for figure, interval in intervals.items():
                parts[name] |= {f"{figure}_low": interval.low, f"{figure}_high": interval.high}
        over_guessing = self.guessing.intervals[self.choice.phase]
        parts["in_use"] |= {
            "log_loss_over_guessing": self.in_use["log_loss"] - self.guessing.figures["log_loss"],
            "log_loss_over_guessing_low": over_guessing.low,
            "log_loss_over_guessing_high": over_guessing.high,
        }
        parts = {name: {key: rounded(value) for key, value in values.items()} for name, values in parts.items()}
        for phase in self.confusion:
            parts[phase]["lowest_recall_class"] = classes[self.lowest_recall_class(phase)]
        parts["verdict"] = {
            "outcome": self.verdict.outcome,
            "chosen": self.verdict.chosen,
            "disputed": self.verdict.disputed,
            "decisions_better": self.mcnemar.n_better,
            "decisions_worse": self.mcnemar.n_worse,
            "mcnemar_p": rounded(self.mcnemar.p_value),
            "images": self.images,
        }
        return parts


def evaluate(pair: Pair, choice: Choice, shares: np.ndarray, *, bins: int, resamples: int, seed: int) -> Evaluation:
    """Compare the phases, and the chosen model with guessing.

    Args:
        pair: both phases' probabilities for the test images: transfer is the baseline, finetune the candidate.
        choice: what was chosen on the validation images.
        shares: of the classes in the training images, (classes,) float64.
        bins: of the calibration error.
        resamples: of the bootstrap, behind each interval.
        seed: of the run.

    Raises:
        FrostlineError: the test set is empty, or probabilities are not numbers from 0 to 1.
    """
    _check(pair)
    labels, threshold, calibrated = pair.labels, choice.threshold, choice.calibrated(pair)
    decided_by = by_phase(calibrated)
    values = {phase: figures(labels, p, threshold, bins, decided_by[phase]) for phase, p in by_phase(pair).items()}
    before, after = values["transfer"], values["finetune"]
    found = bootstrap_intervals(pair, threshold=threshold, resamples=resamples, seed=seed)
    by_decision = ["accuracy", *["cost"] * (costs_in(threshold) is not None)]
    decided = bootstrap_intervals(calibrated, by_decision, threshold=threshold, resamples=resamples, seed=seed)
    found = {part: intervals | decided[part] for part, intervals in found.items()}
    return Evaluation(
        images=len(labels),
        choice=choice,
        figures=values,
        confusion={phase: confusion_matrix(labels, p, threshold) for phase, p in decided_by.items()},
        difference={name: after[name] - before[name] for name in before if name in after},
        intervals={
            "transfer": found["baseline"],
            "finetune": found["candidate"],
            "difference": found["difference"],
        },
        mcnemar=mcnemar(calibrated, threshold),
        in_use=figures(labels, decided_by[choice.phase], threshold, bins),
        guessing=_guessing(calibrated, shares, threshold, bins=bins, resamples=resamples, seed=seed),
    )


def _guessing(
    calibrated: Pair, shares: np.ndarray, threshold: Threshold, *, bins: int, resamples: int, seed: int
) -> Guessing:
    labels = calibrated.labels
    guess = np.tile(shares, (len(labels), 1))

    def difference(probabilities: np.ndarray) -> Interval:
        pair = Pair(labels, guess, probabilities)
        found = bootstrap_intervals(pair, ["log_loss"], ["difference"], threshold=0.5, resamples=resamples, seed=seed)
        return found["difference"]["log_loss"]

    intervals = {phase: difference(probabilities) for phase, probabilities in by_phase(calibrated).items()}
    guessed = figures(labels, guess, 0.5, bins)
    if costs_in(threshold) is not None:
        guessed["cost"] = float(np.mean(mistake_costs(labels, guess, threshold)))
    return Guessing(guessed, intervals)


def _check(pair: Pair) -> None:
    if not len(pair.labels):
        raise FrostlineError("The test set is empty.\nAdd labelled images or raise preprocess.test.")
    for phase, probabilities in by_phase(pair).items():
        bad = int(np.sum(~np.all((probabilities >= 0) & (probabilities <= 1), axis=1)))
        if bad:
            raise FrostlineError(
                f"The {phase} model's prediction is no probability for {bad} of {len(pair.labels)} test images: "
                f"training diverged.\nLower {phase}.learning_rate and run again."
            )


def mcnemar(pair: Pair, threshold: Threshold) -> McNemar:
    """The exact two-sided McNemar test of the two models' predictions (McNemar 1947; the binomial form).

    Under chance alone a changed prediction is as likely for the better as for the worse.
    """
    better, worse = changed_predictions(pair, threshold)
    changed = len(better) + len(worse)
    p_value = float(binomtest(len(better), changed, 0.5).pvalue) if changed else 1.0
    return McNemar(len(better), len(worse), p_value)


def changed_predictions(pair: Pair, threshold: Threshold) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows, (K,) and (L,) int, that the candidate sets right, and those that it gets wrong.

    The largest change of P(actual class) is first in each.
    """
    before, after = (predicted_classes(p, threshold) == pair.labels for p in (pair.baseline, pair.candidate))
    first, second = (actual_probabilities(pair.labels, p) for p in (pair.baseline, pair.candidate))
    order = np.argsort(-np.abs(second - first), kind="stable")
    return order[(after & ~before)[order]], order[(before & ~after)[order]]


def judge(found: Evaluation) -> Verdict:
    """Say what the test images say of the choice, and of fine-tuning.

    Better or worse where the 95% interval of the difference in log loss excludes 0, else indistinguishable: the
    difference could be chance. Nothing was learned where the chosen model, calibrated, is not better than guessing by
    such an interval. Neither is said by TOO_FEW images, whose resamples are much alike.
    """
    chosen, difference = found.choice.phase, found.intervals["difference"]["log_loss"]
    outcome: Outcome = "indistinguishable"
    settled = found.images > TOO_FEW
    if settled and not found.guessing.beaten_by(chosen):
        outcome = "nothing_learned"
    elif settled and difference.excludes_zero():
        outcome = "better" if difference.high < 0 else "worse"
    other: Phase = "transfer" if chosen == "finetune" else "finetune"
    title, choice = _in_words(found, outcome, chosen, other)
    return Verdict(outcome, chosen, title, choice, _detail(found))


def _in_words(found: Evaluation, outcome: Outcome, chosen: Phase, other: Phase) -> tuple[str, str]:
    """The title, and which model to take and how sure that is, for somebody without statistics."""
    this, that, answers = CALLED[chosen], CALLED[other], _answers(found)
    why = why_chosen(found.choice.losses)
    guess = "no better, beyond chance, than guessing by how frequent the classes are"
    if outcome == "nothing_learned" and found.guessing.beaten_by(other):
        return "The chosen model learned nothing beyond guessing", (
            f"The {this} was chosen: {why}. On the test images it is {guess}; the {that} is better. Rely on neither: "
            "validation and test images disagree, and more of both would settle it."
        )
    if outcome == "nothing_learned":
        return "Neither phase learned anything beyond guessing", (
            f"On the test images the {this}, chosen on the validation images, is {guess}: do not use it."
        )
    if found.images <= TOO_FEW:
        count = f"{found.images} test image{'s' * (found.images > 1)}"
        return "Too few test images to tell", (
            f"Take the {this}: {why}. By {count} alone, whatever they say could be chance; {answers}."
        )
    if outcome == "indistinguishable":
        ahead = found.figures[other]["log_loss"] < found.figures[chosen]["log_loss"]
        seen = f"the {that} is ahead, which could be chance" if ahead else "the difference could be chance"
        return "Too close to call", f"Take the {this}: {why}. On the test images {seen}; {answers}."
    if (outcome == "better") == (chosen == "finetune"):
        title = "Fine-tuning was worth it" if outcome == "better" else "Fine-tuning made it worse"
        return title, f"Take the {this}: on the test images, too, it is better, by more than chance; {answers}."
    return f"Fine-tuning did {outcome} on the test images, but was {'not ' * (outcome == 'better')}chosen", (
        f"The {this} was chosen: {why}. On the test images the {that} is better by more than chance; {answers}. "
        "The choice stays: test images that choose can no longer judge. More validation images make it surer."
    )


def _answers(found: Evaluation) -> str:
    """What fine-tuning changes, in answers."""
    better, worse = found.mcnemar.n_better, found.mcnemar.n_worse
    if not better + worse:
        return f"fine-tuning set none of {found.images:,} answers right and got none wrong"
    return f"of {found.images:,} answers, fine-tuning set {better:,} right and got {worse:,} wrong"


def _detail(found: Evaluation) -> str:
    transfer, finetune = found.figures["transfer"], found.figures["finetune"]
    before, after, difference = transfer["log_loss"], finetune["log_loss"], found.intervals["difference"]["log_loss"]
    guess, used = found.guessing.figures, found.in_use["log_loss"]
    digits = decimals(after - before, difference.low, difference.high)
    changed = found.mcnemar.n_changed
    changes = f"{found.mcnemar.n_better} of {changed} changed answer{'s' * (changed > 1)} for the better"
    changes += f" (McNemar {p_text(found.mcnemar.p_value)})"
    interval = f", 95% CI {signed(difference.low, digits)} to {signed(difference.high, digits)}"
    if found.images <= TOO_FEW:
        interval = ""
    temperature = found.choice.temperature
    calibrated = f", {used:.{digits}f} calibrated (temperature {temperature:.4g})" if temperature != 1 else ""
    return (
        f"Log loss {before:.{digits}f} → {after:.{digits}f} (difference {signed(after - before, digits)}{interval}); "
        f"accuracy {transfer['accuracy']:.3f} → {finetune['accuracy']:.3f}; "
        f"{changes if changed else 'no answer changed'}. "
        f"The {CALLED[found.choice.phase]}'s log loss is {found.figures[found.choice.phase]['log_loss']:.{digits}f}"
        f"{calibrated}; guessing has {guess['log_loss']:.{digits}f}, with accuracy {guess['accuracy']:.3f}."
    )
