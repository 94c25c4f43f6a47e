"""Several networks as one backbone: two small ones, from their weights to the saved classifier."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from frostline.audit.outliers import pooled_features
from frostline.config.load import compose_conf
from frostline.config.paths import BACKBONE_WEIGHTS
from frostline.explain.grad_cam import grad_cam
from frostline.models import backbone, frost_line, graph
from frostline.models.ensemble import copy_of_member
from frostline.models.inference import inference_copy
from frostline.models.saving import load_model, save_model
from frostline.runtime.errors import FrostlineError
from frostline.stages.fetch_weights import main as fetch_weights
from frostline.training import phases
from frostline.training.loop import Examples, Task, train, trainer_of
from servers import FileServer, running
from small import SIZE
from tracked import tracked_conf

pytestmark = pytest.mark.slow

MEMBERS = ["vgg16", "mobilenet_v3_small"]
"""One that takes images in other channels, and one that scales them itself and is rewritten layer by layer."""
LINE = "mobilenet_v3_small.expanded_conv_9_add"


def composed(*more):
    small = [f"preprocess.image_size={SIZE}", "precision=float32", "finetune.learning_rate=1e-4"]
    model = ["model=ensemble", f"model.members=[{','.join(MEMBERS)}]"]
    return compose_conf([*small, *model, *more], tracked_conf())


@pytest.fixture(scope="module")
def settings():
    return composed("finetune.thaw_from=mobilenet_v3_small", "transfer.epochs=1", "finetune.epochs=1")


@pytest.fixture(scope="module")
def folder(settings, tmp_path_factory):
    """A project's folder, with the weights of both."""
    folder = tmp_path_factory.mktemp("ensemble")
    with contextlib.chdir(folder):
        fetch_weights(settings)
    return folder


@pytest.fixture(scope="module")
def base(settings, folder):
    return backbone.build_backbone(SIZE, folder / BACKBONE_WEIGHTS, settings.model.backbone)


@pytest.fixture
def images(prepared):
    return np.array(prepared.images("test")[:6], np.float32)


@pytest.mark.long
def test_each_member_gives_the_mean_of_what_it_gives_alone(folder, base, images):
    parts = []
    for member in MEMBERS:
        with copy_of_member(folder / BACKBONE_WEIGHTS, member) as weights:
            alone = backbone.build_backbone(SIZE, weights, member)
        own = [layer.name for layer in base.layers if layer.name.startswith(f"{member}.")]
        assert own == [f"{member}.{layer.name}" for layer in alone.layers[1:]] + [f"{member}.average"]
        parts.append(np.asarray(alone(images)).mean(axis=(1, 2)))
    np.testing.assert_allclose(base(images), np.concatenate(parts, axis=1), rtol=1e-3, atol=1e-4)
    assert graph.members(base) == MEMBERS
    assert min(part.std() for part in parts) > 0.1


@pytest.mark.long
def test_images_are_scaled_in_float32_also_where_a_member_computes_in_bfloat16(base):
    copy = inference_copy(base, ["joined"], "bfloat16")
    computed_in = {layer.name: layer.compute_dtype for layer in copy.layers}
    assert {computed_in["mobilenet_v3_small.rescaling"], computed_in["vgg16.scale"]} == {"float32"}
    assert {computed_in["mobilenet_v3_small.conv"], computed_in["vgg16.block1_conv1"]} == {"bfloat16"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("mobilenet_v3_small", LINE),
        (LINE, LINE),
        ("mobilenet_v3_small.conv_1", "mobilenet_v3_small.conv_1"),
        ("vgg16.block5_conv2", "vgg16.block5_conv2"),
    ],
)
def test_the_chosen_member_alone_thaws(base, asked, line):
    assert frost_line.resolve_thaw_from(base, "joined", asked) == line
    frost_line.thaw(base, line)
    member = line.partition(".")[0]
    names = [layer.name for layer in base.layers]
    above = {name for name in names[names.index(line) :] if name.startswith(f"{member}.")}
    assert {layer.name for layer in base.layers if layer.trainable} == above | {"joined"}
    (other,) = set(MEMBERS) - {member}
    frontier = frost_line.frontier(base, line)
    assert len(frontier) == 2 and f"{other}.average" in frontier
    assert (line in frontier) == (not base.get_layer(line).weights)


@pytest.mark.long
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("xception", "'xception': of no member.\nValid: auto, vgg16, mobilenet_v3_small, or a layer of one"),
        ("joined", "of no member"),
        (f"{LINE}s", f"no such layer. Did you mean '{LINE}'?"),
        ("auto", "no block lies below model.cut_layer=vgg16.average"),  # of the first member, which has none
    ],
)
def test_a_line_in_no_member_is_an_error_of_two_lines(base, asked, words):
    with pytest.raises(FrostlineError) as raised:
        frost_line.resolve_thaw_from(base, "joined", asked)
    assert words in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2


@pytest.mark.long
def test_both_phases_from_joined_features_equal_training_from_pixels(settings, prepared, folder, base, images):
    with contextlib.chdir(folder):
        model, whole = (phases.build_classifier(prepared, BACKBONE_WEIGHTS, settings) for _ in range(2))
        save_model(model, Path("first.keras"), prepared.classes)
        save_model(whole, Path("second.keras"), prepared.classes)
        assert Path("first.keras").read_bytes() == Path("second.keras").read_bytes()
        before = {layer.name: layer.get_weights() for layer in model.layers}
        history = phases.transfer(model, prepared, settings) + phases.finetune(model, prepared, settings)
        probabilities = phases.predictor_of(model, settings)(prepared, "test")
        outliers = pooled_features(prepared, settings)
    assert [layer.name for layer in model.layers if "." not in layer.name] == [
        "images",
        "joined",
        "dropout",
        "probability",
    ]
    learned = {
        name
        for name, weights in before.items()
        if not all(map(np.array_equal, weights, model.get_layer(name).get_weights()))
    }
    frost_line.thaw(base, LINE)
    assert learned == {"probability", *(layer.name for layer in base.layers if layer.trainable and layer.weights)}

    pixels = [Examples([prepared.images(split)], prepared.labels(split)) for split in ("train", "validation")]
    expected = []
    for phase, options in (("transfer", settings.transfer), ("finetune", settings.finetune)):
        frost_line.thaw(whole, LINE if phase == "finetune" else "dropout")
        trainer = trainer_of(whole, options, len(prepared.names("train")))
        expected += train(trainer, Task(phase, settings.seed, *pixels), options)
    for got, wanted in zip(history, expected, strict=True):
        for name in ("train/loss", "validation/loss"):
            assert got[name] == pytest.approx(wanted[name], rel=0.02, abs=0.005), name

    save_model(model, folder / "first.keras", prepared.classes)
    save_model(load_model(folder / "first.keras"), folder / "second.keras", prepared.classes)
    assert (folder / "first.keras").read_bytes() == (folder / "second.keras").read_bytes()
    loaded = load_model(folder / "second.keras")
    assert graph.members(loaded) == MEMBERS
    # As float16 features are rounded, and those of an untrained VGG are in the hundreds.
    np.testing.assert_allclose(loaded(prepared.images("test").astype(np.float32))[:, 0], probabilities[:, 1], atol=2e-2)
    assert outliers.shape == (80, 512 + 576)
    assert grad_cam(loaded, images, np.zeros(6, int)).shape == (6, 3, 3)


@pytest.mark.long
def test_weights_are_drawn_the_same_twice_or_come_from_a_file_or_an_address_each(settings, folder, base, project):
    fetch_weights(settings)
    assert BACKBONE_WEIGHTS.read_bytes() == (folder / BACKBONE_WEIGHTS).read_bytes()
    Path("own").mkdir()
    for member in MEMBERS:
        with copy_of_member(folder / BACKBONE_WEIGHTS, member) as file:
            shutil.copy(file, Path("own", file.name))
    fetch_weights(composed("weights=file", "weights.path=own"))
    expected = BACKBONE_WEIGHTS.read_bytes()
    again = backbone.build_backbone(SIZE, BACKBONE_WEIGHTS, composed().model.backbone)
    for left, right in zip(base.weights, again.weights, strict=True):
        np.testing.assert_array_equal(left, right)

    BACKBONE_WEIGHTS.unlink()
    with contextlib.ExitStack() as stack:
        bodies = [Path("own", f"{member}.h5").read_bytes() for member in MEMBERS]
        servers = [stack.enter_context(running(FileServer(body))) for body in bodies]
        places = [
            f"+model.imagenet.{member}={{url:'{server.url}',size:{len(server.body)},md5:null,sha256:null}}"
            for member, server in zip(MEMBERS, servers, strict=True)
        ]
        fetch_weights(composed("weights=imagenet", *places))
    assert BACKBONE_WEIGHTS.read_bytes() == expected

    Path("own/vgg16.h5").unlink()
    with pytest.raises(FrostlineError, match=r"own/vgg16\.h5: there is no such file"):
        fetch_weights(composed("weights=file", "weights.path=own"))
    assert BACKBONE_WEIGHTS.read_bytes() == expected
    with pytest.raises(FrostlineError, match=r"backbone\.h5 has no weights of mobilenet_v2\.\nFetch them"):
        backbone.build_backbone(SIZE, BACKBONE_WEIGHTS, "vgg16+mobilenet_v2")
