"""Every backbone that has a file in conf/model/, from its weights file to the saved classifier, on real images."""

import numpy as np
import pytest

from frostline.config.load import compose_conf
from frostline.models import backbone, frost_line, graph, inference
from frostline.models.architectures import NETWORKS
from frostline.models.saving import load_model, save_model
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras, tf
from frostline.sources.random_weights import write_random_weights
from frostline.sources.weights_file import check_weights_file
from frostline.training import phases
from small import SIZE
from tracked import tracked_conf

pytestmark = [pytest.mark.slow, pytest.mark.long]

# conf/model/'s name: Keras' module, the number of blocks, some of their ends and what "auto" thaws from.
OTHERS = {
    "convnext": ("convnext", 18, ["add", "add_17"], "add_16"),
    "efficientnet_v2": ("efficientnet_v2", 15, ["block2b_add", "block6h_add"], "block6g_add"),
    "mobilenet_v3": ("mobilenet_v3", 10, ["expanded_conv_add", "expanded_conv_14_add"], "expanded_conv_13_add"),
    "resnet50": ("resnet", 16, ["conv2_block1_out", "conv5_block3_out"], "conv5_block2_out"),
    "xception": ("xception", 12, ["add", "add_11"], "add_10"),
}


ASK_MOST = ("convnext", "efficientnet_v2")
"""Those that ask most of Keras."""


@pytest.fixture(scope="module", params=OTHERS)
def chosen(request):
    return request.param


@pytest.fixture(scope="module")
def settings(chosen):
    return compose_conf(
        [
            f"model={chosen}",
            f"preprocess.image_size={SIZE}",
            "model.dense_units=64",
            "transfer.epochs=1",
            "finetune.epochs=1",
            "finetune.learning_rate=1e-4",
            "precision=float32",
        ],
        tracked_conf(),
    )


@pytest.fixture(scope="module")
def weights(settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "backbone.h5"
    write_random_weights(path, SIZE, 1, settings.model.backbone)
    return path


@pytest.fixture(scope="module")
def base(settings, weights):
    return backbone.build_backbone(SIZE, weights, settings.model.backbone)


@pytest.fixture(scope="module")
def images(prepared):
    return np.array(prepared.images("test")[:6], np.float32)


def test_images_from_0_to_255_give_what_keras_own_network_gives(chosen, settings, weights, base, images):
    plain = backbone.plain_network(settings.model.backbone, SIZE)
    plain.load_weights(weights)
    scaled = getattr(keras.applications, OTHERS[chosen][0]).preprocess_input(images.copy())
    expected = plain(scaled).numpy()
    np.testing.assert_allclose(base([images]), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert all(isinstance(layer, keras.layers.Layer) for layer in base.operations)


def test_random_features_differ_between_images(settings, base, images):
    values = keras.Model(base.inputs, base.get_layer(settings.model.cut_layer).output)([images]).numpy()
    assert np.isfinite(values).all()
    assert 0.05 < values.std() < 5
    correlation = np.corrcoef(values.reshape(len(values), -1))[np.triu_indices(len(values), 1)]
    assert correlation.max() < 0.99


def test_blocks_end_where_the_network_is_one_tensor(chosen, settings, base):
    _, count, some, auto = OTHERS[chosen]
    blocks = graph.block_outputs(base)
    assert len(blocks) == count
    assert set(some) <= set(blocks)
    assert frost_line.resolve_thaw_from(base, settings.model.cut_layer, "auto") == auto
    assert frost_line.frontier(base, auto) == [auto]


def test_an_unknown_layer_lists_the_valid_ones_briefly(settings, base):
    with pytest.raises(FrostlineError) as raised:
        frost_line.resolve_thaw_from(base, "mixed7", "auto")
    blocks = graph.block_outputs(base)
    assert len(str(raised.value).splitlines()) <= 2
    assert len(str(raised.value)) < 350
    assert blocks[0] in str(raised.value) and blocks[-1] in str(raised.value)


def test_inference_copies_give_the_same_with_batch_norm_folded(settings, base, images):
    cut = settings.model.cut_layer
    exact = keras.Model(base.inputs, base.get_layer(cut).output)([images]).numpy()
    for precision in ("float32", "bfloat16"):
        copy = inference.inference_copy(base, [cut], precision)
        values = tf.cast(copy([images]), tf.float32).numpy()
        if precision == "float32":
            np.testing.assert_allclose(values, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())
        else:
            assert np.corrcoef(values.ravel(), exact.ravel())[0, 1] > 0.995
        assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in copy.layers)
        computed_in = [layer.compute_dtype for layer in copy.layers]
        first = next(number for number, layer in enumerate(copy.layers) if layer.weights)
        assert set(computed_in[:first]) == {"float32"}  # what scales the images
        assert set(computed_in[first:]) == {precision}


@pytest.mark.parametrize("chosen", ASK_MOST, indirect=True)
def test_both_phases_leave_a_classifier_that_loads_as_it_was(settings, prepared, weights, base, tmp_path):
    model = phases.build_classifier(prepared, weights, settings)
    phases.transfer(model, prepared, settings)
    for left, right in zip(base.layers, model.layers, strict=False):  # built another time
        assert left.name == right.name
        for a, b in zip(left.variables, right.variables, strict=True):  # the seeds of dropout among them
            np.testing.assert_array_equal(a, b)

    phases.finetune(model, prepared, settings)
    line = frost_line.resolve_thaw_from(model, settings.model.cut_layer, "auto")
    for layer in model.layers[: len(base.layers)]:
        thawed = layer.trainable and bool(layer.trainable_weights)
        same = map(np.array_equal, base.get_layer(layer.name).get_weights(), layer.get_weights())
        assert all(same) != thawed, layer.name
    assert model.get_layer(line).trainable and not model.layers[1].trainable

    save_model(model, tmp_path / "finetune.keras", prepared.classes)
    loaded, images = load_model(tmp_path / "finetune.keras"), prepared.images("test").astype(np.float32)
    probabilities = phases.predictor_of(model, settings)(prepared, "test")  # through the cache, in float16
    np.testing.assert_allclose(probabilities[:, -1:], loaded(images, training=False), atol=2e-3)


def test_the_weights_file_is_told_from_that_of_another_network(chosen, settings, weights):
    check_weights_file(weights, settings.model.backbone)
    other = "resnet50" if chosen != "resnet50" else "xception"
    with pytest.raises(FrostlineError) as raised:
        check_weights_file(weights, other)
    assert "another architecture" in str(raised.value)
    assert NETWORKS[other].constructor in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2
