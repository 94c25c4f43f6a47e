import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from frostline import plots

CLASSES = ("cat", "dog")


def predictions(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and both phases' probabilities; fine-tuning knows more."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.uint8)
    score = 4.0 * labels - 2
    transfer, finetune = (1 / (1 + np.exp(-(score + rng.normal(0, noise, count)))) for noise in (3, 2))
    return labels, transfer, finetune


def epochs(count: int) -> list[dict[str, str]]:
    """As csv.DictReader reads reports/curves/*.csv: text."""
    keys = ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy")
    return [{"epoch": str(n), **dict.fromkeys(keys, str(0.5 / n))} for n in range(1, count + 1)]


def write_all(folder: Path) -> None:
    both = predictions(86)
    curves = {"transfer": epochs(2), "finetune": epochs(3)}
    plots.write_figures(folder, *both, curves=curves, threshold=0.5, bins=15, classes=CLASSES)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), dtype=np.uint8)
    captions = [plots.picture_caption(f"train/cat.{n}.jpg", 0, 0.1, 0.9, CLASSES) for n in range(5)]
    plots.picture_grid(folder / "grid.png", pictures, captions)
    plots.write_dvc_plots(folder, *both[:2], threshold=0.5, bins=15, classes=CLASSES)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_figures_are_pictures_and_the_same_bytes_in_another_process(tmp_path: Path) -> None:
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
    assert set(here) == {
        *(f"{n}.png" for n in ("learning_curves", "roc", "precision_recall", "reliability", "confusion", "grid")),
        *(f"{n}.csv" for n in ("roc", "precision_recall", "reliability", "confusion")),
    }
    for path in (tmp_path / "here").glob("*.png"):
        with Image.open(path) as image:
            assert image.width == 1000
            assert set(image.info) == {"dpi"}  # no software, no date
            assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_each_phase_has_its_colour_in_every_chart(tmp_path: Path) -> None:
    write_all(tmp_path)
    for name in ("learning_curves", "roc", "precision_recall", "reliability"):
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).reshape(-1, 3)
        for colour in plots.COLOURS.values():
            rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            assert (pixels == rgb).all(axis=1).sum() > 50, (name, colour)


def test_dvc_curves_enclose_scikit_learns_areas_with_few_points(tmp_path: Path) -> None:
    labels, *both = predictions(20_000)
    for probabilities in both:
        plots.write_dvc_plots(tmp_path, labels, probabilities, threshold=0.5, bins=15, classes=CLASSES)
        for table, x, y, expected in (
            (rows(tmp_path / "roc.csv"), "fpr", "tpr", metrics.roc_auc_score(labels, probabilities)),
            (
                rows(tmp_path / "precision_recall.csv"),
                "recall",
                "precision",
                metrics.average_precision_score(labels, probabilities),
            ),
        ):
            assert len(table) <= 1000
            points = np.array([(float(row[x]), float(row[y])) for row in table])
            assert (points[0, 0], points[-1, 0]) == (0, 1)
            assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(expected, abs=2e-3)


def test_dvc_confusion_has_one_row_per_picture(tmp_path: Path) -> None:
    labels, probabilities = np.array([0, 1, 1]), np.array([0.2, 0.7, 0.4])
    cat, dog = classes = ("고양이", 'a "dog", <b>')
    plots.write_dvc_plots(tmp_path, labels, probabilities, threshold=0.5, bins=2, classes=classes)
    found = [tuple(row.values()) for row in rows(tmp_path / "confusion.csv")]
    assert found == [(cat, cat), (dog, dog), (dog, cat)]
    assert rows(tmp_path / "reliability.csv")[0] == {"predicted": "0.3", "observed": "0.5", "count": "2"}


def test_one_class_only_leaves_out_the_undefined_curves(tmp_path: Path) -> None:
    labels, probabilities = np.zeros(2, np.uint8), np.array([0.0, 1.0])
    curves = {"transfer": epochs(1), "finetune": epochs(1)}
    both = (labels, probabilities, probabilities)
    found = plots.write_figures(tmp_path, *both, curves=curves, threshold=0.5, bins=15, classes=CLASSES)
    assert set(found) == {"learning_curves", "reliability", "confusion"}
    assert all(path.is_file() for path in found.values())
    plots.write_dvc_plots(tmp_path, *both[:2], threshold=0.5, bins=15, classes=CLASSES)
    assert rows(tmp_path / "roc.csv") == []
    assert len(rows(tmp_path / "confusion.csv")) == 2


def test_names_that_matplotlib_would_read_as_mathematics_are_drawn(tmp_path: Path) -> None:
    picture = np.zeros((1, 8, 8, 3), np.uint8)
    plots.picture_grid(tmp_path / "grid.png", picture, ["$\\frac{$.jpg\n<b>\n" + "x" * 300])
    plots.picture_grid(tmp_path / "none.png", picture[:0], [])
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "none.png"}
    plots.confusion_matrices(tmp_path / "confusion.png", *predictions(20), threshold=0.5, classes=("$a", "b$_^{"))
