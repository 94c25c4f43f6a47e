"""A model file carries the fit of its pictures, and whatever uses the file takes pictures by it."""

import base64
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

import frostline
from frostline import cli
from frostline.common.fit_names import FITS
from frostline.data.dataset import Dataset
from frostline.data.images import decode_image
from frostline.explain.grad_cam import checked_grad_cam
from frostline.models.saving import load_metadata, load_model, load_trained, save_for_use
from frostline.runtime.errors import FrostlineError
from frostline.serving.classifier import load_classifier
from frostline.serving.export import FORMATS, check_images, export
from frostline.serving.predict import predict_files
from frostline.serving.pyfunc import ServedModel
from frostline.serving.server import application
from frostline.tracking.champion import NotComparableError, answer_anew
from served import CLASSES, SIZE, ball, serving, write_model
from zips import archive_of

pytestmark = pytest.mark.slow

PICTURE = ball("PNG", width=60, height=110)
"""What the model says of it is another thing for each fit: the ball's share of the square is."""


@pytest.fixture(scope="module", params=FITS)
def fit(request):
    return request.param


@pytest.fixture(scope="module")
def model(fit, tmp_path_factory):
    """As evaluate leaves it: a copy of the trained one, calibrated."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder / "raw.keras", fit=fit)
    save_for_use(folder / "raw.keras", folder / "model.keras", threshold=0.5, temperature=9.0)
    return folder / "model.keras"


@pytest.fixture(scope="module")
def said(model, fit):
    """P(ball) of the picture, decoded as by stage preprocess with this fit (tests/test_fits.py)."""
    return load_classifier(model).probabilities(decode_image(PICTURE, SIZE, fit)[None])[0, 1]


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "ball").mkdir()
    (tmp_path / "ball/1.png").write_bytes(PICTURE)
    return tmp_path / "ball/1.png"


def test_each_fit_is_told_apart_by_what_the_model_says(tmp_path):
    write_model(tmp_path / "raw.keras")
    save_for_use(tmp_path / "raw.keras", tmp_path / "model.keras", threshold=0.5, temperature=9.0)
    images = np.stack([decode_image(PICTURE, SIZE, fit) for fit in FITS])
    found = load_classifier(tmp_path / "model.keras").probabilities(images)[:, 1]
    assert np.abs(np.diff(sorted(found))).min() > 0.01


def test_predict(model, picture, said):
    (row,) = predict_files(model, [picture])
    assert row.probabilities["ball"] == said
    rows = list(predict_files(model, [picture] * 40))  # several processes decode
    np.testing.assert_allclose([row.probabilities["ball"] for row in rows], said, rtol=1e-5)


def test_api(model, fit, picture, said):
    loaded = frostline.load(model)
    assert loaded.fit == fit
    pixels = np.asarray(Image.open(picture))
    for given in (picture, PICTURE, Image.open(picture), pixels, pixels[None]):
        (answer,) = loaded.predict(given)
        assert answer.probabilities["ball"] == said
    assert frostline.evaluate(loaded, picture.parents[1]).figures["log_loss"] == pytest.approx(-np.log(said))
    (heat,) = checked_grad_cam(load_model(model), decode_image(PICTURE, SIZE, fit)[None], np.array([1]))
    np.testing.assert_array_equal(loaded.explain(picture, "ball").heat, heat)


def test_server(model, fit, picture, said):
    with serving(application(load_classifier(model), picture.parent)) as url:
        headers, text = {"Content-Type": "image/png"}, base64.b64encode(PICTURE).decode()
        for response in (
            requests.post(f"{url}/invocations?explain=true", data=PICTURE, headers=headers),
            requests.post(f"{url}/invocations?explain=true", json={"inputs": [text]}),
            requests.post(f"{url}/invocations?explain=true", json={"paths": ["1.png"]}),
        ):
            (answer,) = response.json()["predictions"]
            assert answer["probabilities"]["ball"] == said
            seen = Image.open(io.BytesIO(base64.b64decode(answer["seen"].split(",")[1])))
            np.testing.assert_array_equal(np.asarray(seen), decode_image(PICTURE, SIZE, fit))
        page = requests.get(url).text
    words = {"squash": ">Scaled to 32 ", "crop": "largest centred square is scaled to 32", "pad": "white margins"}
    assert {name for name in FITS if words[name] in page} == {fit}
    assert f'data-fit="{fit}"' in page


def test_mlflow(model, said):
    table = ServedModel(model).predict(np.array([PICTURE], object))
    assert table["probabilities"][0]["ball"] == said


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("name", FORMATS)
def test_an_export_is_checked_by_it_and_tells_it_and_its_card_has_code_for_it(
    model, fit, picture, said, tmp_path, name, capsys
):
    if name == "onnx":
        pytest.importorskip("tf2onnx")
    path = tmp_path / f"exported{FORMATS[name].suffix}"
    images = check_images([picture], SIZE, load_metadata(model).fit)
    np.testing.assert_array_equal(images[0], decode_image(PICTURE, SIZE, fit))
    export(*load_trained(model), name, path, images)
    assert facts(name, path)["fit"] == fit
    card = Path(f"{path}.md").read_text(encoding="utf-8")
    assert f"({fit})." in card
    (code,) = re.findall("```python\n(.*?)```", card, re.DOTALL)
    Path("picture.jpg").write_bytes(PICTURE)
    exec(code)  # in this folder, which is tmp_path
    assert float(capsys.readouterr().out.strip("[]\n")) == pytest.approx(said, abs=1e-5)


def facts(name, path):
    """What the exported model says of itself."""
    if name == "saved_model":
        return json.loads((path / "assets.extra/frostline.json").read_text(encoding="utf-8"))
    if name == "tflite":
        return json.loads(zipfile.ZipFile(path).read("frostline.json"))
    import onnx

    return {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}


def test_the_command_export_says_it(model, fit, picture, capsys):
    arguments = cli._parser().parse_args(["export", "--to", "tflite", "--model", str(model), str(picture)])
    assert arguments.run(arguments) == 0
    words = {"crop": "the largest centred square is taken (crop)", "pad": "kept, between white margins (pad)"}
    said = capsys.readouterr().out
    assert {name for name in words if words[name] in said} == {fit} - {"squash"}


# The file


def test_a_file_carries_it_through_every_copy(model, fit):
    for path in (model, model.with_name("raw.keras")):
        assert load_metadata(path).fit == fit
        assert ("fit" in json.loads(zipfile.ZipFile(path).read("metadata.json"))) == (fit != "squash")
    assert load_model(model).input_shape == (None, SIZE, SIZE, 3)


def test_a_file_of_before_the_setting_squashes(tmp_path):
    """Its metadata name no fit, and those of a squashed one do not either: it has the bytes that it always had."""
    write_model(tmp_path / "now.keras")
    assert set(json.loads(zipfile.ZipFile(tmp_path / "now.keras").read("metadata.json"))) == {
        "keras_version",
        "classes",
    }
    assert load_metadata(tmp_path / "now.keras").fit == "squash"


def test_a_fit_that_this_release_does_not_know_is_refused(tmp_path):
    write_model(tmp_path / "raw.keras")
    with zipfile.ZipFile(tmp_path / "raw.keras") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["metadata.json"] = json.dumps(json.loads(content["metadata.json"]) | {"fit": "mirror"})
    archive_of(tmp_path / "newer.keras", content)
    with pytest.raises(FrostlineError, match="'mirror', which this release does not know: squash, crop, pad") as raised:
        frostline.load(tmp_path / "newer.keras")
    assert len(str(raised.value).splitlines()) == 2


def test_a_champion_of_another_fit_is_not_judged_on_these_images(tmp_path):
    write_model(tmp_path / "champion.keras", fit="crop")
    data = Dataset(tmp_path, CLASSES, "digest", {}, "digest", fit="pad")
    with pytest.raises(NotComparableError, match=r"preprocess\.fit=crop, and these are by pad"):
        answer_anew(tmp_path / "champion.keras", data, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("chosen", ["crop", "pad"])
def test_training_writes_the_fit_of_its_images(chosen, tmp_path, archive, weights, monkeypatch):
    """Stages preprocess and transfer, as DVC runs them, on the sample: its pictures are wide and tall."""
    from frostline.config.load import compose_conf
    from frostline.config.paths import ARCHIVE, BACKBONE_WEIGHTS, MODELS
    from frostline.stages import preprocess, transfer
    from tracked import write_tracked

    write_tracked(tmp_path, "conf", "params.yaml", "corrections.csv")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    for source, place in ((archive, ARCHIVE), (weights, BACKBONE_WEIGHTS)):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)
    settings = [f"preprocess.fit={chosen}", "preprocess.image_size=75", "model.cut_layer=mixed1", "model.dense_units=8"]
    config = compose_conf([*settings, "transfer.epochs=1", "model.pooling=average", "tracking.log_models=false"])
    preprocess.main(config)
    transfer.main(config)
    assert load_metadata(MODELS["transfer"]).fit == chosen
