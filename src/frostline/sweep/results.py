"""What a sweep found: its trials as they lie in its folder, ranked by validation loss, as CSV, as recipe, in words.

The validation loss of a setting is that of its better phase, as the pipeline takes the model of that one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from frostline.common.files import read_json, write_csv, write_json
from frostline.common.phase_names import PHASES, PhaseName
from frostline.config.paths import WINNER
from frostline.config.settings import Config, Ensemble
from frostline.metrics.choice import chosen_phase

RESULT = "trial.json"
"""Left by each trial in its folder below the sweep's: trial, overrides, and then key (see `trial_key`), transfer and
finetune (the figures of the epochs that they kept), or error, or pruned (why it was given up)."""
REBUILD = "dvc exp run -S experiment=swept"
"""What trains the winner through the pipeline, where no settings that stay differ from it."""

Record = Mapping[str, Any]

_SWEEP = "sweep.json"
RACE, BEST = "race.json", "best.yaml"
"""What a race left to be compared; the winner as a recipe."""
_FOUND = (RACE, WINNER, BEST)
"""What a sweep leaves in its folder at its end, if at all."""

LUCK = ("fold", "seed")
"""Settings of which a result's luck consists: a setting is judged by all of its trainings."""
AFTER: Mapping[PhaseName, str] = {"transfer": "transfer", "finetune": "fine-tuning"}
"""What a figure is taken after."""
_IN_TABLE = 20  # settings in the description: more are in the CSV


@dataclass(frozen=True)
class Setting:
    """One combination of the swept settings; its trials differ in their seed and fold only."""

    values: dict[str, str]
    """Of the swept settings, seed and fold left out."""
    trials: list[Record]
    """Those that finished."""
    unfinished: int

    @property
    def label(self) -> str:
        return label(self.values)

    @property
    def phase(self) -> PhaseName:
        """The better one: of the lower mean validation loss."""
        return chosen_phase({phase: self.mean(phase) for phase in PHASES})

    def mean(self, phase: PhaseName | None = None, figure: str = "loss") -> float:
        """Mean over seeds and folds of a validation figure after `phase`; None: the better one."""
        return mean(_figure(trial, phase or self.phase, figure) for trial in self.trials)

    @property
    def spread(self) -> float | None:
        """Standard deviation over them (n - 1) of the better phase's validation loss; None for one training."""
        losses = [_figure(trial, self.phase, "loss") for trial in self.trials]
        return stdev(losses) if len(losses) > 1 else None

    @property
    def best(self) -> Record:
        return min(self.trials, key=lambda trial: _figure(trial, self.phase, "loss"))


def better_phase(trial: Record) -> PhaseName:
    """The phase whose model the pipeline would take of a trial that finished."""
    return chosen_phase({phase: _figure(trial, phase, "loss") for phase in PHASES})


def lowest_loss(trial: Record) -> float:
    """The validation loss of its better phase."""
    return _figure(trial, better_phase(trial), "loss")


def _figure(trial: Record, phase: str, figure: str) -> float:
    return float(trial[phase][f"validation/{figure}"])


def new_record(overrides: list[str]) -> dict[str, Any]:
    """A trial of which nothing is known yet but its `overrides`."""
    return {"trial": " ".join(overrides) or "default", "overrides": overrides}


def read_trials(folder: Path) -> list[Record]:
    """The trials in the sweep's `folder`, in the order in which they were numbered."""
    return [read_json(path) for path in sorted(_trial_files(folder), key=lambda path: int(path.parent.name))]


def _trial_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"*/{RESULT}") if path.parent.name.isdigit()]


def has_finished(trial: Record) -> bool:
    """Whether it has the figures of both phases."""
    return "finetune" in trial


def unfinished(trials: Sequence[Record]) -> list[Record]:
    """Those that failed or were given up."""
    return [trial for trial in trials if not has_finished(trial)]


def begin(folder: Path, group: str, inputs: str) -> None:
    """Leave in the sweep's `folder` what its trials, wherever they run, are known by together, and a digest of what
    they all have as `inputs`; and nothing that an earlier sweep found there."""
    for path in (*_trial_files(folder), *(folder / name for name in _FOUND)):
        path.unlink(missing_ok=True)
    write_json(folder / _SWEEP, {"group": group, "inputs": inputs})


def group_of(folder: Path) -> str:
    return _begun(folder).get("group", str(folder))


def inputs_of(folder: Path) -> str | None:
    """As given to `begin`; None where the trial is one of no sweep."""
    return _begun(folder).get("inputs")


def _begun(folder: Path) -> dict[str, str]:
    path = folder / _SWEEP
    return dict(read_json(path)) if path.is_file() else {}


def swept_values(trial: Record) -> dict[str, str]:
    pairs = (override.partition("=") for override in trial["overrides"])
    return {key.lstrip("+"): value for key, _, value in pairs}


def swept_keys(trials: Sequence[Record]) -> list[str]:
    """The settings in which the trials differ, in the order of the command line; all of them for a single trial."""
    found: dict[str, set[str | None]] = {key: set() for trial in trials for key in swept_values(trial)}
    for key, values in found.items():
        values.update(swept_values(trial).get(key) for trial in trials)
    return [key for key, values in found.items() if len(values) > 1 or len(trials) == 1]


def counted_as(trials: Sequence[Record]) -> str:
    """What the trials of a setting are: seeds, or trainings where folds were swept (and seeds, too, maybe)."""
    return "trainings" if "fold" in swept_keys(trials) else "seeds"


def label(values: Mapping[str, str]) -> str:
    return " ".join(f"{key}={short(value)}" for key, value in values.items()) or "default"


def short(value: str) -> str:
    """A number of a search with as many digits as people read; anything else as it is."""
    return f"{float(value):.4g}" if re.fullmatch(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", value) and len(value) > 8 else value


def rank(trials: Sequence[Record]) -> list[Setting]:
    """The settings with a finished trial, best first: by mean validation loss of the better phase, then as they came.

    Settings of which a seed failed, or that were trained less often than others, come last: a mean over the lucky ones,
    or over easy folds, would flatter them. What was tried twice counts once.
    """
    keys = [key for key in swept_keys(trials) if key not in LUCK]
    groups: dict[tuple[str, ...], list[Record]] = {}
    for trial in trials:
        values = swept_values(trial)
        groups.setdefault(tuple(values.get(key, "") for key in keys), []).append(trial)
    settings = []
    for found, members in groups.items():
        # A search may propose what it has tried: the same training is no other seed. One that finished is what counts.
        members = sorted(members, key=has_finished)
        members = list({tuple(sorted(trial["overrides"])): trial for trial in members}.values())
        finished = [trial for trial in members if has_finished(trial)]
        if finished:
            settings.append(Setting(dict(zip(keys, found, strict=True)), finished, len(members) - len(finished)))
    most = max((len(setting.trials) for setting in settings), default=0)
    return sorted(settings, key=lambda each: (each.unfinished > 0 or len(each.trials) < most, each.mean()))


def in_order(values: Sequence[str]) -> list[str]:
    """Distinct `values`, numbers by size and names by the numbers in them: mixed2 before mixed10."""

    def key(value: str) -> tuple[Any, ...]:
        try:
            return (0, float(value))
        except ValueError:
            return (1, *((part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", value)))

    return sorted(set(values), key=key)


def write_tables(folder: Path, trials: Sequence[Record]) -> list[Path]:
    """Write trials.csv (every trial with its figures, or why there are none) and settings.csv (means over seeds
    and folds)."""
    keys = swept_keys(trials)
    figures = ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy")
    columns = [f"{phase}/{figure}" for phase in PHASES for figure in figures]

    def row(trial: Record) -> dict[str, Any]:
        found = {f"{phase}/{name}": value for phase in PHASES for name, value in trial.get(phase, {}).items()}
        return swept_values(trial) | found | {"status": status(trial), "reason": reason(trial)}

    kept = [*keys, "status", *columns, "reason"]
    rows = ({column: full.get(column, "") for column in kept} for full in map(row, trials))
    write_csv(folder / "trials.csv", kept, rows)

    settings = rank(trials)
    names = list(settings[0].values) if settings else []
    counted = counted_as(trials)
    means = ["validation/loss mean", "validation/loss spread", "validation/accuracy mean"]
    write_csv(
        folder / "settings.csv",
        [*names, counted, "unfinished", "better phase", *means, *(f"{phase}/validation/loss mean" for phase in PHASES)],
        (
            {
                **setting.values,
                **{f"{phase}/validation/loss mean": setting.mean(phase) for phase in PHASES},
                counted: len(setting.trials),
                "unfinished": setting.unfinished,
                "better phase": setting.phase,
                "validation/loss mean": setting.mean(),
                "validation/loss spread": "" if setting.spread is None else setting.spread,
                "validation/accuracy mean": setting.mean(figure="accuracy"),
            }
            for setting in settings
        ),
    )
    return [folder / "trials.csv", folder / "settings.csv"]


def status(trial: Record) -> str:
    return "failed" if "error" in trial else "pruned" if "pruned" in trial else "finished"


def reason(trial: Record) -> str:
    """Why the trial did not finish, in one line."""
    return next(iter(str(trial.get("error") or trial.get("pruned") or "").splitlines()), "")


def recipe(config: Config, note: str) -> str:
    """`config` as an option of conf/experiment, the chosen data and weights included; `note`: a comment's lines.

    Composed by Hydra it gives `config` again, but for `tracking` and `workers`, which are the user's, the name, and
    settings that stay, which win over it (see `sweep.swept`).
    """
    content: dict[str, Any] = asdict(config)
    for key in ("tracking", "workers"):
        content.pop(key)
    content["name"] = "swept"
    for group in ("data", "weights"):
        for key in ("depends_on", "code"):  # the group's own
            content[group].pop(key, None)
    defaults = [{f"override /{group}": content[group]["source"]} for group in ("data", "weights")]
    if isinstance(config.model, Ensemble):  # one network's group would leave its `imagenet` among the members' own
        defaults.append({"override /model": "ensemble"})
    comment = "".join(f"# {line}\n" for line in note.splitlines())
    return f"# @package _global_\n{comment}" + yaml.safe_dump({"defaults": defaults, **content}, sort_keys=False)


def describe(
    trials: Sequence[Record], test: Mapping[str, float] | None, close: str = "", rebuild: str = REBUILD
) -> str:
    """The sweep in Markdown: the winner, the figures of the test set apart, the ranking, and what did not finish.

    `rebuild`: the command that trains the winner through the pipeline.
    """
    settings = rank(trials)
    lines = [headline(trials), *([close] if close else [])]
    if settings and test:
        lines += ["", f"**Test set**, looked at once, for the chosen trial only: {test_line(test)}"]
        lines += ["", f"Rebuild it through the pipeline: `{rebuild}`"]
    if settings:
        lines += ["", "Validation, after both phases; the better one ranks:", ""]
        lines += [f"| | setting | {counted_as(trials)} | transfer loss | fine-tuning loss | accuracy |"]
        lines += ["|--:|---|--:|--:|--:|--:|"]
    for place, setting in enumerate(settings[:_IN_TABLE], 1):
        note = f" ({setting.unfinished} unfinished)" if setting.unfinished else ""
        lines.append(
            f"| {place} | `{setting.label}` | {len(setting.trials)}{note} | {loss_text(setting, 'transfer')} "
            f"| {loss_text(setting, 'finetune')} | {setting.mean(figure='accuracy'):.4f} |"
        )
    if len(settings) > _IN_TABLE:
        lines.append(f"\n{len(settings) - _IN_TABLE} more are in settings.csv.")
    lost = unfinished(trials)
    if lost:
        lines += ["", "Not finished:", ""]
        lines += [f"- `{label(swept_values(trial))}`: {status(trial)}, {reason(trial)}" for trial in lost[:_IN_TABLE]]
    return "\n".join(lines) + "\n"


def headline(trials: Sequence[Record]) -> str:
    """In a sentence or two: which setting won, and its validation loss after both phases."""
    settings, finished = rank(trials), sum(map(has_finished, trials))
    counted = f"{len(trials)} trial{'s' if len(trials) != 1 else ''}"
    counted = counted if finished in (0, len(trials)) else f"{finished} of {counted}"
    if not settings:
        return f"None of {counted} finished."
    best = settings[0]
    over = f", mean of {len(best.trials)} {counted_as(trials)}" if len(best.trials) > 1 else ""
    losses = ", ".join(f"{loss_text(best, phase)} after {AFTER[phase]}" for phase in PHASES)
    said = f"Best of {counted}: {best.label}, validation loss {losses}{over}."
    better_before = sum(setting.mean("transfer") < setting.mean("finetune") for setting in settings)
    if better_before:
        where = "all" if better_before == len(settings) else f"{better_before} of {len(settings)}"
        said += f" In {where} settings fine-tuning made it worse: the transfer model alone was better."
    return said


def loss_text(setting: Setting, phase: PhaseName) -> str:
    """The mean validation loss after `phase`; with its spread over seeds where it is the better one."""
    spread = "" if setting.spread is None or phase != setting.phase else f" ± {setting.spread:.4f}"
    return f"{setting.mean(phase):.4f}{spread}"


def test_line(test: Mapping[str, float]) -> str:
    return f"log loss {test['loss']:.4f}, accuracy {test['accuracy']:.4f} ({test['images']:,} images)."
