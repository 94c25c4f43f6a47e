"""Tests see what git tracks, whatever a user has made or edited."""

import re
import subprocess

import tracked
from frostline.config.load import compose_conf


def test_what_a_user_has_made_or_edited_is_not_seen(tmp_path, monkeypatch):
    clone = tracked.write_tracked(tmp_path / "clone", "conf", "params.yaml")
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=clone, check=True)
    monkeypatch.setattr(tracked, "ROOT", clone)
    assert tracked.unstaged() == []
    as_tracked = tracked.tracked_text("params.yaml")

    (clone / "params.yaml").write_text("seed: 7\n")
    (clone / "conf/experiment/swept.yaml").write_text("mine")
    (clone / "conf/config.yaml").unlink()
    assert tracked.unstaged() == ["conf/config.yaml", "params.yaml"]
    assert tracked.tracked_text("params.yaml") == as_tracked
    assert "conf/experiment/swept.yaml" not in tracked.tracked_names("conf")
    seen = tracked.write_tracked(tmp_path / "seen", "conf", "params.yaml")
    assert (seen / "params.yaml").read_text() == as_tracked
    assert (seen / "conf/config.yaml").is_file()
    assert not (seen / "conf/experiment/swept.yaml").exists()


def test_no_test_composes_the_checkouts_own_conf():
    for path in (tracked.ROOT / "tests").rglob("*.py"):
        own = r"(ROOT|parents\[\d\]) / \"conf|copy(tree)?\(\w+ / \"(conf|params)"
        assert not re.search(own, path.read_text(encoding="utf-8")), path
    assert compose_conf(folder=tracked.tracked_conf()).seed == 42
    assert not tracked.ROOT.samefile(tracked.tracked_conf().parent)
