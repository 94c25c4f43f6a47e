import numpy as np
import pytest

from frostline.explain.grad_cam import checked_grad_cam, grad_cam, tells
from frostline.models.backbone import build_backbone
from frostline.models.head import add_head
from frostline.runtime.quiet_tensorflow import keras

pytestmark = pytest.mark.slow


def images(count, size=12):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def classifier(units, activation, bias=0.0):
    """One convolution, global average pooling and a linear layer: here Grad-CAM has a closed form."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(5, 3, strides=2, activation="relu", name="cut")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    start = keras.initializers.Constant(bias)
    return keras.Model(inputs, keras.layers.Dense(units, activation=activation, bias_initializer=start)(x))


def closed_form(model, batch, weights):
    """CAM (Zhou et al. 2016), which Grad-CAM equals for this network: the channels weighted by the last layer."""
    channels = keras.Model(model.input, model.get_layer("cut").output)(batch.astype(np.float32)).numpy()
    maps = np.maximum(channels @ weights, 0)
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)


@pytest.mark.parametrize("explained", [0, 1, 2])
def test_the_map_is_the_class_activation_map_where_that_is_defined(explained):
    model, batch = classifier(3, "softmax"), images(4)
    expected = closed_form(model, batch, model.layers[-1].kernel.numpy()[:, explained])
    found = grad_cam(model, batch, np.full(4, explained))
    assert found.shape == (4, 5, 5)
    assert expected.max() == 1
    np.testing.assert_allclose(found, expected, atol=1e-5)


def ensemble(strides):
    """Two convolutions, as `build_backbone` joins the members of an ensemble, and a linear layer."""
    keras.utils.set_random_seed(1)
    inputs, pooled = keras.Input((12, 12, 3)), []
    for member, stride in zip("ab", strides, strict=True):
        x = keras.layers.Rescaling(1 / 255, name=f"{member}.scale")(inputs)
        x = keras.layers.Conv2D(5, 3, strides=stride, activation="relu", name=f"{member}.cut")(x)
        pooled.append(keras.layers.GlobalAveragePooling2D(name=f"{member}.average")(x))
    joined = keras.layers.Concatenate(name="joined")(pooled)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(joined))


def test_an_ensembles_map_is_the_sum_of_its_members():
    model, batch = ensemble((2, 2)), images(4)
    cuts = keras.Model(model.input, [model.get_layer(f"{member}.cut").output for member in "ab"])
    channels = np.concatenate(cuts(batch.astype(np.float32)), axis=-1)
    expected = np.maximum(channels @ model.layers[-1].kernel.numpy()[:, 0], 0)
    highest = expected.max(axis=(1, 2), keepdims=True)
    expected = np.divide(expected, highest, out=np.zeros_like(expected), where=highest > 0)
    assert expected.max() == 1
    np.testing.assert_allclose(grad_cam(model, batch, np.ones(4, int)), expected, atol=1e-5)
    assert grad_cam(ensemble((2, 1)), batch, np.ones(4, int)).shape == (4, 10, 10)


@pytest.mark.parametrize("bias", [0.0, 200.0])  # with the latter every probability is exactly 1
def test_a_sigmoid_speaks_for_either_class_however_sure_it_is(bias):
    model, batch = classifier(1, "sigmoid", bias), images(4)
    weights = model.layers[-1].kernel.numpy()[:, 0]
    found = grad_cam(model, batch, np.array([1, 0, 1, 0]))
    np.testing.assert_allclose(found[::2], closed_form(model, batch, weights)[::2], atol=1e-5)
    np.testing.assert_allclose(found[1::2], closed_form(model, batch, -weights)[1::2], atol=1e-5)


def test_nothing_speaks_for_a_class_that_every_channel_speaks_against():
    model = classifier(1, "sigmoid")
    output = model.layers[-1]
    output.set_weights([np.ones_like(output.kernel.numpy()), np.zeros(1)])
    found = grad_cam(model, images(2), np.array([0, 1]))
    assert found[0].max() == 0
    assert found[1].max() == 1


def test_no_images_give_no_maps():
    assert grad_cam(classifier(1, "sigmoid"), images(0), np.empty(0, np.int64)).shape == (0, 5, 5)


@pytest.mark.long
def test_the_recipes_classifier_is_seen_at_its_cut_layer(prepared, weights):
    base = build_backbone(75, weights)
    model = add_head(base, "mixed5", dense_units=8, dropout=0.2, seed=1)
    batch = np.asarray(prepared.images("test")[:3])
    found = grad_cam(model, batch, np.array([0, 1, 1]))
    assert found.shape == (3, *base.get_layer("mixed5").output.shape[1:3])
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, grad_cam(model, batch, np.array([0, 1, 1])))
    assert not np.array_equal(found, grad_cam(model, batch, np.array([1, 0, 0])))


def test_a_map_tells_where_what_it_shows_carries_the_score():
    model, batch = classifier(1, "sigmoid"), images(6)
    output = model.layers[-1]
    output.set_weights([np.abs(output.kernel.numpy()), np.zeros(1)])
    batch[:, :6] //= 8  # dark above: the convolution gives more below, one way or the other
    classes = np.ones(6, np.int64)
    maps = grad_cam(model, batch, classes)
    turned = maps.max(axis=(1, 2), keepdims=True) - maps
    told = tells(model, batch, classes, maps)
    assert told.any() and (told != tells(model, batch, classes, turned)).all()
    found = checked_grad_cam(model, batch, classes)
    np.testing.assert_array_equal(found[told], maps[told])
    assert not found[~told].any()


def test_no_images_tell_nothing():
    assert checked_grad_cam(classifier(1, "sigmoid"), images(0), np.empty(0, np.int64)).shape == (0, 5, 5)
