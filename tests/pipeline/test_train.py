"""`frostline train FOLDER`: one's own pictures through real DVC, and what a user gets wrong."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from clone import ROOT, STAGES, Clone, ran
from frostline.sources.sample import draw_archive

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return Clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder whose name needs quotes everywhere, with two classes of 20 pictures."""
    folder = tmp_path_factory.mktemp("own") / "내 사진 (1), a=b #2"
    draw_archive(folder.parent / "archive.zip", images=40, unlabelled=0, seed=1)
    with zipfile.ZipFile(folder.parent / "archive.zip") as archive:
        inner = zipfile.ZipFile(io.BytesIO(archive.read("train.zip")))
        for name in inner.namelist():
            kind, number, _ = Path(name).name.split(".")
            path = folder / {"cat": "고양이", "dog": "개"}[kind] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(inner.read(name))
    return folder


def frostline(clone, *arguments, code=0):
    return clone.python("-m", "frostline.cli", *arguments, code=code)


QUICK = ["--weights", "random", "--recipe", "demo", "--set", "transfer.epochs=1"]


@pytest.mark.long
def test_from_a_folder_to_a_model_and_again(clone, pictures):
    said = frostline(clone, "train", str(pictures), *QUICK)
    assert ran(said) == STAGES
    lines = said.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("model:"))
    few, model, report, predict, go_on = lines[first - 1 : first + 4]
    assert few.startswith("Few test images: ")
    assert sum(line == few for line in lines) == 2, "by the stage, and at the end"
    verdict = next(line for line in reversed(lines[: first - 1]) if line)
    assert any(word in verdict for word in ("Fine-tuning", "Too close to call", "beyond guessing"))
    assert model.split() == ["model:", "models/classifier.keras"]
    assert report.split() == ["report:", "reports/report.html"]
    assert "frostline predict" in predict
    assert "frostline train" in go_on
    assert clone.json("reports/data.json")["classes"] == ["개", "고양이"]
    label = frostline(clone, "predict", str(pictures / "개" / "1.jpg"))
    assert "개" in label or "고양이" in label
    runs = clone.runs(pictures.name)
    assert {run.data.params["name"] for run in runs} == {pictures.name}
    assert pictures.name in {run.info.run_name for run in runs}
    assert clone.client().get_registered_model(f"frostline-{pictures.name}").aliases == {"champion": 1}

    assert ran(frostline(clone, "train")) == [], "nothing has changed"
    assert frostline(clone, "set").splitlines() == [
        "data=folder",
        f"data.path={pictures}",
        "experiment=demo",
        "transfer.epochs=1",
        "weights=random",
    ]
    frostline(clone, "set", "finetune.batch_size=8", "data.name=a/b")
    assert ran(clone.dvc("repro")) == ["fetch-data", "finetune", "evaluate"]
    assert {run.info.run_name for run in clone.runs("a-b")} >= {"a/b", "finetune a/b", "evaluate a/b"}
    frostline(clone, "set", "--unset", "data.name")
    clone.dvc("exp", "run", "-S", "seed=43", "fetch-data")
    composed = (clone.root / "params.yaml").read_text(encoding="utf-8")
    assert "seed: 43" in composed
    assert str(pictures) in composed, "what stays is in DVC's composition, too"
    frostline(clone, "set", "--drop-edits")


@pytest.mark.long
def test_the_code_in_the_docs_does_what_stands_there(clone, pictures):
    """docs/api.md, with these pictures in the place of its own; training again takes no time."""
    frostline(clone, "train", str(pictures), *QUICK)
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    for there, here in (("cats", "고양이"), ("dogs", "개"), ("('고양이', '개')", "('개', '고양이')")):
        text = text.replace(there, here)
    (clone.root / "page.md").write_text(text.replace("../pictures", str(pictures)), encoding="utf-8")
    code = (
        "import doctest, sys, frostline\n"
        "known = {'training': frostline.train(sys.argv[1])}\n"
        "print(doctest.testfile('page.md', module_relative=False, globs=known, optionflags=doctest.ELLIPSIS))"
    )
    told = clone.python("-c", code, str(pictures))
    (clone.root / "page.md").unlink()
    assert "TestResults(failed=0, attempted=" in told, told
    assert ran(told) == []


@pytest.mark.long
def test_a_recipe_that_was_searched_for_is_for_other_pictures_too(clone, pictures):
    frostline(clone, "set", "folds=3", "model.cut_layer=mixed1", "finetune.epochs=1", "finetune.thaw_from=auto")
    said = frostline(
        clone, "train", str(pictures), "--weights", "random", "--recipe", "auto", "--set", "transfer.epochs=1"
    )
    assert "7 of 9 trainings of 3 settings were run" in said, "what is set was not searched"
    assert "model:    models/classifier.keras" in said
    winner = json.loads((clone.root / "multirun/auto/winner.json").read_text())
    assert set(winner) == {"finetune.learning_rate"}
    params = yaml.safe_load((clone.root / "params.yaml").read_text())
    assert params["finetune"]["learning_rate"] == float(winner["finetune.learning_rate"])
    assert params["folds_of"] == "all"
    assert "experiment=auto" in frostline(clone, "set")
    other = pictures.parent / "others"
    shutil.copytree(pictures, other)
    frostline(clone, "set", f"data.path={other}", "weights=imagenet")
    params = yaml.safe_load((clone.root / "params.yaml").read_text())
    assert (params["data"]["path"], params["data"]["name"]) == (str(other), "others")
    frostline(clone, "set", f"data.path={pictures}", "weights=random", "experiment=demo")
    frostline(
        clone,
        "set",
        "--unset",
        "folds",
        "--unset",
        "model.cut_layer",
        "--unset",
        "finetune.epochs",
        "--unset",
        "finetune.thaw_from",
    )


def test_what_a_user_gets_wrong_ends_in_two_lines_and_changes_nothing(clone, pictures):
    pipe = pictures.parent / "piped"
    (pipe / "a").mkdir(parents=True)
    os.mkfifo(pipe / "a" / "1.jpg")
    before = {path: path.read_bytes() for path in (*clone.root.glob("conf/**/*.yaml"), clone.root / "params.yaml")}
    for arguments, word in (
        ([str(pictures / "없음")], "no such folder"),
        ([str(pipe)], "a broken link or a special file"),
        ([str(pictures), "--weights", "imagnet"], "valid: imagenet, random, hub, a file or a folder of weights"),
        ([str(pictures), "--recipe", "bset"], "did you mean best?"),
        ([str(pictures), "--set", "transfer.epoch=3"], "Did you mean 'transfer.epochs'?"),
        ([str(pictures), "--set", "transfer.epochs"], "write KEY=VALUE"),
    ):
        said = frostline(clone, "train", *arguments, code=1)
        assert word in said
        assert len(said.strip().splitlines()) <= 2, said
    assert before == {path: path.read_bytes() for path in before}


def test_edits_by_hand_are_said_before_they_are_dropped(clone, pictures):
    params = clone.root / "params.yaml"
    text = params.read_text(encoding="utf-8")
    params.write_text(text.replace("dropout: 0.2", "dropout: 0.35"), encoding="utf-8")
    assert "model.dropout=0.35" in frostline(clone, "train", str(pictures), code=1)
    assert "0.35" in params.read_text(encoding="utf-8")
    frostline(clone, "set", "--drop-edits")
    assert "0.35" not in params.read_text(encoding="utf-8")


@pytest.mark.long
def test_beside_another_dvc_command_it_refuses_before_it_touches_anything(clone, pictures):
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    locks = clone.root / ".dvc/tmp/rwlock"
    before = locks.read_bytes() if locks.exists() else b"{}"
    try:
        held = {"write": {"x": {"pid": running.pid, "cmd": "dvc exp run"}}, "read": {}}
        locks.write_text(json.dumps(held), encoding="utf-8")
        params = (clone.root / "params.yaml").read_bytes()
        said = frostline(clone, "train", str(pictures), "--set", "seed=9", code=1)
        assert "`dvc exp run` is running in this project" in said
        assert (clone.root / "params.yaml").read_bytes() == params
    finally:
        running.communicate(b"\n")
        locks.write_bytes(before)
    assert "model:    models/classifier.keras" in frostline(clone, "train", "--set", "seed=42")


def test_it_wants_a_project_in_a_git_repository(tmp_path, clone):
    command = [sys.executable, "-m", "frostline.cli", "train", "."]
    ended = subprocess.run(command, cwd=tmp_path, env=clone.environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "is no Frostline project" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.yaml").write_text("")
    (tmp_path / "dvc.yaml").write_text("")
    ended = subprocess.run(command, cwd=tmp_path, env=clone.environment, capture_output=True, text=True)
    assert "git clone" in ended.stderr
