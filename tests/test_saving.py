import hashlib
import json
import math
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from frostline.models.saving import Metadata, load_metadata, load_model, save_for_use, save_model
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras

pytestmark = pytest.mark.slow

_SAVE = """
import sys, time
from pathlib import Path
from frostline.runtime.quiet_tensorflow import keras
from frostline.models.saving import save_model
init = keras.initializers.GlorotUniform(seed=1)
ballast = [object() for _ in range(int(sys.argv[2]))]  # moves later objects to other addresses
inputs = keras.Input((4,))
x = keras.layers.Dense(8, kernel_initializer=init)(inputs)
save_model(keras.Model(inputs, keras.layers.Dense(1, kernel_initializer=init)(x)), Path(sys.argv[1]), ["cat", "dog"])
"""


@pytest.mark.long
def test_two_processes_save_the_same_bytes(tmp_path):
    digests = set()
    for number in range(2):
        path = tmp_path / f"{number}.keras"
        subprocess.run([sys.executable, "-c", _SAVE, str(path), str(1000 * number)], check=True)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    entries = zipfile.ZipFile(path).infolist()
    assert len(entries) == 3, "for a fourth one Keras unpacks the whole archive wherever it loads a model"
    assert {entry.extract_version for entry in entries} == {20}, "ZIP64 is written differently by releases of Python"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.keras", "1.keras"]


def test_what_is_loaded_is_what_was_saved_here_and_in_plain_keras(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(3)(inputs)))
    path = tmp_path / "model.keras"
    save_model(model, path, ["cat", "dog"])
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    for loaded in (load_model(path), keras.models.load_model(path)):
        np.testing.assert_array_equal(loaded(x), model(x))
    assert load_metadata(path) == Metadata(["cat", "dog"], 0.5, 1)


@pytest.mark.parametrize(("classes", "threshold"), [(["cat", "dog"], 0.3), (["a", "b", "c"], None)])
def test_a_copy_has_threshold_and_temperature_and_is_the_same_model_else(tmp_path, classes, threshold):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1 if len(classes) == 2 else 3)(inputs))
    source, copies = tmp_path / "finetune.keras", [tmp_path / f"{number}.keras" for number in range(2)]
    save_model(model, source, classes)
    for path in copies:
        save_for_use(source, path, threshold=threshold, temperature=1.7)
    assert len({path.read_bytes() for path in copies}) == 1
    assert load_metadata(copies[0]) == Metadata(classes, threshold, 1.7)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    for loaded in (load_model(copies[0]), keras.models.load_model(copies[0])):
        np.testing.assert_array_equal(loaded(x), model(x))
    ours, theirs = (zipfile.ZipFile(path).infolist() for path in (copies[0], source))
    facts = [[(entry.filename, entry.date_time, entry.extract_version) for entry in each] for each in (ours, theirs)]
    assert facts[0] == facts[1]
    assert [(one.filename, one.CRC) for one in ours][1:] == [(one.filename, one.CRC) for one in theirs][1:]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_copy_that_breaks_off_leaves_what_was_there(tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"not a model")
    (tmp_path / "classifier.keras").write_bytes(b"before")
    with pytest.raises(zipfile.BadZipFile):
        save_for_use(tmp_path / "broken.keras", tmp_path / "classifier.keras", threshold=0.3, temperature=1)
    assert (tmp_path / "classifier.keras").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_missing_or_broken_model_is_named(tmp_path):
    with pytest.raises(FrostlineError, match=r"gone\.keras not found"):
        load_model(tmp_path / "gone.keras")
    (tmp_path / "broken.keras").write_bytes(b"not a model")
    with pytest.raises(FrostlineError, match=r"broken\.keras is not a model"):
        load_model(tmp_path / "broken.keras")


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """What a model's file holds, by name."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    inputs = keras.Input((4,))
    save_model(keras.Model(inputs, keras.layers.Dense(1)(inputs)), path, ["cat", "dog"])
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, entries, **changed):
    """A model's file with other values in its metadata."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, json.dumps(json.loads(content) | changed) if name == "metadata.json" else content)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("temperature", value) for value in (0, -1, 10**400, math.nan, math.inf, "x", None, True, [1])],
        *[("threshold", value) for value in ("0.5", 7, -0.1, math.nan, True, [0.1, 0.2], {}, [], [[0, 1]])],
        *[("threshold", value) for value in ([[0, 1], [1]], [[0, 0], [0, 0]], [[1, 1], [1, 0]], [[0, -1], [1, 0]])],
        *[("threshold", value) for value in ([[0, "1"], [1, 0]], [0, [1, 0]])],
        *[("classes", value) for value in ("ab", ["a", "a"], [1, 2], {"a": 1, "b": 2}, ["a", " "], None)],
    ],
)
def test_what_the_metadata_cannot_say_is_named(tmp_path, entries, field, value):
    write(tmp_path / "model.keras", entries, **{field: value})
    with pytest.raises(FrostlineError, match=rf"model\.keras says {field}=") as raised:
        load_metadata(tmp_path / "model.keras")
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize("fit", ["stretch", [], None])
def test_a_fit_of_another_release_is_named(tmp_path, entries, fit):
    write(tmp_path / "model.keras", entries, fit=fit)
    with pytest.raises(FrostlineError, match=r"model\.keras takes pictures fitted by "):
        load_metadata(tmp_path / "model.keras")


@pytest.mark.parametrize("threshold", [0, 1, 0.3, None, [[0, 5], [1, 0]], [[0, 0], [2.5, 0]]])
def test_what_a_threshold_of_two_classes_can_be(tmp_path, entries, threshold):
    write(tmp_path / "model.keras", entries, threshold=threshold)
    assert load_metadata(tmp_path / "model.keras").threshold == threshold


def encrypted(path, entries):
    write(path, entries)
    content = bytearray(path.read_bytes())
    for mark, place in (
        (b"PK\3\4", 6),
        (b"PK\1\2", 8),
    ):  # the flags, in each member's own header and in the list of all
        for found in re.finditer(re.escape(mark), bytes(content)):
            content[found.start() + place] |= 1
    path.write_bytes(content)


def of_a_place_before_its_start(path, entries):
    write(path, entries)
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\5\6")
    content[end + 12 : end + 20] = (len(content) + 50).to_bytes(4, "little") + bytes(4)
    path.write_bytes(content)


def nested_too_deep(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", b"[" * 200_000)


@pytest.mark.parametrize("make", [encrypted, of_a_place_before_its_start, nested_too_deep])
def test_a_damaged_archive_is_named(tmp_path, entries, make):
    path = tmp_path / "model.keras"
    make(path, entries)
    with pytest.raises(FrostlineError, match=r"model\.keras is not a \.keras file") as raised:
        load_metadata(path)
    assert len(str(raised.value).splitlines()) == 2
    with pytest.raises(FrostlineError, match=r"model\.keras is not a model"):
        load_model(path)


def test_code_from_a_model_file_is_not_run(tmp_path):
    inputs = keras.Input((4,))
    path = tmp_path / "lambda.keras"
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs)).save(path)
    with pytest.raises(FrostlineError, match=r"lambda\.keras is not a model"):
        load_model(path)
