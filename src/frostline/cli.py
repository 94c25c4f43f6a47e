"""The command `frostline`: predict, compare, cache."""

import argparse
import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from frostline.errors import FrostlineError
from frostline.files import read_json
from frostline.paths import EVALUATION, METRICS, MODELS, REPORT

# TensorFlow is imported by the commands that need it, not by `frostline --help`.


def main() -> None:
    arguments = _parser().parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except FrostlineError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `frostline predict … | head`
        sys.stderr.close()
        sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("frostline", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    predict = commands.add_parser("predict", help="class and probability of pictures")
    predict.add_argument("places", nargs="+", type=Path, metavar="PICTURE_OR_FOLDER")
    predict.add_argument("--model", type=Path, help="a .keras file (default: the better phase's)")
    form = predict.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true")
    predict.set_defaults(run=_predict)

    compare = commands.add_parser("compare", help="the two phases side by side, as evaluated last")
    compare.set_defaults(run=_compare)

    cache = commands.add_parser("cache", help="the feature cache")
    actions = cache.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("ls", help="list entries, least recently used first")
    listing.set_defaults(run=_cache_ls)
    prune = actions.add_parser("prune", help="delete least recently used entries")
    prune.add_argument("--keep-gib", type=float, default=0, help="GiB that may stay (default: 0, delete all)")
    prune.set_defaults(run=_cache_prune)
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    from frostline.prediction import find_pictures, predict_files

    files = find_pictures(arguments.places)
    predictions = predict_files(arguments.model or _better_model(), files)
    failed = 0
    if arguments.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["path", "class", "probability", "error"])
    for prediction in predictions:
        failed += prediction.error is not None
        if arguments.json:
            row = asdict(prediction)
            row["class"] = row.pop("label")
            print(json.dumps(row, ensure_ascii=False))
        elif arguments.csv:
            writer.writerow([prediction.path, prediction.label, prediction.probability, prediction.error])
        elif prediction.error is None:
            print(f"{prediction.path}: {prediction.label} {prediction.probability:.4f}")
        else:
            print(f"{prediction.path}: {prediction.error}", file=sys.stderr)
    return 1 if failed else 0


def _better_model() -> Path:
    """The winner's model of the last evaluation; before one, the newest phase's."""
    if METRICS.is_file():
        return MODELS[read_json(METRICS)["verdict"]["winner"]]
    return next((path for path in (MODELS["finetune"], MODELS["transfer"]) if path.is_file()), MODELS["finetune"])


def _compare(arguments: argparse.Namespace) -> int:
    if not METRICS.is_file():
        raise FrostlineError(f"{METRICS} not found.\nRun `dvc repro` first.")
    metrics = read_json(METRICS)
    table = Table(title=f"Test set: {metrics['verdict']['pictures']} pictures, 95% intervals", box=box.SIMPLE_HEAD)
    for column in ("", "transfer", "finetune", "difference"):
        table.add_column(column, justify="right" if column else "left")
    for name in metrics["difference"]:
        if not name.endswith(("_low", "_high")):
            cells = (_with_interval(metrics[column], name, sign) for column, sign in _COMPARED)
            table.add_row(name, *cells)
    console = Console()
    console.print(table)
    console.print((EVALUATION / "verdict.md").read_text(encoding="utf-8").strip().replace("**", ""), highlight=False)
    console.print(f"\nReport: {REPORT}   Predictions: {EVALUATION}/predictions.csv\nRuns:   make ui", highlight=False)
    return 0


_COMPARED = (("transfer", ""), ("finetune", ""), ("difference", "+"))


def _with_interval(figures: dict[str, float], name: str, sign: str) -> str:
    value = f"{figures[name]:{sign}.3f}"
    if f"{name}_low" not in figures:
        return f"{value}            "
    return f"{value} {figures[f'{name}_low']:{sign}.2f}…{figures[f'{name}_high']:{sign}.2f}"


def _cache_ls(arguments: argparse.Namespace) -> int:
    from frostline.feature_cache import entries

    rows = entries()
    for entry in rows:
        print(f"{entry.layer:<20} {entry.count:>8} pictures {entry.bytes / 2**20:>9.1f} MiB")
    print(f"{len(rows)} entries, {sum(entry.bytes for entry in rows) / 2**20:.1f} MiB")
    return 0


def _cache_prune(arguments: argparse.Namespace) -> int:
    from frostline.feature_cache import prune

    deleted = prune(arguments.keep_gib)
    print(f"deleted {len(deleted)} entries, {sum(entry.bytes for entry in deleted) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    main()
