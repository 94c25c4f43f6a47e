"""Presets of KerasHub as backbones: folders that KerasHub itself saves, of small untrained networks, on real images."""

import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from frostline.config.load import compose_conf
from frostline.config.paths import BACKBONE_WEIGHTS
from frostline.explain.grad_cam import grad_cam
from frostline.models import backbone, frost_line, graph, hub, inference
from frostline.models.saving import Metadata, load_model, needs_keras_hub, save_model
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras
from frostline.serving.export import FORMATS, TOLERANCE, export
from frostline.sources.preset import fetch_preset
from frostline.stages.fetch_weights import main as fetch_weights
from frostline.training import phases
from small import SIZE
from tracked import tracked_conf

keras_hub = pytest.importorskip("keras_hub", reason="make install-hub")
pytestmark = pytest.mark.slow

SHAPE = (SIZE, SIZE, 3)
TRANSFORMER = {"patch_size": 15, "num_layers": 3, "num_heads": 2, "hidden_dim": 16}


def vit():
    return keras_hub.models.ViTBackbone(image_shape=SHAPE, mlp_dim=32, dropout_rate=0.1, **TRANSFORMER)


def dinov2():
    return keras_hub.models.DINOV2Backbone(
        intermediate_dim=32, num_register_tokens=2, image_shape=SHAPE, position_embedding_shape=SHAPE, **TRANSFORMER
    )


def siglip():
    vision = keras_hub.models.SigLIPVisionEncoder(intermediate_dim=32, image_shape=SHAPE, **TRANSFORMER)
    text = keras_hub.models.SigLIPTextEncoder(20, 16, 16, 1, 2, 32, max_sequence_length=4)
    return keras_hub.models.SigLIPBackbone(vision, text)


def clip():
    vision = keras_hub.models.CLIPVisionEncoder(intermediate_dim=32, image_shape=SHAPE, **TRANSFORMER)
    text = keras_hub.models.CLIPTextEncoder(20, 16, 16, 1, 2, 32, max_sequence_length=4)
    return keras_hub.models.CLIPBackbone(vision, text, 16)


def efficientnet_v2():
    return keras_hub.models.EfficientNetBackbone(
        stackwise_width_coefficients=[0.25] * 3,
        stackwise_depth_coefficients=[1] * 3,
        stackwise_kernel_sizes=[3] * 3,
        stackwise_num_repeats=[1, 2, 2],
        stackwise_input_filters=[24, 24, 48],
        stackwise_output_filters=[24, 48, 64],
        stackwise_expansion_ratios=[1, 4, 4],
        stackwise_squeeze_and_excite_ratios=[0, 0, 0.25],
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["fused", "fused", "unfused"],
        stackwise_force_input_filters=[0] * 3,
        stackwise_nores_option=[False] * 3,
        min_depth=8,
        use_depth_divisor_as_min_depth=False,
        cap_round_filter_decrease=True,
        stem_conv_padding="same",
        batch_norm_epsilon=1e-3,
        include_initial_padding=False,
    )


def resnet():
    return keras_hub.models.ResNetBackbone([64], [7], [64, 64], [2, 2], [1, 2], "bottleneck_block")


FAMILIES = {each.__name__: each for each in (vit, dinov2, siglip, clip, efficientnet_v2, resnet)}
SCALE, OFFSET = [1 / 64, 1 / 58, 1 / 57], [-2.0, -1.9, -1.7]


def saved_preset(family, folder):
    """The folder of a preset, as KerasHub saves it."""
    keras.utils.set_random_seed(1)
    network = FAMILIES[family]()
    (converter,) = [
        each
        for each in vars(keras_hub.layers).values()
        if isinstance(each, type)
        and getattr(each, "backbone_cls", None) is type(network)
        and each.__name__.endswith("ImageConverter")
    ]
    network.save_to_preset(folder)
    converter(image_size=(SIZE, SIZE), scale=SCALE, offset=OFFSET).save_to_preset(folder)
    return network


ASK_MOST = ("vit",)
"""Those that ask most of what opens layers."""


@pytest.fixture(
    scope="module",
    params=[name if name in ASK_MOST else pytest.param(name, marks=pytest.mark.long) for name in FAMILIES],
)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def preset(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp(family) / "preset"
    network = saved_preset(family, str(folder))
    return folder, getattr(network, "vision_encoder", network)


@pytest.fixture(scope="module")
def weights(preset, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "backbone.h5"
    fetch_preset(str(preset[0]), path, SIZE)
    return path


@pytest.fixture(scope="module")
def settings(family, preset):
    return compose_conf(
        [
            "model=hub",
            "weights=file",
            f"weights.path={preset[0]}",
            f"preprocess.image_size={SIZE}",
            f"model.pooling={'token' if family == 'vit' else 'average'}",
            "model.dense_units=16",
            "transfer.epochs=1",
            "finetune.epochs=1",
            "finetune.learning_rate=1e-3",
            f"precision={'bfloat16' if family == 'vit' else 'float32'}",
        ],
        tracked_conf(),
    )


@pytest.mark.long
def test_a_first_token_that_is_a_place_is_no_class_token(family, settings, prepared, weights):
    asked = replace(settings, model=replace(settings.model, pooling="token"))
    if family == "siglip":
        with pytest.raises(FrostlineError, match="this preset has no class token"):
            phases.build_classifier(prepared, weights, asked)
    elif family in ("dinov2", "clip"):
        assert phases.build_classifier(prepared, weights, asked).output_shape[1] == 1


@pytest.mark.long
def test_both_phases_leave_a_classifier_that_loads_exports_and_has_the_same_bytes_again(
    family, preset, settings, prepared, weights, tmp_path
):
    images = prepared.images("test")[:6].astype(np.float32)
    base = backbone.build_backbone(SIZE, weights, hub.HUB)
    scaled = images * np.float32(SCALE) + np.float32(OFFSET)
    own = keras.tree.flatten(preset[1]([scaled]))[-1].numpy()
    if own.ndim > 2:  # SigLIP pools what is taken here
        np.testing.assert_allclose(base(images), own, rtol=1e-3, atol=1e-4 * np.abs(own).max())
    assert all(
        len(layer._inbound_nodes) == 1 for layer in base.layers
    )  # dropout of one of KerasHub's MLPs is called twice
    blocks = graph.block_outputs(base)
    assert len(blocks) >= 3
    line = frost_line.resolve_thaw_from(base, hub.LAST, "auto")
    assert frost_line.frontier(base, line) == [line] == [blocks[-2]]
    for precision in ("float32", "bfloat16"):
        copy = keras.ops.cast(inference.inference_copy(base, [hub.LAST], precision)([images]), "float32")
        assert np.corrcoef(np.ravel(copy), np.ravel(base(images)))[0, 1] > 0.99

    for path in (tmp_path / "a.keras", tmp_path / "b.keras"):
        model = phases.build_classifier(prepared, weights, settings)
        phases.transfer(model, prepared, settings)
        phases.finetune(model, prepared, settings)
        save_model(model, path, prepared.classes)
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()

    learned = {
        layer.name
        for layer in base.layers
        if not all(map(np.array_equal, layer.get_weights(), model.get_layer(layer.name).get_weights()))
    }
    above = base.layers[[layer.name for layer in base.layers].index(line) :]
    assert learned and learned <= {layer.name for layer in above}
    loaded = load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    assert needs_keras_hub(tmp_path / "a.keras") == (family in ("dinov2", "siglip"))
    maps = grad_cam(loaded, images.astype(np.uint8), np.arange(len(images)) % 2)
    assert maps.any() and np.isfinite(maps).all()
    assert family in ("efficientnet_v2", "resnet") or maps.shape == (len(images), 5, 5)  # patches of 15 pixels
    for name, form in FORMATS.items():
        found = export(
            loaded,
            Metadata(list(prepared.classes), 0.5),
            name,
            tmp_path / f"model{form.suffix}",
            images.astype(np.uint8),
        )
        assert found <= TOLERANCE, name


@pytest.fixture(scope="module")
def vit_preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit") / "preset"
    saved_preset("vit", str(folder))
    return folder


@pytest.mark.long
def test_the_stage_takes_a_presets_folder_and_says_what_its_licence_is(vit_preset, project, capsys):
    (vit_preset / "README.md").write_text("---\nlibrary_name: keras-hub\nlicense: apache-2.0\n---\nA ViT.\n")
    options = ["model=hub", "weights=file", f"weights.path={vit_preset}", f"preprocess.image_size={SIZE}"]
    fetch_weights(compose_conf(options))
    assert f"Licence of the weights of {vit_preset}: apache-2.0" in capsys.readouterr().out
    first = BACKBONE_WEIGHTS.read_bytes()
    assert "scale" in backbone.layer_names(hub.HUB, SIZE, BACKBONE_WEIGHTS)
    fetch_weights(compose_conf(options))
    assert BACKBONE_WEIGHTS.read_bytes() == first
    assert [path.name for path in BACKBONE_WEIGHTS.parent.iterdir()] == [BACKBONE_WEIGHTS.name]
    with pytest.raises(FrostlineError, match=f"preprocess.image_size is 90; this preset is for {SIZE} pixels"):
        fetch_weights(compose_conf([*options, "preprocess.image_size=90"]))
    assert BACKBONE_WEIGHTS.read_bytes() == first


@pytest.mark.long
def test_what_is_no_preset_is_an_error_of_two_lines(vit_preset, tmp_path):
    def told(preset):
        with pytest.raises(FrostlineError) as raised:
            fetch_preset(str(preset), tmp_path / "backbone.h5", SIZE)
        assert len(str(raised.value).splitlines()) <= 2
        return str(raised.value)

    assert "Did you mean vit_base_patch16_224_imagenet" in told("vit_base_patch16_224_imagnet")
    assert "no config.json in it" in told(tmp_path)
    assert "Seen to work: ViT, DINOv2" in told(_preset_of(keras_hub.models.DeiTBackbone, tmp_path / "deit"))
    unscaled = shutil.copytree(vit_preset, tmp_path / "unscaled")
    (unscaled / "image_converter.json").unlink()
    assert "image_converter.json" in told(unscaled)


def _preset_of(family, folder):
    family(
        image_shape=SHAPE, patch_size=15, num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32
    ).save_to_preset(str(folder))
    keras_hub.layers.DeiTImageConverter(scale=1 / 255).save_to_preset(str(folder))
    return folder


def test_a_model_with_layers_of_keras_hub_says_what_it_needs(tmp_path, monkeypatch):
    images = keras.Input((8, 8, 3))
    activation = keras.layers.Activation(keras_hub.src.utils.keras_utils.gelu_approximate)
    save_model(keras.Model(images, activation(images)), tmp_path / "model.keras", ["cat", "dog"])
    load_model(tmp_path / "model.keras")
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(FrostlineError, match="needs keras_hub"):
        load_model(tmp_path / "model.keras")
