import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from frostline import plots
from frostline.evaluation import changed_decisions, evaluate, surest_mistakes
from frostline.report import write_report
from frostline.settings import (
    Config,
    Evaluate,
    Finetune,
    FolderData,
    ImagenetWeights,
    Model,
    Phase,
    Preprocess,
    RandomWeights,
    Tracking,
    Weights,
)
from test_plots import epochs, predictions

HOSTILE = ('<script>alert("1")</script>', "고양이 & 'x'")
IMAGENET = ImagenetWeights("imagenet", "src/frostline/download.py", "https://example.org/w.h5", 1, "00")
RANDOM = RandomWeights("random", "src/frostline/random_weights.py", 1)


def settings(weights: Weights = RANDOM) -> Config:
    return Config(
        name="run <1>",
        seed=42,
        augment="none",
        feature_precision="float32",
        feature_cache_gib=20,
        data=FolderData("folder", "/home/someone/pictures", "/home/someone/pictures"),
        weights=weights,
        preprocess=Preprocess(150, 0.7, 0.15, 0.15, 0.02),
        model=Model("inception_v3", "mixed7", 1024, 0.2),
        transfer=Phase(2, 1e-3, 32),
        finetune=Finetune(2, 1e-5, 32, "auto"),
        evaluate=Evaluate(0.5, 200, 15),
        tracking=Tracking("postgresql://user:secret@host/db", "frostline", True),
    )


def write(
    folder: Path,
    classes: tuple[str, str] = ("cat", "dog"),
    weights: Weights = RANDOM,
    both: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> str:
    labels, transfer, finetune = both = both or predictions(86)
    evaluation = evaluate(*both, threshold=0.5, bins=15, resamples=200, seed=42)
    curves = {"transfer": epochs(2), "finetune": epochs(2)}
    figures = plots.write_figures(folder, *both, curves=curves, threshold=0.5, bins=15, classes=classes)
    winner = {"transfer": transfer, "finetune": finetune}[evaluation.verdict.winner]

    def gallery(rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
        rows = rows[:3]
        pixels = np.full((len(rows), 8, 8, 3), 100, np.uint8)
        names = [f"train/{classes[labels[r]]}.{r}.jpg" for r in rows]
        facts = zip(names, labels[rows], transfer[rows], finetune[rows], strict=True)
        return pixels, [plots.picture_caption(*fact, classes) for fact in facts]

    better, worse = changed_decisions(*both, 0.5)
    write_report(
        folder / "report.html",
        settings=settings(weights),
        data={
            "classes": list(classes),
            "counts": {split: dict.fromkeys(classes, 1234) for split in ("test", "train", "validation")},
            "unlabelled": 7,
            "rejected": {"empty file": 1, "not a <picture>": 3},
            "duplicates": {"groups": 1, "pictures": 2},
            "ignored": 0,
            "digest": "d" * 64,
        },
        evaluation=evaluation,
        figures=figures,
        galleries={
            "mistakes": gallery(surest_mistakes(labels, winner, 0.5)),
            "set_right": gallery(better),
            "got_wrong": gallery(worse),
        },
        command="dvc repro",
        weights_digest="e" * 64,
    )
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """The page's tags, its text, and whether every tag that is opened is closed in turn."""

    VOID = frozenset({"meta", "link", "img"})

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_says_the_verdict_and_stands_alone(tmp_path: Path) -> None:
    html = write(tmp_path)
    page = Page(html)
    labels, *both = predictions(86)
    verdict = evaluate(labels, *both, threshold=0.5, bins=15, resamples=200, seed=42).verdict
    assert verdict.title in page.text
    assert verdict.detail[1:] in page.text
    for source in (attributes.get(key) for _, attributes in page.tags for key in ("src", "href")):
        assert source is None or source.startswith("data:")
    for loader in ("url(", "@import", "<script", "http://", "file://"):
        assert loader not in html
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("img")) >= 5 + 3
    assert all(image["alt"] for image in page.all("img"))
    assert all(header.get("scope") in {"row", "col"} for header in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if tag in {"h1", "h2", "h3"}]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))


def test_the_page_names_its_inputs_but_no_machine_and_no_password(tmp_path: Path) -> None:
    html = write(tmp_path)
    for text in ("dvc repro", "d" * 64, "e" * 64, "1,234", "not a &lt;picture&gt;: 3", "…/pictures"):
        assert text in html
    assert html.index("not a &lt;picture&gt;") < html.index("empty file")  # the most frequent reason first
    for text in ("/home/someone", "secret", "postgresql", str(tmp_path)):
        assert text not in html


def test_names_are_escaped(tmp_path: Path) -> None:
    html = write(tmp_path, classes=HOSTILE)
    assert "<script" not in html
    assert "run <1>" not in html
    page = Page(html)
    assert all(name in page.text for name in (*HOSTILE, "run <1>"))
    assert any(HOSTILE[0] in image["alt"] for image in page.all("img"))


def test_an_untrained_backbone_is_named_as_such(tmp_path: Path) -> None:
    assert "The backbone is untrained" in write(tmp_path, weights=RANDOM)
    assert "untrained" not in write(tmp_path, weights=IMAGENET)


def test_one_class_and_no_mistakes_still_make_a_page(tmp_path: Path) -> None:
    sure = np.zeros(2)
    html = write(tmp_path, both=(np.zeros(2, np.uint8), sure, sure))
    page = Page(html)
    for text in ("No difference that could not be chance", "Only 2 test pictures", "every test picture is decided"):
        assert text in page.text
    assert "ROC AUC" not in page.text
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


def test_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    html = write(tmp_path / "here")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import test_report; from pathlib import Path; test_report.write(Path({str(tmp_path / 'there')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "there" / "report.html").read_text(encoding="utf-8") == html
