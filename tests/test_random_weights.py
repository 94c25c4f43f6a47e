import subprocess
import sys

import h5py
import numpy as np
import pytest

from frostline.common.files import sha256_of
from frostline.sources.sample import draw_images
from small import SIZE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backbone(weights):
    import keras

    model = keras.applications.InceptionV3(input_shape=(SIZE, SIZE, 3), include_top=False, weights=None)
    model.load_weights(weights)
    return model


@pytest.mark.long
def test_keras_loads_every_value_of_the_file(weights, backbone):
    loaded = [np.asarray(v) for layer in backbone.layers for v in layer.trainable_weights + layer.non_trainable_weights]
    with h5py.File(weights) as file:
        groups = [file[name] for name in file.attrs["layer_names"]]
        stored = [group[name][()] for group in groups for name in group.attrs["weight_names"]]
    assert len(stored) == len(loaded) == 94 + 94 * 3  # kernels; beta, mean, variance of each batch-norm
    for ours, theirs in zip(stored, loaded, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [file.name for file in weights.parent.iterdir()] == ["backbone.h5"]


@pytest.mark.long
def test_batch_norm_statistics_fit_other_drawn_images(backbone):
    import keras

    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    shallow = norms[:20]
    inside = keras.Model(backbone.input, [layer.output for layer in shallow])
    outputs = inside(draw_images(48, SIZE, seed=99).astype(np.float32) / 127.5 - 1, training=False)
    for layer, output in zip(shallow, outputs, strict=True):
        values = np.asarray(output) - np.asarray(layer.beta)
        assert abs(values.mean()) < 0.1, layer.name
        assert 0.8 < values.std() < 1.2, layer.name


@pytest.mark.long
def test_features_at_the_cut_layer_differ_between_images(backbone):
    import keras

    cut = keras.Model(backbone.input, backbone.get_layer("mixed7").output)
    features = np.asarray(cut(draw_images(48, SIZE, seed=99).astype(np.float32) / 127.5 - 1, training=False))
    assert np.isfinite(features).all()
    assert 0.01 < features.mean() < 0.1  # sparse, so that the head starts calmly
    assert features.max() < 50
    assert (features.std(axis=(0, 1, 2)) > 0.01).mean() > 0.9  # hardly a dead channel
    correlation = np.corrcoef(features.reshape(len(features), -1))[np.triu_indices(len(features), 1)]
    assert correlation.max() < 0.99


@pytest.mark.long
def test_same_seed_gives_the_same_bytes_in_another_process(weights, tmp_path):
    again = tmp_path / "models" / "again.h5"
    code = (
        "import pathlib, sys, keras; from frostline.sources.random_weights import write_random_weights; "
        "keras.layers.Conv2D(1, 1); "  # shifts Keras' automatic layer names
        f"write_random_weights(pathlib.Path(sys.argv[1]), {SIZE}, seed=1)"
    )
    subprocess.run([sys.executable, "-c", code, str(again)], check=True, capture_output=True)
    assert sha256_of(again) == sha256_of(weights)
