"""preprocess.fit: what becomes of pictures that are not square, held against Pillow's own ways and against NumPy."""

import ast
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from corpus import S, encoded, half_transparent, scene
from frostline.audit.quality import measure, poor_images
from frostline.audit.run import audit
from frostline.common.files import read_json, write_json
from frostline.common.fit_names import FITS
from frostline.config.load import compose_conf
from frostline.data.dataset import load_dataset
from frostline.data.fitting import without_margins
from frostline.data.images import decode_image
from frostline.data.layout import Reading
from frostline.data.preprocess import preprocess
from frostline.runtime.errors import FrostlineError
from frostline.training.near_duplicates import near_duplicates, thumbnails
from test_arrows import PACKAGE
from zips import archive_of

WHITE = (255, 255, 255)


def by_pillow(image, size, fit):
    """What Pillow makes of an image: RGB, or RGBA that is laid on white afterwards."""
    if fit == "crop":
        return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    if fit == "pad":
        nothing = (*WHITE, 0) if image.mode == "RGBA" else WHITE
        if 0 in (sides := [round(side / max(image.size) * size) for side in image.size]):  # Pillow would leave it out
            sides = [max(1, side) for side in sides]
            square = Image.new(image.mode, (size, size), nothing)
            square.paste(image.resize(sides, Image.Resampling.BILINEAR), tuple(round((size - n) / 2) for n in sides))
            return square
        return ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR, color=nothing)
    return image.resize((size, size), Image.Resampling.BILINEAR)


def noise(width, height, channels=3):
    """A picture without two places alike."""
    pixels = np.random.default_rng([width, height]).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels)


SHAPES = [(100, 60), (60, 100), (101, 34), (33, 100), (90, 1), (1, 90), (2, 3), (S, S), (S + 1, S), (64, 64), (1, 1)]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_every_pixel_is_pillows(fit, width, height):
    picture = noise(width, height)
    for kind, options in (("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        pixels = decode_image(encoded(picture, kind, **options), S, fit)
        np.testing.assert_array_equal(pixels, by_pillow(picture, S, fit), kind)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_transparency_is_laid_on_the_white_of_the_margins(fit, width, height):
    picture = noise(width, height, 4)
    scaled = by_pillow(picture, S, fit)
    expected = Image.alpha_composite(Image.new("RGBA", scaled.size, "white"), scaled).convert("RGB")
    np.testing.assert_array_equal(decode_image(encoded(picture), S, fit), expected)


def test_a_transparent_picture_has_no_edge_where_its_margins_begin():
    image = Image.open(io.BytesIO(half_transparent("RGBA"))).resize((S, S // 2))  # its upper half is transparent
    pixels = decode_image(encoded(image), S, "pad")
    assert (pixels[: S // 2 - 2] == 255).all()
    assert (pixels[S // 2 + 1 : 3 * S // 4] == (255, 0, 0)).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(90, 45), (45, 90), (61, 95), (1, 70)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_and_then_it_is_fitted(fit, shape, orientation):
    """61 x 95 leaves margins of unequal widths: the narrower one is at the left of what is seen."""
    picture, exif = scene(*shape), Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    pixels, expected = decode_image(content, S, fit).astype(int), np.asarray(by_pillow(upright, S, fit)).astype(int)
    assert np.abs(pixels - expected).max() <= 1, "rounded after the rows, or after the columns"
    np.testing.assert_array_equal(pixels[:, [0, -1]] == 255, expected[:, [0, -1]] == 255)


def test_cropping_and_padding_by_hand():
    """Quarters of a wide picture, and of a tall one: black, red, red, black."""
    wide = np.zeros((2 * S, 4 * S, 3), np.uint8)
    wide[:, S : 3 * S] = (200, 0, 0)
    tall = wide.transpose(1, 0, 2)
    for axis, pixels in ((1, wide), (0, tall)):
        content = encoded(Image.fromarray(pixels))
        cropped = np.moveaxis(decode_image(content, S, "crop"), axis, 0)
        assert (cropped[1:-1] == (200, 0, 0)).all(), "the middle square"
        assert (cropped[[0, -1], :, 0] < 200).all(), "at its edge the filter looks over"
        padded = np.moveaxis(decode_image(content, S, "pad"), 1 - axis, 0)
        assert (padded[: S // 4] == 255).all() and (padded[-S // 4 :] == 255).all()
        assert (padded[S // 4 : -S // 4, S // 4 + 1 : 3 * S // 4 - 1] == (200, 0, 0)).all()
        assert (padded[S // 4 : -S // 4, : S // 4 - 1] == 0).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (350, 1100), (2003, 777), (1600, 1600)])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(fit, options, width, height):
    picture = scene(width, height)
    pixels = decode_image(encoded(picture, "JPEG", quality=98, subsampling=0, **options), S, fit).astype(int)
    expected = np.asarray(by_pillow(picture, S, fit)).astype(int)
    margins = (expected == 255).all(axis=2)
    assert (pixels[margins] == 255).all()
    assert np.abs(pixels - expected).max() <= 12


@pytest.mark.parametrize(("width", "height"), [(3000, 36), (36, 3000), (1000, 12), (1, 4000)])
def test_a_jpegs_shape_is_that_of_its_file_not_of_what_was_decoded(width, height):
    """At an eighth, 12 pixels are 2, and would be twice as high as they are."""
    pixels = decode_image(encoded(Image.new("RGB", (width, height), (200, 0, 0)), "JPEG"), 100, "pad")
    inside = without_margins(pixels)
    expected = [max(1, round(100 * side / max(width, height))) for side in (height, width)]
    assert list(inside.shape[:2]) == expected
    assert np.abs(inside.astype(int) - (200, 0, 0)).max() <= 3


@pytest.mark.parametrize(("width", "height"), [(100, 60), (60, 100), (101, 34), (1, 90), (S + 1, S), (64, 64)])
def test_margins_are_taken_off_again(width, height):
    picture = Image.fromarray(np.asarray(noise(width, height)) // 2)
    padded = decode_image(encoded(picture), S, "pad")
    inside, ink = without_margins(padded), padded.max(axis=2) < 255
    assert inside.shape[:2] == (ink.any(axis=1).sum(), ink.any(axis=0).sum())
    assert ink.any(axis=(0, 1)) and (inside < 255).all()
    assert np.shares_memory(inside, padded)
    assert without_margins(np.full((S, S, 3), 255, np.uint8)).shape == (S, S, 3)


def test_a_white_edge_of_its_own_does_not_hide_a_pictures_margins():
    tall = np.full((3 * S, S, 3), 90, np.uint8)
    tall[:6] = tall[-6:] = 255
    assert without_margins(decode_image(encoded(Image.fromarray(tall)), S, "pad")).shape[1] == round(S / 3)


def archive(path, count=12):
    """Wide and tall pictures of every format."""
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
    members = {}
    for number in range(2 * count):
        picture = noise(40 + 3 * number, 70) if number % 2 else noise(70, 40 + number)
        members[f"{'cats' if number < count else 'dogs'}/{number}"] = encoded(picture, kinds[number % len(kinds)])
    return archive_of(path, members), members


def prepare(path, folder, fit):
    shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
    reading = Reading(fit=fit)
    preprocess(path, folder, size=S, seed=1, shares=shares, max_rejected=0, reading=reading, processes=2)
    return load_dataset(folder)


@pytest.mark.parametrize("fit", FITS)
def test_a_data_set_has_its_images_by_its_fit_and_says_so(tmp_path, fit):
    path, members = archive(tmp_path / "archive.zip")
    data = prepare(path, tmp_path / "processed", fit)
    assert data.fit == fit
    assert (tmp_path / "processed/fit.json").is_file() == (fit != "squash"), "what is squashed is as it always was"
    for split in ("train", "validation", "test"):
        for name, pixels in zip(data.names(split), data.images(split), strict=True):
            np.testing.assert_array_equal(pixels, decode_image(members[name], S, fit))


def test_a_fit_of_another_release_is_no_data_set(tmp_path):
    path, _ = archive(tmp_path / "archive.zip")
    prepare(path, tmp_path / "processed", "pad")
    assert read_json(tmp_path / "processed/fit.json") == "pad"
    write_json(tmp_path / "processed/fit.json", "mirror")
    with pytest.raises(FrostlineError, match=r"no complete data set \(fit\.json is of another release\)"):
        load_dataset(tmp_path / "processed")


def test_an_unknown_fit_is_refused_with_those_that_there_are(project):
    assert compose_conf().preprocess.fit == "squash"
    with pytest.raises(FrostlineError, match=r"preprocess\.fit is 'stretch'; valid: squash, crop, pad"):
        compose_conf(["preprocess.fit=stretch"])


def test_no_code_decodes_without_saying_by_which_fit():
    """The default is there for whoever has square pictures; whoever has a model takes the model's."""
    calls = [
        (path.name, node.lineno, len(node.args))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("decode_image", "read_image")
    ]
    assert len(calls) >= 6
    assert [call for call in calls if call[2] != 3] == []


# What margins must not change


def test_margins_make_no_picture_bright_or_uneven():
    dark, plain = (np.asarray(noise(90, 30)) // 5, np.full((30, 90, 3), 120, np.uint8))
    wide = [np.asarray(noise(90, 30 + number)) for number in range(6)]
    images = np.stack([decode_image(encoded(Image.fromarray(one)), 60, "pad") for one in (dark, plain, *wide)])
    assert {found.row: found.kind for found in poor_images(measure(images, "pad"))} == {
        0: "too dark",
        1: "nearly uniform",
    }
    assert not {"too dark", "nearly uniform"} & {found.kind for found in poor_images(measure(images))}, "with them"
    slip = decode_image(encoded(Image.new("RGB", (1, 90), (9, 9, 9))), 60, "pad")
    assert np.isfinite(measure(slip[None], "pad")).all(), "too narrow for a Laplacian"


@pytest.mark.slow
def test_margins_make_no_two_pictures_alike():
    """Dark ones, of which nothing is alike but how dark they are."""
    pictures = [noise(9, 4).resize((180, 80), Image.Resampling.BICUBIC)]
    pictures += [Image.fromarray(np.random.default_rng(n).integers(0, 50, (4, 9, 3), np.uint8)) for n in range(12)]
    dark = [picture.resize((180, 80), Image.Resampling.BICUBIC).point(lambda value: value // 3) for picture in pictures]
    again = dark[0].resize((150, 66), Image.Resampling.BICUBIC)
    images = np.stack([decode_image(encoded(picture), 96, "pad") for picture in (*dark, again)])
    pairs = [(pair.first, pair.second) for pair in near_duplicates(thumbnails(images, "pad"))]
    assert pairs == [(0, len(dark))]
    assert len(near_duplicates(thumbnails(images))) > 1, "with them others would be found"


def test_audit_looks_inside_the_margins(tmp_path):
    """As a whole, on what stage preprocess leaves."""
    _, members = archive(tmp_path / "archive.zip")
    members["cats/dark"] = encoded(Image.fromarray(np.asarray(scene(90, 30)) // 5))
    prepare(archive_of(tmp_path / "archive.zip", members), tmp_path / "data/processed", "pad")
    found = audit(None, 5)
    assert found["too dark"] == 1
