"""From archives of good and bad images to the prepared data set."""

import csv
import multiprocessing
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from frostline.common.files import sha256_of
from frostline.config.load import compose_conf
from frostline.config.paths import ARCHIVE, PROCESSED
from frostline.data.dataset import load_dataset
from frostline.data.images import decode_image
from frostline.data.layout import Reading
from frostline.data.preprocess import preprocess
from frostline.runtime.errors import FrostlineError
from frostline.stages.preprocess import main as run_stage
from zips import archive_of, image

SIZE = 20
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def good(count):
    cats = {f"cats/{number}.jpg": image(number) for number in range(count)}
    return cats | {f"dogs/{number}.jpg": image(1000 + number) for number in range(count)}


def prepare(archive, folder, **changes):
    settings: dict[str, Any] = {
        "size": SIZE,
        "seed": 7,
        "shares": SHARES,
        "max_rejected": 0.5,
        "processes": 1,
    } | changes
    return preprocess(archive, folder, **settings)


def manifest(folder):
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_whole_data_set(tmp_path):
    members = good(30)
    train = {f"train/{name[:3]}.{name[5:]}": content for name, content in members.items()}
    test = {f"test/{number}.jpg": image(2000 + number) for number in range(1, 13)}
    inner = [archive_of(tmp_path / name, content).read_bytes() for name, content in (("a", train), ("b", test))]
    archive = archive_of(tmp_path / "archive.zip", {"train.zip": inner[0], "test.zip": inner[1], "x.csv": b""})

    summary = prepare(archive, tmp_path / "out", processes=2)
    dataset = load_dataset(tmp_path / "out")
    assert dataset.classes == ("cat", "dog")
    assert summary.counts == {
        "train": {"cat": 18, "dog": 18},
        "validation": {"cat": 6, "dog": 6},
        "test": {"cat": 6, "dog": 6},
    }
    assert (summary.unlabelled, summary.rejected, summary.ignored) == (12, {}, 1)
    assert summary.duplicates == {"groups": 0, "images": 0}
    assert summary.digest == dataset.digest == sha256_of(tmp_path / "out/manifest.csv")

    rows = manifest(tmp_path / "out")
    assert list(rows) == [name for split in (*SHARES, "unlabelled") for name in dataset.names(split)]
    for split in (*SHARES, "unlabelled"):
        for name, pixels in zip(dataset.names(split), dataset.images(split), strict=True):
            content = (train | test)[name]
            assert (pixels == decode_image(content, SIZE)).all()
            assert rows[name]["split"] == split and int(rows[name]["size"]) == len(content)
    for split in SHARES:
        assert dataset.labels(split).tolist() == ["dog" in name for name in dataset.names(split)]
    assert dataset.names("unlabelled") == [f"test/{number}.jpg" for number in range(1, 13)]  # 2 before 10
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "classes.json", "manifest.csv", "test.npy", "test_labels.npy", "train.npy", "train_labels.npy",
        "unlabelled.npy", "validation.npy", "validation_labels.npy",
    ]  # fmt: skip


@pytest.mark.slow
def test_same_bytes_whatever_the_processes_and_the_order_of_the_archive(tmp_path):
    members = good(40) | {"cats/bad.jpg": b"bad"}
    backwards = dict(reversed(members.items()))
    prepare(archive_of(tmp_path / "a.zip", members), tmp_path / "a", processes=1)
    prepare(archive_of(tmp_path / "b.zip", backwards), tmp_path / "b", processes=2)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert [sha256_of(tmp_path / "a" / name) for name in names] == [sha256_of(tmp_path / "b" / name) for name in names]


def test_bad_images_are_listed_and_copies_kept_together(tmp_path):
    whole = image(5000)
    png = image(5001, "PNG")
    odd = {
        "cats/truncated.jpg": whole[: len(whole) // 2],
        "cats/empty.jpg": b"",
        "dogs/page.jpg": b"<html>404</html>",
        "dogs/phone.jpg": b"\0\0\0\x18ftypheic" + bytes(64),
        "dogs/really a png.jpg": png,
        "cats/both.jpg": image(5002),
        "dogs/both too.jpg": image(5002) + b"another file, but the same image",
        "../dogs/climbing.jpg": image(5003),
        **{f"cats/copy {number}.jpg": image(5004) for number in range(5)},
    }
    summary = prepare(archive_of(tmp_path / "a.zip", good(10) | odd), tmp_path / "out")
    rows = manifest(tmp_path / "out")
    rejected = {name: row["verdict"] for name, row in rows.items() if row["verdict"] != "ok"}
    assert rejected == {
        "cats/truncated.jpg": "truncated",
        "cats/empty.jpg": "empty file",
        "dogs/page.jpg": "not a JPEG, PNG, GIF, WebP, BMP or TIFF image",
        "dogs/phone.jpg": "HEIC is not supported: save it as JPEG",
        "cats/both.jpg": "same image in classes cats and dogs",
        "dogs/both too.jpg": "same image in classes cats and dogs",
        "../dogs/climbing.jpg": "unsafe name in the archive",
    }
    assert all(rows[name]["split"] == "" for name in rejected)
    assert list(rows)[-len(rejected) :] == sorted(rejected)
    assert summary.rejected["same image in classes cats and dogs"] == 2
    assert rows["../dogs/climbing.jpg"]["sha256"] == ""  # it was not read
    assert rows["dogs/really a png.jpg"]["verdict"] == "ok"
    assert summary.duplicates == {"groups": 1, "images": 5}
    assert len({rows[f"cats/copy {number}.jpg"]["split"] for number in range(5)}) == 1
    assert sum(count["cats"] for count in summary.counts.values()) == 15


GIVEN = Reading(splits="given")


def in_splits(**counts):
    """So many images of each class in each of the splits; every one is its own."""
    folders = [(f"{split}/{kind}", count) for split, count in counts.items() for kind in ("cats", "dogs")]
    names = [f"{folder}/{number}.jpg" for folder, count in folders for number in range(count)]
    return {name: image(number) for number, name in enumerate(names)}


def with_owls(split, count):
    return {f"{split}/owls/{number}.jpg": image(500 + number) for number in range(count)}


def test_splits_that_the_data_bring_are_pooled_or_kept(tmp_path, capsys):
    archive = archive_of(tmp_path / "a.zip", in_splits(train=10, val=3, test1=4))
    prepare(archive, tmp_path / "pooled")
    pooled, *_ = capsys.readouterr().err.splitlines()
    understood = "classes cats and dogs, pooled from train, val and test1"
    assert pooled == f"{understood}; split anew: preprocess.splits=given keeps its own"
    rows = manifest(tmp_path / "pooled")
    assert {row["split"] for name, row in rows.items() if name.startswith("train/")} == set(SHARES)
    summary = prepare(archive, tmp_path / "kept", reading=GIVEN)
    kept, *_ = capsys.readouterr().err.splitlines()
    assert kept == "classes cats and dogs, with the splits train, val and test1"
    parts = {"train": "train", "val": "validation", "test1": "test"}
    for name, row in manifest(tmp_path / "kept").items():
        assert row["split"] == parts[name.split("/")[0]]
    assert [count["cats"] for count in summary.counts.values()] == [10, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("splits", "said", "counts"),
    [
        ({"train": 20, "test": 4}, "pooled from train and test; validation cut from train", (15, 5, 4)),
        ({"train": 20, "valid": 4}, "pooled from train and valid; test cut from train", (15, 4, 5)),
    ],
)
def test_a_split_that_is_missing_is_cut_from_the_training_images(splits, said, counts, tmp_path, capsys):
    archive = archive_of(tmp_path / "a.zip", in_splits(**splits) | {"hidden/1.jpg": image(999)})
    summary = prepare(archive, tmp_path / "out", reading=GIVEN)
    assert said.replace("pooled from", "with the splits") in capsys.readouterr().err.replace("; hidden unlabelled", "")
    assert summary.unlabelled == 1
    assert tuple(count["dogs"] for count in summary.counts.values()) == counts
    rows = manifest(tmp_path / "out")
    again = prepare(archive, tmp_path / "again", reading=GIVEN, seed=8)
    assert again.counts == summary.counts and again.digest != summary.digest
    for own, part in (("test/", "test"), ("valid/", "validation")):
        assert all(row["split"] == part for name, row in rows.items() if name.startswith(own))


def test_copies_across_given_splits_are_counted_and_said(tmp_path, capsys):
    members = in_splits(train=5, val=3, test=3)
    members["test/cats/0.jpg"] = members["train/cats/0.jpg"]
    members["test/cats/1.jpg"] = members["val/cats/1.jpg"]
    members["train/dogs/1.jpg"] = members["train/dogs/0.jpg"]
    archive = archive_of(tmp_path / "a.zip", members)
    summary = prepare(archive, tmp_path / "out", reading=GIVEN)
    assert summary.duplicates == {"groups": 3, "images": 6, "groups_across_splits": 2}
    said = "2 images have copies in another of the given splits: what is measured there is too good"
    assert said in capsys.readouterr().err.splitlines()
    assert prepare(archive, tmp_path / "pooled").duplicates == {"groups": 3, "images": 6}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (good(5), "the data have no splits of their own"),
        (in_splits(fold1=4, fold2=4), "takes folders called train, val, test and the like, not fold1, fold2"),
        (in_splits(val=4, test=4), "takes folders called train, val, test and the like, not test, val"),
        (in_splits(train=6, test=3) | with_owls("train", 3), "the test set has no image of class 'owls'"),
        (in_splits(train=6, test=3) | with_owls("test", 3), "the train set has no image of class 'owls'"),
        (
            in_splits(train=6, test=3) | with_owls("train", 1),
            "too few distinct training images to cut a validation set from in class 'owls' (1)",
        ),
        (
            in_splits(train=6) | with_owls("train", 2) | {"test/1.jpg": image(900)},
            "too few distinct training images to cut a test and a validation set from in class 'owls' (2)",
        ),
    ],
)
def test_splits_that_cannot_be_kept(members, words, tmp_path):
    with pytest.raises(FrostlineError) as caught:
        prepare(archive_of(tmp_path / "a.zip", members), tmp_path / "out", reading=GIVEN)
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_labels_of_more_classes_than_a_byte_can_count(tmp_path):
    members = {f"class {n // 3:03}/{n}.png": image(n, "PNG") for n in range(3 * 257)}
    summary = prepare(archive_of(tmp_path / "a.zip", members), tmp_path / "out")
    assert len(summary.classes) == 257
    labels = load_dataset(tmp_path / "out").labels("test")
    assert labels.dtype == np.uint16
    assert sorted(labels) == list(range(257))


def test_too_many_bad_images(tmp_path):
    archive = archive_of(tmp_path / "a.zip", good(10) | {f"cats/bad{n}.jpg": b"x" for n in range(3)})
    prepare(archive, tmp_path / "out", max_rejected=3 / 23)  # just allowed
    before = sha256_of(tmp_path / "out/manifest.csv")
    with pytest.raises(FrostlineError, match="3 of 23 labelled images are rejected") as caught:
        prepare(archive, tmp_path / "out", max_rejected=0.1)
    message = str(caught.value)
    assert "preprocess.max_rejected=0.1" in message and "cats/bad0.jpg (not a JPEG" in message
    assert sha256_of(tmp_path / "out/manifest.csv") == before  # what stood there still stands
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]


def test_a_class_without_a_usable_image(tmp_path):
    cats = {name: content for name, content in good(10).items() if "cats" in name}
    with pytest.raises(FrostlineError, match=r"No image of class 'dogs' is usable.*\n.*dogs/1.jpg \(truncated\)"):
        prepare(archive_of(tmp_path / "a.zip", cats | {"dogs/1.jpg": image(1)[:-100]}), tmp_path / "out")


def test_a_class_called_as_a_split_is_no_class(tmp_path):
    archive = archive_of(tmp_path / "a.zip", {"train/1.jpg": image(1), "train/2.jpg": image(2)})
    with pytest.raises(
        FrostlineError, match=r"has 1 class: train, which is called as a split is\.\nExpected: one folder"
    ):
        prepare(archive, tmp_path / "out")


def test_all_classes_without_a_usable_image_are_named_at_once(tmp_path):
    members = good(10) | {f"{name}/1.jpg": b"x" for name in ("fish", "owls")} | {"cats/x.jpg": image(1)[:-100]}
    with pytest.raises(FrostlineError) as raised:
        prepare(archive_of(tmp_path / "a.zip", members), tmp_path / "out")
    why = "not a JPEG, PNG, GIF, WebP, BMP or TIFF image"
    assert str(raised.value) == (
        f"No image of 2 classes: 'fish', 'owls' is usable; rejected: 2 {why}.\n"
        f"First: fish/1.jpg ({why}); owls/1.jpg ({why})"
    )


def test_a_class_with_too_few_images(tmp_path):
    archive = archive_of(tmp_path / "a.zip", good(10) | {"cats/x.jpg": b""})
    members = {name: content for name, content in good(10).items() if "cats" in name or name in ("dogs/1.jpg",)}
    prepare(archive, tmp_path / "out")
    with pytest.raises(FrostlineError, match=r"Too few distinct readable images .* in class 'dogs' \(1\)"):
        prepare(archive_of(tmp_path / "b.zip", members), tmp_path / "out")


def test_a_killed_worker_is_an_error_and_no_hang(tmp_path):
    archive = archive_of(tmp_path / "a.zip", good(10))
    raised: list[BaseException] = []

    def run():
        try:
            prepare(archive, tmp_path / "out")
        except FrostlineError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not (workers := multiprocessing.active_children()) and thread.is_alive():
        pass
    workers[0].kill()  # before it has imported what it needs to work
    thread.join()
    assert "A decoding process died" in str(raised[0])
    assert not (tmp_path / "out").exists()


def test_nothing_heavy_is_imported():
    modules = ("archive", "dataset", "images", "preprocess", "splitting")
    code = "".join(f"import frostline.data.{name}\n" for name in modules)
    code += "import sys; assert not {'tensorflow', 'mlflow', 'hydra', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_stage_hands_on_what_its_settings_say_of_folders_splits_and_names(project):
    """All three at once, as two of them swapped would read otherwise."""
    (project / "data/raw").mkdir(parents=True)
    counts = {"train": 12, "validation": 4, "test": 3}
    names = [f"{split}/{name}/{n}.png" for split in counts for name in ("@C", "@D") for n in range(counts[split])]
    path = archive_of(ARCHIVE, {name: image(number, "PNG") for number, name in enumerate(names)})
    content = path.read_bytes()
    for stands, name in (("@C", "猫"), ("@D", "狗")):  # as tools write names that do not say their encoding
        content = content.replace(f"/{stands}/".encode(), f"/{name}/".encode("gbk"))
    path.write_bytes(content)
    asked = {"top_folders": "splits", "splits": "given", "name_encoding": "gbk", "image_size": 75}
    run_stage(compose_conf([f"preprocess.{key}={value}" for key, value in asked.items()]))
    data = load_dataset(PROCESSED)
    assert set(data.classes) == {"狗", "猫"}
    found = {split: {name.partition("/")[0] for name in data.names(split)} for split in counts}
    assert found == {"train": {"train"}, "validation": {"validation"}, "test": {"test"}}
    assert [len(data.names(split)) for split in counts] == [24, 8, 6]
