"""`import frostline` and what a program of one's own does with it; docs/api.md runs in pipeline/test_train.py."""

import io
import json
import struct
import subprocess
import sys
import tempfile
import warnings
from functools import partial

import numpy as np
import pytest
from PIL import Image

import frostline
from frostline.data.images import decode_image
from frostline.models.saving import save_for_use
from frostline.serving.given import decoded, given_in
from served import CLASSES, SIZE, ball, field, write_model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A model with a temperature and a threshold of its own."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder / "raw.keras")
    save_for_use(folder / "raw.keras", folder / "model.keras", threshold=0.6, temperature=1.7)
    return folder / "model.keras"


@pytest.fixture(scope="module")
def model(path):
    return frostline.load(path)


@pytest.fixture
def pictures(tmp_path):
    """70 files: more than two batches."""
    (tmp_path / "pictures").mkdir()
    for number in range(70):
        content = ball(width=100 + number) if number % 2 else field()
        (tmp_path / f"pictures/{number:02}.jpg").write_bytes(content)
    return tmp_path / "pictures"


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_importing_it_imports_nothing_heavy():
    code = (
        "import frostline, sys\n"
        "heavy = {'tensorflow', 'numpy', 'mlflow', 'PIL', 'dvc', 'hydra'}\n"
        "assert not heavy & set(sys.modules)\n"
        "assert {'load', 'train', 'evaluate', 'Error'} <= set(dir(frostline))\n"
        "frostline.load\n"
        "assert not {'tensorflow', 'sklearn', 'mlflow', 'dvc', 'hydra'} & set(sys.modules)\n"
        "from frostline import *\n"
        "train, evaluate, load, Error"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = frostline.laod


@pytest.mark.slow
def test_it_answers_what_the_command_does_to_the_last_digit(path, pictures):
    command = [sys.executable, "-m", "frostline.cli", "predict", "--model", str(path), "--json", str(pictures)]
    said = [json.loads(line) for line in subprocess.run(command, capture_output=True, check=True).stdout.splitlines()]
    model = frostline.load(str(path))
    assert model.classes == CLASSES
    assert model.threshold == 0.6
    for given in (pictures, [pictures], sorted(pictures.iterdir()), (str(file) for file in sorted(pictures.iterdir()))):
        found = model.predict(given)
        assert [
            {"path": one.path, "class": one.label, "probability": one.probability, "probabilities": one.probabilities}
            for one in found
        ] == [{key: value for key, value in row.items() if key != "error"} for row in said]
    contents = model.predict([file.read_bytes() for file in sorted(pictures.iterdir())])
    assert [one.probabilities for one in contents] == [one.probabilities for one in found]
    assert {one.path for one in contents} == {None}


@pytest.mark.slow
def test_pixels_are_what_a_file_of_them_is(model):
    """Of whatever form: as the file decodes, transparency laid on white."""
    png = ball("PNG")
    (expected,) = model.predict(png)
    rgb = pixels(png)
    for given in (rgb, rgb[None], [rgb], Image.fromarray(rgb), [Image.open(io.BytesIO(png))], memoryview(png)):
        assert [one.probabilities for one in model.predict(given)] == [expected.probabilities]
    assert [one.label for one in model.predict(np.stack([rgb, np.zeros_like(rgb)]))] == ["ball", "field"]
    for mode in ("L", "RGBA", "LA", "P", "CMYK", "1"):
        image = Image.open(io.BytesIO(png)).convert(mode)
        as_tiff = io.BytesIO()
        image.save(as_tiff, "TIFF")
        (of_file,), (of_image,) = model.predict(as_tiff.getvalue()), model.predict(image)
        assert of_image.probabilities == of_file.probabilities, mode
        if mode in ("L", "RGBA"):
            assert model.predict(np.asarray(image))[0].probabilities == of_file.probabilities
    grey = pixels(ball("PNG", "L"))
    assert model.predict(grey[..., None]) == model.predict(grey) == model.predict(np.stack([grey] * 3, axis=-1))
    clear = np.zeros((10, 10, 4), np.uint8)
    assert model.predict(clear)[0].probabilities == model.predict(np.full((10, 10, 3), 255, np.uint8))[0].probabilities


@pytest.mark.slow
def test_16_bits_are_what_a_file_of_them_is_in_whatever_order_their_bytes_are(model):
    grey = np.linspace(0, 65535, 60 * 40).reshape(40, 60).astype(np.uint16)
    as_png = io.BytesIO()
    Image.fromarray(grey).save(as_png, "PNG")
    (of_file,) = model.predict(as_png.getvalue())
    for mode, order in (("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2")):
        image = Image.frombytes(mode, (60, 40), grey.astype(order).tobytes())
        assert model.predict(image)[0].probabilities == of_file.probabilities, mode
        (seen,) = decoded(given_in(image), SIZE, "squash")
        np.testing.assert_array_equal(seen, decode_image(as_png.getvalue(), SIZE))


@pytest.mark.slow
def test_the_side_that_is_up_is_exifs_in_a_pil_image_too(model):
    image = Image.open(io.BytesIO(ball()))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    image.save(turned, "PNG", exif=exif)
    given = Image.open(io.BytesIO(turned.getvalue()))
    seen = model.explain(given).where
    assert seen == model.explain(turned.getvalue()).where == "mostly at the top"
    assert model.explain(image).where == "mostly at the left"


@pytest.mark.slow
def test_odd_metadata_of_a_pil_image_change_as_little_as_those_of_a_file(model):
    image = Image.open(io.BytesIO(ball()))
    other = Image.Exif()
    # A unit as text, which Pillow reads and cannot write again; and the side as a fraction, which is none.
    unknown = b"Exif\0\0MM\0*" + struct.pack(">LHHHL4sL", 8, 1, 0x0128, 2, 4, b"dpi\0", 0)
    fraction = b"MM\0*" + struct.pack(">LHHHLLLLL", 8, 1, 0x0112, 5, 1, 26, 0, 6, 1)
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for kind, block in (
        ("PNG", b"MM\0*"),
        ("PNG", b"no EXIF"),
        ("PNG", fraction),
        ("PNG", other.tobytes()),
        ("WEBP", b"MM\0*"),
    ):
        file = io.BytesIO()
        image.save(file, kind, exif=block)
        (of_file,), (of_image,) = model.predict(file.getvalue()), model.predict(Image.open(file))
        assert of_image.probabilities == of_file.probabilities, (kind, block)
    given = Image.open(io.BytesIO(ball()))
    given.info["exif"] = unknown
    given.info["xmp"] = xmp.encode()
    assert model.predict(given)[0].probabilities == model.predict(image)[0].probabilities
    assert model.explain(given).where == "mostly at the left"


@pytest.mark.slow
def test_nothing_gives_nothing(model, tmp_path):
    assert model.predict([]) == []
    assert model.predict(()) == []
    assert model.predict(np.empty((0, 10, 10, 3), np.uint8)) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(frostline.Error, match="holds no image files"):
        model.predict(tmp_path / "empty")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((8, 8, 3)), "image has pixels of the type float64, and only uint8"),
        (np.zeros((8, 8, 3), np.int64), "int64, and only uint8"),
        (np.zeros((8, 8, 3), bool), "bool, and only uint8"),
        (np.zeros((3, 8, 8), np.uint8), r"image is an array of the shape \(3, 8, 8\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"the shape \(2, 3, 8, 8\)"),
        (np.zeros((8, 0, 3), np.uint8), r"the shape \(8, 0, 3\)"),
        (np.zeros(8, np.uint8), r"the shape \(8,\)"),
        ([b"", ball()], r"image\[0\] cannot be read: empty file"),
        ([ball(), ball()[:500]], r"image\[1\] cannot be read: truncated"),
        (["gone.jpg"], "gone.jpg does not exist"),
        ([ball(), [ball()]], r"image\[1\] is of the type list"),
        (3, "the image is of the type int"),
        (None, "of the type NoneType"),
        (Image.new("F", (8, 8)), "PIL image of mode F, which does not say what its numbers go from and to"),
        (Image.new("I", (8, 8)), "PIL image of mode I, which does not say"),
        (Image.new("HSV", (8, 8)), r"PIL image of mode HSV\.\nConvert it first: \.convert\('RGB'\)"),
        ("", "image is an empty path"),
        ([" "], r"image\[0\] is an empty path"),
        (Image.new("RGB", (0, 8)), "PIL image of 0 x 8 pixels"),
        (io.BytesIO(ball()), "the image is an open file"),
        (tempfile.NamedTemporaryFile(), "the image is an open file"),  # noqa: SIM115 - it is the case
        (Image.open(io.BytesIO(ball()[:3000])), "image cannot be read: image file is truncated"),
    ],
)
def test_what_is_no_image_is_named_and_nothing_is_said_of_the_others(model, given, words):
    with pytest.raises(frostline.Error, match=words) as caught:
        model.predict(given)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.slow
def test_a_broken_file_in_a_folder_is_named(model, pictures):
    (pictures / "66.jpg").write_bytes(b"text")
    with pytest.raises(frostline.Error, match=r"66\.jpg cannot be read: not a JPEG"):
        model.predict(pictures)


@pytest.mark.slow
def test_a_programs_warnings_are_as_they_were(model, pictures):
    before = list(warnings.filters)
    model.predict(pictures)
    assert list(warnings.filters) == before


@pytest.mark.long
@pytest.mark.slow
def test_a_script_needs_no_guard(path, pictures):
    """Where processes decoded, each would run the script again."""
    script = f"import frostline\nprint(len(frostline.load({str(path)!r}).predict({str(pictures)!r})))\n"
    (pictures.parent / "script.py").write_text(script)
    ran = subprocess.run([sys.executable, str(pictures.parent / "script.py")], capture_output=True, text=True)
    assert (ran.stdout, ran.returncode) == ("70\n", 0), ran.stderr


@pytest.mark.slow
def test_it_shows_where_a_class_is_seen(model):
    found = model.explain(ball())
    assert (found.label, found.where) == ("ball", "mostly at the left")
    assert found.heat.shape == (8, 8)
    assert found.heat.max() == 1
    assert found.picture.size == (SIZE, SIZE)
    red, _, blue = np.asarray(found.picture, np.float64).mean(axis=(0, 1))
    plain = np.asarray(Image.open(io.BytesIO(ball())).resize((SIZE, SIZE)), np.float64).mean(axis=(0, 1))
    assert red - blue > plain[0] - plain[2]
    assert model.explain(ball(), "field").label == "field"
    with pytest.raises(frostline.Error, match="'bal' is no class of this model; valid: field, ball"):
        model.explain(ball(), "bal")
    with pytest.raises(frostline.Error, match="2 images to explain"):
        model.explain([ball(), ball()])


@pytest.mark.slow
def test_it_judges_a_folder_of_class_folders(path, tmp_path):
    for name, contents in (("ball", [ball()] * 8 + [field(), b"text"]), ("field", [field()] * 30), (".hidden", [])):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number, content in enumerate(contents):
            (tmp_path / f"own/{name}/{number}.jpg").write_bytes(content)
    found = frostline.evaluate(path, tmp_path / "own")
    assert (found.images, found.counts) == (39, {"field": 30, "ball": 9})
    assert found.unreadable == {f"{tmp_path}/own/ball/9.jpg": "not a JPEG, PNG, GIF, WebP, BMP or TIFF image"}
    assert found.confusion.tolist() == [[30, 0], [1, 8]]
    assert found.figures["accuracy"] == 38 / 39
    (of_ball,), (of_field,) = (frostline.load(path).predict(content) for content in (ball(), field()))
    losses = -np.log(
        [of_ball.probabilities["ball"]] * 8 + [of_field.probabilities["ball"]] + [of_field.probabilities["field"]] * 30
    )
    assert found.figures["log_loss"] == pytest.approx(losses.mean(), abs=1e-6)
    for name, interval in found.intervals.items():
        assert interval.low <= found.figures[name] <= interval.high
    assert found.intervals["accuracy"].low < 38 / 39


@pytest.mark.slow
def test_it_judges_no_masks_and_names_what_cannot_be_read(path, tmp_path):
    for name, content in (("ball", ball()), ("field", field())):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / f"own/{name}/{number}.png").write_bytes(content)
            (tmp_path / f"own/{name}/{number}_mask.png").write_bytes(content)
    (tmp_path / "own/ball/gone.png").symlink_to(tmp_path / "nowhere.png")
    found = frostline.evaluate(path, tmp_path / "own")
    assert (found.images, found.counts) == (6, {"field": 3, "ball": 3})
    assert list(found.unreadable) == [f"{tmp_path}/own/ball/gone.png"]


@pytest.mark.slow
def test_it_judges_more_than_two_classes_one_of_them_without_images(tmp_path):
    write_model(tmp_path / "model.keras", ("a", "b", "ball"))
    for name, content in (("a", field()), ("ball", ball())):
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / f"own/{name}/1.jpg").write_bytes(content)
    found = frostline.evaluate(tmp_path / "model.keras", tmp_path / "own")
    assert found.counts == {"a": 1, "b": 0, "ball": 1}
    assert found.confusion.shape == (3, 3)


@pytest.mark.slow
def test_a_folder_that_is_no_folder_of_classes_is_refused(model, tmp_path):
    with pytest.raises(frostline.Error, match="no such folder"):
        frostline.evaluate(model, tmp_path / "gone")
    (tmp_path / "own/ball").mkdir(parents=True)
    with pytest.raises(frostline.Error, match="holds no images in folders of its classes"):
        frostline.evaluate(model, tmp_path / "own")
    (tmp_path / "own/ball/1.jpg").write_bytes(b"text")
    with pytest.raises(frostline.Error, match="None of the 1 images"):
        frostline.evaluate(model, tmp_path / "own")
    (tmp_path / "own/2.jpg").write_bytes(ball())
    with pytest.raises(frostline.Error, match=r"2\.jpg lies in no class folder"):
        frostline.evaluate(model, tmp_path / "own")
    (tmp_path / "own/balls").mkdir()
    with pytest.raises(frostline.Error, match="balls is no class of this model; valid: field, ball"):
        frostline.evaluate(model, tmp_path / "own")


def test_what_a_program_gets_wrong_is_frostlines_error(tmp_path, path):
    with pytest.raises(frostline.Error, match=r"gone\.keras not found"):
        frostline.load("gone.keras")
    with pytest.raises(frostline.Error, match="threshold=50 is not a number between 0 and 1"):
        frostline.load(path, threshold=50)
    with pytest.raises(frostline.Error, match=r"threshold='0\.3' is not a number"):
        frostline.load(path, threshold="0.3")
    with pytest.raises(frostline.Error, match="is a folder"):
        frostline.load(tmp_path)
    for call in (frostline.load, frostline.train, partial(frostline.evaluate, path)):
        with pytest.raises(frostline.Error, match="is an empty path"):
            call(" ")
    assert frostline.load(path, threshold=np.float32(0.25)).threshold == 0.25
    write_model(tmp_path / "three.keras", ("a", "b", "ball"))
    with pytest.raises(frostline.Error, match="one threshold does not decide") as raised:
        frostline.load(tmp_path / "three.keras", threshold=0.3)
    assert "--" not in str(raised.value), "there is no command here"
    with pytest.raises(frostline.Error, match="is no Frostline project"):
        frostline.train(tmp_path)
