"""Packing a folder, finding the images of each layout, and refusing what must not be read."""

import contextlib
import io
import os
import stat
import struct
import tempfile
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus import SIZE, patched, zip_of
from frostline.data import archive as archive_module
from frostline.data.archive import UnreadableMemberError, list_images, read_member
from frostline.data.layout import Reading
from frostline.runtime.errors import FrostlineError
from frostline.sources.folder import pack_folder


def folder_of(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def written(tmp_path, members, compression=zipfile.ZIP_STORED):
    path = tmp_path / "archive.zip"
    path.write_bytes(zip_of(members, compression))
    return path


def listed(path, *reading):
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return list_images(path, scratch, *reading)


def outcome(path):
    """Name -> (class, refusal)."""
    return {member.name: (member.label, member.refusal) for member in listed(path).members}


# Packing


def test_pack_is_sorted_stored_and_the_same_every_time(tmp_path):
    names = ("dogs/b.jpg", "dogs/sub/a.jpg", "cats/2.jpg", "cats/Ö.jpg", "README.txt")
    folder = folder_of(tmp_path / "pets", *names, "cats/.DS_Store", "cats/Thumbs.db", "__MACOSX/cats/._2.jpg")
    pack_folder(folder, tmp_path / "a.zip")
    for number, name in enumerate(names):
        os.utime(folder / name, (number, number))
    pack_folder(folder, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["cats/2.jpg", "cats/Ö.jpg", "dogs/b.jpg", "dogs/sub/a.jpg"]
        assert archive.read("dogs/sub/a.jpg") == b"dogs/sub/a.jpg"
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
    assert {name: label for name, (label, _) in outcome(tmp_path / "a.zip").items()} == {
        "cats/2.jpg": "cats", "cats/Ö.jpg": "cats", "dogs/b.jpg": "dogs", "dogs/sub/a.jpg": "dogs",
    }  # fmt: skip


def test_pack_follows_links_but_not_in_circles(tmp_path, capsys):
    folder = folder_of(tmp_path / "pets", "cats/1.jpg", "dogs/1.jpg")
    elsewhere = folder_of(tmp_path / "elsewhere", "2.jpg")
    (folder / "cats/linked.jpg").symlink_to(elsewhere / "2.jpg")
    (folder / "cats/all").symlink_to(elsewhere)
    (folder / "cats/round").symlink_to(folder)
    (folder / "birds").symlink_to(elsewhere)
    (folder / "again").symlink_to("dogs")
    (elsewhere / "back").symlink_to(tmp_path)
    (elsewhere / "here").symlink_to(".")
    pack_folder(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["birds/2.jpg", "cats/1.jpg", "cats/all/2.jpg", "cats/linked.jpg", "dogs/1.jpg"]
        assert archive.read("cats/linked.jpg") == b"2.jpg"
    said = capsys.readouterr().err.splitlines()
    assert sum("does not notice changes behind it" in line for line in said) == 2
    assert f"{folder}/again is left out: it leads to {folder}/dogs, where files are packed already." in said


def test_pack_a_class_that_is_a_hidden_folder_by_a_link(tmp_path):
    folder = folder_of(tmp_path / "pets", "dogs/1.jpg", ".store/7/2.jpg")
    (folder / "cats").symlink_to(".store/7")
    pack_folder(folder, tmp_path / "a.zip")
    assert outcome(tmp_path / "a.zip") == {"cats/2.jpg": ("cats", ""), "dogs/1.jpg": ("dogs", "")}


def test_pack_names_of_any_kind(tmp_path):
    folder = folder_of(tmp_path / "pets", "cats/1.jpg", "dogs/1.jpg", "cats/a\\xffb.jpg", "cats/new\nline.jpg")
    longest = "x" * 251 + ".jpg"
    folder_of(folder, f"dogs/{longest}")
    with open(os.fsencode(folder) + b"/cats/a\xffb.jpg", "wb") as file:  # noqa: PTH123  # Path takes no bytes
        file.write(b"not UTF-8")
    pack_folder(folder, tmp_path / "a.zip")
    listing = listed(tmp_path / "a.zip")
    assert [member.name for member in listing.members] == [
        "cats/1.jpg", "cats/a\\\\xffb.jpg", "cats/a\\xffb.jpg", "cats/new\\nline.jpg", "dogs/1.jpg", f"dogs/{longest}",
    ]  # fmt: skip
    assert not any(member.refusal for member in listing.members)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert read_member(archive, 2) == b"not UTF-8"


def test_names_of_classes_keep_what_joins_their_letters(tmp_path):
    names = ["می\u200cخواهم", "👨\u200d👩\u200d👧", "\u202eevil"]
    folder = folder_of(tmp_path / "pets", *(f"{name}/1.jpg" for name in names))
    pack_folder(folder, tmp_path / "a.zip")
    labels = {member.label for member in listed(tmp_path / "a.zip").members}
    assert labels == {*names[:2], "\\u202eevil"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no such folder"),
        (("cats/notes.txt", "@eaDir/1.jpg"), r"no image files in it, but .*cats/notes\.txt"),
        (("pets.tar.gz",), r"no image files in it, but .*pets\.tar\.gz\.\n.*unpack archives first"),
    ],
)
def test_pack_needs_images(tmp_path, names, message):
    folder_of(tmp_path / "pets", *names)
    with pytest.raises(FrostlineError, match=message):
        pack_folder(tmp_path / "pets", tmp_path / "a.zip")
    assert not list(tmp_path.glob("*a.zip*"))


def test_pack_says_what_it_leaves_out_and_keeps_empty_folders(tmp_path, capsys):
    folder = folder_of(tmp_path / "pets", "cats/1.jpg", "cats/1.txt", "dogs/1", "birds/.hidden.jpg", "a.zip", "b.csv")
    pack_folder(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["birds/", "cats/1.jpg", "dogs/1"]
    names = ", ".join(f"{folder}/{name}" for name in ("a.zip", "b.csv", "cats/1.txt"))
    assert capsys.readouterr().err == f"left out, no image by its ending: 3 files ({names})\n"
    assert listed(tmp_path / "a.zip").notes == ["no images, and so no class: birds"]


def test_pack_zips_as_they_are(tmp_path):
    """Kaggle's, unpacked once, and a zip file in place of a folder."""
    folder = folder_of(tmp_path / "pets", "sample_submission.csv")
    inner = {"train.zip": {"train/cat.0.jpg": b"", "train/dog.0.jpg": b""}, "test1.zip": {"test1/1.jpg": b""}}
    for name, members in inner.items():
        (folder / name).write_bytes(zip_of(members))
    pack_folder(folder, tmp_path / "a.zip")
    expected = {"train/cat.0.jpg": ("cat", ""), "train/dog.0.jpg": ("dog", ""), "test1/1.jpg": (None, "")}
    assert outcome(tmp_path / "a.zip") == expected
    pack_folder(tmp_path / "a.zip", tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with pytest.raises(FrostlineError, match="neither a folder nor a zip file"):
        pack_folder(folder / "sample_submission.csv", tmp_path / "c.zip")
    (tmp_path / "half.zip").write_bytes(zip_of({"cats/1.jpg": b"image" * 99})[:-60])
    with pytest.raises(FrostlineError, match=r"half\.zip is no whole zip file: its end is missing\.\nGet it again"):
        pack_folder(tmp_path / "half.zip", tmp_path / "c.zip")


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK])
def test_pack_stops_at_special_files_and_does_not_wait_for_them(tmp_path, kind):
    folder = folder_of(tmp_path / "pets", "cats/1.jpg", "dogs/1.jpg")
    os.mknod(folder / "dogs/2.jpg", kind | 0o644)
    with pytest.raises(FrostlineError, match=r"dogs/2\.jpg is a broken link or a special file"):
        pack_folder(folder, tmp_path / "a.zip")
    assert not list(tmp_path.glob("*a.zip*"))


def test_pack_stops_at_a_broken_link(tmp_path):
    folder = folder_of(tmp_path / "pets", "cats/1.jpg", "dogs/1.jpg")
    (folder / "dogs/2.jpg").symlink_to("nowhere")
    with pytest.raises(FrostlineError, match=r"dogs/2\.jpg is a broken link"):
        pack_folder(folder, tmp_path / "a.zip")


# Layouts


@pytest.mark.parametrize("outer", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("inner", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_kaggle_layout(tmp_path, outer, inner):
    train = {"train/cat.0.jpg": b"cat 0", "train/dog.10.jpg": b"dog 10", "__MACOSX/train/._cat.0.jpg": b""}
    path = written(
        tmp_path,
        {
            "sample_submission.csv": b"id,label\n",
            "test.zip": zip_of({"test/": b"", "test/1.jpg": b"one"}, inner),
            "train.zip": zip_of(train, inner),
        },
        outer,
    )
    listing = listed(path)
    assert [(member.name, member.label, member.refusal) for member in listing.members] == [
        ("test/1.jpg", None, ""),
        ("train/cat.0.jpg", "cat", ""),
        ("train/dog.10.jpg", "dog", ""),
    ]
    assert listing.ignored == 1  # sample_submission.csv
    contents = []
    for member in listing.members:
        with zipfile.ZipFile(member.source) as archive:
            contents.append(read_member(archive, member.index))
    assert contents == [b"one", b"cat 0", b"dog 10"]
    assert {member.source.parent for member in listing.members} == {tmp_path / "scratch"}


def test_kaggle_layout_without_unlabelled_images(tmp_path):
    path = written(tmp_path, {"train.zip": zip_of({"cat.0.jpg": b"", "dog.0.jpg": b""})})
    assert outcome(path) == {"train/cat.0.jpg": ("cat", ""), "train/dog.0.jpg": ("dog", "")}


def test_filtered_layout_pools_both_splits(tmp_path):
    root = "cats_and_dogs_filtered/"
    files = ("vectorize.py", "train/", "train/cats/", "train/cats/cat.0.jpg", "train/dogs/dog.0.jpg",
             "validation/", "validation/cats/cat.2000.jpg", "validation/dogs/dog.2000.jpg")  # fmt: skip
    path = written(tmp_path, {root: b"", **{root + name: b"" for name in files}})
    assert listed(path).ignored == 1
    assert outcome(path) == {
        root + "train/cats/cat.0.jpg": ("cats", ""),
        root + "train/dogs/dog.0.jpg": ("dogs", ""),
        root + "validation/cats/cat.2000.jpg": ("cats", ""),
        root + "validation/dogs/dog.2000.jpg": ("dogs", ""),
    }


def test_class_folders_inside_one_folder(tmp_path):
    path = written(tmp_path, {"PetImages/Cat/0.jpg": b"", "PetImages/Dog/0.jpg": b"", "readme.txt": b""})
    assert outcome(path) == {"PetImages/Cat/0.jpg": ("Cat", ""), "PetImages/Dog/0.jpg": ("Dog", "")}


# Whole archives that are refused; more kinds are in tests/corpus.py


@pytest.mark.parametrize("names", [("train/cat.0.jpg", "test/1.jpg"), ()])
def test_unknown_layout(tmp_path, names):
    with pytest.raises(FrostlineError, match="no labelled images") as caught:
        listed(written(tmp_path, dict.fromkeys(names, b"")))
    assert "one folder per class" in str(caught.value)


def test_a_missing_or_truncated_archive_is_to_be_fetched_again(tmp_path):
    path = tmp_path / "archive.zip"
    with pytest.raises(FrostlineError, match=r"is missing\.\nRun `dvc repro fetch-data`"):
        listed(path)
    whole = zip_of({"cats/1.jpg": bytes(500), "dogs/1.jpg": bytes(500)})
    for keep in (0, 10, 200, -1, -30):
        path.write_bytes(whole[:keep])
        with pytest.raises(FrostlineError, match="Delete it and run `dvc repro fetch-data`"):
            listed(path)


def test_damaged_inner_zip(tmp_path):
    train = zip_of({"train/cat.0.jpg": bytes(500)})
    path = written(tmp_path, {"train.zip": train[:-30]})
    with pytest.raises(FrostlineError, match=r"train\.zip in .*archive\.zip is no whole zip file"):
        listed(path)
    path.write_bytes(zip_of({"train.zip": train}).replace(bytes(500), bytes(499) + b"x"))
    with pytest.raises(FrostlineError, match=r"train\.zip in .*archive\.zip is damaged \(Bad CRC"):
        listed(path)


def test_what_is_wrong_with_the_users_own_archive_is_said_with_what_mends_it(tmp_path):
    own, cats = Reading(shown_as="../pets"), zip_of({"1.jpg": bytes(500)})
    for members, words in (
        ({"cats.zip": cats[:-30], "dogs.zip": cats}, "cats.zip in ../pets is no whole zip file"),
        (
            {"/home/me/cats/1.jpg": b"", "/home/me/dogs/1.jpg": b""},
            "names that are absolute or lead out of it: /home/me/",
        ),
        ({"C:\\pets\\cats\\1.jpg": b""}, "names that are absolute or lead out of it: C:"),
        ({"pets/cats.zip": cats, "pets/dogs.zip": cats}, "other files: pets/cats.zip, pets/dogs.zip"),
    ):
        with pytest.raises(FrostlineError) as caught:
            listed(written(tmp_path, members), own)
        assert words in str(caught.value)
        assert len(str(caught.value).splitlines()) == 2
        assert "fetch-data" not in str(caught.value)


def test_nested_bomb_is_not_expanded(tmp_path):
    """An inner zip that claims 4 GB out of a small archive is refused before a byte of it is written."""
    data = zip_of({"train.zip": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    path = tmp_path / "archive.zip"
    path.write_bytes(patched(data, "train.zip", SIZE, struct.pack("<I", 0xFFFFFFF0)))
    with pytest.raises(FrostlineError, match="zip bomb"):
        listed(path)
    assert not list((tmp_path / "scratch").iterdir())


# Single members that are refused; more kinds are in tests/corpus.py


def test_a_name_that_occurs_twice_counts_once(tmp_path):
    path = written(tmp_path, {"cats/1.jpg": b"image", "dogs/1.jpg": b"image"})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("cats/1.jpg", b"another image")
    assert outcome(path) == {
        "cats/1.jpg": ("cats", ""),
        "dogs/1.jpg": ("dogs", ""),
        "cats/1.jpg (again, 2)": ("cats", "the name occurs twice in the archive"),
    }


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_that_holds_more_than_it_claims_is_not_read_on(tmp_path, compression):
    data = zip_of({"cats/1.jpg": bytes(1 << 20)}, compression)
    path = tmp_path / "archive.zip"
    path.write_bytes(patched(data, "cats/1.jpg", SIZE, struct.pack("<I", 100)))
    with zipfile.ZipFile(path) as archive, pytest.raises(UnreadableMemberError, match="damaged in the archive"):
        read_member(archive, 0)


@pytest.mark.parametrize("position", [0, 32, 45, 100])
def test_a_damaged_member_is_reported(tmp_path, position):
    """In the signature, the name or the content."""
    path = written(tmp_path, {"cats/1.jpg": os.urandom(200)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive, pytest.raises(UnreadableMemberError, match="damaged in the archive"):
        read_member(archive, 0)


def test_reading_stops_at_the_limit(tmp_path, monkeypatch):
    path = written(tmp_path, {"cats/1.jpg": bytes(1000), "cats/2.jpg": bytes(1001)}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(archive_module, "MEMBER_LIMIT", 1000)
    with zipfile.ZipFile(path) as archive:
        assert read_member(archive, 0) == bytes(1000)
        with pytest.raises(UnreadableMemberError, match="larger than"):
            read_member(archive, 1)


def test_damage_anywhere_gives_images_or_an_error_of_ours(tmp_path):
    train = zip_of({f"train/{kind}.{n}.jpg": os.urandom(40) for kind in ("cat", "dog") for n in range(3)})
    whole = zip_of({"train.zip": train, "sample_submission.csv": b"id,label"}, zipfile.ZIP_DEFLATED)
    folders = zip_of({"cats/1.jpg": b"cat" * 50, "dogs/Ö.jpg": b"dog"}, zipfile.ZIP_DEFLATED)
    random = Random(1)
    path = tmp_path / "archive.zip"
    for _ in range(600):
        broken = bytearray(random.choice([whole, folders]))
        for _ in range(random.choice([1, 3, 9])):
            broken[random.randrange(len(broken))] = random.choice([0, 255, random.randrange(256)])
        path.write_bytes(broken)
        try:
            for member in listed(path).members:
                with zipfile.ZipFile(member.source) as archive:
                    read_member(archive, member.index)
        except (FrostlineError, UnreadableMemberError):
            pass


# Whatever the names

PART = st.sampled_from(["..", ".", "", "cats", "dogs", "train", "train.zip", "test.zip", "C:", "__MACOSX"]) | st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=8
)
NAME = st.lists(PART, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from("/\\").map(lambda separator: separator.join(parts))
)
KIND = st.sampled_from([0, stat.S_IFREG, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFDIR])
CONTENT = st.sampled_from([b"", b"image", b"/etc/passwd", bytes(5000)])
METHOD = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
CLUTTER = {b"thumbs.db", b"desktop.ini", b"__macosx"}
MEMBERS = st.lists(st.tuples(NAME, KIND, CONTENT, METHOD), max_size=5)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(MEMBERS, st.none() | MEMBERS, st.integers(0, 2**32 - 1))
def test_whatever_an_archive_names_nothing_outside_is_touched_and_limits_hold(
    members,
    inner,
    claim,
):
    """In zips within the archive or in itself, and with one member that claims some other size."""
    members = [("cats/1.jpg", 0, b"cat", zipfile.ZIP_STORED), ("dogs/1.jpg", 0, b"dog", zipfile.ZIP_STORED), *members]
    content = patched(special_zip(members), "dogs/1.jpg", SIZE, struct.pack("<I", claim))
    if inner is not None:
        zips = {"../train.zip": special_zip(inner), "train.zip": content, "test.zip": special_zip(inner)}
        content = special_zip([(name, 0, zipped, zipfile.ZIP_STORED) for name, zipped in zips.items()])
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "a/b/c"
        (root / "scratch").mkdir(parents=True)
        path = root / "archive.zip"
        path.write_bytes(content)
        before = sorted(Path(name).rglob("*"))
        try:
            found = list_images(path, root / "scratch").members
        except FrostlineError as error:
            assert len(str(error).splitlines()) <= 2
            found = []
        total = 0
        for member in found:
            assert member.name.translate({0x200C: "", 0x200D: ""}).isprintable()
            if member.refusal:
                continue
            for path_on in (PurePosixPath, PureWindowsPath):
                assert ".." not in path_on(member.name).parts and not path_on(member.name).is_absolute()
            with zipfile.ZipFile(member.source) as archive, contextlib.suppress(UnreadableMemberError):
                info = archive.infolist()[member.index]
                assert stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                assert info.compress_type != zipfile.ZIP_BZIP2
                total += len(read_member(archive, member.index))
        assert total <= 17 * 5000
        assert len({member.name for member in found}) == len(found)
        made = {entry.relative_to(root).as_posix() for entry in Path(name).rglob("*") if entry not in before}
        assert made <= {"scratch/0.zip", "scratch/1.zip"}


def special_zip(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, kind, content, method in members:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr, info.compress_type = 3, (kind | 0o644) << 16, method
            archive.writestr(info, content)
    return buffer.getvalue()


@given(st.sets(st.binary(min_size=1, max_size=20).filter(lambda name: not set(name) & set(b"/\0")), max_size=6))
def test_every_visible_file_is_packed_whatever_its_name(names):
    visible = {name for name in names if not name.startswith(b".") and name.lower() not in CLUTTER}
    with tempfile.TemporaryDirectory() as root:
        folder, path = folder_of(Path(root) / "pets", "cats/1.jpg", "dogs/1.jpg"), Path(root) / "archive.zip"
        for name in visible:
            with open(os.fsencode(folder) + b"/cats/" + name, "wb") as file:  # noqa: PTH123  # Path takes no bytes
                file.write(name)
        pack_folder(folder, path)
        members = listed(path).members
        assert len({member.name for member in members}) == len(members)
        with zipfile.ZipFile(path) as archive:
            contents = [read_member(archive, member.index) for member in members if not member.refusal]
    assert sorted(contents) == sorted([*visible, *([] if b"1.jpg" in visible else [b"cats/1.jpg"]), b"dogs/1.jpg"])
