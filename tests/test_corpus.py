"""Every item of the corpus, and images that are bad only together, end as the table says."""

import csv
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

import corpus
from corpus import ARCHIVES, FOLDERS, IMAGES, PARAMS, WEIGHTS, Accepted, Rejected, S, Stopped
from frostline.config.load import load_params
from frostline.data.archive import UnreadableMemberError, list_images, read_member
from frostline.data.images import UnreadableImageError, decode_image
from frostline.data.preprocess import preprocess
from frostline.runtime.errors import FrostlineError
from frostline.sources.folder import pack_folder
from frostline.sources.weights_file import check_weights_file

pytestmark = pytest.mark.slow


def stopped_by(error, outcome):
    message = str(error)
    assert outcome.words in message
    assert len(message.splitlines()) <= 2


def prepare(archive, folder, max_rejected):
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    return preprocess(archive, folder, size=S, seed=1, shares=shares, max_rejected=max_rejected, processes=2)


def manifest(folder):
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", IMAGES)
def test_image(name, capfd):
    data, outcome = IMAGES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if isinstance(outcome, Accepted):
            pixels = decode_image(data, S)
            assert pixels.shape == (S, S, 3) and pixels.dtype == np.uint8
            assert np.abs(pixels.astype(int) - outcome.what).max() <= (6 if "JPEG" in name else 2)
        else:
            with pytest.raises(UnreadableImageError) as caught:
                decode_image(data, S)
            assert str(caught.value) == outcome.reason
    assert capfd.readouterr() == ("", "")  # decoders written in C like to complain


@pytest.mark.parametrize("name", ARCHIVES)
def test_archive(name, tmp_path):
    data, outcome = ARCHIVES[name]
    path = tmp_path / "archive.zip"
    path.write_bytes(data)
    (tmp_path / "work").mkdir()
    if isinstance(outcome, Stopped):
        with pytest.raises(FrostlineError) as caught:
            prepare(path, tmp_path / "work/processed", max_rejected=0.5)
        stopped_by(caught.value, outcome)
        assert not list((tmp_path / "work").iterdir())
    else:
        verdicts = {}
        for member in list_images(path, tmp_path / "work").members:
            verdicts[member.name] = member.refusal
            if not member.refusal:
                try:
                    with zipfile.ZipFile(member.source) as archive:
                        decode_image(read_member(archive, member.index), S)
                except (UnreadableMemberError, UnreadableImageError) as error:
                    verdicts[member.name] = str(error)
        odd = next(name for name in verdicts if name.endswith("odd.jpg"))
        assert verdicts.pop(odd) == outcome.reason
        assert verdicts == dict.fromkeys(corpus.GOOD, "" if "LZMA" not in name else outcome.reason)


@pytest.mark.parametrize("name", FOLDERS)
def test_folder(name, tmp_path):
    make, outcome = FOLDERS[name]
    folder, path = tmp_path / "pets", tmp_path / "archive.zip"
    for kind in ("cats", "dogs"):
        (folder / kind).mkdir(parents=True)
        (folder / kind / "1.jpg").write_bytes(corpus.PHOTO)
    make(folder)
    if isinstance(outcome, Stopped):
        with pytest.raises(FrostlineError) as caught:
            pack_folder(folder, path)
            prepare(path, tmp_path / "processed", max_rejected=0.5)
        stopped_by(caught.value, outcome)
        assert {entry.name for entry in tmp_path.iterdir()} <= {"pets", "archive.zip"}
    else:
        pack_folder(folder, path)
        members = list_images(path, tmp_path).members
        assert [(member.name, member.refusal) for member in members] == [(name, "") for name in outcome.what]


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name, tmp_path):
    data, outcome = WEIGHTS[name]
    path = tmp_path / "weights.h5"
    path.write_bytes(data)
    with pytest.raises(FrostlineError) as caught:
        check_weights_file(path)
    stopped_by(caught.value, outcome)


@pytest.mark.parametrize("name", PARAMS)
def test_params(name, project):
    line, instead, outcome = PARAMS[name]
    path = project / "params.yaml"
    text = path.read_text(encoding="utf-8")
    assert f"{line}\n" in text
    path.write_text(text.replace(line, instead, 1), encoding="utf-8", errors="surrogateescape")
    if isinstance(outcome, Stopped):
        with pytest.raises(FrostlineError) as caught:
            load_params()
        stopped_by(caught.value, outcome)
    else:
        key, value = outcome.what
        assert getattr(load_params(), key) == value


def test_every_image_at_once(tmp_path):
    """One data set of the whole table: the manifest says of each what the table says."""
    members = {f"cats/{number}.jpg": data for number, (data, _) in enumerate(IMAGES.values())}
    members |= {f"dogs/{number}.jpg": distinct(number) for number in range(5)}
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    prepare(tmp_path / "archive.zip", tmp_path / "processed", max_rejected=0.5)
    rows = manifest(tmp_path / "processed")
    for number, (name, (_, outcome)) in enumerate(IMAGES.items()):
        reason = outcome.reason if isinstance(outcome, Rejected) else "ok"
        assert rows[f"cats/{number}.jpg"]["verdict"] == reason, name


# What is bad only together with others


def distinct(number, quality=90, **options):
    """A JPEG of its own for every number."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(pixels).resize((S, S), Image.Resampling.BICUBIC)
    return corpus.encoded(image, "JPEG", quality=quality, **options)


def data_set(path, odd):
    good = {f"{kind}/{n}.jpg": distinct(n + 100 * (kind == "dogs")) for kind in ("cats", "dogs") for n in range(5)}
    path.write_bytes(corpus.zip_of(good | odd))
    return path


def test_the_same_image_in_both_classes_is_rejected_in_both(tmp_path):
    odd = {"cats/a.jpg": distinct(500), "dogs/b.jpg": distinct(500, comment="the same pixels in another file")}
    prepare(data_set(tmp_path / "archive.zip", odd), tmp_path / "processed", max_rejected=0.5)
    rows = manifest(tmp_path / "processed")
    reason = "same image in classes cats and dogs"
    assert {name for name, row in rows.items() if row["verdict"] != "ok"} == set(odd)
    assert {rows[name]["verdict"] for name in odd} == {reason}


def test_copies_are_accepted_into_one_split_and_counted(tmp_path):
    odd = {f"cats/copy {n}.jpg": distinct(500, comment=str(n)) for n in range(8)}
    summary = prepare(data_set(tmp_path / "archive.zip", odd), tmp_path / "processed", max_rejected=0)
    rows = manifest(tmp_path / "processed")
    assert len({rows[name]["split"] for name in odd}) == 1
    assert summary.duplicates == {"groups": 1, "images": 8}


def test_near_duplicates_are_accepted_as_images_of_their_own(tmp_path):
    """Known by their pixels alone: the same image saved again at another quality counts as another."""
    odd = {f"cats/quality {quality}.jpg": distinct(500, quality) for quality in (50, 70, 95)}
    summary = prepare(data_set(tmp_path / "archive.zip", odd), tmp_path / "processed", max_rejected=0)
    assert summary.duplicates == {"groups": 0, "images": 0}
    assert sum(count["cats"] for count in summary.counts.values()) == 8


def test_1000_corrupt_among_2000(tmp_path):
    """More than `max_rejected` stop the stage; allowed, they are left out one by one."""
    corrupt = [b"", b"no image", corpus.PHOTO[:900], corpus.png_of(30_000, 30_000)]
    members = {f"cats/{n}.jpg" if n % 2 else f"dogs/{n}.jpg": distinct(n) for n in range(1000)}
    members |= {f"cats/bad {n}.jpg" if n % 2 else f"dogs/bad {n}.jpg": corrupt[n // 2 % 4] for n in range(1000)}
    path = tmp_path / "archive.zip"
    path.write_bytes(corpus.zip_of(members))
    with pytest.raises(FrostlineError) as caught:
        prepare(path, tmp_path / "processed", max_rejected=0.02)
    assert "1000 of 2000 labelled images are rejected (250" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["archive.zip"]
    summary = prepare(path, tmp_path / "processed", max_rejected=0.5)
    assert sum(sum(count.values()) for count in summary.counts.values()) == 1000
    assert summary.rejected == dict.fromkeys(
        ("empty file", "not a JPEG, PNG, GIF, WebP, BMP or TIFF image", "truncated", "more than 100 megapixels"), 250
    )
