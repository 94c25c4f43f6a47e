"""notebooks/: the tutorial's steps in Korean and in English, the same code in both, run from top to bottom."""

import json
import re

import nbclient
import nbformat
import pytest
import yaml

from clone import STAGES, Clone, ran
from tracked import ROOT

KOREAN, ENGLISH = (ROOT / f"notebooks/tutorial.{language}.ipynb" for language in ("ko", "en"))


def cells(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def sources(path, kind):
    return ["".join(cell["source"]) for cell in cells(path, kind)]


def test_both_have_the_same_code_and_headings():
    assert sources(KOREAN, "code") == sources(ENGLISH, "code")
    texts = ["\n".join(sources(path, "markdown")) for path in (KOREAN, ENGLISH)]
    for pattern in (r"^```.*?^```", r"^(#+) "):
        korean, english = (re.findall(pattern, text, re.DOTALL | re.MULTILINE) for text in texts)
        assert korean == english
        assert len(korean) > 4


@pytest.mark.parametrize("path", [KOREAN, ENGLISH], ids=["ko", "en"])
def test_it_is_a_notebook_without_outputs_whose_links_lead_somewhere(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path, "code"))
    links = [link for text in sources(path, "markdown") for link in re.findall(r"\]\(([^)#]+)", text)]
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.long
@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path):
    clone = Clone(tmp_path / "clone")
    recipe = clone.root / "conf/experiment/tutorial.yaml"
    small = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    small["model"]["dense_units"] = 16
    small["transfer"] |= {"epochs": 1, "learning_rate": 1e-4}
    small["finetune"]["epochs"] = 1
    recipe.write_text("# @package _global_\n" + yaml.safe_dump(small), encoding="utf-8")
    notebook = nbformat.read(KOREAN, as_version=4)
    client = nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(clone.root / "notebooks")}})
    client.execute(env=clone.environment)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    said = ["".join(map(text_of, cell.outputs)) for cell in codes]
    assert sorted(stage for text in said for stage in ran(text)) == sorted(STAGES), "each once"
    assert any("In use, " in text for text in said), "the verdict"
    tables = [text for cell, text in zip(codes, said, strict=True) if "runs(" in cell.source]
    assert tables and all(re.search(r"(transfer|finetune|evaluate) sample.*\d\.\d", text) for text in tables), tables
    assert any("mostly at" in text or "nowhere" in text for text in said), "Grad-CAM"
    assert "up to date" in said[-1]
    settings = yaml.safe_load((clone.root / "params.yaml").read_text(encoding="utf-8"))
    assert (settings["model"]["cut_layer"], settings["finetune"]["thaw_from"]) == ("mixed7", "mixed6")
    assert clone.dvc("exp", "show", "--json")


def text_of(output):
    return output.get("text") or output.get("data", {}).get("text/plain", "")
