import json
import os
import pty
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from frostline.sweep.results import REBUILD
from frostline.sweep.table import print_summary, print_trials, watching


def finish(folder, number, loss, **more):
    overrides = [f"seed={number}", f"model.dropout={number}"]
    record = {"trial": " ".join(overrides), "overrides": overrides, **more}
    if loss is not None:
        record |= {phase: {"validation/loss": loss, "validation/accuracy": 0.9} for phase in ("transfer", "finetune")}
    (folder / str(number)).mkdir(parents=True, exist_ok=True)
    (folder / str(number) / "trial.json").write_text(json.dumps(record))
    return record


def test_lines_where_there_is_no_terminal(tmp_path, capsys):
    with watching(tmp_path, total=3):
        finish(tmp_path, 0, 0.5)
        finish(tmp_path, 1, None, error="no memory\nmore")
    lines = capsys.readouterr().err.splitlines()
    assert "seed=0 model.dropout=0: validation loss 0.5000 after transfer, 0.5000 after fine-tuning" in lines
    assert "seed=1 model.dropout=1: failed, no memory" in lines
    assert lines[-1].startswith("2/3 trials")
    assert "\x1b" not in "".join(lines)


LIVE = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_sweep_table import finish
from frostline.runtime.logs import show
from frostline.runtime.progress import track
from frostline.sweep.table import watching

show()
folder = Path(sys.argv[1])
with watching(folder, total=2):
    with track("transfer 1/1", total=2, unit="images") as advance:
        advance(1)
        finish(folder, 0, 0.25)
        time.sleep(3)
        print("said meanwhile")
    raise KeyboardInterrupt
"""


def test_what_stands_in_brackets_is_no_markup(capsys):
    record = {"trial": "a", "overrides": ["data.name=cats [old]"], "error": "cats [/old] :dog: failed"}
    print_trials([record])
    assert "[/old] :dog: failed" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.slow
def test_a_live_table_on_a_terminal_above_the_bars_and_gone_after_an_interrupt(tmp_path):
    terminal, their_end = pty.openpty()
    code = LIVE.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=their_end,
        stderr=their_end,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )
    os.close(their_end)
    output = b""
    while True:
        try:
            output += os.read(terminal, 65536)
        except OSError:  # the process has closed its end
            break
    assert process.wait() != 0
    text = output.decode()
    assert "1 of 2 trials" in text
    assert "model.dropout=0" in text
    assert "said meanwhile" in text
    assert text.index("1 of 2 trials") < text.rindex("transfer 1/1")
    assert text.count("\x1b[?25h") >= 1, "the cursor is shown again"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_numbers_are_never_broken_over_lines(tmp_path, monkeypatch):
    long = "model.cut_layer=a_layer_with_a_name_that_takes_a_line_of_its_own"
    trials = [finish(tmp_path, number, loss) for number, loss in enumerate((0.123456, 0.5, 0.25, 0.75))]
    for number, trial in enumerate(trials):
        trial["overrides"] = [f"seed={number % 2}", f"{long}_{number // 2}"]
    written = StringIO()
    monkeypatch.setattr(
        "frostline.sweep.table.Console", lambda **_: Console(file=written, width=60, force_terminal=True)
    )
    print_trials(trials)
    assert "0.3117 ± 0.2663" in written.getvalue()
    assert "0.5000 ± 0.3536" in written.getvalue()


def test_the_table_at_the_end_names_the_reasons(tmp_path, capsys):
    trials = [
        finish(tmp_path, 0, 0.5),
        finish(tmp_path, 1, 0.25),
        finish(tmp_path, 2, None, error="no memory"),
        finish(tmp_path, 3, None, pruned="validation loss 3 after epoch 1 of 4"),
    ]
    print_trials(trials)
    print_summary(trials, {"loss": 0.3, "accuracy": 0.75, "images": 16}, "2 of 3 are close.", tmp_path, REBUILD)
    output = capsys.readouterr().out
    rows = [line for line in output.splitlines() if line.strip().startswith("model.dropout") or "seed=" in line]
    assert [row.split()[0] for row in rows[:2]] == ["model.dropout=1", "model.dropout=0"]
    assert "failed: no memory" in output
    assert "pruned: validation loss 3 after epoch 1 of 4" in output
    assert "log loss 0.3000, accuracy 0.7500 (16 images)" in output
    assert "dvc exp run -S experiment=swept" in output
