import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from frostline.features import cache as feature_cache
from frostline.features import extract as features
from frostline.models import backbone, graph
from frostline.runtime.quiet_tensorflow import keras
from small import SIZE

pytestmark = pytest.mark.slow

LAYERS = ["mixed6", "mixed7"]


@pytest.fixture(scope="module")
def base(weights):
    return backbone.build_backbone(SIZE, weights)


def extract(base, images, layers, cache):
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    return features.Extractor(base, layers, cache=cache)(images, digest)


@contextmanager
def scaled(kernel, factor):
    before = kernel.numpy()
    try:
        kernel.assign(before * factor)
        yield
    finally:
        kernel.assign(before)


def test_layers_of_another_configuration_are_other_entries(tmp_path):
    """Without another weight: how pictures are scaled has none."""
    images = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)

    def model(scale):
        inputs = keras.Input((8, 8, 3), name="images")
        return keras.Model(inputs, keras.layers.Rescaling(scale, name="scaled")(inputs))

    one, double = (extract(model(scale), images, ["scaled"], tmp_path)[0] for scale in (1.0, 2.0))
    np.testing.assert_array_equal(double, 2 * one)
    frozen = model(1.0)
    frozen.trainable = False
    extract(frozen, images, ["scaled"], tmp_path)
    assert len(feature_cache.entries(tmp_path)) == 2


@pytest.mark.long
def test_a_layers_bytes_do_not_depend_on_what_is_computed_beside_it(base, prepared, tmp_path):
    """Batch norm after a convolution that is asked for is not folded into it, and rounds otherwise."""
    images = prepared.images("test")[:4]
    (alone,) = extract(base, images, ["mixed1"], tmp_path / "alone")
    convolution = "conv2d_18"
    beside = extract(base, images, [convolution, "mixed1"], tmp_path / "beside")
    assert alone.tobytes() == beside[1].tobytes()
    assert beside[0].tobytes() == extract(base, images, [convolution], tmp_path / "it")[0].tobytes()


def test_nor_on_the_parts_that_were_made_of_the_model(base, prepared, tmp_path):
    """As training above a frost line makes one: each layer then stands in two graphs."""
    images = prepared.images("test")[:4]
    (alone,) = extract(base, images, ["mixed1"], tmp_path / "alone")
    graph.part(base, ["mixed0"])
    (again,) = extract(base, images, ["mixed1"], tmp_path / "again")
    assert alone.tobytes() == again.tobytes()


@pytest.fixture
def counted(base, monkeypatch):
    """Counts the images that go through the backbone."""
    seen = []
    compute = features._compute
    monkeypatch.setattr(
        features, "_compute", lambda forward, p, *rest: (seen.append(len(p)), compute(forward, p, *rest))
    )
    return seen


def test_features_equal_the_layers_outputs(base, prepared, tmp_path):
    images = prepared.images("test")
    arrays = extract(base, images, LAYERS, tmp_path)
    outputs = keras.Model(base.input, [base.get_layer(name).output for name in LAYERS])([images.astype(np.float32)])
    for array, output in zip(arrays, outputs, strict=True):
        assert array.dtype == np.float16
        assert isinstance(array, np.memmap)
        np.testing.assert_allclose(array, output, rtol=2e-3, atol=2e-3)


@pytest.mark.long
def test_one_pass_serves_every_later_reader(base, prepared, tmp_path, counted):
    images = prepared.images("test")
    both = extract(base, images, LAYERS, tmp_path)
    again = extract(base, images, ["mixed7"], tmp_path)
    assert counted == [len(images)]
    np.testing.assert_array_equal(again[0], both[1])


@pytest.mark.long
def test_other_images_weights_or_layers_are_other_entries(base, prepared, tmp_path, counted):
    images = np.array(prepared.images("test"))
    extract(base, images, ["mixed6"], tmp_path)
    extract(base, images[::-1], ["mixed6"], tmp_path)
    extract(base, images, ["mixed5"], tmp_path)
    with scaled(base.get_layer("conv2d_3").kernel, 1.01):
        extract(base, images, ["mixed6"], tmp_path)
    assert len(counted) == 4
    assert len(feature_cache.entries(tmp_path)) == 4


def test_features_of_other_code_are_other_entries(base, prepared, tmp_path, counted, monkeypatch):
    images = prepared.images("test")
    extract(base, images, ["mixed1"], tmp_path)
    monkeypatch.setattr(features, "code_digest", lambda module: f"as if {module} had changed")
    extract(base, images, ["mixed1"], tmp_path)
    assert len(counted) == len(feature_cache.entries(tmp_path)) == 2


@pytest.mark.long
def test_weights_above_the_layer_do_not_matter(base, prepared, tmp_path, counted):
    images = prepared.images("test")
    extract(base, images, ["mixed6"], tmp_path)
    with scaled(base.get_layer("conv2d_70").kernel, 2):  # in the block of mixed7
        extract(base, images, ["mixed6"], tmp_path)
    assert len(counted) == 1


_KILLED = """
import sys, numpy as np
from pathlib import Path
from frostline.features import extract as features
from frostline.models import backbone
features.BATCH = 2
base = backbone.build_backbone({size}, Path({weights!r}))
features.Extractor(base, ["mixed6", "mixed7"], cache=Path({cache!r}))(np.load({images!r}), "digest")
"""


@pytest.mark.long
def test_a_killed_pass_leaves_nothing_that_looks_complete_and_goes_on(base, prepared, weights, tmp_path, monkeypatch):
    images = np.concatenate([prepared.images("train")] * 3)
    np.save(tmp_path / "images.npy", images)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    code = _KILLED.format(size=SIZE, weights=str(weights), images=str(tmp_path / "images.npy"), cache=str(killed))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    while process.poll() is None and sum(path.stat().st_size for path in killed.glob("*/*.npy")) < 300_000:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert feature_cache.entries(killed) == []
    left = list(killed.glob("*/*.npy"))
    assert len(left) == 2
    os.truncate(left[0], left[0].stat().st_size - 7)  # as if one layer's last write had been cut off

    monkeypatch.setattr(features, "BATCH", 2)
    resumed = features.Extractor(base, LAYERS, cache=killed)(images, "digest")
    uninterrupted = features.Extractor(base, LAYERS, cache=whole)(images, "digest")
    for left, right in zip(resumed, uninterrupted, strict=True):
        assert left.tobytes() == right.tobytes()


@pytest.mark.long
def test_prune_deletes_the_least_recently_used(base, prepared, tmp_path):
    images = prepared.images("test")
    for age, layer in enumerate(["mixed5", "mixed6", "mixed7"]):
        extract(base, images, [layer], tmp_path)
        newest = max(feature_cache.entries(tmp_path), key=lambda entry: entry.last_used)
        os.utime(newest.folder, (age, age))
    extract(base, images, ["mixed5"], tmp_path)  # used again: now the newest
    size = feature_cache.entries(tmp_path)[0].bytes

    deleted = feature_cache.prune(2 * size / 2**30, tmp_path)
    assert [entry.layer for entry in deleted] == ["mixed6"]
    assert [entry.layer for entry in feature_cache.entries(tmp_path)] == ["mixed7", "mixed5"]
    assert len(feature_cache.prune(0, tmp_path)) == 2
    assert feature_cache.prune(0, tmp_path / "nowhere") == []


@pytest.mark.long
def test_bfloat16_is_close_and_an_entry_of_its_own(base, prepared, tmp_path):
    images = prepared.images("test")
    exact = features.Extractor(base, LAYERS, cache=tmp_path)(images, "digest")
    close = features.Extractor(base, LAYERS, "bfloat16", cache=tmp_path)(images, "digest")
    assert len(feature_cache.entries(tmp_path)) == 4
    for left, right in zip(exact, close, strict=True):
        assert not np.array_equal(left, right)
        assert np.corrcoef(left.ravel(), right.ravel())[0, 1] > 0.98
