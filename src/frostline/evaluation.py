"""The two phases on the same test set: which is better, by how much, and whether that could be chance.

Both phases predict a probability per class. Every interval is a 95% percentile interval of the paired bootstrap
(Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13). It covers which pictures the test set
happens to hold, not the luck of training: another seed gives another model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import binomtest
from sklearn import metrics

from frostline.errors import FrostlineError
from frostline.log_loss import log_losses
from frostline.seeds import generator

Phase = Literal["transfer", "finetune"]
Part = Literal["baseline", "candidate", "difference"]
Outcome = Literal["better", "worse", "indistinguishable"]

PARTS: tuple[Part, ...] = ("baseline", "candidate", "difference")
"""What intervals are drawn for: each of a `Pair`, and candidate - baseline."""

INTERVAL_FIGURES = ("log_loss", "accuracy", "roc_auc", "brier")
"""The figures that get a 95% interval; the first decides the verdict."""

_BOOTSTRAP_CELLS = 2_000_000  # resamples x pictures held at once: about 100 MB


@dataclass(frozen=True)
class Pair:
    """What two models say of the same pictures; the question is whether the candidate is better than the baseline."""

    labels: np.ndarray
    """(N,) class indices."""
    baseline: np.ndarray
    """Probabilities, (N, classes) float64."""
    candidate: np.ndarray
    """As `baseline`."""

    def __post_init__(self) -> None:
        for name, probabilities in (("baseline", self.baseline), ("candidate", self.candidate)):
            if probabilities.ndim != 2 or len(probabilities) != len(self.labels):
                raise ValueError(f"{name}: {probabilities.shape} probabilities for {self.labels.shape} labels")


def by_phase(pair: Pair) -> dict[str, np.ndarray]:
    """The probabilities of both phases: transfer is the baseline, finetune the candidate."""
    return {"transfer": pair.baseline, "finetune": pair.candidate}


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


Intervals = dict[str, dict[str, Interval]]
"""``intervals[part][figure]``; undefined figures are absent."""


@dataclass(frozen=True)
class McNemar:
    """Decisions that the candidate changes: `n_better` wrong → right, `n_worse` right → wrong."""

    n_better: int
    n_worse: int
    p_value: float

    @property
    def n_changed(self) -> int:
        return self.n_better + self.n_worse


@dataclass(frozen=True)
class Verdict:
    """`outcome` of fine-tuning, the `winner` by test log loss, and both in words.

    `title` answers in one clause, `detail` gives the numbers, `choice` says why `winner` wins.
    """

    outcome: Outcome
    winner: Phase
    title: str
    detail: str
    choice: str

    @property
    def headline(self) -> str:
        return f"{self.title}: {self.detail}"


@dataclass(frozen=True)
class Evaluation:
    """All that the test set says; `figures` and `confusion` by phase, `difference` is finetune - transfer."""

    pictures: int
    threshold: float
    """For two classes: P(second) above which it is decided."""
    figures: dict[str, dict[str, float]]
    confusion: dict[str, np.ndarray]
    difference: dict[str, float]
    intervals: Intervals
    """By "transfer", "finetune" and "difference"."""
    decisions: McNemar
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
            "decisions_better": self.decisions.n_better,
            "decisions_worse": self.decisions.n_worse,
            "mcnemar_p": rounded(self.decisions.p_value),
            "pictures": self.pictures,
        }
        return parts


def evaluate(pair: Pair, *, threshold: float, bins: int, resamples: int, seed: int) -> Evaluation:
    """Compare the phases: of the `pair`, transfer is the baseline and finetune the candidate.

    A picture is decided to be of its most probable class; of two, of the second above `threshold`.
    Raises FrostlineError for an empty test set and for probabilities that are not numbers from 0 to 1.
    """
    _check(pair)
    labels, phases = pair.labels, by_phase(pair)
    values = {phase: figures(labels, p, threshold, bins) for phase, p in phases.items()}
    before, after = values["transfer"], values["finetune"]
    found = bootstrap_intervals(pair, threshold=threshold, resamples=resamples, seed=seed)
    decisions = mcnemar(pair, threshold)
    return Evaluation(
        pictures=len(labels),
        threshold=threshold,
        figures=values,
        confusion={phase: confusion_matrix(labels, p, threshold) for phase, p in phases.items()},
        difference={name: after[name] - before[name] for name in before if name in after},
        intervals={
            "transfer": found["baseline"],
            "finetune": found["candidate"],
            "difference": found["difference"],
        },
        decisions=decisions,
        verdict=verdict(before, after, found["difference"]["log_loss"], decisions),
    )


def _check(pair: Pair) -> None:
    if not len(pair.labels):
        raise FrostlineError("The test set is empty.\nAdd labelled pictures or raise preprocess.test.")
    for phase, probabilities in by_phase(pair).items():
        bad = int(np.sum(~np.all((probabilities >= 0) & (probabilities <= 1), axis=1)))
        if bad:
            raise FrostlineError(
                f"The {phase} model's prediction is no probability for {bad} of {len(pair.labels)} test pictures: "
                f"training diverged.\nLower {phase}.learning_rate and run again."
            )


def figures(labels: np.ndarray, probabilities: np.ndarray, threshold: float, bins: int) -> dict[str, float]:
    """Return log_loss, accuracy, roc_auc, average_precision, f1, brier and ece.

    `labels` (N,) class indices, `probabilities` (N, classes). roc_auc, average_precision and f1 are those of the
    second of two classes, and for more the mean of each class' against the rest (macro average); see
    `class_figures` for where they are undefined, and so absent. log_loss clips to [1e-7, 1 - 1e-7] as Keras does.
    brier is the mean of `squared_errors`. ece is the expected calibration error (Naeini, Cooper & Hauskrecht 2015,
    "Obtaining well calibrated probabilities using Bayesian binning") over `bins` equal-width bins (Guo et al. 2017,
    "On calibration of modern neural networks"), of what the reliability diagram shows.
    """
    decided = decide(probabilities, threshold)
    found = {
        "log_loss": float(np.mean(log_losses(labels, probabilities))),
        "accuracy": float(np.mean(decided == labels)),
    }
    by_class = class_figures(labels, probabilities, threshold)
    for name in ("roc_auc", "average_precision", "f1"):
        values = [each[name] for each in by_class.values() if name in each]
        if values:
            found[name] = float(np.mean(values))
    found["brier"] = float(np.mean(squared_errors(labels, probabilities)))
    predicted, observed, counts = reliability(labels, probabilities, bins)
    found["ece"] = float(np.sum(counts * np.abs(observed - predicted)) / len(labels))
    return found


def class_figures(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[int, dict[str, float]]:
    """Return roc_auc, average_precision and f1 of each of the `scored_classes` against the rest.

    The first two are absent where `labels` holds the class only or not at all, f1 where it is neither present nor
    decided.
    """
    decided, ranked = decide(probabilities, threshold), ranked_classes(labels, probabilities)
    found: dict[int, dict[str, float]] = {}
    for number in scored_classes(probabilities):
        actual, scores = labels == number, probabilities[:, number]
        one = found[number] = {}
        if number in ranked:
            one["roc_auc"] = float(metrics.roc_auc_score(actual, scores))
            one["average_precision"] = float(metrics.average_precision_score(actual, scores))
        if np.any(actual) or np.any(decided == number):
            one["f1"] = float(metrics.f1_score(actual, decided == number))
    return found


def scored_classes(probabilities: np.ndarray) -> list[int]:
    """The classes that are judged against the rest: each; but of two only the second, as the first says no more."""
    count = probabilities.shape[1]
    return [1] if count == 2 else list(range(count))


def ranked_classes(labels: np.ndarray, probabilities: np.ndarray) -> list[int]:
    """Those of the `scored_classes` that `labels` holds, but not alone: they have ROC and precision–recall curves."""
    return [number for number in scored_classes(probabilities) if 0 < np.sum(labels == number) < len(labels)]


def squared_errors(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Brier's score of each picture, (N,): the squared error of P(second), for more classes the sum of each one's."""
    scored = scored_classes(probabilities)
    errors: np.ndarray = np.sum((probabilities[:, scored] - (labels[:, None] == scored)) ** 2, axis=1)
    return errors


def decide(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """The decided class of each picture, (N,) int64: the most probable one; of two, the second above `threshold`."""
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] > threshold).astype(np.int64)
    decided: np.ndarray = np.argmax(probabilities, axis=1)
    return decided


def sureness(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """How far each decision is from another one, (N,): the lead over the next class; of two, that over `threshold`."""
    if probabilities.shape[1] == 2:
        return np.abs(probabilities[:, 1] - threshold)
    next_best, best = np.partition(probabilities, (-2, -1), axis=1)[:, -2:].T
    lead: np.ndarray = best - next_best
    return lead


def confidences(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities whose calibration is judged, (N,), and whether each came true, (N,) bool.

    They are those of the most probable class (Guo et al. 2017); of two classes, those of the second.
    """
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], labels == 1
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean predicted probability, share that came true and count of each filled bin of the `confidences`.

    `bins` bins of equal width over [0, 1], open below and closed above (Guo et al. 2017), the first closed.
    """
    edges = np.linspace(0, 1, bins + 1)
    confidence, came_true = confidences(labels, probabilities)
    index = np.searchsorted(edges[1:-1], confidence)
    counts = np.bincount(index, minlength=bins)
    filled = counts > 0
    predicted = np.bincount(index, confidence, minlength=bins)[filled] / counts[filled]
    observed = np.bincount(index, came_true, minlength=bins)[filled] / counts[filled]
    return predicted, observed, counts[filled]


def confusion_matrix(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Count pictures, (classes, classes) int64: rows are the actual class, columns the decided one."""
    count = probabilities.shape[1]
    pairs = count * np.asarray(labels, np.int64) + decide(probabilities, threshold)
    return np.bincount(pairs, minlength=count**2).reshape(count, count)


def threshold_counts(labels: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """The confusion matrix of two classes at each of `thresholds`, (T, 2, 2) int64."""
    return np.stack([confusion_matrix(labels, probabilities, threshold) for threshold in thresholds])


def bootstrap_intervals(
    pair: Pair,
    wanted: Sequence[str] = INTERVAL_FIGURES,
    parts: Sequence[Part] = PARTS,
    *,
    threshold: float,
    resamples: int,
    seed: int,
) -> Intervals:
    """Return 95% percentile intervals of the figures `wanted`, of INTERVAL_FIGURES, for the `parts` asked for.

    Only these are computed: the areas below ROC curves take most of the time. The resamples follow from `seed` and the
    number of pictures alone, so an interval is the same, up to rounding, whatever else is asked for.

    Each resample draws N pictures with replacement, the same for both models: the difference is paired.
    roc_auc leaves out, in each resample, the classes that it holds only or not at all, and resamples of one class; it
    is absent where the labels hold one class only.
    """
    labels, models = pair.labels, {"baseline": pair.baseline, "candidate": pair.candidate}
    means_of = [name for name in wanted if name != "roc_auc"]
    ranked = ranked_classes(labels, pair.baseline) if "roc_auc" in wanted else []
    per_picture = {name: _per_picture(labels, p, means_of, threshold) for name, p in models.items()}
    # The difference is taken per picture: equal predictions then differ by exactly 0, free of rounding.
    per_picture["difference"] = per_picture["candidate"] - per_picture["baseline"]
    columns = np.concatenate([per_picture[part] for part in parts], axis=1)
    needed = [name for name in models if name in parts or "difference" in parts]

    means, areas = [], []
    for times in _resamples(len(labels), resamples, seed):
        means.append(times @ columns / len(labels))
        if ranked:
            drawn = np.ascontiguousarray(times.T)
            areas.append([_mean_roc_aucs(drawn, labels, models[name], ranked) for name in needed])

    mean = np.concatenate(means).reshape(resamples, len(parts), len(means_of))
    samples = {part: dict(zip(means_of, mean[:, i].T, strict=True)) for i, part in enumerate(parts)}
    if ranked:
        area = dict(zip(needed, np.concatenate(areas, axis=1), strict=True))
        if "difference" in parts:
            area["difference"] = area["candidate"] - area["baseline"]
        for part in parts:
            samples[part]["roc_auc"] = area[part][~np.isnan(area[part])]
    return {part: {name: _interval(drawn[name]) for name in wanted if name in drawn} for part, drawn in samples.items()}


def _per_picture(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], threshold: float) -> np.ndarray:
    """Of each picture what the figures `names` are the means of, (N, names) float64."""
    found = np.empty((len(labels), len(names)))
    for column, name in enumerate(names):
        match name:
            case "log_loss":
                found[:, column] = log_losses(labels, probabilities)
            case "accuracy":
                found[:, column] = decide(probabilities, threshold) == labels
            case "brier":
                found[:, column] = squared_errors(labels, probabilities)
            case _:
                raise ValueError(f"no intervals of {name}")
    return found


def _resamples(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield, in chunks of resamples (R, N) float64, how often each of `count` pictures is drawn."""
    rng = generator(seed, "bootstrap")
    chunk = max(1, _BOOTSTRAP_CELLS // count)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        cells = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(cells.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def _mean_roc_aucs(
    drawn: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[int]
) -> np.ndarray:
    """The mean of `_roc_aucs` over those of `classes` for which they are defined; NaN where there is none."""
    areas = np.stack([_roc_aucs(drawn, labels == number, probabilities[:, number]) for number in classes])
    defined = np.sum(~np.isnan(areas), axis=0)
    means = np.full(areas.shape[1], np.nan)
    np.divide(np.nansum(areas, axis=0), defined, out=means, where=defined > 0)
    return means


def _roc_aucs(drawn: np.ndarray, actual: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Areas under the ROC curve, (R,), of R resamples that hold picture i `drawn` (N, R) [i] times.

    The Mann-Whitney form: the share of pairs, one of the `actual` (N,) bool and one of the others, whose
    `probabilities` (N,) are in order; ties count half (Hanley & McNeil 1982). NaN where a resample holds no pair.
    """
    order = np.argsort(probabilities, kind="stable")
    ranked, rows = probabilities[order], order[actual[order]]
    below = np.zeros((len(order) + 1, drawn.shape[1]))  # row k: how often the k lowest pictures are drawn
    np.cumsum(drawn[order], axis=0, out=below[1:])
    lower, not_higher = (np.searchsorted(ranked, probabilities[rows], side) for side in ("left", "right"))
    times = drawn[rows]
    positives = times.sum(axis=0)
    # Pairs of two actual ones, of which one half is in order, are counted, too, and taken off again.
    ordered = np.einsum("pr,pr->r", times, (below[lower] + below[not_higher]) / 2) - positives**2 / 2
    pairs = positives * (below[-1] - positives)
    areas = np.full(len(pairs), np.nan)
    np.divide(ordered, pairs, out=areas, where=pairs > 0)
    return areas


def _interval(samples: np.ndarray) -> Interval:
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(float(low), float(high))


def mcnemar(pair: Pair, threshold: float) -> McNemar:
    """The exact two-sided McNemar test of the two models' decisions (McNemar 1947; the binomial form).

    Under chance alone a changed decision is as likely for the better as for the worse.
    """
    better, worse = changed_decisions(pair, threshold)
    changed = len(better) + len(worse)
    p_value = float(binomtest(len(better), changed, 0.5).pvalue) if changed else 1.0
    return McNemar(len(better), len(worse), p_value)


def changed_decisions(pair: Pair, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that the candidate sets right and those it gets wrong, the largest change of P(actual) first."""
    before, after = (decide(p, threshold) == pair.labels for p in (pair.baseline, pair.candidate))
    change = _of_actual(pair.labels, pair.candidate) - _of_actual(pair.labels, pair.baseline)
    order = np.argsort(-np.abs(change), kind="stable")
    return order[(after & ~before)[order]], order[(before & ~after)[order]]


def surest_mistakes(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Return the rows of wrong decisions, the least probable actual class first."""
    order = np.argsort(_of_actual(labels, probabilities), kind="stable")
    mistakes: np.ndarray = order[(decide(probabilities, threshold) != labels)[order]]
    return mistakes


def least_sure_hits(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Return the rows of correct decisions, the least sure first (see `sureness`)."""
    order = np.argsort(sureness(probabilities, threshold), kind="stable")
    hits: np.ndarray = order[(decide(probabilities, threshold) == labels)[order]]
    return hits


def _of_actual(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The probability of each picture's actual class, (N,)."""
    actual: np.ndarray = probabilities[np.arange(len(labels)), labels]
    return actual


def verdict(
    transfer: Mapping[str, float], finetune: Mapping[str, float], difference: Interval, decisions: McNemar
) -> Verdict:
    """Judge fine-tuning by the phases' `figures` and the 95% interval of the log-loss `difference`.

    Better or worse where the interval excludes 0, else indistinguishable from chance. The winner has the
    lower test log loss; a tie goes to transfer, the simpler model.
    """
    before, after = transfer["log_loss"], finetune["log_loss"]
    outcome: Outcome = "indistinguishable"
    if difference.excludes_zero():
        outcome = "better" if difference.high < 0 else "worse"
    title = {
        "better": "Fine-tuning was worth it",
        "worse": "Fine-tuning made it worse",
        "indistinguishable": "No difference that could not be chance",
    }[outcome]

    digits = decimals(after - before, difference.low, difference.high)
    n_changed = decisions.n_changed
    changes = f"{decisions.n_better} of {n_changed} changed decision{'s' * (n_changed > 1)} for the better"
    changes += f" (McNemar {p_text(decisions.p_value)})"
    detail = (
        f"log loss {before:.{digits}f} → {after:.{digits}f} (difference {signed(after - before, digits)}, "
        f"95% CI {signed(difference.low, digits)} to {signed(difference.high, digits)}); "
        f"accuracy {transfer['accuracy']:.3f} → {finetune['accuracy']:.3f}; "
        f"{changes if n_changed else 'no decision changed'}."
    )

    winner: Phase = "finetune" if after < before else "transfer"
    if after == before:
        choice = "Both phases have the same test log loss; a tie goes to transfer, the simpler model."
    else:
        choice = f"The {'fine-tuned' if winner == 'finetune' else winner} model has the lower test log loss"
        choice += ", but that could be chance." if outcome == "indistinguishable" else "."
    return Verdict(outcome, winner, title, detail, choice)


def decimals(*values: float) -> int:
    """Decimals, 3 to 6, with which no value but 0 looks like 0."""
    return next((d for d in (3, 4, 5) if all(v == 0 or abs(round(v, d)) > 0 for v in values)), 6)


def signed(value: float, digits: int) -> str:
    """Return `value` with its sign, which is a true minus where negative and absent where it reads as 0."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def p_text(p_value: float) -> str:
    """A p value as a clause: ``p = 0.06``, ``p < 0.001``."""
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {p_value:.3f}" if p_value < 0.01 else f"p = {p_value:.2f}"


def rounded(value: float) -> float:
    """`value` with six significant digits, as metrics.json has it."""
    return float(f"{value:.6g}") + 0.0  # + 0.0: no negative zero
