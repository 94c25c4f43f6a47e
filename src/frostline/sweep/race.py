"""A race: settings compared over folds, of which fewer and fewer are trained on, until the time given is over.

Successive halving (Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization",
AISTATS), with folds as what is spent on a setting.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from frostline.common.files import read_json, write_json
from frostline.runtime.durations import in_words
from frostline.sweep.results import LUCK, RACE, Record, has_finished, label, lowest_loss, reason

_FINALISTS = 2
"""So many settings are trained on every fold: the first one, and the best of the others to compare it with."""
_AFTERWARDS = 45
"""Seconds that the stages of the winner's training take beside training: imports, saving, evaluation, the report."""


@dataclass(frozen=True)
class Outcome:
    """What a race left to be compared, and what else there is to say of it."""

    compared: list[int]
    """The numbers of the trials of those that came furthest, all over the same folds."""
    notes: list[str]
    first_runs: bool = True
    """Whether the first setting is among them, and did not fail."""


@dataclass
class Entry:
    """A setting in the race."""

    name: str
    """In few words."""
    trials: list[int]
    """The numbers of its trials that finished, one for each round."""
    losses: list[float]
    """Their validation losses, in the same order."""

    @property
    def loss(self) -> float:
        return mean(self.losses)


def rounds_of(trials: Sequence[list[str]]) -> list[list[list[str]]]:
    """The trials, given as overrides, by round: in each every setting once, on one fold and by one seed."""
    rounds: dict[tuple[str, ...], list[list[str]]] = {}
    for trial in trials:
        rounds.setdefault(_luck(trial), []).append(trial)
    return list(rounds.values())


def longest(trials: Sequence[list[str]]) -> int:
    """How many of the trials a race runs that nothing ends early."""
    rounds = rounds_of(trials)
    left, total = len(rounds[0]), 0
    for _ in rounds:
        total, left = total + left, _half(left)
    return total


def run_race(
    trials: Sequence[list[str]], run: Callable[[int, list[str]], Record], time_limit: float | None = None
) -> Outcome:
    """Run some of `trials` and say which to compare.

    The first setting stays in the race: another one is of use only where it is better than that.

    Args:
        trials: every setting on every fold, as overrides.
        run: runs one, given its number in the order in which they run, and its overrides.
        time_limit: in seconds; what is left of it after the race is enough for one more training.
    """
    begun, slowest, number = time.monotonic(), 0.0, 0
    rounds = rounds_of(trials)
    entries = {_setting(trial): Entry(_name(trial), [], []) for trial in rounds[0]}
    racing, notes = list(entries.values()), []
    first = racing[0]

    def is_over() -> bool:
        """Whether the next trial and the winner's training might not fit."""
        needed = time.monotonic() - begun + 2 * slowest + _AFTERWARDS
        return time_limit is not None and number > 0 and needed > time_limit

    for place, trials_of_round in enumerate(rounds, 1):
        skipped = False
        for trial in trials_of_round:
            entry = entries[_setting(trial)]
            if entry not in racing:
                continue
            if skipped := is_over():
                break
            before = time.monotonic()
            record = run(number, trial)
            slowest = max(slowest, time.monotonic() - before)
            if has_finished(record):
                entry.trials.append(number)
                entry.losses.append(lowest_loss(record))
            else:
                racing.remove(entry)
                notes.append(f"Failed: {entry.name}: {reason(record)}")
            number += 1
        if skipped or (is_over() and place < len(rounds)):
            notes.insert(0, f"The time limit ended it in round {place} of {len(rounds)}.")
            break
        racing, given_up = _halved(racing, first)
        if given_up:
            losses = ", ".join(f"{entry.name} ({entry.loss:.4f})" for entry in given_up)
            notes.append(f"Given up after {place} training{'s' * (place > 1)}, with the validation loss: {losses}.")
    spent = in_words(time.monotonic() - begun)
    notes.insert(0, f"{number} of {len(trials)} trainings of {len(entries)} settings were run, in {spent}.")
    lucks = [_luck(trials_of_round[0]) for trials_of_round in rounds]
    return Outcome(_comparable(racing, lucks), notes, first in racing)


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Leave it in the sweep's `folder`."""
    write_json(folder / RACE, asdict(outcome))


def read_outcome(folder: Path) -> Outcome | None:
    """That of the race in the sweep's `folder`; None where it was none."""
    path = folder / RACE
    return Outcome(**read_json(path)) if path.is_file() else None


def _luck(trial: Sequence[str]) -> tuple[str, ...]:
    """Its fold and seed, as overrides."""
    return tuple(each for each in trial if each.partition("=")[0] in LUCK)


def _setting(trial: Sequence[str]) -> tuple[str, ...]:
    """All its other overrides."""
    return tuple(each for each in trial if each.partition("=")[0] not in LUCK)


def _name(trial: Sequence[str]) -> str:
    return label(dict(each.split("=", 1) for each in _setting(trial)))


def _halved(racing: Sequence[Entry], stays: Entry) -> tuple[list[Entry], list[Entry]]:
    """The better half of those `racing`, among them the one that `stays`, best first; and the others."""
    order = sorted(racing, key=lambda entry: entry.loss)
    kept = order[: _half(len(order))]
    if stays in order and stays not in kept:
        kept[-1] = stays
    return kept, [entry for entry in order if entry not in kept]


def _half(count: int) -> int:
    return max(_FINALISTS, math.ceil(count / 2))


def _comparable(racing: Sequence[Entry], lucks: Sequence[tuple[str, ...]]) -> list[int]:
    """The trials of the settings still in the race, in the rounds that all of them have run, as far as these are every
    seed on every one of some folds; of the first round those that it has, as it may have ended early.

    `lucks`: by round, its fold and seed.
    """
    begun = [entry for entry in racing if entry.trials]
    common = min((len(entry.trials) for entry in begun), default=0)
    while common > 1 and math.prod(len(set(each)) for each in zip(*lucks[:common], strict=True)) > common:
        common -= 1
    return sorted(number for entry in begun for number in entry.trials[:common])
