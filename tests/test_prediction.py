import csv
import json
import os
import subprocess
import sys
import zipfile

import pytest
from pyarrow import parquet

from corpus import CLUTTER
from frostline import cli
from frostline.runtime.errors import FrostlineError
from frostline.serving.predict import COLUMNS, Prediction, find_images, predict_files, write_table
from frostline.sources.folder import pack_folder
from served import ball, field, write_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    write_model(path)
    return path


def folder_of(count, folder):
    """Balls and fields in turn; every tenth from the third on is no image."""
    folder.mkdir()
    for number in range(count):
        content = b"text" if number % 10 == 3 else (ball if number % 2 else field)()
        (folder / f"{number:03}.jpg").write_bytes(content)
    return folder


def frostline(*arguments):
    return subprocess.run([sys.executable, "-m", "frostline.cli", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("count", [1, 7, 100])  # the last one by several processes
def test_every_file_has_its_line_in_order(model, tmp_path, count):
    files = find_images([folder_of(count, tmp_path / "images")])
    found = list(predict_files(model, files))
    assert [row.path for row in found] == [str(path) for path in files]
    for number, row in enumerate(found):
        if number % 10 == 3:
            assert (row.label, row.probability, row.probabilities) == (None, None, None)
            assert row.error == "not a JPEG, PNG, GIF, WebP, BMP or TIFF image"
        else:
            assert (row.label, row.error) == ("ball" if number % 2 else "field", None)
            assert row.probabilities
            assert row.probability == max(row.probabilities.values()) == row.probabilities[row.label]


def test_more_than_two_classes(tmp_path):
    write_model(tmp_path / "model.keras", ("a", "b", "ball"))
    (tmp_path / "ball.jpg").write_bytes(ball())
    (row,) = predict_files(tmp_path / "model.keras", [tmp_path / "ball.jpg"])
    assert row.label == "ball"
    assert set(row.probabilities or {}) == {"a", "b", "ball"}
    assert sum((row.probabilities or {}).values()) == pytest.approx(1)


def test_what_cannot_be_opened_has_its_reason_too(model, tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    odd = tmp_path / os.fsdecode(b"\xff.jpg")  # no UTF-8
    odd.write_bytes(ball())
    found = list(predict_files(model, [tmp_path / "gone.jpg", tmp_path / "folder.jpg", odd]))
    assert [row.error for row in found] == ["No such file or directory", "Is a directory", None]
    assert found[2].path == f"{tmp_path}/\\udcff.jpg"


def test_a_folder_gives_the_images_that_training_takes_of_it(tmp_path):
    """No clutter and no other files, but what is broken, or not supported, with its reason."""
    names = ("b/1.jpg", "b/2.PNG", "b/3", "a/4.heic", "a/notes.txt", "a/film.mov")
    for name in (*names, *(f"{folder}/{name}" for folder in ("a", "b", ".") for name in CLUTTER)):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(ball())
    (tmp_path / "images/c").symlink_to(tmp_path / "images/b")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/5.jpg").write_bytes(ball())
    (tmp_path / "images/d").symlink_to(tmp_path / "elsewhere")
    found = [str(path.relative_to(tmp_path / "images")) for path in find_images([tmp_path / "images"])]
    assert found == ["a/4.heic", "b/1.jpg", "b/2.PNG", "b/3", "d/5.jpg"]
    pack_folder(tmp_path / "images", tmp_path / "archive.zip")
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        assert archive.namelist() == found


def test_what_is_no_regular_file_is_not_waited_for(model, tmp_path):
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images/pipe.jpg")
    (tmp_path / "images/broken.jpg").symlink_to("nowhere")
    (tmp_path / "images/zeros.jpg").symlink_to("/dev/zero")
    found = list(predict_files(model, find_images([tmp_path / "images", tmp_path / "images/pipe.jpg"])))
    irregular = "not a regular file"
    assert [row.error for row in found] == ["No such file or directory", irregular, irregular, irregular]


def test_a_folder_that_cannot_be_read_is_said(tmp_path):
    """In one line, and not passed over."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/classifier.keras").touch()
    (tmp_path / "images/cats").mkdir(parents=True)
    (tmp_path / "images/1.jpg").write_bytes(ball())
    (tmp_path / "images/cats").chmod(0)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys\nfrom frostline.cli import main\nfrom frostline.serving import predict\n"
        "os.getuid() or os.setuid(65534)\nsys.argv = ['frostline', 'predict', sys.argv[1]]\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code, "images"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: Permission denied: images/cats\n")


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_parquet(path):
    rows = parquet.read_table(path).to_pylist()
    return [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


@pytest.mark.parametrize(("suffix", "read"), [(".csv", read_csv), (".parquet", read_parquet)])
def test_a_table_holds_what_was_predicted(tmp_path, suffix, read):
    predictions = [
        Prediction('a,\n"b".jpg', "개", 0.75, {"개": 0.75, "고양이": 0.25}),
        Prediction("c.jpg", None, None, None, "truncated"),
    ]
    path, told = tmp_path / "new" / f"table{suffix}", []
    assert write_table(path, iter(predictions), told.append) == 1
    assert told == [1, 1]
    assert read(path) == [
        {"path": 'a,\n"b".jpg', "class": "개", "probability": "0.75", "error": ""},
        {"path": "c.jpg", "class": "", "probability": "", "error": "truncated"},
    ]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_that_breaks_off_leaves_what_was_there(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    path.write_text("before")

    def breaks_off():
        yield Prediction("a.jpg", "cat", 0.75, {"cat": 0.75, "dog": 0.25})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(path, breaks_off(), lambda count: None)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_another_ending_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(FrostlineError, match=r"\.csv nor in \.parquet"):
        write_table(tmp_path / "table.xlsx", iter([Prediction("a", "b", 1, {})]), lambda count: pytest.fail("too late"))


@pytest.mark.long
def test_the_command_writes_a_table_and_says_how_far_it_is_on_stderr(model, tmp_path):
    images = folder_of(40, tmp_path / "images")
    done = frostline("predict", "--model", str(model), str(images), "--output", str(tmp_path / "out.csv"))
    assert (done.returncode, done.stdout) == (1, "")
    told, failed = done.stderr.splitlines()
    assert told.startswith("predict: 40 images in ")
    assert failed == f"4 could not be read: see the column error of {tmp_path}/out.csv"
    assert [row["path"] for row in read_csv(tmp_path / "out.csv")] == [str(path) for path in find_images([images])]


def test_the_command_prints_json_and_csv(model, tmp_path):
    (tmp_path / "ball.jpg").write_bytes(ball())
    (tmp_path / "bad.jpg").write_bytes(b"text")
    arguments = ("predict", "--model", str(model), str(tmp_path / "ball.jpg"), str(tmp_path / "bad.jpg"))
    good, bad = map(json.loads, frostline(*arguments, "--json").stdout.splitlines())
    assert good["class"] == "ball"
    assert good["probabilities"]["ball"] == good["probability"]
    assert bad["error"].startswith("not a")
    rows = list(csv.DictReader(frostline(*arguments, "--csv").stdout.splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [row["class"] for row in rows] == ["ball", ""]


def test_a_model_without_class_names_costs_two_lines(tmp_path):
    from frostline.runtime.quiet_tensorflow import keras

    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs)).save(tmp_path / "other.keras")
    (tmp_path / "ball.jpg").write_bytes(ball())
    with pytest.raises(FrostlineError, match="does not name its classes"):
        next(predict_files(tmp_path / "other.keras", [tmp_path / "ball.jpg"]))


def legacy(path):
    """As Keras 2 saved models."""
    from frostline.runtime.quiet_tensorflow import keras

    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs)).save(path.with_suffix(".h5"))
    return path.with_suffix(".h5")


def made_of(inputs, units, head=True, value=0.5):
    def make(path):
        from frostline.models.saving import save_model
        from frostline.runtime.quiet_tensorflow import keras

        taken = keras.Input(inputs)
        x = keras.layers.Conv2D(units, 1, bias_initializer=keras.initializers.Constant(value))(taken)
        save_model(keras.Model(taken, keras.layers.GlobalAveragePooling2D()(x) if head else x), path, ["a", "b"])
        return path

    return make


def text(path):
    path.write_text("text")
    return path


def folder(path):
    path.mkdir()
    return path


def other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "[1]")
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (legacy, "is not a .keras file"),
        (text, "is not a .keras file"),
        (folder, "is not a .keras file"),
        (other_zip, "does not name its classes"),
        (made_of((8, 8, 3), 1, head=False), "is no classifier of images of one size in 2 classes"),
        (made_of((None, None, 3), 1), "is no classifier of images of one size"),
        (made_of((8, 16, 3), 1), "is no classifier of images of one size"),
        (made_of((8, 8, 1), 1), "is no classifier of images of one size"),
        (made_of((8, 8, 3), 5), "it takes (None, 8, 8, 3) and gives (None, 5)"),
        (made_of((8, 8, 3), 1, value=float("nan")), "weights that are no numbers"),
    ],
)
def test_a_file_that_is_no_classifier_costs_two_lines_in_each_command(tmp_path, make, words, monkeypatch, capsys):
    path = make(tmp_path / "model.keras")
    (tmp_path / "ball.jpg").write_bytes(ball())
    for command in (
        ["predict", str(tmp_path / "ball.jpg")],
        ["serve", "--port", "0"],
        ["export", str(tmp_path / "ball.jpg"), "--to", "tflite"],
    ):
        monkeypatch.setattr(sys, "argv", ["frostline", *command, "--model", str(path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        if command[0] != "export" or "numbers" not in words:  # it compares, and says that all differs
            assert words in str(ended.value)
        assert str(ended.value).startswith("error: ")
        assert len(str(ended.value).splitlines()) == 2
    assert not list(tmp_path.glob("exports/*"))


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["cp949", "ascii", "utf-8"])
def test_other_programs_can_read_json_whatever_the_encoding(model, tmp_path, encoding):
    path = tmp_path / "공🐶é.jpg"
    path.write_bytes(ball())
    command = [sys.executable, "-m", "frostline.cli", "predict", "--model", str(model), str(path)]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    plain, as_json = (
        subprocess.run([*command, *more], env=environment, capture_output=True, check=True).stdout.decode(encoding)
        for more in ([], ["--json"])
    )
    assert json.loads(as_json)["path"] == str(path)
    assert ": ball 0." in plain
    assert ("\\U0001f436" in plain) == (encoding != "utf-8")


def test_the_processes_that_decode_import_no_tensorflow():
    code = "import frostline.serving.predict, sys; assert not {'tensorflow', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
