"""dvc.yaml: exactly the six stages, and each lists the code that its outputs depend on, all of it and nothing else."""

from pathlib import Path

import pytest
import yaml

from frostline.config.settings import DEPENDS_ON
from frostline.runtime.code_digest import NEUTRAL, code_of
from tracked import ROOT, tracked_names, tracked_text

CODE = "src/frostline/"
FOR_FEW = {f"common/{name}.py" for name in ("data_urls", "fit_names", "layout", "phase_names", "thresholds", "urls")}
"""Files of the folder common/, which every stage watches whole, that only some depend on: short and seldom changed."""
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def module_of(stage):
    return f"frostline.stages.{stage.replace('-', '_')}"


def files_of(deps):
    """Those of the package among `deps`, relative to it; a folder stands for all files in it."""
    found = set()
    for path in (ROOT / dep for dep in deps if dep.startswith(CODE)):
        assert path.exists(), path
        inside = [path] if path.is_file() else [file for file in path.rglob("*") if "__pycache__" not in file.parts]
        found |= {file.relative_to(ROOT / CODE).as_posix() for file in inside if file.is_file()}
    return {name for name in found if not name.endswith("__init__.py")}


def test_a_stage_watches_the_settings_that_its_result_depends_on():
    assert {name: stage["params"] for name, stage in STAGES.items()} == {
        name: list(keys) for name, keys in DEPENDS_ON.items()
    }


def test_stages_are_the_six():
    assert list(STAGES) == ["fetch-data", "fetch-weights", "preprocess", "transfer", "finetune", "evaluate"]


@pytest.mark.parametrize("stage", ["preprocess", "transfer", "finetune", "evaluate"])
def test_a_stage_lists_the_code_that_it_runs(stage):
    needed, listed = set(code_of(module_of(stage))), files_of(STAGES[stage]["deps"])
    assert needed <= listed, f"add to {stage}'s deps in dvc.yaml: {sorted(needed - listed)}"
    assert listed <= needed | FOR_FEW, f"{stage} does not import {sorted(listed - needed - FOR_FEW)}"


@pytest.mark.parametrize(
    ("stage", "section", "keys"),
    [
        ("fetch-data", "data", ("depends_on", "code")),
        ("fetch-weights", "weights", ("depends_on",)),
    ],
)
def test_a_fetch_stage_depends_on_the_code_of_the_chosen_source(stage, section, keys):
    """A change in the downloader must not draw the sample again: conf/ names each source's own code."""
    deps, sources = STAGES[stage]["deps"], {}
    for option in map(Path, tracked_names(f"conf/{section}")):
        content = yaml.safe_load(tracked_text(str(option)))
        named = {content[key] for key in keys}
        sources[option.stem] = files_of(content["depends_on"] if path == "${.depends_on}" else path for path in named)
    assert [dep for dep in deps if dep.startswith("${")] == [f"${{{section}.{key}}}" for key in keys]
    common, every = files_of(deps), set().union(*sources.values())
    assert len(every) >= 2
    assert not common & every, "these are watched whichever source is chosen"
    all_needed = set()
    for source, own in sources.items():
        others = {name.removesuffix(".py") for name in every - own}
        needed = set(code_of(module_of(stage), NEUTRAL | others))
        assert needed <= common | own, f"{stage} with {source} depends on {sorted(needed - common - own)}, too"
        assert own <= needed, f"{stage} with {source} does not import {sorted(own - needed)}"
        all_needed |= needed
    assert common <= all_needed | FOR_FEW, f"{stage} does not import {sorted(common - all_needed - FOR_FEW)}"
