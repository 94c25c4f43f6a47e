"""corrections.csv: what the user corrects reaches the prepared data, and what is wrong in it is said in a line."""

import csv
import functools
import zipfile

import pytest

from frostline.data.dataset import load_dataset
from frostline.data.layout import Reading
from frostline.data.preprocess import preprocess
from frostline.runtime.errors import FrostlineError
from frostline.stages.preprocess import main as run_stage
from tracked import tracked_text
from zips import archive_of, image

pytestmark = pytest.mark.slow

png = functools.partial(image, kind="PNG")
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


@pytest.fixture
def archive(tmp_path):
    cats = {f"cats/{number}.png": png(number) for number in range(12)}
    return archive_of(tmp_path / "a.zip", cats | {f"dogs/{number}.png": png(100 + number) for number in range(12)})


def prepare(archive, text=None, max_rejected=0.0):
    """Preprocess with the corrections `text`; None: there is no such file. Returns the folder and the summary."""
    path = archive.with_name("corrections.csv")
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    folder, reading = archive.with_name("out"), Reading(corrections=path)
    settings = {"size": 20, "seed": 7, "shares": SHARES, "max_rejected": max_rejected, "processes": 1}
    return folder, preprocess(archive, folder, **settings, reading=reading)


def manifest(folder):
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_classes_are_changed_and_images_dropped(archive, capsys):
    folder, summary = prepare(archive, "image,class\ncats/3.png,dogs\ndogs/1.png,drop\ndogs/2.png,\n")
    rows, data = manifest(folder), load_dataset(folder)
    assert rows["cats/3.png"]["class"] == "dogs"
    split = rows["cats/3.png"]["split"]
    row = data.names(split).index("cats/3.png")
    assert data.classes[data.labels(split)[row]] == "dogs"
    for name in ("dogs/1.png", "dogs/2.png"):
        assert (rows[name]["verdict"], rows[name]["split"]) == ("dropped by corrections.csv", "")
        assert not any(name in data.names(split) for split in data.paths)
    assert summary.rejected == {"dropped by corrections.csv": 2}
    assert sum(counts["cats"] for counts in summary.counts.values()) == 11
    assert sum(counts["dogs"] for counts in summary.counts.values()) == 11
    assert "corrections.csv: 1 image of another class, 2 dropped\n" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize(
    "text",
    [
        None,
        pytest.param("", marks=pytest.mark.long),
        pytest.param("image,class\n", marks=pytest.mark.long),
        "\ufeffimage,class\r\n\r\n",
        pytest.param(tracked_text("corrections.csv"), marks=pytest.mark.long),
    ],
)
def test_without_rows_the_bytes_are_the_same(text, archive, tmp_path):
    plain = tmp_path / "plain"
    settings = {"size": 20, "seed": 7, "shares": SHARES, "max_rejected": 0, "processes": 1}
    before = preprocess(archive, plain, **settings)
    folder, summary = prepare(archive, text)
    assert summary == before
    files = {path.name: path.read_bytes() for path in plain.iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_correction_settles_a_copy_in_two_classes(tmp_path):
    """Uncorrected, both copies are rejected: nobody can say which label is right. The user just has."""
    members = {f"cats/{number}.png": png(number) for number in range(6)}
    members |= {f"dogs/{number}.png": png(100 + number) for number in range(6)} | {"dogs/copy.png": png(0)}
    archive = archive_of(tmp_path / "a.zip", members)
    with pytest.raises(FrostlineError, match="2 same image in classes cats and dogs"):
        prepare(archive)
    folder, summary = prepare(archive, "image,class\ndogs/copy.png,cats\n")
    rows = manifest(folder)
    assert rows["dogs/copy.png"]["class"] == "cats"
    assert rows["dogs/copy.png"]["split"] == rows["cats/0.png"]["split"] != ""
    assert summary.rejected == {}


def test_what_is_dropped_on_purpose_does_not_count_as_lost_and_is_not_even_read(archive):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("cats/broken.png", b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(FrostlineError, match="1 of 25 labelled images are rejected"):
        prepare(archive)
    _, summary = prepare(archive, "image,class\ncats/broken.png,drop\n")
    assert summary.rejected == {"dropped by corrections.csv": 1}


@pytest.mark.parametrize("wanted", ["drop", "dogs", "drop dogs"])
def test_a_class_of_which_nothing_is_left_is_said_before_anything_is_decoded(wanted, archive):
    lines = "".join(f"cats/{number}.png,{wanted.split()[number % len(wanted.split())]}\n" for number in range(12))
    with pytest.raises(FrostlineError, match=r"leaves no image of class 'cats': all are dropped or of another class"):
        prepare(archive, f"image,class\n{lines}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "image,class\ncats/33.png,dogs\n",
            r"line 2: there is no image 'cats/33\.png' in the data\. Did you mean 'cats/3",
        ),
        (
            "image,class\ncats/3.png,dog\n",
            r"line 2: there is no class 'dog'\. Did you mean 'dogs'\? Valid: cats, dogs; or d",
        ),
        ("image,class\ncats/3.png,look\n", r"line 2: there is no class 'look'\. Valid: cats, dogs; or drop\."),
        ("image,class\ncats/3.png,dogs\n\ncats/3.png,drop\n", r"line 4: 'cats/3\.png' stands in line 2, too"),
        ("image;class\ncats/3.png;dogs\n", r"its first line is 'image;class'; it must be 'image,class'"),
        ("image,class\ncats/3.png\n", r"line 2: 1 cells instead of 2"),
        (b"image,class\ncats/\xff.png,dogs\n", "is no CSV file in UTF-8"),
        ('image,class\n"cats/3.png,dogs\n', "is no CSV file in UTF-8"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_decoded(text, said, archive):
    with pytest.raises(FrostlineError, match=said) as raised:
        prepare(archive, text)
    assert len(str(raised.value).splitlines()) == 1
    assert not archive.with_name("out").exists()


def test_unlabelled_images_and_a_class_called_drop(tmp_path):
    members = {f"drop/{number}.png": png(number) for number in range(6)}
    members |= {f"keep/{number}.png": png(100 + number) for number in range(6)}
    archive = archive_of(tmp_path / "a.zip", members)
    with pytest.raises(FrostlineError, match="'drop' is a class, too; to drop the image, leave its class empty"):
        prepare(archive, "image,class\nkeep/1.png,drop\n")
    _, summary = prepare(archive, "image,class\nkeep/1.png,\n")
    assert summary.rejected == {"dropped by corrections.csv": 1}

    train = {f"train/{name.replace('/', '.')}": content for name, content in members.items()}
    kaggle = archive_of(tmp_path / "b.zip", train | {"test/1.png": png(7)})
    with pytest.raises(FrostlineError, match=r"'test/1\.png' is unlabelled; only labelled images are corrected"):
        prepare(kaggle, "image,class\ntest/1.png,keep\n")


def test_the_stage_reads_the_file_in_the_project(project, archive):
    from frostline.config.load import load_params

    (project / "data/raw").mkdir(parents=True)
    archive.rename(project / "data/raw/archive.zip")
    (project / "corrections.csv").write_text("image,class\ncats/3.png,dogs\n")
    run_stage(load_params())
    assert manifest(project / "data/processed")["cats/3.png"]["class"] == "dogs"
