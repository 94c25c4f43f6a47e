"""The table of all points at the end of a sweep."""

import math
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from frostline.files import read_json

RESULT = "point.json"
"""Left by each point in its folder below the sweep's: point, transfer, finetune; or point, error."""


class PointsTable(Callback):
    """Prints all points when the multirun ends (named in conf/hydra/sweep.yaml, called by Hydra)."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        print_points(Path(config.hydra.sweep.dir))


def print_points(folder: Path) -> None:
    """Print the sweep in `folder`, best validation loss first, failed points last."""
    points = [read_json(path) for path in folder.glob(f"*/{RESULT}")]
    points.sort(
        key=lambda point: (
            point["finetune"]["validation/loss"] if "error" not in point else math.inf,
            point["point"],
        )
    )
    table = Table(title=f"{len(points)} points by validation loss after fine-tuning")
    for column in ("point", "transfer loss", "finetune loss", "finetune accuracy"):
        table.add_column(column, justify="left" if column == "point" else "right")
    for point in points:
        if "error" in point:
            table.add_row(point["point"], "failed", "", point["error"].splitlines()[0], style="red")
        else:
            first, second = point["transfer"], point["finetune"]
            table.add_row(
                point["point"],
                f"{first['validation/loss']:.4f}",
                f"{second['validation/loss']:.4f}",
                f"{second['validation/accuracy']:.4f}",
            )
    console = Console()
    if not console.is_terminal:  # a log file has room for long names
        console = Console(width=200)
    console.print(table)
