import hashlib
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


def test_code_from_a_model_file_is_not_run(tmp_path):
    inputs = keras.Input((4,))
    path = tmp_path / "lambda.keras"
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs)).save(path)
    with pytest.raises(FrostlineError, match=r"lambda\.keras is not a model"):
        load_model(path)
