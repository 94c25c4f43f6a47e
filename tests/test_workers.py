import signal
import subprocess
import sys

import pytest

from frostline.runtime.errors import FrostlineError
from frostline.runtime.process_pool import cores, mapped, threads

pytestmark = pytest.mark.slow


def test_results_come_in_order_and_little_is_taken_ahead():
    """Else memory would grow with the number of items."""
    taken = 0

    def items():
        nonlocal taken
        for taken in range(1, 1001):
            yield -taken

    results = mapped(abs, items(), 2)
    assert [next(results) for _ in range(10)] == list(range(1, 11))
    assert taken <= 10 + 3 * 2
    results.close()
    assert taken <= 10 + 3 * 2


def test_an_error_reaches_who_asks():
    with pytest.raises(ValueError, match="invalid literal"):
        list(mapped(int, ["1", "one"], 1))


def test_a_process_that_dies_is_told_in_two_lines():
    import os

    with pytest.raises(FrostlineError, match="process died") as raised:
        list(mapped(os._exit, [3], 1))
    assert len(str(raised.value).splitlines()) == 2


def test_workers_end_with_a_killed_parent(tmp_path):
    """Nobody else would end them: they wait for a next task for ever."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        "from frostline.runtime.process_pool import mapped\n"
        "if __name__ == '__main__':\n"
        "    next(mapped(abs, range(9), 2))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # the workers inherit the pipe: it ends when the last of them has ended
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as process:
        assert process.communicate(timeout=60)[0] == b""
    assert process.returncode == -signal.SIGKILL


def test_threads_are_all_cores_unless_tensorflow_is_told_otherwise(monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    assert threads() == cores() >= 1
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "7")
    assert threads() == 7
