"""Entries on disk, complete and unfinished."""

import os
import subprocess
import sys

import pytest

from frostline.config.paths import FEATURES
from frostline.features import cache as feature_cache


@pytest.fixture
def cache(tmp_path):
    """Three entries of 1000 bytes; the second one used last was left unfinished by a killed process."""
    for age, name in enumerate(("new", "unfinished", "old")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / feature_cache.ARRAY).write_bytes(bytes(1000))
        if name != "unfinished":
            feature_cache.complete(folder, "mixed7", 10)
        os.utime(folder, (1000 - age, 1000 - age))
    return tmp_path


def test_only_complete_entries_are_listed(cache):
    assert [entry.folder.name for entry in feature_cache.entries(cache)] == ["old", "new"]


def test_what_was_left_unfinished_is_pruned_in_its_turn(cache):
    deleted = feature_cache.prune(1500 / 2**30, cache)
    assert [entry.folder.name for entry in deleted] == ["old", "unfinished"]
    assert sorted(path.name for path in cache.iterdir()) == ["lock", "new"]


def test_a_second_process_says_that_it_waits(cache):
    code = "import pathlib; from frostline.runtime.logs import show; show(); "
    code += f"from frostline.features.cache import prune; prune(0, pathlib.Path({str(cache)!r}))"
    with feature_cache.lock(cache):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        assert process.stderr.readline() == "another process computes features; waiting for it.\n"
        assert process.poll() is None
    assert process.wait(timeout=60) == 0
    assert [path.name for path in cache.iterdir()] == ["lock"]


@pytest.mark.slow
def test_the_commands_list_and_delete(project):
    (project / "dvc.yaml").touch()
    for age, name in enumerate(("new", "old")):
        folder = FEATURES / name
        folder.mkdir(parents=True)
        (folder / feature_cache.ARRAY).write_bytes(bytes(1 << 20))
        feature_cache.complete(folder, "mixed7", 10)
        os.utime(folder, (1000 - age, 1000 - age))

    def said(*words):
        command = [sys.executable, "-m", "frostline.cli", "cache", *words]
        return subprocess.run(command, capture_output=True, text=True).stdout

    assert said("ls").endswith("2 entries, 2.0 MiB\n")
    assert said("prune", "--keep-gib", "0.0015") == "deleted 1 entries, 1.0 MiB\n"
    assert [entry.folder.name for entry in feature_cache.entries()] == ["new"]
