"""Weights files that Keras writes, and files that nearly are; more kinds are in tests/corpus.py."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from frostline.runtime.errors import FrostlineError
from frostline.sources.weights_file import check_weights_file

pytestmark = pytest.mark.slow

Layers = dict[str, list[tuple[int, ...]]]


@pytest.fixture(scope="module")
def keras():
    import keras

    return keras


@pytest.fixture(scope="module")
def whole_model(keras, tmp_path_factory):
    """InceptionV3 as Keras saves it, under ``model_weights``, with names that go on from another layer's."""
    path: Path = tmp_path_factory.mktemp("keras") / "inception_v3.h5"
    keras.layers.Conv2D(1, 1)
    model = keras.applications.InceptionV3(input_shape=(75, 75, 3), include_top=False, weights=None)
    assert "conv2d" not in {layer.name for layer in model.layers}
    model.save(path)
    return path


@pytest.fixture(scope="module")
def layers(whole_model):
    with h5py.File(whole_model) as file:
        root = file["model_weights"]
        return {
            name.decode() if isinstance(name, bytes) else name: [
                root[name][weight].shape for weight in root[name].attrs["weight_names"]
            ]
            for name in root.attrs["layer_names"]
        }


def write(path, layers):
    """Write the legacy layout with weights of these shapes; without values, HDF5 gives them no space."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for name, shapes in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/w{n}:0" for n in range(len(shapes))]
            for n, shape in enumerate(shapes):
                group.create_dataset(f"{name}/w{n}:0", shape, "float32")
    return path


def refusal(path):
    with pytest.raises(FrostlineError) as caught:
        check_weights_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.count("\n") == 1
    return message


def test_accepts_a_whole_model_of_keras(whole_model):
    check_weights_file(whole_model)


def test_accepts_weights_at_the_root_under_any_names(layers, tmp_path):
    renamed = {f"layer_{n}": shapes for n, shapes in enumerate(layers.values())}
    check_weights_file(write(tmp_path / "w.h5", renamed))
    check_weights_file(write(tmp_path / "w.h5", {name: shapes for name, shapes in renamed.items() if shapes}))


@pytest.mark.long
def test_keras_reads_what_is_accepted(keras, whole_model):
    model = keras.applications.InceptionV3(input_shape=(75, 75, 3), include_top=False, weights=None)
    model.load_weights(whole_model)


def test_a_missing_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "w.h5")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_file(whole_model, tmp_path, share):
    path = tmp_path / "w.h5"
    content = whole_model.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated or damaged HDF5 file" in refusal(path)


def test_a_file_whose_layers_are_missing(layers, tmp_path):
    path = write(tmp_path / "w.h5", layers)
    with h5py.File(path, "a") as file:
        del file[next(name for name, shapes in layers.items() if shapes)]
    assert "truncated or damaged" in refusal(path)


def test_the_new_layout_of_keras(keras, tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    assert "model.save('inception_v3_notop.h5')" in refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(layers, tmp_path, value):
    path = write(tmp_path / "w.h5", layers)
    last = [name for name, shapes in layers.items() if shapes][-1]
    with h5py.File(path, "a") as file:
        file[last][f"{last}/w0:0"][0] = value
    assert f"values of /{last}/{last}/w0:0 are no numbers" in refusal(path)


def test_other_hdf5_files(keras, tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["images"] = [1, 2, 3]
    assert "not of Keras" in refusal(path)
    assert "without any weights" in refusal(write(path, {"input": [], "pool": []}))
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, use_bias=False)]).save(path)
    assert "another architecture, 1 convolutions (first kernel (3, 3, 3, 4))" in refusal(path)


def test_networks_that_nearly_fit(layers, tmp_path):
    path = tmp_path / "w.h5"
    first = next(name for name, shapes in layers.items() if shapes)
    last = [name for name, shapes in layers.items() if shapes][-1]
    assert "its top (a dense layer (2048, 1000))" in refusal(
        write(path, {**layers, "predictions": [(2048, 1000), (1000,)]})
    )
    assert "another architecture" in refusal(write(path, {**layers, first: [(3, 3, 1, 96)]}))
    assert "another architecture" in refusal(write(path, {**layers, last: [(320,), (320,), (320,), (320,)]}))
    assert "another architecture" in refusal(write(path, {**layers, last: [(321,), (321,), (321,)]}))
    assert "another architecture" in refusal(write(path, {n: s for n, s in layers.items() if n != last}))
