"""`frostline compare`: the two phases side by side, as they were evaluated last."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from frostline.common.files import read_json
from frostline.config.dvc_lock import unlike_recorded
from frostline.config.paths import EVALUATION, FIGURES, REPORT, VERDICT
from frostline.config.project import TRAIN_ONE, check_project
from frostline.project.train import verdict
from frostline.runtime.errors import FrostlineError

_COMPARED = (("transfer", ""), ("finetune", ""), ("difference", "+"))
"""The columns of the table, and how their numbers are signed."""


def side_by_side() -> str:
    """The table of the test figures and what to look at next.

    Raises FrostlineError where nothing was evaluated here, or the files are of different runs.
    """
    check_project()
    if not (VERDICT.is_file() and FIGURES.is_file()):  # the figures alone may have come with a clone
        came = f"; the figures in {FIGURES.parent}/ came with the clone" if FIGURES.is_file() else ""
        raise FrostlineError(f"no model was evaluated on this machine yet{came}. {TRAIN_ONE}")
    if others := unlike_recorded("evaluate", (FIGURES, EVALUATION)):  # git has the one, DVC the other
        are = f"{others[0]} is not" if len(others) == 1 else f"{others[0]} and {others[1]}/ are not"
        raise FrostlineError(
            f"{are} of the evaluation that dvc.lock names: they may be of different runs, as after a `git checkout`.\n"
            "`dvc repro` brings both back, or makes them anew."
        )
    metrics = read_json(FIGURES)
    table = Table(title=f"Test set: {metrics['verdict']['images']} images, 95% intervals", box=box.SIMPLE_HEAD)
    for column in ("", "transfer", "finetune", "difference"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name in metrics["difference"]:
        if not name.endswith(("_low", "_high")):
            cells = (_with_interval(metrics[column], name, sign) for column, sign in _COMPARED)
            table.add_row(name, *cells)
    told = []
    for part, what in (("in_use", f"In use, {metrics['verdict']['chosen']}"), ("guessing", "Guessing by class shares")):
        told.append(f"{what}: log_loss {metrics[part]['log_loss']:.3f}, accuracy {metrics[part]['accuracy']:.3f}")
    told += ["", verdict(), "", f"Report: {REPORT}   Predictions: {EVALUATION}/predictions.csv", "Runs:   make ui"]
    console = Console(markup=False, emoji=False)  # a class may be called [old]
    with console.capture() as shown:  # Rich itself would call `frostline compare | head` a failure
        console.print(table, *told, sep="\n", highlight=False)
    return shown.get()


def _with_interval(figures: dict[str, Any], name: str, sign: str) -> str:
    value = f"{figures[name]:{sign}.3f}"
    if f"{name}_low" not in figures:
        return f"{value} {figures.get(f'{name}_class', ''):<{11 if sign else 9}}"  # as wide as an interval
    return f"{value} {figures[f'{name}_low']:{sign}.2f}…{figures[f'{name}_high']:{sign}.2f}"
