import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frostline.common import files


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "folder"
    for name in ("one", "two"):
        with files.replacing(path) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [entry.name for entry in path.iterdir()] == ["two"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "folder"
    code = f"""
import os, signal
from pathlib import Path
from frostline.common.files import replacing
with replacing(Path({str(path)!r})) as temporary:
    temporary.mkdir()
    (temporary / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.Popen([sys.executable, "-c", code])
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie, as where nobody asks for its end
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / f".folder.{killed.pid}.weights.h5").touch()  # as `save_model` leaves it
    (tmp_path / ".folder.notes").touch()  # of the user's own
    alive = tmp_path / f".folder.{os.getppid()}.part"  # a process that still writes keeps its own
    alive.touch()
    with files.replacing(path) as temporary:
        temporary.mkdir()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([alive.name, ".folder.notes", "folder"])
    assert killed.wait() == -signal.SIGKILL

    os.utime(alive, (0, 0))  # older than the process of this number, which is another one
    with files.replacing(path) as temporary:
        temporary.mkdir()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".folder.notes", "folder"]


def test_json_and_csv_have_one_form(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    files.write_json(tmp_path / "b.json", {"a": "é", "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "c.json", float("nan"))
    assert not (tmp_path / "c.json").exists()

    files.write_csv(tmp_path / "a.csv", ("x", "y"), [{"y": "2", "x": "1,5"}])
    assert (tmp_path / "a.csv").read_bytes() == b'x,y\n"1,5",2\n'
    assert files.read_csv(tmp_path / "a.csv") == [{"x": "1,5", "y": "2"}]


def test_released_pages_leave_this_process_and_not_the_file(tmp_path):
    np.save(tmp_path / "numbers.npy", np.arange(4_000_000, dtype=np.float64))
    numbers = np.load(tmp_path / "numbers.npy", mmap_mode="r")

    def mapped_kib():
        """Resident pages of the file, as the kernel counts them."""
        maps = Path("/proc/self/smaps").read_text().split("numbers.npy", 1)[1]
        return int(re.search(r"Rss: +(\d+) kB", maps)[1])

    total = numbers.sum()
    assert mapped_kib() > 30_000
    files.release(numbers[5:])  # a view of it
    assert mapped_kib() == 0
    assert numbers.sum() == total
    files.release(np.zeros(3))  # nothing mapped, nothing to do
