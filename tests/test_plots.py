import csv
import hashlib
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from frostline.metrics.bootstrap import Pair, by_phase
from frostline.report import charts, style
from results import chosen, epochs, of, predictions, predictions_of_many

pytestmark = pytest.mark.slow

CLASSES = ("cat", "dog")


def write_all(folder):
    pair = predictions(86)
    curves = {"transfer": epochs(2), "finetune": epochs(3)}
    charts.write_figures(folder, pair, curves=curves, choice=chosen(), bins=15, classes=CLASSES)
    charts.write_dvc_plots(folder, pair.labels, pair.baseline, pair.baseline.argmax(axis=1), bins=15, classes=CLASSES)


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_figures_are_images_and_the_same_bytes_in_another_process(tmp_path):
    before = dict(matplotlib.rcParams)
    write_all(tmp_path / "here")
    assert dict(matplotlib.rcParams) == before
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import test_plots; from pathlib import Path; test_plots.write_all(Path({str(tmp_path / 'there')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    here = digests(tmp_path / "here")
    assert here == digests(tmp_path / "there")
    names = ("learning_curves", "roc", "precision_recall", "reliability", "confusion")
    assert set(here) == {
        *(f"{name}.{kind}" for name in names for kind in ("png", "svg")),
        *(f"{n}.csv" for n in ("roc", "precision_recall", "reliability", "confusion")),
    }
    for path in (tmp_path / "here").glob("*.png"):
        with Image.open(path) as image:
            assert image.width == 1000
            assert set(image.info) == {"dpi"}  # no software, no date
            assert len(np.unique(np.asarray(image.convert("L")))) > 10


@pytest.mark.long
def test_each_phase_has_its_colour_in_every_chart(tmp_path):
    write_all(tmp_path)
    for name in ("learning_curves", "roc", "precision_recall", "reliability"):
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).reshape(-1, 3)
        for colour in style.COLOURS.values():
            rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            assert (pixels == rgb).all(axis=1).sum() > 50, (name, colour)


def test_dvc_curves_enclose_scikit_learns_areas_with_few_points(tmp_path):
    pair = predictions(20_000)
    labels = pair.labels
    for probabilities in by_phase(pair).values():
        charts.write_dvc_plots(tmp_path, labels, probabilities, probabilities.argmax(axis=1), bins=15, classes=CLASSES)
        for table, x, y, expected in (
            (rows(tmp_path / "roc.csv"), "fpr", "tpr", metrics.roc_auc_score(labels, probabilities[:, 1])),
            (
                rows(tmp_path / "precision_recall.csv"),
                "recall",
                "precision",
                metrics.average_precision_score(labels, probabilities[:, 1]),
            ),
        ):
            assert len(table) <= 1000
            points = np.array([(float(row[x]), float(row[y])) for row in table])
            assert (points[0, 0], points[-1, 0]) == (0, 1)
            assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(expected, abs=2e-3)


def test_dvc_confusion_has_one_row_per_image(tmp_path):
    labels, probabilities = np.array([0, 1, 1]), of([0.2, 0.7, 0.4])
    cat, dog = classes = ("고양이", 'a "dog", <b>')
    charts.write_dvc_plots(tmp_path, labels, probabilities, probabilities.argmax(axis=1), bins=2, classes=classes)
    found = [tuple(row.values()) for row in rows(tmp_path / "confusion.csv")]
    assert found == [(cat, cat), (dog, dog), (dog, cat)]
    assert rows(tmp_path / "reliability.csv")[0] == {"predicted": "0.3", "observed": "0.5", "count": "2"}


def test_a_class_whose_name_begins_with_an_underscore_is_in_the_legend(tmp_path):
    pair, curves = predictions_of_many(60, 3), {"transfer": epochs(2), "finetune": epochs(2)}
    classes = ("_other_", "no", "yes")
    charts.write_figures(tmp_path, pair, curves=curves, choice=chosen(), bins=15, classes=classes)
    assert "_other_" in (tmp_path / "roc.svg").read_text(encoding="utf-8")


@pytest.mark.long
def test_one_class_only_leaves_out_the_undefined_curves(tmp_path):
    labels, probabilities = np.zeros(2, np.uint8), of([0.0, 1.0])
    curves = {"transfer": epochs(1), "finetune": epochs(1)}
    pair = Pair(labels, probabilities, probabilities)
    found = charts.write_figures(tmp_path, pair, curves=curves, choice=chosen(), bins=15, classes=CLASSES)
    assert set(found) == {"learning_curves", "reliability", "confusion"}
    assert all(path.is_file() for path in found.values())
    charts.write_dvc_plots(tmp_path, labels, probabilities, probabilities.argmax(axis=1), bins=15, classes=CLASSES)
    assert rows(tmp_path / "roc.csv") == []
    assert len(rows(tmp_path / "confusion.csv")) == 2


def test_names_that_matplotlib_would_read_as_mathematics_are_drawn(tmp_path):
    classes = ("$\\frac{$", "b$_^{ <b> & " + "x" * 300)
    charts.confusion_matrices(tmp_path / "confusion.png", predictions(20), threshold=0.5, classes=classes)
    text = " ".join(ElementTree.parse(tmp_path / "confusion.svg").getroot().itertext())
    assert "$\\frac{$" in text
    assert "b$_^{ <b> &" in text


@pytest.mark.long
def test_drawings_can_stand_together_in_one_page_and_take_its_colours(tmp_path):
    write_all(tmp_path)
    ids: list[str] = []
    for path in tmp_path.glob("*.svg"):
        content = path.read_text(encoding="utf-8")
        root = ElementTree.fromstring(content)
        assert root.get("viewBox")
        assert not {"width", "height"} & set(root.attrib)
        here = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        used = re.findall(r'(?:url\(|href=")#([^)"]+)', content)
        assert used
        assert set(used) <= set(here)
        ids += here
        colours = re.findall(r"(?:fill|stroke): (#\w+)", content)
        assert not colours, "a fixed colour does not follow the page's theme"
        assert "var(--ink, #24292f)" in content
        assert "DejaVu" not in content
    assert len(ids) == len(set(ids))
    for name in ("roc", "precision_recall"):
        assert f"{name}-{charts.UNIT}" in ids


# More than two classes


def text_of(svg):
    return [text for text in ElementTree.parse(svg).getroot().itertext() if text.strip()]


def write_many(folder, count, classes):
    pair = predictions_of_many(count, classes)
    names = [f"class {number}" for number in range(classes)]
    curves = {"transfer": epochs(2), "finetune": epochs(3)}
    drawn = charts.write_figures(folder, pair, curves=curves, choice=chosen(), bins=15, classes=names)
    assert set(drawn) == {"learning_curves", "roc", "precision_recall", "reliability", "confusion"}
    charts.write_dvc_plots(folder, pair.labels, pair.baseline, pair.baseline.argmax(axis=1), bins=15, classes=names)


@pytest.mark.long
def test_every_class_has_its_curve_and_both_areas(tmp_path):
    write_many(tmp_path, 90, 3)
    pair = predictions_of_many(90, 3)
    for name, area in (("roc", metrics.roc_auc_score), ("precision_recall", metrics.average_precision_score)):
        legend = [text for text in text_of(tmp_path / f"{name}.svg") if "→" in text]
        assert legend == [
            f"class {number} ({area(pair.labels == number, pair.baseline[:, number]):.3f} → "
            f"{area(pair.labels == number, pair.candidate[:, number]):.3f})"
            for number in range(3)
        ]
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).reshape(-1, 3)
        for colour in (*style.COLOURS.values(), *style.CLASS_COLOURS[:3]):
            rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            assert (pixels == rgb).all(axis=1).sum() > 50, (name, colour)


@pytest.mark.long
def test_of_many_classes_the_worst_are_drawn(tmp_path):
    write_many(tmp_path, 400, 12)
    pair = predictions_of_many(400, 12)
    both = by_phase(pair).values()
    areas = [sum(metrics.roc_auc_score(pair.labels == n, p[:, n]) for p in both) for n in range(12)]
    legend = [text for text in text_of(tmp_path / "roc.svg") if "→" in text]
    assert [text.split(" (")[0] for text in legend] == [f"class {number}" for number in np.argsort(areas)[:5]]


@pytest.mark.long
def test_dvc_curves_of_many_classes_enclose_their_mean_area(tmp_path):
    write_many(tmp_path, 600, 5)
    pair = predictions_of_many(600, 5)
    labels, transfer = pair.labels, pair.baseline
    one_hot = np.eye(5)[labels]
    for table, x, y, expected in (
        (rows(tmp_path / "roc.csv"), "fpr", "tpr", metrics.roc_auc_score(one_hot, transfer)),
        (
            rows(tmp_path / "precision_recall.csv"),
            "recall",
            "precision",
            metrics.average_precision_score(one_hot, transfer),
        ),
    ):
        points = np.array([(float(row[x]), float(row[y])) for row in table])
        assert (points[0, 0], points[-1, 0]) == (0, 1)
        assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(expected, abs=5e-3)
    predicted = [(f"class {label}", f"class {row.argmax()}") for label, row in zip(labels, transfer, strict=True)]
    assert [tuple(row.values()) for row in rows(tmp_path / "confusion.csv")] == predicted
    bins = rows(tmp_path / "reliability.csv")
    assert sum(int(row["count"]) for row in bins) == 600
    hits = sum(int(row["count"]) * float(row["observed"]) for row in bins)
    assert hits == pytest.approx(np.sum(transfer.argmax(axis=1) == labels), abs=0.01)


@pytest.mark.parametrize(
    ("classes", "numbers", "names"),
    [
        (4, True, True),
        pytest.param(20, False, True, marks=pytest.mark.long),
        pytest.param(40, False, False, marks=pytest.mark.long),
    ],
)
def test_a_confusion_matrix_shows_what_there_is_room_for(tmp_path, classes, numbers, names):
    pair = predictions_of_many(30 * classes, classes)
    named = [f"class {number}" for number in range(classes)]
    charts.confusion_matrices(tmp_path / "confusion.png", pair, threshold=0.5, classes=named)
    text = text_of(tmp_path / "confusion.svg")
    assert ("class 1" in text) == names
    hits = [str(np.sum((pair.labels == 1) & (p.argmax(axis=1) == 1))) for p in by_phase(pair).values()]
    assert all((hit in text) == numbers for hit in hits)


def test_class_colours_are_seen_on_light_and_dark_paper():
    def luminance(colour):  # WCAG 2.2
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    css = (Path(charts.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    papers = set(re.findall(r"--card: (#\w{6})", css))
    assert len(papers) == 2
    for colour in style.CLASS_COLOURS:
        for paper in papers:
            dark, light = sorted([luminance(colour), luminance(paper)])
            assert (light + 0.05) / (dark + 0.05) >= 3, (colour, paper)
