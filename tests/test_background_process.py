"""Background processes: real ones, that fail, are interrupted and are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from frostline.runtime.background_process import Channel, background_process
from frostline.runtime.errors import FrostlineError
from servers import wait_until

pytestmark = pytest.mark.slow


def add(channel: Channel, first: int) -> None:
    while (number := channel.hear()) is not None:
        first += number
    channel.tell(first)


def test_it_hears_what_it_is_told_in_order_and_answers():
    with background_process(add, 1) as channel:
        for number in range(1000):
            channel.tell(number + 1)
        assert channel.ask(None) == 1 + 1000 * 1001 // 2


@pytest.mark.parametrize("error", [FrostlineError("no store.\nStart it."), OSError(28, "No space left", "file")])
def test_what_it_fails_with_is_raised_here_where_its_answer_is_asked_for(error):
    with pytest.raises(type(error)) as raised, background_process(fail, error) as channel:
        channel.tell("nobody hears it")
        channel.ask(None)
    assert str(raised.value) == str(error)


def fail(channel: Channel, error: Exception) -> None:
    raise error


def test_one_that_died_is_two_words_and_no_traceback():
    with pytest.raises(FrostlineError, match="has died, for want of memory"), background_process(die) as channel:
        time.sleep(0.1)
        channel.ask(None)


def die(channel: Channel) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("of this process")])
def test_it_hears_that_this_process_was_interrupted_or_failed(error, tmp_path, capfd):
    with pytest.raises(type(error)), background_process(note, tmp_path / "heard") as channel:
        channel.ask("begin")
        raise error
    heard = (tmp_path / "heard").read_text()
    assert (heard == "KeyboardInterrupt") == isinstance(error, KeyboardInterrupt)
    assert heard
    assert capfd.readouterr().err == ""


def note(channel: Channel, path: Path) -> None:
    """Write down what is raised."""
    try:
        channel.tell(channel.hear())
        channel.hear()
    except BaseException as error:
        path.write_text(type(error).__name__)
        raise


def test_who_interrupts_does_not_wait_for_one_that_is_busy(monkeypatch):
    monkeypatch.setattr("frostline.runtime.background_process._PATIENCE", 0.1)
    with pytest.raises(KeyboardInterrupt), background_process(sleep) as channel:
        process = psutil.Process(channel.ask("begin"))
        raise KeyboardInterrupt
    assert not process.is_running()


def sleep(channel: Channel) -> None:
    channel.hear()
    channel.tell(os.getpid())
    time.sleep(600)


_KILLED = """
import sys
sys.path.append(sys.argv[1])
from test_background_process import note, background_process, Path
if __name__ == "__main__":
    with background_process(note, Path("heard")) as channel:
        print(channel.ask("begin"), flush=True)
        input()
"""


def test_it_ends_with_a_process_that_is_killed_and_leaves_all_as_it_is(tmp_path):
    (tmp_path / "killed.py").write_text(_KILLED)
    command = [sys.executable, "killed.py", Path(__file__).parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begin\n"
        started = psutil.Process(process.pid).children()
        assert started
        process.kill()
    wait_until(lambda: not any(each.is_running() for each in started), seconds=20)
    assert not Path("heard").exists()


def test_one_that_is_not_needed_ends_unheard(tmp_path):
    with background_process(note, tmp_path / "heard"):
        pass
    assert not (tmp_path / "heard").exists()
