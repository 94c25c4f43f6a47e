"""The model card says what the files say, and where they say nothing, that."""

import hashlib
import io
import re

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from frostline.common.files import read_json, write_json
from frostline.common.fit_names import FITS
from frostline.data.images import decode_image
from frostline.models.saving import Metadata, load_trained, save_for_use
from frostline.serving.export import FORMATS, export
from frostline.serving.model_card import Origin, current_origin, key_figures, model_card, recorded_origin
from served import SIZE, ball, write_model
from tracked import write_tracked

METADATA = Metadata(["cat", "dog"], 0.5, 0.87)


@pytest.fixture
def project(tmp_path):
    """What a run leaves, with a model file of a few bytes."""
    write_tracked(tmp_path, "params.yaml", "reports/figures.json")
    counts = {
        split: {"cat": count, "dog": count + 1} for split, count in (("train", 210), ("validation", 45), ("test", 44))
    }
    write_json(tmp_path / "reports/data.json", {"classes": ["cat", "dog"], "counts": counts, "digest": "b9859e20"})
    (tmp_path / "models").mkdir()
    for name in ("classifier", "transfer", "finetune"):
        (tmp_path / f"models/{name}.keras").write_bytes(name.encode())
    record(tmp_path)
    return tmp_path


def record(root):
    """Write dvc.lock, as DVC does, for what lies there."""

    def entries(*names):
        return [{"path": name, "md5": hashlib.md5((root / name).read_bytes()).hexdigest()} for name in names]

    judged = {
        "deps": entries("models/transfer.keras", "models/finetune.keras", "reports/data.json"),
        "outs": entries("models/classifier.keras", "reports/figures.json"),
        "params": {"params.yaml": yaml.safe_load((root / "params.yaml").read_text())},
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"evaluate": judged}}))


def card(origin, metadata=METADATA):
    return model_card(metadata, 150, origin, "onnx", "classifier.onnx")


def row(text, name):
    return next(line for line in text.splitlines() if line.startswith(f"| {name} |"))


def test_it_says_what_the_files_of_the_run_say(project):
    text = card(recorded_origin(project / "models/classifier.keras"))
    metrics, data = read_json(project / "reports/figures.json"), read_json(project / "reports/data.json")
    assert text.startswith("# Image classifier: cat, dog\n")
    chosen = metrics[metrics["verdict"]["chosen"]]
    interval = f"{chosen['accuracy_low']:.3f} to {chosen['accuracy_high']:.3f}"
    assert row(text, "accuracy") == f"| accuracy | {metrics['in_use']['accuracy']:.3f} | {interval} |"
    assert row(text, "log_loss") == f"| log_loss | {metrics['in_use']['log_loss']:.3f} |  |", "calibration changed it"
    counts = [str(data["counts"][split]["cat"]) for split in ("train", "validation", "test")]
    assert row(text, "cat") == f"| cat | {' | '.join(counts)} |"
    for words in (data["digest"], "`inception_v3`", "Animal faces drawn by code", "drawn by code; nobody", "untrained"):
        assert words in text
    for heading in ("What it is", "Data", "Figures", "Limits", "Licence", "How to use it"):
        assert f"\n## {heading}\n" in text
    assert text == card(recorded_origin(project / "models/classifier.keras")), "the same text twice"
    assert str(project) not in text
    assert "\n\n\n" not in text


def test_a_phases_model_has_its_own_figures(project):
    text = card(recorded_origin(project / "models/transfer.keras"))
    transfer = read_json(project / "reports/figures.json")["transfer"]
    interval = f"{transfer['log_loss_low']:.3f} to {transfer['log_loss_high']:.3f}"
    assert row(text, "log_loss") == f"| log_loss | {transfer['log_loss']:.3f} | {interval} |"
    assert "| accuracy |" in text
    lock = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(lock.replace("threshold: 0.5", "threshold: 0.2"))
    assert "| accuracy |" not in card(recorded_origin(project / "models/transfer.keras")), "it is used with 0.5"


def test_a_file_that_the_run_did_not_make_gets_none_of_its_figures(project):
    """Whatever lies in its place, or is called like it."""
    other = project / "models/other.keras"
    other.write_bytes(b"another")
    assert recorded_origin(other) == Origin()
    text = card(recorded_origin(other))
    assert "None are known" in text
    assert "Not known of this file." in text
    assert "Where its backbone comes from is not known" in text
    (project / "models/classifier.keras").write_bytes(b"another")
    assert recorded_origin(project / "models/classifier.keras") == Origin()


def test_figures_of_another_run_are_left_out(project):
    metrics = read_json(project / "reports/figures.json")
    write_json(project / "reports/figures.json", metrics | {"in_use": {"accuracy": 1.0}})
    origin = recorded_origin(project / "models/classifier.keras")
    assert origin.figures == {}
    assert origin.data["classes"] == ["cat", "dog"]
    (project / "dvc.lock").unlink()
    assert recorded_origin(project / "models/classifier.keras") == Origin()


def test_metrics_that_lack_figures_cost_no_more_than_these():
    assert key_figures({}) == {}
    assert key_figures({"verdict": {"chosen": "transfer"}, "in_use": {"accuracy": 0.9}}) == {"accuracy": 0.9}
    metrics = {
        "in_use": {"accuracy": 0.9, "log_loss": 0.2, "log_loss_low": 0.1, "log_loss_high": 0.3},
        "verdict": {"chosen": "transfer"},
        "transfer": {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 1.0, "log_loss": 0.5},
    }
    assert key_figures(metrics) == {
        "log_loss": 0.2,
        "log_loss_low": 0.1,
        "log_loss_high": 0.3,
        "accuracy": 0.9,
        "accuracy_low": 0.8,
        "accuracy_high": 1.0,
    }


def test_a_stages_model_has_figures_only_once_it_is_judged(project):
    assert current_origin(evaluated=False).figures == {}
    assert current_origin(evaluated=False).settings["name"] == "sample"
    assert current_origin(evaluated=True).figures == recorded_origin(project / "models/classifier.keras").figures


def test_an_ensembles_weights_are_named_one_by_one():
    files = {name: {"url": f"https://example.org/{name}.h5"} for name in ("a", "b", "c")}
    model = {"backbone": "a+c", "members": ["a", "c"], "imagenet": files}
    text = card(Origin({"weights": {"source": "imagenet", "url": None}, "model": model}))
    assert "offers for it (https://example.org/a.h5 , https://example.org/c.h5)" in text


@pytest.mark.parametrize("source", ["imagenet", "file", "random"])
def test_it_says_whose_the_weights_are(source):
    weights = {
        "source": source,
        "url": "https://me:s3cret@example.org/weights.h5?token=s3cret",
        "path": "/home/someone/weights.h5",
    }
    text = card(Origin({"weights": weights, "data": {"source": "folder", "path": "/home/someone/pictures"}}))
    words = {"imagenet": "(https://example.org/weights.h5)", "file": "its licence holds", "random": "nobody else"}
    assert words[source] in text
    assert "someone" not in text
    assert "s3cret" not in text


def test_names_are_shown_as_they_are():
    metadata = Metadata(["a|b", "<i>", "개_1"], None)
    counts = {split: dict.fromkeys(metadata.classes, 40) for split in ("train", "validation", "test")}
    text = card(Origin(data={"classes": metadata.classes, "counts": counts, "digest": "d"}), metadata)
    assert text.startswith("# Image classifier: a\\|b, \\<i\\>, 개\\_1\n")
    assert "| a\\|b | 40 | 40 | 40 |" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("name", ["tflite", "saved_model", "onnx"])
def test_the_code_on_it_runs(tmp_path, name, capsys):
    if name == "onnx":
        pytest.importorskip("tf2onnx")
    write_model(tmp_path / "raw.keras")
    save_for_use(tmp_path / "raw.keras", tmp_path / "model.keras", threshold=0.5, temperature=2.0)
    (tmp_path / "picture.jpg").write_bytes(ball())
    path = tmp_path / f"모델 1{FORMATS[name].suffix}"
    model, metadata = load_trained(tmp_path / "model.keras")
    export(model, metadata, name, path, decode_image(ball(), SIZE)[None])
    (code,) = re.findall("```python\n(.*?)```", (tmp_path / f"{path.name}.md").read_text("utf-8"), re.DOTALL)
    exec(code)
    assert 0.5 < float(capsys.readouterr().out.strip("[]\n")) < 1


def of_every_kind():
    """(format, options, image): turned by EXIF, transparent, of other modes."""
    image = Image.open(io.BytesIO(ball(width=200, height=120)))
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 80, 120))
    clear = image.copy()
    clear.putalpha(alpha)
    yield "JPEG", {"quality": 95}, image
    yield "PNG", {"exif": exif}, image
    yield "TIFF", {"exif": exif}, image
    yield "PNG", {}, clear
    yield "WEBP", {"lossless": True}, clear
    yield "PNG", {}, clear.convert("LA")
    yield "PNG", {"transparency": 0}, image.quantize(4)
    yield "PNG", {"transparency": (30, 90, 50)}, Image.open(io.BytesIO(ball("PNG")))
    yield "TIFF", {}, image.convert("CMYK")
    yield "PNG", {}, image.convert("1")


@pytest.mark.parametrize("fit", FITS)
def test_the_code_on_it_reads_pictures_as_predict_does(tmp_path, fit):
    text = model_card(Metadata(["cat", "dog"], 0.5, fit=fit), SIZE, Origin(), "onnx", "model.onnx")
    (code,) = re.findall("size = .*?pixels = [^\n]*", text, re.DOTALL)
    for kind, options, image in of_every_kind():
        image.save(tmp_path / "picture.jpg", kind, **options)
        found = {"np": np, "Image": Image, "ImageOps": ImageOps}
        exec(code, found)
        expected = decode_image((tmp_path / "picture.jpg").read_bytes(), SIZE, fit)
        difference = np.abs(found["pixels"][0] - expected)
        assert difference.mean() < 1, (kind, options, image.mode)
        assert difference.max() <= 10, (kind, options, image.mode)
