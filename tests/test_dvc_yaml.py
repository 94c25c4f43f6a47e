"""dvc.yaml: exactly the six stages, and each lists the code that its outputs depend on."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "frostline"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

# Modules that no output's bytes depend on: messages, progress, MLflow's side of things, names and types of settings
# (their values are in params.yaml), names of files (they are in dvc.yaml), the sharing of work among processes.
NEUTRAL = {
    "__init__",
    "addresses",
    "config",
    "errors",
    "champion",
    "companion",
    "logged_model",
    "model_registry",
    "paths",
    "progress",
    "quiet_tensorflow",
    "ray_workers",
    "settings",
    "stages/__init__",
    "stages/_record",
    "stderr",
    "tracking",
    "workers",
}


def imported(module: Path) -> set[Path]:
    """Files of this package that `module` imports at its top level (what it imports later is named by depends_on).

    A stage itself may import what needs TensorFlow later; what MLflow gets of it is no output.
    """
    found, tree = set(), ast.parse(module.read_text())
    later = module.parent.name == "stages" and module.stem != "_record"
    for node in ast.walk(tree) if later else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "frostline":
            base = SRC.parent / Path(*node.module.split("."))
            candidates = [base / f"{alias.name}.py" for alias in node.names] + [base.with_suffix(".py")]
            found |= {path for path in candidates if path.is_file()}
    return found


def closure(module: Path) -> set[Path]:
    seen, todo = set(), [module]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += imported(path)
    return seen


def test_stages_are_the_six():
    assert list(STAGES) == ["fetch-data", "fetch-weights", "preprocess", "transfer", "finetune", "evaluate"]


@pytest.mark.parametrize("stage", ["preprocess", "transfer", "finetune", "evaluate"])
def test_a_stage_lists_the_code_that_it_runs(stage):
    entry = SRC / "stages" / f"{stage.replace('-', '_')}.py"
    needed = {
        str(path.relative_to(ROOT))
        for path in closure(entry)
        if str(path.relative_to(SRC).with_suffix("")) not in NEUTRAL
    }
    listed = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert needed <= listed, f"add to {stage}'s deps in dvc.yaml: {sorted(needed - listed)}"
    assert listed <= needed, f"{stage} does not import {sorted(listed - needed)}"


@pytest.mark.parametrize(("stage", "section"), [("fetch-data", "data"), ("fetch-weights", "weights")])
def test_a_fetch_stage_depends_on_the_code_of_the_chosen_source_only(stage, section):
    """A change in the downloader must not draw the sample again: conf/ names each source's code as depends_on."""
    entry = SRC / "stages" / f"{stage.replace('-', '_')}.py"
    assert f"${{{section}.depends_on}}" in STAGES[stage]["deps"]
    watched = [yaml.safe_load(option.read_text())["depends_on"] for option in (ROOT / "conf" / section).glob("*.yaml")]
    code = {ROOT / path for path in watched if path != "${.path}"}
    assert len(code) >= 2
    assert code <= closure(entry)
