"""What is said while a command works, and how much of it."""

import logging
import subprocess
import sys

import pytest

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


def test_a_quiet_stage_says_nothing(project):
    command = [sys.executable, "-m", "frostline.stages", "fetch_data", "--quiet", "data.images=20"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
