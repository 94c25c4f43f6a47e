"""Both phases on the same test set: which is better, by how much, and whether that could be chance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import binomtest

from frostline.common.phase_names import PhaseName
from frostline.metrics.bootstrap import Interval, Intervals, Pair, bootstrap_intervals, by_phase
from frostline.metrics.classification import actual_probabilities, confusion_matrix, figures
from frostline.metrics.formatting import decimals, p_text, rounded, signed
from frostline.metrics.predicted import predicted_classes
from frostline.runtime.errors import FrostlineError

Phase = PhaseName
Outcome = Literal["better", "worse", "indistinguishable"]


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
    """`outcome` of fine-tuning, the `winner` by test log loss, and both in words.

    `title` answers in one clause, `choice` says which model to take and why, `detail` gives the numbers.
    """

    outcome: Outcome
    winner: Phase
    title: str
    choice: str
    detail: str

    @property
    def headline(self) -> str:
        return f"{self.title}. {self.choice} {self.detail}"


@dataclass(frozen=True)
class Evaluation:
    """All that the test set says; `figures` and `confusion` by phase, `difference` is finetune - transfer."""

    images: int
    threshold: float
    """For two classes: the second is predicted where its probability is above it."""
    figures: dict[str, dict[str, float]]
    confusion: dict[str, np.ndarray]
    difference: dict[str, float]
    intervals: Intervals
    """By "transfer", "finetune" and "difference"."""
    mcnemar: McNemar
    verdict: Verdict

    def as_metrics(self) -> dict[str, dict[str, Any]]:
        """Return plain numbers, six significant digits, nested as reports/metrics.json is.

        The ends of a 95% interval are ``<figure>_low`` and ``<figure>_high``.
        """
        parts: dict[str, dict[str, Any]] = {}
        for name, values in (*self.figures.items(), ("difference", self.difference)):
            parts[name] = {figure: rounded(value) for figure, value in values.items()}
            for figure, interval in self.intervals[name].items():
                parts[name][f"{figure}_low"] = rounded(interval.low)
                parts[name][f"{figure}_high"] = rounded(interval.high)
        parts["verdict"] = {
            "outcome": self.verdict.outcome,
            "winner": self.verdict.winner,
            "decisions_better": self.mcnemar.n_better,
            "decisions_worse": self.mcnemar.n_worse,
            "mcnemar_p": rounded(self.mcnemar.p_value),
            "images": self.images,
        }
        return parts


def evaluate(pair: Pair, *, threshold: float, bins: int, resamples: int, seed: int) -> Evaluation:
    """Compare the phases: of the `pair`, transfer is the baseline and finetune the candidate.

    Args:
        pair: both phases' probabilities for the test images.
        threshold: for two classes, from 0 to 1; see `predicted_classes`.
        bins: of the calibration error.
        resamples: of the bootstrap, behind each interval.
        seed: of the run.

    Raises:
        FrostlineError: the test set is empty, or probabilities are not numbers from 0 to 1.
    """
    _check(pair)
    labels, phases = pair.labels, by_phase(pair)
    values = {phase: figures(labels, p, threshold, bins) for phase, p in phases.items()}
    before, after = values["transfer"], values["finetune"]
    found = bootstrap_intervals(pair, threshold=threshold, resamples=resamples, seed=seed)
    changes = mcnemar(pair, threshold)
    return Evaluation(
        images=len(labels),
        threshold=threshold,
        figures=values,
        confusion={phase: confusion_matrix(labels, p, threshold) for phase, p in phases.items()},
        difference={name: after[name] - before[name] for name in before if name in after},
        intervals={
            "transfer": found["baseline"],
            "finetune": found["candidate"],
            "difference": found["difference"],
        },
        mcnemar=changes,
        verdict=verdict(before, after, found["difference"]["log_loss"], changes),
    )


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


def mcnemar(pair: Pair, threshold: float) -> McNemar:
    """The exact two-sided McNemar test of the two models' predictions (McNemar 1947; the binomial form).

    Under chance alone a changed prediction is as likely for the better as for the worse.
    """
    better, worse = changed_predictions(pair, threshold)
    changed = len(better) + len(worse)
    p_value = float(binomtest(len(better), changed, 0.5).pvalue) if changed else 1.0
    return McNemar(len(better), len(worse), p_value)


def changed_predictions(pair: Pair, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows, (K,) and (L,) int, that the candidate sets right, and those that it gets wrong.

    The largest change of P(actual class) is first in each.
    """
    before, after = (predicted_classes(p, threshold) == pair.labels for p in (pair.baseline, pair.candidate))
    first, second = (actual_probabilities(pair.labels, p) for p in (pair.baseline, pair.candidate))
    order = np.argsort(-np.abs(second - first), kind="stable")
    return order[(after & ~before)[order]], order[(before & ~after)[order]]


def verdict(
    transfer: Mapping[str, float], finetune: Mapping[str, float], difference: Interval, mcnemar: McNemar
) -> Verdict:
    """Judge fine-tuning by the phases' `figures` and the 95% interval of the log-loss `difference`.

    Better or worse where the interval excludes 0, else indistinguishable: the difference could be chance. The winner
    has the lower test log loss; a tie goes to transfer, the simpler model.
    """
    before, after = transfer["log_loss"], finetune["log_loss"]
    outcome: Outcome = "indistinguishable"
    if difference.excludes_zero():
        outcome = "better" if difference.high < 0 else "worse"
    title = {
        "better": "Fine-tuning was worth it",
        "worse": "Fine-tuning made it worse",
        "indistinguishable": "Too close to call",
    }[outcome]

    digits = decimals(after - before, difference.low, difference.high)
    n_changed = mcnemar.n_changed
    changes = f"{mcnemar.n_better} of {n_changed} changed prediction{'s' * (n_changed > 1)} for the better"
    changes += f" (McNemar {p_text(mcnemar.p_value)})"
    detail = (
        f"Log loss {before:.{digits}f} → {after:.{digits}f} (difference {signed(after - before, digits)}, "
        f"95% CI {signed(difference.low, digits)} to {signed(difference.high, digits)}); "
        f"accuracy {transfer['accuracy']:.3f} → {finetune['accuracy']:.3f}; "
        f"{changes if n_changed else 'no prediction changed'}."
    )

    winner: Phase = "finetune" if after < before else "transfer"
    model = "the fine-tuned model" if winner == "finetune" else "the transfer model"
    if after == before:
        choice = f"Both models have the same test log loss: take {model}, the simpler one."
    elif outcome == "indistinguishable":
        choice = f"The difference could be chance: take {model}, whose test log loss is lower."
    else:
        choice = f"Take {model}: its test log loss is lower."
    return Verdict(outcome, winner, title, choice, detail)
