"""Images that belong together are in one split and in one fold: copies, near-duplicates, groups that the data name."""

import csv
import functools
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from frostline.config.paths import NEAR_DUPLICATES
from frostline.data.dataset import SPLITS, load_dataset
from frostline.data.grouping import deal, joined
from frostline.data.layout import Reading
from frostline.data.preprocess import preprocess
from frostline.runtime.errors import FrostlineError
from frostline.sources.sample import draw_images
from frostline.training.folds import choose_images
from zips import archive_of

pytestmark = pytest.mark.slow

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def prepare(tmp_path, images, **reading):
    archive_of(tmp_path / "a.zip", images)
    settings = {"size": 64, "seed": 7, "shares": SHARES, "max_rejected": 0.0, "processes": 1}
    preprocess(tmp_path / "a.zip", tmp_path / "out", **settings, reading=Reading(**reading))
    return load_dataset(tmp_path / "out")


@functools.cache
def drawn(count):
    """By name, so many drawn images, half of each class."""
    return {
        f"{('cat', 'dog')[number % 2]}/{number}.jpg": png(Image.fromarray(face))
        for number, face in enumerate(draw_images(count, 96, seed=5))
    }


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def places(data, part_of=lambda name: name):
    """By `part_of` an image's name, the splits in which such images stand."""
    found = {}
    for split in SPLITS:
        for name in data.names(split):
            found.setdefault(part_of(name), set()).add(split)
    return found


def patient(name):
    return name.split("patient")[1].split("_")[0]


def of_patients(groups):
    """Drawn images of so many patients, each with images of one class or of both."""
    images = drawn(60)
    return {
        f"{name.split('/')[0]}/patient{number * 7 % groups}_{number}.jpg": content
        for number, (name, content) in enumerate(images.items())
    }


@pytest.mark.parametrize("pattern", [r"patient(\d+)_", r"patient\d+"])
def test_a_group_stands_in_one_split_and_in_one_fold(tmp_path, pattern):
    data = prepare(tmp_path, of_patients(13), group=pattern, top_folders="classes")
    assert all(len(splits) == 1 for splits in places(data, patient).values())
    sizes = [len(data.names(split)) for split in SPLITS]
    assert np.allclose(np.array(sizes) / 60, [0.6, 0.2, 0.2], atol=0.08)
    with (data.folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        assert all(row["group"] for row in csv.DictReader(file))
    for fold in range(4):
        assert all(len(splits) == 1 for splits in places(choose_images(data, fold, 4, 1), patient).values())
    assert prepare(tmp_path, of_patients(13), top_folders="classes").names("test") != data.names(
        "test"
    )  # what the setting changes


@pytest.mark.parametrize(
    ("images", "pattern", "message"),
    [
        (of_patients(13) | {"cat/one.jpg": drawn(20)["cat/0.jpg"]}, r"patient\d+", "finds nothing in 1 of 61 paths. F"),
        (
            of_patients(13) | {"cat/patientX_1.jpg": drawn(20)["cat/0.jpg"]},
            r"patient(\d+)?",
            "1 of 61 paths. First: cat",
        ),
        (
            of_patients(13) | {"cat/patientX_1.jpg": drawn(20)["cat/0.jpg"]},
            r"patient(\d*)",
            "1 of 61 paths. First: cat",
        ),
        (
            of_patients(2),
            r"patient\d+",
            "of 2 classes: 'cat' (1 group), 'dog' (1 group).",
        ),
    ],
)
def test_groups_that_cannot_be_are_said(tmp_path, images, pattern, message):
    with pytest.raises(FrostlineError) as raised:
        prepare(tmp_path, images, group=pattern, top_folders="classes")
    assert message in str(raised.value) and str(raised.value).count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_set_that_is_missing_is_cut_in_whole_groups(tmp_path):
    images = {f"{'test' if patient(name) == '0' else 'train'}/{name}": image for name, image in of_patients(13).items()}
    data = prepare(tmp_path, images, group=r"patient(\d+)", splits="given")
    found = places(data, patient)
    assert all(len(splits) == 1 for splits in found.values()) and {"validation"} in found.values()


def test_a_given_set_without_a_class_is_said_where_another_is_cut_in_groups(tmp_path):
    images = {
        f"{'test' if patient(name) == '0' and name.startswith('cat') else 'train'}/{name}": image
        for name, image in of_patients(13).items()
    }
    with pytest.raises(FrostlineError, match="the test set has no image of class 'dog'"):
        prepare(tmp_path, images, group=r"patient(\d+)", splits="given")


@pytest.mark.long
def test_an_image_without_a_group_is_alone(tmp_path):
    data = prepare(tmp_path, drawn(40), group=r"patient\d+_|\d+\.jpg")
    assert [len(data.names(split)) for split in SPLITS] == [24, 8, 8]


def test_groups_across_given_splits_are_counted(tmp_path, capsys):
    images = {
        f"{'train' if n % 3 else 'test'}/{name}": image for n, (name, image) in enumerate(of_patients(13).items())
    }
    prepare(tmp_path, images, group=r"patient\d+", splits="given")
    assert "13 groups stand in more than one of the given splits: what is measured there is" in capsys.readouterr().err


def with_copies(images):
    """`images` and of the first twelve a mirrored, scaled copy."""
    copies = {}
    for name in list(images)[:12]:
        mirrored = ImageOps.mirror(Image.open(io.BytesIO(images[name])))
        copies[name.replace(".jpg", "_again.png")] = png(mirrored.resize((100, 100)))
    return images | copies


@pytest.mark.long
def test_near_duplicates_are_in_one_fold(tmp_path):
    data = prepare(tmp_path, with_copies(drawn(40)))

    def original(name):
        return name.split(".")[0].removesuffix("_again")

    alone, parts = deal(data_labels(data), np.array(names_of(data)), np.arange(52), [1 / 5] * 5, "fold"), {}
    for name, part in zip(names_of(data), alone.tolist(), strict=True):
        parts.setdefault(original(name), set()).add(part)
    assert any(len(each) > 1 for each in parts.values()), "dealt one by one, copies are parted"
    for fold in range(5):
        found = places(choose_images(data, fold, 5, 1), original)
        assert all(len(splits) == 1 for splits in found.values())
    assert len(list(NEAR_DUPLICATES.iterdir())) == 1  # found once


def names_of(data):
    return [name for split in SPLITS for name in data.names(split)]


def data_labels(data):
    return np.concatenate([data.labels(split) for split in SPLITS])


def frames(count):
    """So many images of one scene, in two classes."""
    rng = np.random.default_rng(3)
    scene = rng.integers(60, 200, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
    images = [scene + rng.integers(-9, 9, scene.shape) for _ in range(count)]
    return {
        f"{('cat', 'dog')[number % 2]}/frame{number}.png": png(Image.fromarray(image.astype(np.uint8)))
        for number, image in enumerate(images)
    }


@pytest.mark.long
def test_where_all_images_are_alike_it_is_said_and_folds_have_images(tmp_path, caplog):
    data = prepare(tmp_path, frames(30))
    with caplog.at_level("INFO"):
        chosen = choose_images(data, 1, 5, 1)
    assert [len(chosen.names(split)) for split in SPLITS] == [18, 6, 6]
    assert "30 near-duplicates are one chain, larger than a fold: folds part them" in caplog.text


@pytest.mark.long
def test_a_chain_that_no_fold_can_hold_parts_no_other_copies(tmp_path, caplog):
    data = prepare(tmp_path, with_copies(drawn(40)) | frames(30))
    for fold in range(5):
        found = places(choose_images(data, fold, 5, 1), lambda name: name.split(".")[0].removesuffix("_again"))
        assert all(len(splits) == 1 for splits in found.values())
    assert "30 near-duplicates are one chain" in caplog.text


def test_a_fold_that_could_train_on_no_image_of_a_class_is_said(tmp_path):
    images = {f"{('train', 'val', 'test')[n % 3]}/{name}": image for n, (name, image) in enumerate(drawn(40).items())}
    data = prepare(tmp_path, images, group="cat/|dog/.*", splits="given")
    with pytest.raises(FrostlineError, match="all images of class 'cat' belong together"):
        for fold in range(5):
            choose_images(data, fold, 5, 1)


def test_groups_of_many_sizes_are_dealt_out_evenly():
    rng = np.random.default_rng(2)
    groups = np.sort(rng.integers(60, size=400))
    labels = groups % 3
    part = deal(labels, np.arange(400).astype(str), groups, [0.7, 0.15, 0.15], "x")
    assert all(len(set(part[groups == group])) == 1 for group in set(groups))
    for number in range(3):
        assert np.allclose(np.bincount(part[labels == number]) / (labels == number).sum(), [0.7, 0.15, 0.15], atol=0.03)


def test_images_are_joined_by_chains():
    assert joined([["a", "b", "a", "c", "d"], [1, 2, 3, 2, 4]], [(2, 4)]).tolist() == [0, 1, 0, 1, 0]
