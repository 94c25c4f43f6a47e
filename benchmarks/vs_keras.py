"""The pipeline's two training stages against the plain Keras script of the same recipe, on the same images.

    python benchmarks/vs_keras.py [--pairs 3] [--data FOLDER] [--weights FILE.h5] [--peers] [--sweep]
        [--study NAME …]

Each side runs as processes of its own, in turn, with nothing left from before: the pipeline's feature cache, models
and MLflow store are removed before each of its runs. Whole processes are timed, imports and all; of the plain
script's time its two evaluations on the test set are taken off, since the pipeline has a stage of its own for them.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import measuring
from measuring import Measured, measure, stage, weights_from
from PIL import Image
from rich.console import Console
from rich.table import Table

from frostline.common.files import read_csv, read_json
from frostline.config.paths import BACKBONE_WEIGHTS, FIGURES, PROCESSED
from frostline.data.dataset import SPLITS, load_dataset

PHASES = ("transfer", "finetune")
PLAIN, PIPELINE = "plain Keras", "pipeline"
PEERS = {
    "plain, bfloat16, XLA": ("plain_keras.py", "--precision", "mixed_bfloat16", "--jit"),
    "features first": ("features_first.py",),
    "features first, bfloat16": ("features_first.py", "--precision", "mixed_bfloat16"),
}
"""What a skilled user would write instead: scripts beside this one, with their options."""
SWEEP = {"model.cut_layer": "mixed5,mixed6,mixed7", "finetune.learning_rate": "3e-6,1e-5,3e-5,1e-4"}
_LEFT_BY_TRAINING = (
    ".frostline",
    "models/transfer.keras",
    "models/finetune.keras",
    "mlruns",
    "multirun",
    "reports/curves",
)

Scores = dict[str, dict[str, float]]
"""Per phase, `log_loss` and `accuracy` on the test set."""


def prepare(project: Path, arguments: argparse.Namespace) -> list[str]:
    """Fetch and preprocess the images and the weights in `project`; return the overrides that it was made with."""
    if arguments.data:
        data = ["data=folder", f"data.path='{arguments.data.resolve()}'"]
    else:
        total = arguments.images + arguments.test
        test = arguments.test / total
        rest = 1 - test  # divided as in the recipe, 0.7 to 0.15
        shares = {"train": rest * 0.7 / 0.85, "validation": rest * 0.15 / 0.85, "test": test}
        data = [f"data.images={total}", "data.unlabelled=0"]
        data += [f"preprocess.{split}={share}" for split, share in shares.items()]
    epochs = [f"{phase}.epochs={arguments.epochs}" for phase in PHASES]
    measuring.prepare(project, *data, *weights_from(arguments.weights), *epochs)
    return epochs


def export(processed: Path, folder: Path) -> None:
    """Write the prepared images as PNG files, split/class/row.png: small and of the final size, which favours the
    plain script, as it decodes them in every epoch and need not resize them."""
    data = load_dataset(processed)
    for split in SPLITS:
        for name in data.classes:
            (folder / split / name).mkdir(parents=True)
        for row, (pixels, label) in enumerate(zip(data.images(split), data.labels(split), strict=True)):
            Image.fromarray(pixels).save(folder / split / data.classes[label] / f"{row:06}.png", compress_level=1)


@dataclass(frozen=True)
class Run:
    """One run of one side, both phases, without evaluations on the test set."""

    seconds: float
    cpu: float
    others: float
    memory: int
    """Bytes; of several processes, the largest."""
    scores: Scores


def run_plain(folder: Path, weights: Path, arguments: argparse.Namespace) -> Run:
    return run_script(folder, weights, arguments.epochs, "plain_keras.py", *(["--cache"] if arguments.cache else []))


def run_script(folder: Path, weights: Path, epochs: int, name: str, *options: str) -> Run:
    script = Path(__file__).with_name(name)
    measured = measure([sys.executable, script, folder, weights, "--epochs", str(epochs), *options], folder)
    figures = json.loads(measured.output.splitlines()[-1])
    seconds, cpu = (sum(figures[clock][f"{phase} test"] for phase in PHASES) for clock in ("seconds", "cpu"))
    return Run(measured.seconds - seconds, measured.cpu - cpu, measured.others, measured.resident, figures["test"])


def run_pipeline(project: Path) -> Run:
    remove_training(project)
    stages = [stage(phase, project) for phase in PHASES]
    stage("evaluate", project)  # after the timing
    figures = read_json(project / FIGURES)
    return Run(
        sum(measured.seconds for measured in stages),
        sum(measured.cpu for measured in stages),
        sum(measured.others for measured in stages),
        max(measured.resident for measured in stages),
        {phase: figures[phase] for phase in PHASES},
    )


def remove_training(project: Path) -> None:
    for name in _LEFT_BY_TRAINING:
        path = project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def run_sweep(project: Path, overrides: Iterable[str]) -> tuple[Measured, int]:
    """Run a sweep or a study; return also how many trials it had."""
    remove_training(project)
    measured = measure([sys.executable, "-m", "frostline.sweep", "-m", *overrides], project)
    return measured, len(read_csv(next(project.glob("multirun/*/trials.csv"))))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    parser.add_argument("--images", type=int, default=2048, help="training and validation images, drawn")
    parser.add_argument("--test", type=int, default=256, help="test images, drawn")
    parser.add_argument("--data", type=Path, help="a folder of images, one subfolder per class, instead")
    parser.add_argument("--weights", type=Path, help="the backbone's weights (default: seeded random ones)")
    parser.add_argument("--epochs", type=int, default=2, help="of each phase")
    parser.add_argument("--cache", action="store_true", help="the plain script keeps decoded images in memory")
    parser.add_argument("--peers", action="store_true", help="also what a skilled user would write")
    parser.add_argument("--sweep", action="store_true", help="also a sweep over cut layers and rates")
    parser.add_argument(
        "--study", nargs="*", default=[], help="also these of conf/study, without settings of their own"
    )
    return parser.parse_args()


def main() -> None:
    arguments, console = parse_arguments(), Console(width=110)
    with tempfile.TemporaryDirectory() as temporary:
        project, images = Path(temporary) / "project", Path(temporary) / "images"
        epochs = prepare(project, arguments)
        export(project / PROCESSED, images)
        data = load_dataset(project / PROCESSED)
        counts = ", ".join(f"{split} {len(data.names(split)):,}" for split in SPLITS)
        console.print(f"{counts}; {arguments.epochs} epochs per phase; plain script first in each pair")

        peers = PEERS if arguments.peers else {}
        runs: dict[str, list[Run]] = {name: [] for name in (PLAIN, *peers, PIPELINE)}
        for pair in range(1, arguments.pairs + 1):
            runs[PLAIN].append(run_plain(images, project / BACKBONE_WEIGHTS, arguments))
            for name, (script, *options) in peers.items():
                runs[name].append(run_script(images, project / BACKBONE_WEIGHTS, arguments.epochs, script, *options))
            runs[PIPELINE].append(run_pipeline(project))
            console.print(f"pair {pair}: {' against '.join(text(each[-1]) for each in runs.values())}")
        print_time(console, runs)
        print_scores(console, {name: each[-1].scores for name, each in runs.items()})
        plain = runs[PLAIN]
        if arguments.sweep:
            grid = [f"{key}={values}" for key, values in SWEEP.items()]
            print_sweep(console, "Sweep", *run_sweep(project, [*grid, *epochs]), plain)
        for name in arguments.study:
            print_sweep(console, f"Study {name}", *run_sweep(project, [f"study={name}", *epochs]), plain)


def text(run: Run) -> str:
    return f"{run.seconds:.1f} s ({run.cpu:.1f} s of CPU time, other jobs {run.others:.1f})"


def print_time(console: Console, runs: Mapping[str, list[Run]]) -> None:
    columns = ("", "seconds, least", "median", "CPU time, least", "median", "peak memory, MB")
    table = Table(*columns, title="Both phases, whole processes")
    for name, of_one in runs.items():
        clocks = ([run.seconds for run in of_one], [run.cpu for run in of_one])
        figures = [f"{figure(clock):.1f}" for clock in clocks for figure in (min, statistics.median)]
        table.add_row(name, *figures, f"{max(run.memory for run in of_one) / 1e6:,.0f}")
    console.print(table)
    for name in (name for name in runs if name != PIPELINE):
        pairs = list(zip(runs[name], runs[PIPELINE], strict=True))
        for what, ratios in (
            ("seconds", [before.seconds / after.seconds for before, after in pairs]),
            ("CPU time", [before.cpu / after.cpu for before, after in pairs]),
        ):
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            console.print(f"{name} over pipeline, {what}: median {statistics.median(ratios):.2f} (pairs: {each})")


def print_sweep(console: Console, name: str, sweep: Measured, trials: int, plain: list[Run]) -> None:
    print(sweep.output)
    one, one_cpu = statistics.median(run.seconds for run in plain), statistics.median(run.cpu for run in plain)
    console.print(
        f"{name} of {trials} trials: {sweep.seconds:.0f} s ({sweep.cpu:.0f} s of CPU time, other jobs "
        f"{sweep.others:.0f}), {sweep.seconds / one:.2f} plain scripts' time ({sweep.cpu / one_cpu:.2f} of CPU time). "
        f"Against as many plain scripts as trials, estimated as so many times the measured one, cut at mixed7: "
        f"{trials * one / sweep.seconds:.1f} times as fast, {trials * one_cpu / sweep.cpu:.1f} times by CPU time."
    )


def print_scores(console: Console, scores: Mapping[str, Scores]) -> None:
    table = Table("", *cells("loss, {}", "accuracy, {}"), title="On the test set, last pair")
    for name, of_one in scores.items():
        values = (of_one[phase][figure] for phase in PHASES for figure in ("log_loss", "accuracy"))
        table.add_row(name, *(f"{value:.4f}" for value in values))
    console.print(table)


def cells(*patterns: str) -> Iterable[str]:
    return (pattern.format(phase) for phase in PHASES for pattern in patterns)


if __name__ == "__main__":
    main()
