"""Files of every kind that the stages write, changed in one place each."""

import json
import zipfile

import h5py
import numpy as np
import pytest

from frostline.verify.differences import differences


@pytest.fixture
def pair(tmp_path):
    """Give two files of one name the contents that a function writes, and compare them."""

    def compare(name, write, *versions):
        paths = [tmp_path / version / name for version in ("old", "new")]
        for path, version in zip(paths, versions, strict=True):
            path.parent.mkdir(exist_ok=True)
            write(path, version)
        return differences(*paths)

    return compare


def write_json(path, value):
    path.write_text(json.dumps(value))


def write_h5(path, value):
    with h5py.File(path, "w") as file:
        file.attrs["kind"] = "weights"
        file["layers/dense/vars/0"] = value
        file["layers/dense/vars/1"] = np.zeros(3, "float32")


def write_zip(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def test_the_same_bytes_do_not_differ(pair):
    assert pair("a.json", write_json, {"a": 1}, {"a": 1}) == []


def test_json_by_key(pair):
    old = {"transfer": {"loss": 0.5, "gone": 1}, "list": [1, 2], "same": "x"}
    new = {"transfer": {"loss": 0.25}, "list": [1, 3], "same": "x", "new": None}
    assert pair("a.json", write_json, old, new) == [
        "list.1: 2 -> 3",
        "new: (absent) -> None",
        "transfer.gone: 1 -> (absent)",
        "transfer.loss: 0.5 -> 0.25",
    ]


def test_csv_by_column(pair):
    def write(path, text):
        path.write_text(text)

    old = "epoch,loss,name,gone\n1,0.5,a,x\n2,0.25,b,x\n"
    new = "epoch,loss,name\n1,0.5,a\n2,0.125,c\n3,0.1,d\n"
    assert pair("a.csv", write, old, new) == [
        "2 rows -> 3 rows",
        "gone: is gone",
        "loss: 1 rows differ, by 0.125 at most, e.g. row 2: 0.25 -> 0.125",
        "name: 1 rows differ, e.g. row 2: b -> c",
    ]


def test_arrays_by_the_largest_difference(pair, monkeypatch):
    monkeypatch.setattr("frostline.verify.differences._BLOCK", 4)  # several blocks
    old = np.arange(12, dtype=np.float32).reshape(4, 3)
    old[0, 0] = np.nan
    new = old.copy()
    new[1, 1] += 0.5
    new[3, 2] -= 2
    assert pair("a.npy", np.save, old, new) == ["2 of 12 values differ by 2 at most at [3, 2]"]
    new[0, 0] = 7
    assert pair("a.npy", np.save, old, new) == ["3 of 12 values differ by inf at most at [0, 0]"]
    assert pair("a.npy", np.save, old, old[:2]) == ["float32 [4, 3] -> float32 [2, 3]"]
    assert pair("a.npy", np.save, np.uint8([0, 200]), np.uint8([255, 200])) == [
        "1 of 2 values differ by 255 at most at [0]"
    ]


def test_hdf5_and_what_lies_in_an_archive_by_weight(pair, tmp_path):
    weights = np.ones((2, 2), "float32")
    assert pair("a.h5", write_h5, weights, weights * 3) == [
        "layers/dense/vars/0: 4 of 4 values differ by 2 at most at [0, 0]"
    ]
    contents = [(tmp_path / version / "a.h5").read_bytes() for version in ("old", "new")]
    old = {"model.weights.h5": contents[0], "config.json": '{"seed": 1}', "same.txt": "x"}
    new = {"model.weights.h5": contents[1], "config.json": '{"seed": 2}', "same.txt": "x", "more.txt": "y"}
    assert pair("a.keras", write_zip, old, new) == [
        "config.json: seed: 1 -> 2",
        "model.weights.h5: layers/dense/vars/0: 4 of 4 values differ by 2 at most at [0, 0]",
        "more.txt: is new",
    ]


def test_others_by_the_first_byte(pair):
    def write(path, content):
        path.write_bytes(content)

    assert pair("a.png", write, b"abcdef", b"abXdefg") == ["6 -> 7 bytes, first difference at byte 2"]
    assert pair("a.png", write, b"abc", b"abcd") == ["3 -> 4 bytes, first difference at byte 3"]
    # What only looks like JSON, a model or an array, and what is the same but for its form.
    for name in ("a.json", "a.keras", "a.npy", "a.h5", "a.csv"):
        assert pair(name, write, b"", b"<html>") == ["0 -> 6 bytes, first difference at byte 0"]
    assert pair("a.json", write, b'{"a": 1}', b'{"a":1}') == ["8 -> 7 bytes, first difference at byte 5"]


def test_folders_by_file(tmp_path):
    for version, files in (("old", {"a/x.json": "1", "b": "b"}), ("new", {"a/x.json": "2", "c": "c"})):
        for name, content in files.items():
            path = tmp_path / version / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    assert differences(tmp_path / "old", tmp_path / "new") == ["a/x.json: value: 1 -> 2", "b: is gone", "c: is new"]
    assert differences(tmp_path / "old", tmp_path / "new" / "c") == ["a folder -> a file"]
