"""frostline audit: what is planted in small real pictures is found, on the page and in the table."""

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter, ImageOps

from frostline.audit import labels as audit_labels
from frostline.audit.findings import labelled
from frostline.audit.outliers import outliers, pooled_features
from frostline.audit.quality import measure, poor_images
from frostline.audit.robust import modified_z
from frostline.audit.run import audit
from frostline.common.files import read_csv
from frostline.config.load import load_params
from frostline.data.dataset import load_dataset
from frostline.data.layout import Reading
from frostline.data.preprocess import preprocess
from frostline.features.cache import entries
from frostline.runtime.errors import FrostlineError
from frostline.sources.sample import draw_images
from frostline.training.near_duplicates import near_duplicates, thumbnails

pytestmark = pytest.mark.slow

SIZE = 75
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
PICTURES = [Image.fromarray(pixels) for pixels in draw_images(34, 150, seed=5)]  # cats and dogs in turn


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def cropped(image):
    return image.crop((6, 2, image.width - 3, image.height - 7))


ORIGINALS = {f"{('cat', 'dog')[number % 2]}/{number}.png": png(image) for number, image in enumerate(PICTURES[:30])}
PLANTED = {
    "cat/again.jpg": (jpeg(PICTURES[0]), "cat/0.png"),
    "dog/scaled.png": (png(PICTURES[1].resize((90, 90))), "dog/1.png"),
    "cat/mirrored.png": (png(ImageOps.mirror(PICTURES[2])), "cat/2.png"),
    "cat/cropped.png": (png(cropped(PICTURES[4])), "cat/4.png"),
    "cat/all.jpg": (jpeg(cropped(ImageOps.mirror(PICTURES[3])).resize((100, 100))), "dog/3.png"),  # of another class
}
POOR = {
    "dog/dark.png": (png(PICTURES[30].point(lambda value: value // 5)), "too dark"),
    "dog/bright.png": (png(PICTURES[31].point(lambda value: 248 + value // 40)), "nearly uniform"),
    "cat/pale.png": (png(PICTURES[32].point(lambda value: 215 + value // 6)), None),
    "cat/blurred.png": (png(PICTURES[33].filter(ImageFilter.GaussianBlur(9))), "blurred"),
    "dog/grey.png": (png(Image.new("RGB", (150, 150), (128, 120, 130))), "nearly uniform"),
}


def prepare(folder, members, **reading):
    path = folder / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    settings = {"size": SIZE, "seed": 3, "shares": SHARES, "max_rejected": 0, "processes": 1}
    preprocess(path, folder / "data/processed", **settings, reading=Reading(**reading))
    return labelled(load_dataset(folder / "data/processed"))


@pytest.fixture
def images(tmp_path):
    copies = {name: content for name, (content, _) in PLANTED.items()}
    return prepare(tmp_path, ORIGINALS | copies | {name: content for name, (content, _) in POOR.items()})


def table_of(images, seeds=(1, 2), phases=("transfer",), right=0.9, wrong=()):
    """Out-of-fold probabilities as a study leaves them: `right` for the label, but for the images `wrong`."""
    rows = []
    for seed in seeds:
        for phase in phases:
            for row, name in enumerate(images.names):
                own = 0.05 if name in wrong else right + 0.01 * (row % 5)
                values = [own, 1 - own] if images.labels[row] == 0 else [1 - own, own]
                rows.append([name, images.class_of(row), seed, row % 3, phase, *values])
    columns = ["image", "class", "seed", "fold", "phase", *(f"P({name})" for name in images.data.classes)]
    return pd.DataFrame(rows, columns=columns)


def write_table(table, study="worth_it"):
    path = Path(f"reports/studies/{study}/out_of_fold.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path)
    return path


def test_planted_copies_are_found_and_nothing_else(images):
    arrays = [images.data.images(split) for split in ("train", "validation", "test")]
    found = near_duplicates(np.concatenate([thumbnails(array) for array in arrays]))
    pairs = {frozenset((images.names[pair.first], images.names[pair.second])): pair for pair in found}
    assert pairs.keys() == {frozenset((copy, original)) for copy, (_, original) in PLANTED.items()}
    mirrored = {name for names, pair in pairs.items() if pair.mirrored for name in names}
    assert mirrored == {"cat/mirrored.png", "cat/2.png", "cat/all.jpg", "dog/3.png"}
    assert all(0.97 <= pair.similarity <= 1 for pair in found)


def test_pairs_are_the_same_in_blocks_of_any_size(images, monkeypatch):
    pixels = np.concatenate([thumbnails(images.data.images(split)) for split in ("train", "validation", "test")])
    whole = near_duplicates(pixels)
    monkeypatch.setattr("frostline.training.near_duplicates._BLOCK", 7)
    monkeypatch.setattr("frostline.training.near_duplicates._PAIRS", 3)
    in_blocks = near_duplicates(pixels)
    assert [(pair.first, pair.second, pair.mirrored) for pair in in_blocks] == [
        (pair.first, pair.second, pair.mirrored) for pair in whole
    ]


def test_poor_images_are_found(images):
    measured = np.concatenate([measure(images.data.images(split)) for split in ("train", "validation", "test")])
    found = {images.names[finding.row]: finding.kind for finding in poor_images(measured)}
    assert found == {name: kind for name, (_, kind) in POOR.items() if kind}


def test_brightness_by_hand():
    dark, bright = np.zeros((1, 20, 20, 3), np.uint8), np.full((1, 20, 20, 3), 255, np.uint8)
    dark[:, :10], bright[:, :2] = 40, 100
    measured = measure(np.concatenate([dark, bright]))
    np.testing.assert_allclose(measured[0, 1:3], [40, 20], atol=1e-3)
    kinds = {finding.row: finding.kind for finding in poor_images(measured)}
    assert kinds == {0: "too dark"}  # the other's 5th percentile is 100: a tenth of it is so dark
    bright[:, :2, :15] = 255
    assert [finding.kind for finding in poor_images(measure(bright))] == ["too bright"]


def test_modified_z_by_hand():
    np.testing.assert_allclose(modified_z(np.array([1, 2, 3, 4, 100])), 0.6745 * np.array([-2, -1, 0, 1, 97]))
    assert modified_z(np.array([5, 5, 5, 9])).tolist() == [0, 0, 0, 0]


def test_outliers_are_far_from_all_others():
    features = np.random.default_rng(0).normal(3, 1, (200, 16))
    features[17] = -3
    assert [finding.row for finding in outliers(features)] == [17]
    assert list(outliers(features[:20])) == []  # too few to say


def test_wrong_labels_are_ranked_with_the_class_that_is_likelier(images):
    wrong = images.names[3], images.names[20]
    path = write_table(table_of(images, wrong=wrong))
    found = list(audit_labels.wrong_labels(images, audit_labels.read_probabilities(path, images)))
    assert {images.names[finding.row] for finding in found} == set(wrong)
    for finding in found:
        assert {finding.suggestion, images.class_of(finding.row)} == {"cat", "dog"}
        assert finding.fact == f"P({finding.suggestion}) 0.950"


def test_probabilities_are_means_over_seeds_of_the_better_phase(images):
    better = table_of(images, seeds=(1, 2))
    better.loc[better["seed"] == 2, ["P(cat)", "P(dog)"]] = 0.5
    path = write_table(pd.concat([table_of(images, phases=("finetune",), right=0.55), better]))
    probabilities = audit_labels.read_probabilities(path, images)
    own = probabilities[np.arange(len(images.labels)), images.labels]
    np.testing.assert_allclose(own, [(0.5 + 0.9 + 0.01 * (row % 5)) / 2 for row in range(len(own))])


def test_images_that_the_table_lacks_are_not_judged_and_dropped_ones_are_passed_over(tmp_path, capsys):
    everything = prepare(tmp_path, ORIGINALS)
    table = table_of(everything)
    (tmp_path / "corrections.csv").write_text("image,class\ncat/0.png,drop\n")
    images = prepare(tmp_path, ORIGINALS, corrections=tmp_path / "corrections.csv")
    path = write_table(table[table["image"] != "dog/1.png"])
    probabilities = audit_labels.read_probabilities(path, images)
    assert np.isnan(probabilities).any(axis=1).tolist() == [name == "dog/1.png" for name in images.names]
    assert f"{path} lacks 1 of 29 labelled images: their labels are not judged\n" in capsys.readouterr().err
    assert list(audit_labels.wrong_labels(images, probabilities)) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.assign(image="other/" + table["image"]), r"other data: 40 of its 40 images .*other/cat"),
        (
            lambda table: table.rename(columns={"P(dog)": "P(wolf)"}),
            r"lacks the column 'P\(dog\)'; it is of other data",
        ),
        (lambda table: table.drop(columns="phase"), "lacks the column 'phase'"),
        (lambda table: table.assign(**{"P(dog)": 0.9}), "no probabilities that sum to 1"),
        (lambda table: table.assign(**{"P(dog)": np.nan}), "no probabilities that sum to 1"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "twice for seed 1, transfer"),
    ],
)
def test_a_table_of_other_data_or_of_none_is_refused(change, said, images):
    path = write_table(change(table_of(images)))
    with pytest.raises(FrostlineError, match=said) as raised:
        audit_labels.read_probabilities(path, images)
    assert len(str(raised.value).splitlines()) == 2


def test_a_table_that_is_not_there_and_one_that_is_none(images, tmp_path):
    with pytest.raises(FrostlineError, match=r"absent\.parquet not found\.\n.*study=worth_it"):
        audit_labels.read_probabilities(Path("absent.parquet"), images)
    (tmp_path / "text.parquet").write_text("image,class\n")
    with pytest.raises(FrostlineError, match=r"text\.parquet is no Parquet file"):
        audit_labels.read_probabilities(Path("text.parquet"), images)


def test_table_and_page_name_all_that_is_found(images):
    write_table(table_of(images, wrong=["dog/9.png"]), study="new")
    counts = audit(None, top=1)
    assert counts["wrong label"] == 1
    assert "outlier" not in counts  # there is no backbone here
    rows = read_csv(Path("reports/audit.csv"))
    assert {row["image"] for row in rows if row["finding"] == "wrong label"} == {"dog/9.png"}
    assert [row["suggestion"] for row in rows if row["finding"] == "wrong label"] == ["cat"]
    pairs = {frozenset((row["image"], row["other"])): row for row in rows if row["other"]}
    assert pairs.keys() == {frozenset((copy, original)) for copy, (_, original) in PLANTED.items()}
    splits = dict(zip(images.names, images.splits, strict=True))
    needed = ("test", "validation", "train")
    for names, row in pairs.items():
        across = names == {"cat/all.jpg", "dog/3.png"}
        assert row["suggestion"] == ("look" if across else "drop")
        one_split = splits[row["image"]] == splits[row["other"]]
        kind = "duplicate across classes" if across else "duplicate in one class" if one_split else None
        assert row["finding"] == (kind or "duplicate across splits")
        assert needed.index(splits[row["other"]]) <= needed.index(splits[row["image"]])

    page = Path("reports/audit.html").read_text(encoding="utf-8")
    assert "reports/studies/new/out_of_fold.parquet" in page
    assert "Left out: models/backbone.h5 not found: <code>dvc repro fetch-weights</code> makes it." in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "http" not in page.replace("http-equiv", "")
    shown = re.findall(r'<h2 id="([\w-]+)">.*?(?=<h2|</main>)', page, re.DOTALL)
    assert shown[1:4] == ["wrong-label", "duplicate-across-classes", "duplicate-across-splits"]
    assert page.count("<li><figure>") == sum(min(count, 1) for count in counts.values())


def test_the_newest_table_is_taken_and_the_same_inputs_give_the_same_bytes(images):
    old, new = write_table(table_of(images), "old"), write_table(table_of(images, wrong=["dog/9.png"]), "new")
    os.utime(old, (1, 1))
    assert audit(None, top=5)["wrong label"] == 1
    first = [Path(f"reports/audit.{kind}").read_bytes() for kind in ("csv", "html")]
    audit(new, top=5)
    assert [Path(f"reports/audit.{kind}").read_bytes() for kind in ("csv", "html")] == first
    assert audit(old, top=5)["wrong label"] == 0


def test_a_study_of_several_recipes_is_passed_over(images):
    write_table(table_of(images, wrong=["dog/9.png"]), "worth_it")
    several = pd.concat([table_of(images), table_of(images, right=0.6)])
    newer = write_table(several, "depth")
    os.utime(newer, (2e9, 2e9))
    assert audit(None, top=5)["wrong label"] == 1
    with pytest.raises(FrostlineError, match="it is of several recipes"):
        audit(newer, top=5)


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "frostline.cli", "audit", *arguments], capture_output=True, text=True)


@pytest.mark.long
def test_the_command_says_in_one_line_what_is_left_out(images, project):
    (project / "dvc.yaml").touch()
    done = command("--top", "3")
    assert done.returncode == 0
    (line,) = [line for line in done.stderr.splitlines() if "study=worth_it" in line]
    made_by = "`python -m frostline.sweep -m study=worth_it` makes them"
    assert line == f"left out: wrong labels (no study's probabilities yet: {made_by})"
    assert "duplicate across classes: 1\n" in done.stdout
    assert "wrong label" not in done.stdout
    assert "What you decide: corrections.csv" in done.stdout


@pytest.mark.long
def test_errors_of_the_command_are_lines(project, tmp_path):
    (project / "dvc.yaml").touch()
    done = command()
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 2)
    assert "Run `dvc repro preprocess`." in done.stderr
    assert not (tmp_path / "reports/audit.csv").exists()
    assert "0 is not a whole number above 0" in command("--top", "0").stderr


@pytest.mark.long
def test_outliers_by_the_features_of_the_backbone(images, project, weights):
    (project / "models").mkdir()
    shutil.copy(weights, project / "models/backbone.h5")
    with pytest.raises(FrostlineError, match=f"prepared with preprocess.image_size={SIZE}, and params.yaml has 150"):
        audit(None, top=5)
    params = (project / "params.yaml").read_text().replace("image_size: 150", f"image_size: {SIZE}")
    (project / "params.yaml").write_text(params)
    features = pooled_features(images.data, load_params())
    assert features.shape == (40, 768)  # of mixed7
    assert "outlier" in audit(None, top=5)
    assert "Left out: models/backbone.h5" not in Path("reports/audit.html").read_text(encoding="utf-8")
    assert entries(), "computed through the cache"
