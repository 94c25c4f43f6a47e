import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from frostline.metrics.bootstrap import Pair, by_phase
from results import chosen, judged, of, predictions, predictions_of_many, report_settings, write_example_report

pytestmark = pytest.mark.slow

HOSTILE = ('<script>alert("1")</script>', "고양이 & 'x'")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The page as it is where nothing is out of the ordinary: drawing its charts takes a second."""
    return write_example_report(tmp_path_factory.mktemp("report"))


class Page(HTMLParser):
    """The page's tags, its text, and whether every tag that is opened is closed in turn."""

    VOID = frozenset({"meta", "link", "img", "input"})

    def __init__(self, html):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.long
def test_the_settings_tell_what_auto_was_found_to_be(tmp_path):
    given = ["transfer.learning_rate=auto", "finetune.batch_size=auto"]
    found = {"transfer.learning_rate": 0.00093, "finetune.batch_size": 8}
    write_example_report(tmp_path, given=given, found=found)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = dict(re.findall(r"<th scope=\"row\"><code>(.+)</code></th><td><code>(.*)</code></td>", html))
    assert shown["transfer.learning_rate"] == "auto: 0.00093"
    assert shown["finetune.batch_size"] == "auto: 8"
    assert shown["finetune.learning_rate"] == "1e-05"


def test_the_page_says_the_verdict_and_stands_alone(html):
    page = Page(html)
    verdict = judged(predictions(86)).verdict
    assert verdict.title in page.text
    assert verdict.choice in page.text
    assert verdict.detail in page.text
    for source in (attributes.get(key) for _, attributes in page.tags for key in ("src", "href")):
        assert source is None or source.startswith(("data:", "#"))
    html = html.replace("http://www.w3.org/", "")  # names of SVG's vocabularies
    html = html.replace(report_settings("random").model.imagenet.url, "")  # shown as a setting
    for loader in (r"url\((?!#)", "@import", "https?:", "file://", r"import\(", r"fetch\(", "XMLHttpRequest"):
        assert not re.search(loader, html), loader
    assert [script for script in page.all("script") if "src" in script] == []
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("img")) >= 5 + 3
    assert all(image["alt"] for image in page.all("img"))
    assert all(header.get("scope") in {"row", "col", "rowgroup", "colgroup"} for header in page.all("th"))
    drawings = page.all("svg")
    assert len(drawings) == 5
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    levels = [int(tag[1]) for tag, _ in page.tags if tag in {"h1", "h2", "h3"}]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))


@pytest.mark.long
def test_the_page_names_its_inputs_but_no_machine_and_no_password(tmp_path):
    html = write_example_report(tmp_path)
    for text in (
        "dvc repro",
        "make install",
        *(letter * 64 for letter in "deab"),
        "frostline.git_commit",
        "1,234",
        "not a &lt;image&gt;: 3",
        "…/images",
    ):
        assert text in html
    assert html.index("not a &lt;image&gt;") < html.index("empty file")  # the most frequent reason first
    for text in ("/home/someone", "secret", "postgresql", str(tmp_path)):
        assert text not in html
    given = (r"preprocess.group='/([^/]+)_\d+'", "weights.url='https://me:secret@example.org/w.h5?token=secret'")
    html = write_example_report(tmp_path, weights="imagenet", given=given)
    assert "secret" not in html
    assert "https://example.org/w.h5" in html
    assert r"/([^/]+)_\d+" in html, "that is no path"


@pytest.mark.long
def test_copies_in_several_given_splits_are_said(tmp_path, html):
    assert "2 labelled images in 1 group of equal pixels, each group in one split" in html
    assert "of equal pixels, 1 of them in several of the given splits" in write_example_report(tmp_path, across=1)


@pytest.mark.long
def test_submission_csv_is_named_where_there_is_one_only(tmp_path, html):
    assert "As in submission.csv" in html
    assert "submission" not in write_example_report(tmp_path, unlabelled=0).split('id="reproduce"')[0]


def test_names_are_escaped(tmp_path):
    html = write_example_report(tmp_path, classes=HOSTILE)
    assert "<script>alert" not in html
    assert html.count("<script") == 2  # our own: numbers, and what shows them
    assert "run <1>" not in html
    page = Page(html)
    assert all(name in page.text for name in (*HOSTILE, "run <1>"))
    assert any(HOSTILE[0] in image["alt"] for image in page.all("img"))
    assert any(HOSTILE[0] in drawing["aria-label"] for drawing in page.all("svg"))


@pytest.mark.long
def test_names_from_right_to_left_do_not_turn_what_is_beside_them(tmp_path):
    page = Page(write_example_report(tmp_path, classes=("قطة", "كلب")))
    assert "tell \u2068قطة\u2069 from \u2068كلب\u2069" in page.text
    assert "if its calibrated P(\u2068كلب\u2069) is above" in page.text
    assert "P(كلب)" not in page.text


@pytest.mark.long
def test_an_untrained_backbone_is_named_as_such(tmp_path, html):
    assert "The backbone is untrained" in html
    assert "untrained" not in write_example_report(tmp_path, weights="imagenet")


@pytest.mark.long
def test_with_patience_the_kept_epoch_is_marked(tmp_path, html):
    assert "kept" not in Page(html).text
    assert "smoothed labels" not in html
    assert "mixtures" not in html
    rows = re.findall(r'<th scope="row">(\d+) <span class="muted">kept', write_example_report(tmp_path, patience="1"))
    assert rows == ["4"], "the second of fine-tuning, after two of transfer"


@pytest.mark.long
def test_training_losses_of_smoothed_labels_are_said_to_be_that(tmp_path):
    html = write_example_report(tmp_path, smoothing="0.1", mixup="0.3")
    assert "Training losses are those of smoothed labels" in html
    assert "What is trained on are mixtures of two images each" in html


@pytest.mark.long
def test_one_class_and_no_mistakes_still_make_a_page(tmp_path):
    sure = of(np.zeros(2))
    html = write_example_report(tmp_path, pair=Pair(np.zeros(2, np.uint8), sure, sure))
    page = Page(html)
    for text in (
        "Too few test images to tell",
        "Few test images: 0 of dog, 2 of cat.",
        "every test image is predicted",
    ):
        assert text in page.text
    assert "ROC AUC" not in page.text
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


@pytest.mark.long
def test_a_page_of_a_model_that_learned_nothing_is_not_green(tmp_path, html):
    """300 images of one class, 30 of the other, and models that know no more than that."""
    labels, rng = np.repeat([0, 1], [300, 30]).astype(np.uint8), np.random.default_rng(0)
    transfer, finetune = (of(rng.uniform(0.05, high, 330)) for high in (0.3, 0.15))
    nothing = write_example_report(tmp_path, pair=Pair(labels, transfer, finetune), shares=[10 / 11, 1 / 11])
    page = Page(nothing)
    assert '<h2 id="verdict">Neither phase learned anything beyond guessing</h2>' in nothing
    assert '<body style="--accent: var(--caution)">' in nothing
    assert '<body style="--accent: var(--better)">' in html
    assert "Unequal classes: 1,122 training images of cat, 112 of dog." in page.text
    assert "Recall of cat\u00a0↑\n1.000 300 of 300 images\n1.000 300 of 300 images\n0.000" in page.text
    assert "Recall of dog\u00a0↑\n0.000 0 of 30 images\n0.000 0 of 30 images\n0.000" in page.text
    assert "The classes are unequal, so the recall of each stands here, too." in page.text
    assert "Lowest recall" not in page.text.split("Learning curves")[0]
    assert "Recall of" not in Page(html).text.split("Learning curves")[0]
    assert "Balanced accuracy\u00a0↑\n0.500" in page.text
    guessing = metrics.log_loss(labels, np.full(330, 1 / 11))
    assert f"guessing {guessing:.3f}" in page.text


@pytest.mark.long
def test_of_many_unequal_classes_the_recall_of_the_smallest_stands_first_and_none_is_missed(tmp_path):
    """Of nine classes, the test images of one of the smallest are missing."""
    pair, names = predictions_of_many(90, 9), [f"c{number}" for number in range(9)]
    kept = pair.labels != 7
    pair = Pair(pair.labels[kept], pair.baseline[kept], pair.candidate[kept])
    html = write_example_report(
        tmp_path, classes=names, pair=pair, shares=[0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.05, 0.04, 0.01]
    )
    first = Page(html).text.split("Learning curves")[0]
    assert "the recall of the 6 smallest stands here, too" in first
    assert re.findall(r"Recall of (c\d)", first) == ["c3", "c4", "c5", "c6", "c7", "c8"]
    assert "Recall of c7\u00a0↑\nundefined 0 of 0 images" in first
    assert "Lowest recall" in first
    assert not re.search(r"\bnan\b", first, re.IGNORECASE)


@pytest.mark.long
def test_where_the_test_images_disagree_the_page_says_so_in_a_colour_of_its_own(tmp_path):
    html = write_example_report(tmp_path, pair=predictions(300), choice=chosen("transfer"))
    assert "Fine-tuning did better on the test images, but was not chosen" in html
    assert '<body style="--accent: var(--caution)">' in html
    assert re.search(r'Transfer</span> <span class="mark">chosen</span>', html)
    assert "Top losses of the transfer model" in html


@pytest.mark.long
def test_raw_and_calibrated_figures_stand_side_by_side(tmp_path):
    pair, choice = predictions(86), chosen(temperature=1.6)
    page = Page(write_example_report(tmp_path, pair=pair, choice=choice))
    phases = [*by_phase(pair).values(), choice.in_use(pair), np.full((86, 2), 0.5)]
    losses = "".join(f"{metrics.log_loss(pair.labels, probabilities):.4f}" for probabilities in phases)
    assert f"punishes confident mistakes{losses}" in page.text
    assert "In use: the fine-tuned model, with temperature 1.6" in page.text


@pytest.mark.long
def test_the_same_bytes_in_another_process(tmp_path, html):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import results; from pathlib import Path; results.write_example_report(Path({str(tmp_path)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html


# More than two classes

MANY = ("alligator", "bird", "cat", '<script>alert("1")</script>')


@pytest.mark.long
def test_many_classes_have_a_table_each_instead_of_the_explorer(tmp_path):
    pair = predictions_of_many(90, 4)
    html = write_example_report(tmp_path, MANY, pair=pair)
    page = Page(html)
    assert f"to tell alligator, bird, cat and {MANY[3]} apart" in page.text
    assert "<script>alert" not in html
    assert html.count("<script") == 1
    assert 'id="threshold"' not in html
    targets = {link["href"].removeprefix("#") for link in page.all("a")}
    assert targets <= {attributes.get("id") for _, attributes in page.tags}
    precision, recall = (
        [score(pair.labels, p.argmax(axis=1), average=None)[1] for p in by_phase(pair).values()]
        for score in (metrics.precision_score, metrics.recall_score)
    )
    row = f"bird{np.sum(pair.labels == 1)}" + "".join(f"{value:.3f}" for value in (*precision, *recall))
    assert row in page.text
    assert len(page.all("svg")) == 5
    assert any(MANY[3] in drawing["aria-label"] for drawing in page.all("svg"))
    assert "The class with the highest probability is predicted." in page.text
    assert "of the other class" not in page.text
    assert re.search(r"Clipped to [\d.e-]+ from 0 and 1, then divided by their sum", page.text)


@pytest.mark.long
def test_the_most_confused_pairs_are_those_of_the_chosen_model_either_way(tmp_path):
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 3], np.uint8)
    predicted = {"transfer": [1, 0, 0, 1, 0, 2, 1, 3], "finetune": [1, 1, 0, 0, 1, 2, 1, 3]}
    transfer, finetune = (np.eye(4)[found] * 0.6 + 0.1 for found in predicted.values())
    page = Page(write_example_report(tmp_path, ("ape", "bee", "cow", "doe"), pair=Pair(labels, transfer, finetune)))
    pairs = page.text[page.text.index("Most confused pairs") :]
    assert "ape, bee23" in pairs
    assert pairs.index("ape, bee23") < pairs.index("bee, cow11")
    assert "cow, doe" not in pairs[: pairs.index("All test figures")]


@pytest.mark.long
def test_no_mistake_among_many_classes(tmp_path):
    labels = np.arange(3, dtype=np.uint8)
    page = Page(write_example_report(tmp_path, MANY[:3], pair=Pair(labels, np.eye(3), np.eye(3))))
    assert "None: every test image is predicted correctly." in page.text
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)
