"""Unusual and bad input of every kind, and what becomes of each: the table that tests/test_corpus.py goes through."""

import io
import os
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from frostline.data.archive import MEMBER_LIMIT


class Accepted(NamedTuple):
    """Used, as this: a colour or pixels, names, a value."""

    what: Any


class Rejected(NamedTuple):
    """This one image is left out, and the manifest gives the reason."""

    reason: str


class Stopped(NamedTuple):
    """The command ends with an error of at most two lines, which has these words in it; nothing is written."""

    words: str


Outcome = Accepted | Rejected | Stopped

# Images: each decoded to (S, S, 3)

S = 32
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(width=S, height=S):
    """A smooth image without symmetries."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return Image.fromarray((np.stack([x, y, x * y], axis=-1) * 255).astype(np.uint8))


SCENE = np.asarray(scene())


def plain(mode, colour, **options):
    return encoded(Image.new(mode, (S, S), colour), **options)


def grey_of(value, dtype, kind):
    return encoded(Image.fromarray(np.full((S, S), value, dtype)), kind)


def animation(kind, **options):
    frames = [Image.new("RGB", (S, S), colour) for colour in ("red", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def half_transparent(mode):
    """Red below; above it nothing, over blue that must not show."""
    image = Image.new("RGBA", (S, S), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (0, 0, S, S // 2))
    if mode != "P":
        return encoded(image.convert(mode))
    palette = Image.new("P", (S, S), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (0, 0, S, S // 2))
    return encoded(palette, transparency=1)


def half_white(colour):
    pixels = np.full((S, S, 3), 255, np.uint8)
    pixels[S // 2 :] = colour
    return pixels


def turned(orientation, kind):
    """The scene stored so that its EXIF orientation turns it upright, by Pillow's own `exif_transpose`."""
    exif, inverse = Image.Exif(), Image.Exif()
    exif[0x0112] = orientation
    inverse[0x0112] = {6: 8, 8: 6}.get(orientation, orientation)  # the others undo themselves
    stored = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(scene(), exif=inverse))))
    return encoded(Image.fromarray(np.asarray(stored)), kind, exif=exif, quality=100, lossless=True, subsampling=0)


def with_profile():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    return encoded(scene(), icc_profile=profile)


def with_text_of_100_mib():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * (100 << 20), zip=True)
    return encoded(scene(), pnginfo=info)


def png_of(width, height):
    """A PNG of a few bytes that claims this size."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # 1 bit grey
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def webp_of(width, height):
    """An animated WebP of a few bytes that claims this size."""
    data = bytearray(animation("WEBP", lossless=True))
    place = data.index(b"VP8X") + 12  # the canvas: twice 24 bits, one less than the size
    data[place : place + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def gif_of(width, height):
    data = bytearray(animation("GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


PHOTO = encoded(scene(500, 360), "JPEG")
NOISE = encoded(Image.effect_noise((200, 200), 80), "PNG")
TIFF = encoded(Image.effect_noise((200, 200), 80), "TIFF", compression="tiff_adobe_deflate")
NO_IMAGE = Rejected("not a JPEG, PNG, GIF, WebP, BMP or TIFF image")
TOO_LARGE = Rejected("more than 100 megapixels")

IMAGES: dict[str, tuple[bytes, Accepted | Rejected]] = {
    "PNG named .jpg": (encoded(scene()), Accepted(SCENE)),
    "BMP": (plain("RGB", RED, kind="BMP"), Accepted(RED)),
    "WebP": (plain("RGB", RED, kind="WEBP", lossless=True), Accepted(RED)),
    "TIFF": (plain("RGB", RED, kind="TIFF"), Accepted(RED)),
    "TIFF, LZW": (plain("RGB", RED, kind="TIFF", compression="tiff_lzw"), Accepted(RED)),
    "grey": (plain("L", 77), Accepted((77, 77, 77))),
    "grey JPEG": (plain("L", 77, kind="JPEG"), Accepted((77, 77, 77))),
    "black and white": (plain("1", 1), Accepted(WHITE)),
    "16-bit grey": (grey_of(40 * 257 - 100, np.uint16, "PNG"), Accepted((40, 40, 40))),
    "16-bit grey TIFF": (grey_of(40 * 257, np.uint16, "TIFF"), Accepted((40, 40, 40))),
    "32-bit grey TIFF": (grey_of(40 * 257, np.int32, "TIFF"), Accepted((40, 40, 40))),
    "CMYK JPEG": (plain("CMYK", (0, 255, 255, 0), kind="JPEG", quality=100), Accepted(RED)),
    "CMYK TIFF": (plain("CMYK", (0, 255, 255, 0), kind="TIFF"), Accepted(RED)),
    "Lab TIFF": (plain("LAB", (255, 128, 128), kind="TIFF"), Accepted(WHITE)),
    "palette with transparency": (half_transparent("P"), Accepted(half_white(RED))),
    "RGB with transparency": (half_transparent("RGBA"), Accepted(half_white(RED))),
    "grey with transparency": (half_transparent("LA"), Accepted(half_white((76, 76, 76)))),
    "grey with a colour for transparent": (plain("L", 77, transparency=77), Accepted(WHITE)),
    "1x1": (encoded(Image.new("RGB", (1, 1), RED)), Accepted(RED)),
    "animated GIF": (animation("GIF"), Accepted(RED)),
    "animated PNG": (animation("PNG"), Accepted(RED)),
    "animated WebP": (animation("WEBP", lossless=True), Accepted(RED)),
    "embedded ICC profile": (with_profile(), Accepted(SCENE)),
    "broken EXIF, JPEG": (
        encoded(scene(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", quality=100, subsampling=0),
        Accepted(SCENE),
    ),
    **{f"EXIF orientation {n}, JPEG": (turned(n, "JPEG"), Accepted(SCENE)) for n in range(1, 9)},
    **{f"EXIF orientation {n}, PNG": (turned(n, "PNG"), Accepted(SCENE)) for n in range(1, 9)},
    **{f"EXIF orientation {n}, TIFF": (turned(n, "TIFF"), Accepted(SCENE)) for n in range(1, 9)},
    **{f"EXIF orientation {n}, WebP": (turned(n, "WEBP"), Accepted(SCENE)) for n in range(1, 9)},
    "zero bytes": (b"", Rejected("empty file")),
    "text named .jpg": (b"Once upon a time", NO_IMAGE),
    "web page named .jpg": (b"<html>404 Not Found</html>", NO_IMAGE),
    "film": (b"\0\0\0\x18ftypmp42" + bytes(64), NO_IMAGE),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', NO_IMAGE),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", NO_IMAGE),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(64), Rejected("HEIC is not supported: save it as JPEG")),
    "AVIF": (encoded(scene(), "AVIF"), Rejected("AVIF is not supported: save it as JPEG")),
    "JPEG cut in half": (PHOTO[: len(PHOTO) // 2], Rejected("truncated")),
    "JPEG without its end": (PHOTO[:-200], Rejected("truncated")),
    "JPEG header alone": (PHOTO[:20], Rejected("truncated")),
    "PNG cut in half": (NOISE[: len(NOISE) // 2], Rejected("truncated")),
    "PNG with a flipped byte": (NOISE[:100] + bytes([NOISE[100] ^ 255]) + NOISE[101:], Rejected("damaged")),
    "TIFF with a damaged strip": (TIFF[:500] + b"\xff" * 500 + TIFF[1000:], Rejected("damaged")),  # libtiff is loud
    "bomb, 30,000 x 30,000": (png_of(30_000, 30_000), TOO_LARGE),
    "bomb, 11,000 x 11,000": (png_of(11_000, 11_000), TOO_LARGE),
    "bomb, WebP": (webp_of(30_000, 30_000), TOO_LARGE),
    "bomb, GIF": (gif_of(30_000, 30_000), TOO_LARGE),
    "bomb of text in a PNG": (with_text_of_100_mib(), Accepted(SCENE)),
    "floating-point TIFF": (plain("F", 0.5, kind="TIFF"), Rejected("floating-point pixels are not supported")),
}

# Archives: two good images, and one that is unusual, `odd`


def zip_of(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


FLAGS, SIZE = 8, 24  # in a record of the central directory (APPNOTE.TXT 4.3.12)


def patched(data, name, offset, value):
    """Overwrite bytes of the central directory's record of `name`, at `offset` into it."""
    start = data.rindex(name.encode()) - 46
    assert data[start : start + 4] == b"PK\x01\x02"
    return data[: start + offset] + value + data[start + offset + len(value) :]


GOOD = {"cats/1.jpg": encoded(scene(), "JPEG"), "dogs/1.jpg": encoded(scene().rotate(180), "JPEG")}
ODD = "cats/odd.jpg"


def with_odd(content=GOOD["cats/1.jpg"], name=ODD, compression=zipfile.ZIP_STORED):
    return zip_of({**GOOD, name: content}, compression)


def with_special(kind):
    """A member that the archive says is a link, a device or the like."""
    info = zipfile.ZipInfo(ODD)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    buffer = io.BytesIO(zip_of(GOOD))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def many_that_claim_16_mib():
    """Each of them is nothing unusual; together they are 1.9 GiB out of 40 kB."""
    names = [f"{kind}/{number}.jpg" for kind in ("cats", "dogs") for number in range(60)]
    data = zip_of(dict.fromkeys(names, b"x" * 200))
    for name in names:
        data = patched(data, name, SIZE, struct.pack("<I", 16 << 20))
    return data


TRAIN = zip_of({"train/cat.0.jpg": GOOD["cats/1.jpg"], "train/dog.0.jpg": GOOD["dogs/1.jpg"]})
ZEROS = zip_of({"train.zip": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
UNSAFE = Rejected("unsafe name in the archive")
SPECIAL = Rejected("not a regular file")
TORN = Stopped("no whole zip file")

ARCHIVES: dict[str, tuple[bytes, Rejected | Stopped]] = {
    "../ in a name": (with_odd(name="../../etc/cron.d/odd.jpg"), UNSAFE),
    "../ further down a name": (with_odd(name="cats/../../odd.jpg"), UNSAFE),
    "..\\ in a name": (with_odd(name="cats/..\\..\\odd.jpg"), UNSAFE),
    "absolute path": (with_odd(name="/etc/odd.jpg"), UNSAFE),
    "drive letter": (with_odd(name="C:\\odd.jpg"), UNSAFE),
    "symbolic link": (with_special(stat.S_IFLNK), SPECIAL),
    "character device": (with_special(stat.S_IFCHR), SPECIAL),
    "block device": (with_special(stat.S_IFBLK), SPECIAL),
    "pipe": (with_special(stat.S_IFIFO), SPECIAL),
    "socket": (with_special(stat.S_IFSOCK), SPECIAL),
    "encrypted member": (patched(with_odd(), ODD, FLAGS, b"\1\0"), Rejected("encrypted")),
    "bomb: 17 MiB of zeros": (
        with_odd(bytes(17 << 20), compression=zipfile.ZIP_DEFLATED),
        Rejected("compressed more than 100 times"),
    ),
    "member that claims 256 MiB and a byte": (
        patched(with_odd(), ODD, SIZE, struct.pack("<I", MEMBER_LIMIT + 1)),
        Rejected("larger than 256 MiB"),
    ),
    "member longer than it claims": (
        patched(with_odd(), ODD, SIZE, struct.pack("<I", 100)),
        Rejected("damaged in the archive"),
    ),
    "LZMA": (with_odd(compression=zipfile.ZIP_LZMA), Rejected("unusual compression")),
    "zip in a class folder": (with_odd(TRAIN), NO_IMAGE),
    "nested bomb: inner zip that claims 4 GiB": (
        patched(ZEROS, "train.zip", SIZE, struct.pack("<I", 0xFFFFFFF0)),
        Stopped("zip bomb"),
    ),
    "nested bomb: members of an inner zip": (
        zip_of({"train.zip": many_that_claim_16_mib().replace(b"cats/", b"cat.0").replace(b"dogs/", b"dog.0")}),
        Stopped("zip bomb"),
    ),
    "bomb: many members": (many_that_claim_16_mib(), Stopped("zip bomb")),
    "encrypted inner zip": (
        patched(zip_of({"train.zip": TRAIN}), "train.zip", FLAGS, b"\1\0"),
        Stopped("not usable: encrypted"),
    ),
    "zero bytes": (b"", TORN),
    "truncated": (zip_of(GOOD)[:-30], TORN),
    "cut in half": (zip_of(GOOD)[:700], TORN),
    "truncated inner zip": (zip_of({"train.zip": TRAIN[:-30]}), TORN),
    "web page named .zip": (b"<html>Please log in</html>", TORN),
    "tar named .zip": (tar_of(GOOD), TORN),
    "wrong contents": (zip_of({"labels.csv": b"id,label\n"}), Stopped("no labelled images found")),
    "images without classes": (zip_of({"1.jpg": PHOTO, "2.jpg": PHOTO}), Stopped("no labelled images found")),
    "one class only": (zip_of({"cats/1.jpg": PHOTO, "cats/2.jpg": PHOTO}), Stopped("has 1 class: cats")),
}

# Folders of one's own images: made at a path that has a cats/1.jpg and a dogs/1.jpg already


def add(name):
    def make(folder):
        with open(bytes(folder) + b"/" + (name if isinstance(name, bytes) else name.encode()), "wb") as file:  # noqa: PTH123  # Path takes no bytes
            file.write(PHOTO)

    return make


def link(name, target):
    return lambda folder: (folder / name).symlink_to(target)


def without(name):
    return lambda folder: (folder / name).unlink()


def without_dogs(folder):
    (folder / "dogs/1.jpg").unlink()
    (folder / "dogs").rmdir()


def special(name, kind):
    return lambda folder: os.mknod(folder / name, kind | 0o644)


CLUTTER = [
    *(
        "._1.jpg",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "Desktop.ini",
        "ehthumbs.db",
        "Icon\r",
        "SYNOPHOTO_THUMB_M.jpg",
    ),
    *("@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/cats/._1.jpg", "#recycle/3.jpg", "#snapshot/3.jpg", "@tmp/3.jpg"),
    *("$RECYCLE.BIN/3.jpg", "System Volume Information/3.jpg", "FOUND.000/3.jpg", "lost+found/3.jpg", ".Trash-0/3.jpg"),
    *(".thumbnails/normal/3.png", ".ipynb_checkpoints/1-checkpoint.jpg", ".@__thumb/3.jpg", "@__thumb/s1003.jpg"),
    *("@Recycle/3.jpg", ".git/3.jpg", "__pycache__/3.jpg", ".dtrash/files/3.jpg", "Network Trash Folder/3.jpg"),
]
"""Files that systems leave behind, and what they make of images."""


def clutter(folder):
    for place in (folder, folder / "cats"):
        for name in CLUTTER:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(PHOTO)


LONGEST = "x" * 251 + ".jpg"  # 255 bytes, the most that a name may have

FOLDERS: dict[str, tuple[Callable[[Path], None], Accepted | Stopped]] = {
    "name that is not UTF-8": (add(b"cats/a\xffb.jpg"), Accepted(["cats/1.jpg", "cats/a\\xffb.jpg", "dogs/1.jpg"])),
    "name with a line end": (add("cats/a\nb.jpg"), Accepted(["cats/1.jpg", "cats/a\\nb.jpg", "dogs/1.jpg"])),
    "name in Korean": (add("cats/고양이.jpg"), Accepted(["cats/1.jpg", "cats/고양이.jpg", "dogs/1.jpg"])),
    "very long name": (add(f"cats/{LONGEST}"), Accepted(["cats/1.jpg", f"cats/{LONGEST}", "dogs/1.jpg"])),
    "link to a file": (link("cats/2.jpg", "../dogs/1.jpg"), Accepted(["cats/1.jpg", "cats/2.jpg", "dogs/1.jpg"])),
    "link to a folder": (link("cats/more", "../dogs"), Accepted(["cats/1.jpg", "dogs/1.jpg"])),
    "link to the folder above": (link("cats/round", ".."), Accepted(["cats/1.jpg", "dogs/1.jpg"])),
    "link as a class": (link("owls", "dogs"), Accepted(["cats/1.jpg", "dogs/1.jpg"])),
    "broken link": (link("cats/2.jpg", "nowhere"), Stopped("cats/2.jpg is a broken link")),
    "link to itself": (link("cats/2.jpg", "2.jpg"), Stopped("cats/2.jpg is a broken link")),
    "device": (link("cats/2.jpg", "/dev/zero"), Stopped("cats/2.jpg is a broken link or a special file")),
    "pipe": (special("cats/2.jpg", stat.S_IFIFO), Stopped("cats/2.jpg is a broken link or a special file")),
    "socket": (special("cats/2.jpg", stat.S_IFSOCK), Stopped("cats/2.jpg is a broken link or a special file")),
    "clutter": (clutter, Accepted(["cats/1.jpg", "dogs/1.jpg"])),
    "empty class": (without("dogs/1.jpg"), Stopped("has 1 class: cats (no images, and so no class: dogs)")),
    "one class only": (without_dogs, Stopped("has 1 class: cats")),
}

# Weights


def hdf5_of(*kernels, values=0):
    """Keras' legacy layout: a convolution with each of `kernels`, and a batch norm of `values` channels after it."""
    buffer = io.BytesIO()
    layers: dict[str, list[tuple[int, ...]]] = {}
    for number, shape in enumerate(kernels):
        layers |= {f"conv_{number}": [shape], f"norm_{number}": [(values,)] * 3}
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = list(layers)
        for name, shapes in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [str(number) for number in range(len(shapes))]
            for number, shape in enumerate(shapes):
                group.create_dataset(str(number), shape, "float32")
    return buffer.getvalue()


WEIGHTS: dict[str, tuple[bytes, Stopped]] = {
    "zero bytes": (b"", Stopped("an empty file")),
    "HTML of a captive portal": (b"\n<!DOCTYPE html><html>Log in</html>", Stopped("a web page, not weights")),
    "truncated": (hdf5_of((3, 3, 3, 32))[:3000], Stopped("a truncated or damaged HDF5 file")),
    "another architecture": (hdf5_of((7, 7, 3, 64)), Stopped("another architecture, 1 convolutions")),
    "a wrong shape": (hdf5_of(*[(3, 3, 3, 32)] * 94, values=32), Stopped("94 batch norms and 90,240 values")),
    "pickle": (pickle.dumps({"weights": [1]}), Stopped("a Python pickle, which is never loaded")),
    "PyTorch file": (zip_of({"model/data.pkl": pickle.dumps(1)}), Stopped("a zip archive")),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", Stopped("a Git LFS pointer")),
}

# params.yaml: a line of the committed one (see conf/), and what stands there instead

PARAMS: dict[str, tuple[str, str, Accepted | Stopped]] = {
    "tab": ("\nseed: 42", "\nseed:\t42", Stopped("not valid YAML")),
    "tabs for spaces": ("  dropout: 0.2", "\tdropout: 0.2", Stopped("not valid YAML")),
    "duplicated key": ("\nseed: 42", "\nseed: 42\nseed: 43", Stopped("found duplicate key seed")),
    "NaN": ("learning_rate: 0.001", "learning_rate: .nan", Stopped("transfer.learning_rate is nan")),
    "infinity": ("learning_rate: 0.001", "learning_rate: .inf", Stopped("transfer.learning_rate is inf")),
    "negative rate": ("learning_rate: 0.001", "learning_rate: -0.001", Stopped("transfer.learning_rate is -0.001")),
    "negative share": ("  test: 0.15", "  test: -0.15", Stopped("preprocess.test is -0.15")),
    "Korean text": ("\nname: sample", "\nname: 개와 고양이", Accepted(("name", "개와 고양이"))),
    "Korean for a number": ("\nseed: 42", "\nseed: 사십이", Stopped("seed is '사십이'")),
    "Korean key": ("\nseed: 42", "\n씨앗: 42", Stopped("there is no setting '씨앗'")),
    "not UTF-8": ("\nname: sample", "\nname: \udcff", Stopped("not valid YAML")),
    "list for a section": ("\nseed: 42", "\nseed: 42\ntracking: [1]", Stopped("duplicate key tracking")),
    "list for a source": ("source: sample", "source: [sample]", Stopped("data.source is ['sample']")),
    "reference to nothing": ("\nseed: 42", "\nseed: ${nowhere}", Stopped("'nowhere' not found")),
    "code": ("\nseed: 42", "\nseed: !!python/object/apply:os.getpid []", Stopped("not valid YAML")),
    "nested too deeply": ("\nseed: 42", "\nseed: " + "[" * 1500, Stopped("not valid YAML")),
}
