"""Opening what preprocessing wrote, and saying what to do when it is not all there."""

import json

import numpy as np
import pytest

from frostline.common.files import sha256_of, write_csv, write_json
from frostline.data.dataset import MANIFEST_COLUMNS, load_dataset
from frostline.runtime.errors import FrostlineError

NAMES = {
    "train": ["cats/1.jpg", "cats/10.jpg", 'dogs/with "quotes", commas.jpg'],
    "validation": ["dogs/2.jpg"],
    "test": ["cats/3.jpg", "dogs/Ö.jpg"],
    "unlabelled": ["test/1.jpg"],
}


@pytest.fixture
def folder(tmp_path):
    rows = []
    for split, names in NAMES.items():
        shape = (len(names), 4, 4, 3)
        np.save(tmp_path / f"{split}.npy", np.arange(np.prod(shape), dtype=np.uint8).reshape(shape))
        if split != "unlabelled":
            np.save(tmp_path / f"{split}_labels.npy", np.array(["dogs" in name for name in names], np.uint8))
        rows += [{"path": name, "split": split, "verdict": "ok"} for name in names]
    rows.append({"path": "cats/broken.jpg", "verdict": "truncated"})
    write_csv(tmp_path / "manifest.csv", MANIFEST_COLUMNS, rows)
    write_json(tmp_path / "classes.json", ["cats", "dogs"])
    return tmp_path


def test_load(folder):
    dataset = load_dataset(folder)
    assert dataset.classes == ("cats", "dogs")
    assert dataset.digest == sha256_of(folder / "manifest.csv")
    for split, names in NAMES.items():
        assert dataset.has(split) and dataset.names(split) == names
        images = dataset.images(split)
        assert isinstance(images, np.memmap) and not images.flags.writeable
        assert images.shape == (len(names), 4, 4, 3) and images.dtype == np.uint8
    assert dataset.labels("train").tolist() == [0, 0, 1]
    assert dataset.labels("test").dtype == np.uint8


def test_what_is_prepared_there_later_is_another_data_set(folder):
    """Labels of the new one do not stand beside images, or features, of the old one."""
    dataset = load_dataset(folder)
    before = np.array(dataset.images("train")), dataset.labels("train")
    for name, content in zip(("train.npy", "train_labels.npy"), before, strict=True):
        np.save(folder / "new.npy", content[::-1])
        (folder / "new.npy").rename(folder / name)
    np.testing.assert_array_equal(dataset.images("train"), before[0])
    np.testing.assert_array_equal(dataset.labels("train"), before[1])
    assert load_dataset(folder).labels("train").tolist() == before[1][::-1].tolist()


def test_data_of_another_release_are_to_be_prepared_anew(folder):
    lines = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text("".join(f"{line.rpartition(',')[0]}\n" for line in lines))
    with pytest.raises(FrostlineError, match=r"manifest\.csv is of another release\)\.\nRun `dvc repro preprocess`"):
        load_dataset(folder)


def test_without_unlabelled_images(folder):
    manifest = (folder / "manifest.csv").read_text().replace("test/1.jpg,,unlabelled", "test/1.jpg,,")
    (folder / "manifest.csv").write_text(manifest)
    (folder / "unlabelled.npy").unlink()
    assert not load_dataset(folder).has("unlabelled")


@pytest.mark.parametrize("name", ["classes.json", "manifest.csv", "train.npy", "test_labels.npy", "unlabelled.npy"])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FrostlineError, match=rf"no complete data set \({name} is missing\)") as caught:
        load_dataset(folder)
    assert "dvc repro preprocess" in str(caught.value)


def test_a_missing_folder(tmp_path):
    with pytest.raises(FrostlineError, match="dvc repro preprocess"):
        load_dataset(tmp_path / "processed")


@pytest.mark.parametrize("name", ["classes.json", "manifest.csv", "train.npy", "test_labels.npy"])
def test_a_truncated_file(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(FrostlineError, match="dvc repro preprocess"):
        load_dataset(folder)


def test_files_that_do_not_belong_together(folder):
    np.save(folder / "validation.npy", np.zeros((3, 4, 4, 3), np.uint8))
    with pytest.raises(FrostlineError, match=r"validation\.npy does not have the manifest's 1 rows"):
        load_dataset(folder)


def test_a_pickle_is_not_loaded(folder):
    np.save(folder / "train_labels.npy", np.array([json, json, json], dtype=object).astype(str).astype(object))
    with pytest.raises(FrostlineError, match="no complete data set"):
        load_dataset(folder)
