import numpy as np
import pytest

from frostline.models import backbone, frost_line, graph, inference
from frostline.models.head import add_head
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras
from small import SIZE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(weights):
    return backbone.build_backbone(SIZE, weights)


@pytest.fixture(scope="module")
def model(base):
    return add_head(base, "mixed7", dense_units=8, dropout=0.2, seed=1)


@pytest.mark.long
def test_the_models_input_is_rgb_from_0_to_255(base, weights):
    plain = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    plain.load_weights(weights)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.float32)
    np.testing.assert_allclose(base([images]), plain(images / 127.5 - 1), rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_a_number_is_of_blocks_below_the_cut_and_auto_is_one(base):
    assert frost_line.resolve_thaw_from(base, "mixed7", "auto") == "mixed6"
    assert frost_line.resolve_thaw_from(base, "mixed7", "1") == "mixed6"
    assert frost_line.resolve_thaw_from(base, "mixed7", "3") == "mixed4"
    assert frost_line.resolve_thaw_from(base, "mixed7", "30") == "mixed0"
    assert frost_line.resolve_thaw_from(base, "mixed5", "auto") == "mixed4"
    with pytest.raises(FrostlineError, match="no block lies below"):
        frost_line.resolve_thaw_from(base, "mixed0", "auto")


@pytest.mark.parametrize(
    ("cut", "line", "words"),
    [
        ("mixd7", "auto", ["model.cut_layer is 'mixd7'", "Did you mean 'mixed7'", "mixed0, mixed1"]),
        ("mixed7", "0", ["finetune.thaw_from is 0", "a number of blocks"]),
        ("mixed7", "mixd6", ["finetune.thaw_from is 'mixd6'", "Did you mean 'mixed6'"]),
        ("mixed7", "mixed9", ["finetune.thaw_from is 'mixed9'", "above model.cut_layer='mixed7'", "mixed6, mixed7"]),
    ],
)
def test_an_impossible_layer_is_named_with_what_is_valid(base, cut, line, words):
    with pytest.raises(FrostlineError) as raised:
        frost_line.resolve_thaw_from(base, cut, line)
    assert len(str(raised.value).splitlines()) <= 2
    for word in words:
        assert word in str(raised.value)


def test_the_frontier_of_a_blocks_end_is_that_layer(model):
    assert frost_line.frontier(model, "mixed6") == ["mixed6"]
    assert frost_line.frontier(model, "mixed7") == ["mixed7"]


@pytest.mark.long
@pytest.mark.parametrize("thaw_from", ["mixed6", "conv2d_68", "mixed4"])
def test_the_part_above_the_frost_line_equals_the_whole(model, thaw_from):
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.float32)
    layers = frost_line.frontier(model, thaw_from)
    below = keras.Model(model.input, [model.get_layer(name).output for name in layers])
    features = below(images)
    np.testing.assert_allclose(graph.part(model, layers)(features), model(images), rtol=1e-4, atol=1e-6)


def test_a_convolution_asked_for_beside_a_layer_above_it_is_not_folded(model):
    images = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.float32)
    layers = ["conv2d_55", "mixed6"]
    expected = keras.Model(model.input, [model.get_layer(name).output for name in layers])(images)
    for ours, theirs in zip(inference.inference_copy(model, layers, "float32")(images), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_freeze_leaves_the_head_and_thaw_the_layers_from_the_line_on(base, model):
    frost_line.freeze(model, base)
    assert {layer.name for layer in model.layers if layer.trainable} == {"flatten", "dense", "dropout", "probability"}
    assert len(model.trainable_weights) == 4

    frost_line.thaw(model, "mixed6")
    names = [layer.name for layer in model.layers]
    thawed = [layer.name for layer in model.layers if layer.trainable]
    assert thawed == names[names.index("mixed6") :]
    # The block of mixed7: 10 convolutions (kernel) with batch norm (beta), and the head's 4 arrays.
    assert len(model.trainable_weights) == 10 * 2 + 4


def test_weights_of_another_network_are_refused(tmp_path):
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    other.save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "other.weights.h5").rename(tmp_path / "other.h5")
    with pytest.raises(FrostlineError, match=r"other\.h5 does not fit InceptionV3"):
        backbone.build_backbone(SIZE, tmp_path / "other.h5")


def test_the_heads_first_weights_come_from_the_seed(base):
    def dense(seed):
        head = add_head(base, "mixed7", dense_units=8, dropout=0.2, seed=seed)
        return head.get_layer("dense").kernel.numpy()

    np.testing.assert_array_equal(dense(1), dense(1))
    assert not np.array_equal(dense(1), dense(2))
