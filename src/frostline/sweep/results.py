"""What a sweep found: its points as they lie in its folder, ranked by validation loss, as CSV, as recipe, in words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from frostline.common.files import read_json, write_csv, write_json
from frostline.common.phase_names import PHASES
from frostline.config.settings import Config

RESULT = "point.json"
"""Left by each point in its folder below the sweep's: point, overrides, and then transfer and finetune (the figures of
the epochs that they kept), or error, or pruned (why it was given up)."""
RECIPE = Path("conf/experiment/swept.yaml")
"""The best point of the last sweep, where `experiment=swept` finds it."""
REBUILD = "dvc exp run -S experiment=swept"

Record = Mapping[str, Any]

_SWEEP = "sweep.json"

_SEED = "seed"
_IN_TABLE = 20  # settings in the description: more are in the CSV


@dataclass(frozen=True)
class Setting:
    """One combination of the swept settings; its points differ in their seed only."""

    values: dict[str, str]
    """Of the swept settings, the seed left out."""
    points: list[Record]
    """Those that finished."""
    unfinished: int

    @property
    def label(self) -> str:
        return label(self.values)

    def mean(self, phase: str = "finetune", figure: str = "loss") -> float:
        """Mean over the seeds of a validation figure after `phase`."""
        return mean(_figure(point, phase, figure) for point in self.points)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds (n - 1) of the validation loss after fine-tuning; None for one seed."""
        losses = [_figure(point, "finetune", "loss") for point in self.points]
        return stdev(losses) if len(losses) > 1 else None

    @property
    def best(self) -> Record:
        return min(self.points, key=lambda point: _figure(point, "finetune", "loss"))


def _figure(point: Record, phase: str, figure: str) -> float:
    return float(point[phase][f"validation/{figure}"])


def new_record(overrides: list[str]) -> dict[str, Any]:
    """A point of which nothing is known yet but its `overrides`."""
    return {"point": " ".join(overrides) or "default", "overrides": overrides}


def read_points(folder: Path) -> list[Record]:
    """The points in the sweep's `folder`, in the order in which they were numbered."""
    paths = (path for path in folder.glob(f"*/{RESULT}") if path.parent.name.isdigit())
    return [read_json(path) for path in sorted(paths, key=lambda path: int(path.parent.name))]


def name_group(folder: Path, group: str) -> None:
    """Leave in the sweep's `folder` what its points, wherever they run, are known by together."""
    write_json(folder / _SWEEP, {"group": group})


def group_of(folder: Path) -> str:
    path = folder / _SWEEP
    return str(read_json(path)["group"]) if path.is_file() else str(folder)


def values_of(point: Record) -> dict[str, str]:
    pairs = (override.partition("=") for override in point["overrides"])
    return {key.lstrip("+"): value for key, _, value in pairs}


def swept_keys(points: Sequence[Record]) -> list[str]:
    """The settings in which the points differ, in the order of the command line; all of them for a single point."""
    found: dict[str, set[str | None]] = {key: set() for point in points for key in values_of(point)}
    for key, values in found.items():
        values.update(values_of(point).get(key) for point in points)
    return [key for key, values in found.items() if len(values) > 1 or len(points) == 1]


def label(values: Mapping[str, str]) -> str:
    return " ".join(f"{key}={short(value)}" for key, value in values.items()) or "default"


def short(value: str) -> str:
    """A number of a search with as many digits as people read; anything else as it is."""
    return f"{float(value):.4g}" if re.fullmatch(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", value) and len(value) > 8 else value


def rank(points: Sequence[Record]) -> list[Setting]:
    """The settings with a finished point, best first: by mean validation loss after fine-tuning, then as they came.

    Settings of which a seed failed come last: a mean over the lucky ones would flatter them.
    """
    keys = [key for key in swept_keys(points) if key != _SEED]
    groups: dict[tuple[str, ...], list[Record]] = {}
    for point in points:
        values = values_of(point)
        groups.setdefault(tuple(values.get(key, "") for key in keys), []).append(point)
    settings = []
    for found, members in groups.items():
        finished = [point for point in members if "finetune" in point]
        if finished:
            settings.append(Setting(dict(zip(keys, found, strict=True)), finished, len(members) - len(finished)))
    return sorted(settings, key=lambda setting: (setting.unfinished > 0, setting.mean()))


def in_order(values: Sequence[str]) -> list[str]:
    """Distinct `values`, numbers by size and names by the numbers in them: mixed2 before mixed10."""

    def key(value: str) -> tuple[Any, ...]:
        try:
            return (0, float(value))
        except ValueError:
            return (1, *((part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", value)))

    return sorted(set(values), key=key)


def write_tables(folder: Path, points: Sequence[Record]) -> list[Path]:
    """Write points.csv (every point with its figures, or why there are none) and settings.csv (means over seeds)."""
    keys = swept_keys(points)
    figures = ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy")
    columns = [f"{phase}/{figure}" for phase in PHASES for figure in figures]

    def row(point: Record) -> dict[str, Any]:
        found = {f"{phase}/{name}": value for phase in PHASES for name, value in point.get(phase, {}).items()}
        return values_of(point) | found | {"status": status(point), "reason": reason(point)}

    kept = [*keys, "status", *columns, "reason"]
    rows = ({column: full.get(column, "") for column in kept} for full in map(row, points))
    write_csv(folder / "points.csv", kept, rows)

    settings = rank(points)
    names = list(settings[0].values) if settings else []
    write_csv(
        folder / "settings.csv",
        [*names, "seeds", "unfinished", "validation/loss mean", "validation/loss spread", "validation/accuracy mean"],
        (
            {
                **setting.values,
                "seeds": len(setting.points),
                "unfinished": setting.unfinished,
                "validation/loss mean": setting.mean(),
                "validation/loss spread": "" if setting.spread is None else setting.spread,
                "validation/accuracy mean": setting.mean(figure="accuracy"),
            }
            for setting in settings
        ),
    )
    return [folder / "points.csv", folder / "settings.csv"]


def status(point: Record) -> str:
    return "failed" if "error" in point else "pruned" if "pruned" in point else "finished"


def reason(point: Record) -> str:
    """Why the point did not finish, in one line."""
    return next(iter(str(point.get("error") or point.get("pruned") or "").splitlines()), "")


def recipe(config: Config, note: str) -> str:
    """`config` as an option of conf/experiment, the chosen data and weights included; `note`: a comment's lines.

    Composed by Hydra it gives `config` again, but for `tracking` and `workers`, which are the user's, and the name.
    """
    content: dict[str, Any] = asdict(config)
    for key in ("tracking", "workers"):
        content.pop(key)
    content["name"] = "swept"
    for group in ("data", "weights"):
        for key in ("depends_on", "code"):  # the group's own
            content[group].pop(key, None)
    defaults = [{f"override /{group}": content[group]["source"]} for group in ("data", "weights")]
    comment = "".join(f"# {line}\n" for line in note.splitlines())
    return f"# @package _global_\n{comment}" + yaml.safe_dump({"defaults": defaults, **content}, sort_keys=False)


def describe(points: Sequence[Record], test: Mapping[str, float] | None) -> str:
    """The sweep in Markdown: the winner, the figures of the test set apart, the ranking, and what did not finish."""
    settings = rank(points)
    lines = [headline(points)]
    if settings and test:
        lines += ["", f"**Test set**, looked at once, for the chosen point only: {test_line(test)}"]
        lines += ["", f"Rebuild it through the pipeline: `{REBUILD}`"]
    if settings:
        lines += ["", "| | setting | seeds | validation loss | validation accuracy |", "|--:|---|--:|--:|--:|"]
    for place, setting in enumerate(settings[:_IN_TABLE], 1):
        note = f" ({setting.unfinished} unfinished)" if setting.unfinished else ""
        lines.append(
            f"| {place} | `{setting.label}` | {len(setting.points)}{note} | {loss_text(setting)} "
            f"| {setting.mean(figure='accuracy'):.4f} |"
        )
    if len(settings) > _IN_TABLE:
        lines.append(f"\n{len(settings) - _IN_TABLE} more are in settings.csv.")
    lost = [point for point in points if "finetune" not in point]
    if lost:
        lines += ["", "Not finished:", ""]
        lines += [f"- `{label(values_of(point))}`: {status(point)}, {reason(point)}" for point in lost[:_IN_TABLE]]
    return "\n".join(lines) + "\n"


def headline(points: Sequence[Record]) -> str:
    """One sentence: which setting won, and its validation loss."""
    settings = rank(points)
    counted = f"{len(points)} point{'s' if len(points) != 1 else ''}"
    if not settings:
        return f"None of {counted} finished."
    best = settings[0]
    over = f", mean of {len(best.points)} seeds" if len(best.points) > 1 else ""
    return f"Best of {counted}: {best.label}, validation loss {loss_text(best)}{over}."


def loss_text(setting: Setting) -> str:
    spread = "" if setting.spread is None else f" ± {setting.spread:.4f}"
    return f"{setting.mean():.4f}{spread}"


def test_line(test: Mapping[str, float]) -> str:
    return f"log loss {test['loss']:.4f}, accuracy {test['accuracy']:.4f} ({test['images']:,} images)."
