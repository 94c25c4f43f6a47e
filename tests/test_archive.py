"""Packing a folder, finding the pictures of each layout, and refusing what must not be read."""

import io
import os
import stat
import struct
import zipfile
from pathlib import Path
from random import Random

import pytest

from frostline import archive as archive_module
from frostline.archive import MEMBER_LIMIT, Listing, UnreadableMemberError, list_pictures, pack_folder, read_member
from frostline.errors import FrostlineError


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def written(tmp_path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path = tmp_path / "archive.zip"
    path.write_bytes(zip_of(members, compression))
    return path


def listed(path: Path) -> Listing:
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return list_pictures(path, scratch)


def outcome(path: Path) -> dict[str, tuple[str | None, str]]:
    """Name -> (class, refusal)."""
    return {member.name: (member.label, member.refusal) for member in listed(path).members}


def patched(data: bytes, name: str, offset: int, value: bytes) -> bytes:
    """Overwrite bytes of the central directory's record of `name`, at `offset` into it (APPNOTE.TXT 4.3.12)."""
    start = data.rindex(name.encode()) - 46
    assert data[start : start + 4] == b"PK\x01\x02"
    return data[: start + offset] + value + data[start + offset + len(value) :]


FLAGS, SIZE = 8, 24


# Packing


def test_pack_is_sorted_stored_and_the_same_every_time(tmp_path: Path) -> None:
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


def test_pack_follows_links_to_files_but_not_to_folders(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pets", "cats/1.jpg", "dogs/1.jpg")
    elsewhere = folder_of(tmp_path / "elsewhere", "2.jpg")
    (folder / "cats/linked.jpg").symlink_to(elsewhere / "2.jpg")
    (folder / "cats/all").symlink_to(elsewhere)
    (folder / "cats/round").symlink_to(folder)
    (folder / "birds").symlink_to(elsewhere)
    pack_folder(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["cats/1.jpg", "cats/linked.jpg", "dogs/1.jpg"]
        assert archive.read("cats/linked.jpg") == b"2.jpg"


def test_pack_names_of_any_kind(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no such folder"),
        (("1.jpg", "2.jpg"), "has none"),
        (("cats/1.jpg", "2.jpg"), "has only cats/"),
        (("cats/1.jpg", "dogs/.DS_Store"), "dogs: the class has no files"),
    ],
)
def test_pack_says_what_layout_it_expects(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    folder_of(tmp_path / "pets", *names)
    with pytest.raises(FrostlineError, match=message) as caught:
        pack_folder(tmp_path / "pets", tmp_path / "a.zip")
    assert "one folder per class" in str(caught.value)
    assert not list(tmp_path.glob("*a.zip*"))


def test_pack_stops_at_a_broken_link(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pets", "cats/1.jpg", "dogs/1.jpg")
    (folder / "dogs/2.jpg").symlink_to("nowhere")
    with pytest.raises(FrostlineError, match=r"dogs/2\.jpg is a broken link"):
        pack_folder(folder, tmp_path / "a.zip")


# Layouts


@pytest.mark.parametrize("outer", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("inner", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_kaggle_layout(tmp_path: Path, outer: int, inner: int) -> None:
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


def test_kaggle_layout_without_unlabelled_pictures(tmp_path: Path) -> None:
    path = written(tmp_path, {"train.zip": zip_of({"cat.0.jpg": b"", "dog.0.jpg": b""})})
    assert outcome(path) == {"train/cat.0.jpg": ("cat", ""), "train/dog.0.jpg": ("dog", "")}


def test_filtered_layout_pools_both_splits(tmp_path: Path) -> None:
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


def test_class_folders_inside_one_folder(tmp_path: Path) -> None:
    path = written(tmp_path, {"PetImages/Cat/0.jpg": b"", "PetImages/Dog/0.jpg": b"", "readme.txt": b""})
    assert outcome(path) == {"PetImages/Cat/0.jpg": ("Cat", ""), "PetImages/Dog/0.jpg": ("Dog", "")}


@pytest.mark.parametrize("names", [("1.jpg", "2.jpg"), ("train/cat.0.jpg", "test/1.jpg"), ()])
def test_unknown_layout(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(FrostlineError, match="no labelled pictures") as caught:
        listed(written(tmp_path, dict.fromkeys(names, b"")))
    assert "one folder per class" in str(caught.value)


# Whole archives that are refused


@pytest.mark.parametrize("keep", [0, 10, 200, -1, -30])
def test_truncated_archive(tmp_path: Path, keep: int) -> None:
    path = written(tmp_path, {"cats/1.jpg": bytes(500), "dogs/1.jpg": bytes(500)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FrostlineError, match=r"archive\.zip is no whole zip file") as caught:
        listed(path)
    assert "dvc repro fetch-data" in str(caught.value)


def test_not_a_zip_and_missing(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with pytest.raises(FrostlineError, match="is missing"):
        listed(path)
    path.write_text("<html>Please log in</html>")
    with pytest.raises(FrostlineError, match="is no whole zip file"):
        listed(path)


def test_damaged_inner_zip(tmp_path: Path) -> None:
    train = zip_of({"train/cat.0.jpg": bytes(500)})
    path = written(tmp_path, {"train.zip": train[:-30]})
    with pytest.raises(FrostlineError, match=r"train\.zip in .*archive\.zip is no whole zip file"):
        listed(path)
    path.write_bytes(zip_of({"train.zip": train}).replace(bytes(500), bytes(499) + b"x"))
    with pytest.raises(FrostlineError, match=r"train\.zip in .*archive\.zip is damaged \(Bad CRC"):
        listed(path)


def test_encrypted_inner_zip(tmp_path: Path) -> None:
    path = written(tmp_path, {"train.zip": zip_of({"train/cat.0.jpg": b""})})
    path.write_bytes(patched(path.read_bytes(), "train.zip", FLAGS, b"\1\0"))
    with pytest.raises(FrostlineError, match=r"train\.zip in .* is not usable: encrypted"):
        listed(path)


def test_nested_bomb_is_not_expanded(tmp_path: Path) -> None:
    """An inner zip that claims 4 GB out of a small archive is refused before a byte of it is written."""
    data = zip_of({"train.zip": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    path = tmp_path / "archive.zip"
    path.write_bytes(patched(data, "train.zip", SIZE, struct.pack("<I", 0xFFFFFFF0)))
    with pytest.raises(FrostlineError, match="zip bomb"):
        listed(path)
    assert not list((tmp_path / "scratch").iterdir())


def test_many_members_that_expand_too_far_together(tmp_path: Path) -> None:
    names = [f"{kind}/{number}.jpg" for kind in ("cats", "dogs") for number in range(60)]
    data = zip_of(dict.fromkeys(names, b"x" * 200))
    for name in names:  # each claims 16 MiB, which alone is nothing unusual
        data = patched(data, name, SIZE, struct.pack("<I", 16 << 20))
    path = tmp_path / "archive.zip"
    path.write_bytes(data)
    with pytest.raises(FrostlineError, match="zip bomb"):
        listed(path)


# Single members that are refused


def test_refused_members_are_listed_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    special = {"cats/link.jpg": stat.S_IFLNK, "cats/device.jpg": stat.S_IFCHR, "cats/pipe.jpg": stat.S_IFIFO}
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("cats/1.jpg", "dogs/1.jpg", "../../etc/cron.d/x.jpg", "cats/../../x.jpg", "/etc/x.jpg"):
            archive.writestr(name, b"picture")
        archive.writestr("C:\\x.jpg", b"picture")
        archive.writestr("dogs/..\\..\\x.jpg", b"picture")
        for name, kind in special.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (kind | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
        archive.writestr("cats/locked.jpg", b"picture")
        archive.writestr("cats/huge.jpg", b"picture")
        archive.writestr("cats/zeros.jpg", bytes(17 << 20), zipfile.ZIP_DEFLATED)
        archive.writestr("cats/lzma.jpg", b"picture", zipfile.ZIP_LZMA)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("cats/1.jpg", b"another picture")
    data = patched(path.read_bytes(), "cats/locked.jpg", FLAGS, b"\1\0")
    path.write_bytes(patched(data, "cats/huge.jpg", SIZE, struct.pack("<I", MEMBER_LIMIT + 1)))
    unsafe = ("", "unsafe name in the archive")
    assert outcome(path) == {
        "cats/1.jpg": ("cats", ""),
        "dogs/1.jpg": ("dogs", ""),
        "../../etc/cron.d/x.jpg": unsafe,
        "cats/../../x.jpg": unsafe,
        "/etc/x.jpg": unsafe,
        "C:\\x.jpg": unsafe,
        "dogs/..\\..\\x.jpg": unsafe,
        **dict.fromkeys(special, ("cats", "not a regular file")),
        "cats/locked.jpg": ("cats", "encrypted"),
        "cats/huge.jpg": ("cats", "larger than 256 MiB"),
        "cats/zeros.jpg": ("cats", "compressed more than 100 times"),
        "cats/lzma.jpg": ("cats", "unusual compression"),
        "cats/1.jpg (again, 2)": ("cats", "the name occurs twice in the archive"),
    }


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_that_holds_more_than_it_claims_is_not_read_on(tmp_path: Path, compression: int) -> None:
    data = zip_of({"cats/1.jpg": bytes(1 << 20)}, compression)
    path = tmp_path / "archive.zip"
    path.write_bytes(patched(data, "cats/1.jpg", SIZE, struct.pack("<I", 100)))
    with zipfile.ZipFile(path) as archive, pytest.raises(UnreadableMemberError, match="damaged in the archive"):
        read_member(archive, 0)


@pytest.mark.parametrize("position", [0, 32, 45, 100])
def test_a_damaged_member_is_reported(tmp_path: Path, position: int) -> None:
    """In the signature, the name or the content."""
    path = written(tmp_path, {"cats/1.jpg": os.urandom(200)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive, pytest.raises(UnreadableMemberError, match="damaged in the archive"):
        read_member(archive, 0)


def test_reading_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, {"cats/1.jpg": bytes(1000), "cats/2.jpg": bytes(1001)}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(archive_module, "MEMBER_LIMIT", 1000)
    with zipfile.ZipFile(path) as archive:
        assert read_member(archive, 0) == bytes(1000)
        with pytest.raises(UnreadableMemberError, match="larger than"):
            read_member(archive, 1)


def test_damage_anywhere_gives_pictures_or_an_error_of_ours(tmp_path: Path) -> None:
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
