"""What is said while a command works, and how much of it."""

import logging
import subprocess
import sys

import pytest
from rich.console import Console

from frostline.runtime import durations, progress
from frostline.runtime.logs import show_as_asked


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "noted\nwarning: 100% [sic]\n"),
        (["--quiet"], "warning: 100% [sic]\n"),
        (["--verbose"], "frostline.somewhere: in detail\nnoted\nwarning: 100% [sic]\n"),
    ],
)
def test_the_flags_choose_how_much_is_said_and_are_taken_away(flags, said, capsys):
    log = logging.getLogger("frostline.somewhere")
    try:
        assert show_as_asked(["transfer", *flags, "seed=2"]) == ["transfer", "seed=2"]
        log.debug("in detail")
        log.info("noted")
        log.warning("100% [sic]")
        assert capsys.readouterr().err == said
    finally:
        show_as_asked([])


def test_who_imports_the_package_hears_warnings_only():
    code = "import logging, frostline.runtime.logs; log = logging.getLogger('frostline'); log.info(1); log.warning(2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "2\n"


@pytest.mark.long
@pytest.mark.slow
def test_a_quiet_stage_says_nothing(project):
    command = [sys.executable, "-m", "frostline.stages", "fetch_data", "--quiet", "data.images=20"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_bar_shows_the_figures_beside_the_rate_where_there_is_room(monkeypatch, capsys):
    for width, there in ((160, True), (80, False)):
        monkeypatch.setattr(progress, "CONSOLE", Console(force_terminal=True, width=width, stderr=True))
        with progress.track("finetune 2/3", 100, "images") as advance:
            advance(50, "loss 0.1250 accuracy 0.950, validation 0.2500 0.900")
            progress.time.sleep(0.2)
        line = capsys.readouterr().err
        assert ("loss 0.1250 accuracy 0.950, validation 0.2500 0.900" in line) == there
        assert "finetune 2/3" in line
        assert "50/100" in line
        assert "images/s" in line
        assert "left" in line


@pytest.mark.parametrize(("seconds", "said"), [(20.4, "20 s"), (60, "1 min"), (7000, "117 min"), (9000, "2.5 h")])
def test_a_time_that_is_left_is_told_in_words(seconds, said):
    assert durations.in_words(seconds) == said
