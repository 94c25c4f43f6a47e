"""What a process of ours does first, so that neither the account nor the terminal it runs in can make it fail.

TensorFlow and MLflow, which other processes load, too (a notebook, MLflow's server), see to that where they are
imported: `quiet_tensorflow`, `quiet_mlflow`.
"""

import io
import os
import sys
from importlib.util import find_spec
from pathlib import Path


def begin() -> None:
    """To be called before anything is written, and before matplotlib is imported.

    What is closed of stdin, stdout and stderr is opened, and leads nowhere. What a terminal's encoding does not hold is
    written as an escape (``\\uac1c``). matplotlib has the settings that it comes with: a user's may be damaged, or name
    a window system that is not there, which fails on import.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:  # closed: the next file would have its number, and get what is written to that
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    matplotlib = find_spec("matplotlib")
    if matplotlib and matplotlib.origin:
        os.environ["MATPLOTLIBRC"] = str(Path(matplotlib.origin).parent / "mpl-data")
    os.environ["MPLBACKEND"] = "agg"
