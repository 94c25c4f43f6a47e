"""The offline data set: two kinds of animal faces, drawn by seeded code and packed like Kaggle's archive.

Cats have pointed ears, whiskers, a small nose and slit pupils; dogs have floppy ears, a long muzzle, a big nose
and a tongue. Colours, poses and backgrounds come from the same distributions for both, so only shape tells.
"""

import colorsys
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from frostline.common.files import replacing, zip_entry
from frostline.common.seeds import generator

CLASSES = ("cat", "dog")

Points = NDArray[np.float64]  # (n, 2): x to the right, y down; the head is about one unit in radius
Colour = tuple[int, int, int]

_SUPERSAMPLE = 2  # drawn at twice the size, then averaged: Pillow's polygons have hard edges

_COATS = (  # fur, in RGB
    (216, 138, 66), (232, 196, 148), (158, 108, 70), (104, 70, 50), (150, 152, 160),
    (96, 102, 118), (62, 58, 62), (238, 228, 212), (190, 160, 120), (178, 92, 56),
)  # fmt: skip
_IRISES = ((222, 168, 54), (150, 178, 70), (96, 160, 190), (150, 96, 48), (196, 204, 96))
_NOSES = ((214, 122, 122), (60, 46, 48), (120, 72, 60))
_PINK = (228, 142, 146)
_INK = (44, 34, 36)
_WHITE = (252, 248, 240)


def draw_archive(path: Path, images: int, unlabelled: int, seed: int) -> None:
    """Write to `path` an archive with the members and names of Kaggle's Dogs vs. Cats Redux.

    ``train.zip`` holds `images` JPEGs, half of each class (one cat more where the number is odd); ``test.zip``
    holds `unlabelled` of both; ``sample_submission.csv`` is their blank answer sheet. Each image depends on
    `seed` and its name alone; sides are 150 to 600 pixels.
    """
    counts = {"cat": images - images // 2, "dog": images // 2}
    labelled = ((f"train/{kind}.{n}.jpg", kind) for kind in CLASSES for n in range(counts[kind]))
    ids = range(1, unlabelled + 1)
    mixed = ((f"test/{n}.jpg", CLASSES[generator(seed, "kind", n).integers(2)]) for n in ids)
    answers = "".join(["id,label\n", *(f"{n},0.5\n" for n in ids)])
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(
            _zip(
                [
                    ("sample_submission.csv", answers.encode()),
                    ("test.zip", _zip((name, _jpeg(kind, seed, name)) for name, kind in mixed)),
                    ("train.zip", _zip((name, _jpeg(kind, seed, name)) for name, kind in labelled)),
                ]
            )
        )


def draw_images(count: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Return `count` faces, cats and dogs in turn, as (count, size, size, 3) uint8 RGB."""
    faces = (_face(CLASSES[n % 2], generator(seed, "picture", n)) for n in range(count))
    return np.stack([np.asarray(face.resize((size, size), Image.Resampling.BILINEAR)) for face in faces])


def _zip(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Store `members` uncompressed (JPEGs do not shrink), with a fixed date and mode: the same bytes every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(zip_entry(name), content)
    return buffer.getvalue()


def _jpeg(kind: str, seed: int, name: str) -> bytes:
    rng = generator(seed, name)
    buffer = io.BytesIO()
    _face(kind, rng).save(buffer, "JPEG", quality=int(rng.integers(70, 96)))
    return buffer.getvalue()


def _face(kind: str, rng: np.random.Generator) -> Image.Image:
    """Draw one face of `kind` before a background: RGB, both sides 150 to 600 pixels."""
    long = rng.integers(220, 601)
    short = int(max(150, long * rng.uniform(0.68, 1.0)))
    width, height = (int(long), short) if rng.random() < 0.6 else (short, int(long))
    image = _background(rng, width * _SUPERSAMPLE, height * _SUPERSAMPLE)
    pen = _pose(rng, image)
    coat = _coat(rng)
    _shoulders(pen, rng, coat)
    (_cat if kind == "cat" else _dog)(pen, rng, coat)
    return _camera(rng, image.reduce(_SUPERSAMPLE))


# The scene


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A gradient between two soft colours, under nothing, blobs, stripes or a horizon."""
    near, far = _soft_colour(rng), _soft_colour(rng)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    ramp = (x * np.cos(angle) + y * np.sin(angle)) / 2.83 + 0.5
    colours = np.asarray(near) + ramp[..., None] * (np.asarray(far) - np.asarray(near))
    image = Image.fromarray(colours.astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)

    draw = ImageDraw.Draw(image)
    size = max(width, height)
    style = rng.choice(["plain", "blobs", "stripes", "horizon"])
    if style == "blobs":
        for _ in range(rng.integers(5, 14)):
            radius = size * rng.uniform(0.03, 0.13)
            cx, cy = rng.uniform(0, width), rng.uniform(0, height)
            draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), _mix(near, _soft_colour(rng), 0.55))
    elif style == "stripes":
        stripe, step, turn = (
            _mix(near, _soft_colour(rng), 0.5),
            size * rng.uniform(0.09, 0.2),
            rng.uniform(0, np.pi),
        )
        along = np.array([np.cos(turn), np.sin(turn)])
        across = np.array([-along[1], along[0]])
        for offset in np.arange(-1.5 * size, 1.5 * size, step):
            start = np.array([width, height]) / 2 + across * offset
            draw.line([*(start - along * 2 * size), *(start + along * 2 * size)], stripe, int(step * 0.45))
    elif style == "horizon":
        level = height * rng.uniform(0.55, 0.8)
        draw.polygon(
            [(0, level + height * rng.uniform(-0.1, 0.1)), (width, level), (width, height), (0, height)],
            _mix(far, _soft_colour(rng), 0.6),
        )
    return image


def _camera(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Exposure and sensor noise."""
    pixels = np.asarray(image, np.float32) * np.float32(rng.uniform(0.82, 1.08))
    pixels += rng.standard_normal(pixels.shape[:2], np.float32)[..., None] * np.float32(rng.uniform(1, 6))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _soft_colour(rng: np.random.Generator) -> Colour:
    hue, saturation, value = rng.uniform(), rng.uniform(0.1, 0.42), rng.uniform(0.65, 0.97)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = (round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return red, green, blue


# Curves


def _ellipse(x: float, y: float, rx: float, ry: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _smooth(*corners: tuple[float, float]) -> Points:
    """The closed Catmull-Rom curve through `corners`."""
    b = np.array(corners, np.float64)[:, None]
    a, c, d = np.roll(b, 1, axis=0), np.roll(b, -1, axis=0), np.roll(b, -2, axis=0)
    t = np.linspace(0, 1, 10, endpoint=False)[None, :, None]
    curve = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    return (curve / 2).reshape(-1, 2)


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> Points:
    angle = np.radians(np.linspace(start, stop, 16))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _flipped(points: Points, side: int) -> Points:
    return points * (side, 1)


@dataclass(frozen=True)
class _Pen:
    """Draws in the face's own coordinates: `placed` turns, scales and moves them to pixels."""

    draw: ImageDraw.ImageDraw
    matrix: Points  # (2, 2)
    centre: Points  # (2,)
    yaw: float
    """How far the features are shifted sideways on the head, as if it turned."""

    def placed(self, points: Points) -> list[tuple[float, float]]:
        return [(x, y) for x, y in points @ self.matrix.T + self.centre]

    def fill(self, points: Points, colour: Colour, outline: Colour | None = None) -> None:
        self.draw.polygon(self.placed(points), colour)
        if outline is not None:
            self.line(np.concatenate([points, points[:2]]), outline, 0.035)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        pixels = max(2, round(width * float(np.linalg.norm(self.matrix[:, 0]))))
        joint = "curve" if len(points) < 12 else None  # a fine curve shows no joints
        self.draw.line(self.placed(points), colour, pixels, joint)


def _pose(rng: np.random.Generator, image: Image.Image) -> _Pen:
    size = min(image.size)
    turn, scale = np.radians(rng.normal(0, 9)), size * rng.uniform(0.26, 0.36)
    stretch = np.diag(rng.uniform(0.93, 1.07, 2))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    slack = np.array(image.size) / 2 - scale
    centre = np.array(image.size) / 2 + slack * rng.uniform(-0.35, 0.35, 2)
    return _Pen(ImageDraw.Draw(image), scale * rotation @ stretch, centre, rng.uniform(-0.13, 0.13))


# The animals


@dataclass(frozen=True)
class _Coat:
    fur: Colour
    second: Colour  # ears, patches
    light: Colour  # muzzle, chest
    outline: Colour
    iris: Colour
    nose: Colour
    pattern: str


def _coat(rng: np.random.Generator) -> _Coat:
    first, other = rng.choice(len(_COATS), 2, replace=False)
    fur = _jitter(rng, _COATS[first])
    second = _mix(fur, _jitter(rng, _COATS[other]), float(rng.choice([0.25, 0.9])))
    return _Coat(
        fur=fur,
        second=second,
        light=_mix(fur, _WHITE, rng.uniform(0.55, 0.9)),
        outline=_mix(fur, _INK, 0.55),
        iris=_jitter(rng, _IRISES[rng.integers(len(_IRISES))]),
        nose=_jitter(rng, _NOSES[rng.integers(len(_NOSES))]),
        pattern=str(rng.choice(["plain", "blaze", "patch", "cap"])),
    )


def _jitter(rng: np.random.Generator, colour: Colour) -> Colour:
    red, green, blue = (int(c) for c in np.clip(np.asarray(colour) + rng.normal(0, 12) + rng.normal(0, 4, 3), 0, 255))
    return red, green, blue


def _shoulders(pen: _Pen, rng: np.random.Generator, coat: _Coat) -> None:
    """Chest and, at times, a collar with a tag."""
    pen.fill(
        _smooth((0, 0.3), (0.75, 0.8), (1.15, 2.0), (1.3, 5), (-1.3, 5), (-1.15, 2.0), (-0.75, 0.8)),
        coat.fur,
        coat.outline,
    )
    pen.fill(_ellipse(0, 2.0, 0.5, 1.0), coat.light)
    if rng.random() < 0.4:
        colour = _mix(_soft_colour(rng), _INK, 0.15)
        pen.line(_arc(0, 0.75, 0.85, 0.6, 15, 165), colour, 0.16)
        pen.fill(_ellipse(0, 1.38, 0.11, 0.11), (236, 196, 84), _INK)


def _markings(pen: _Pen, coat: _Coat, brow: float) -> None:
    """The coat's pattern, on the upper face."""
    x = pen.yaw
    if coat.pattern == "blaze":
        pen.fill(
            _smooth((x, brow), (x + 0.13, -0.3), (x + 0.22, 0.35), (x, 0.6), (x - 0.22, 0.35), (x - 0.13, -0.3)),
            coat.light,
        )
    elif coat.pattern == "patch":
        pen.fill(
            _smooth((x + 0.15, -0.2), (x + 0.35, -0.52), (x + 0.66, -0.3), (x + 0.62, 0.1), (x + 0.3, 0.15)),
            coat.second,
        )
    elif coat.pattern == "cap":
        pen.fill(_smooth((x, -0.3), (0.3, brow + 0.16), (0, brow + 0.03), (-0.3, brow + 0.16)), coat.second)


def _cat(pen: _Pen, rng: np.random.Generator, coat: _Coat) -> None:
    x = pen.yaw
    tip_x, tip_y = rng.uniform(0.68, 0.95), -rng.uniform(1.3, 1.6)
    for side in (-1, 1):
        ear = np.array(
            [
                (0.1, -0.72),
                (tip_x - 0.09, tip_y + 0.06),
                (tip_x, tip_y),
                (tip_x + 0.06, tip_y + 0.08),
                (1.0, -0.1),
            ]
        )
        pen.fill(_flipped(ear, side), coat.second, coat.outline)
        base = np.array([0.58, -0.5])
        pen.fill(_flipped(base + (ear - base) * 0.64, side), _PINK)
    cheek = rng.uniform(1.0, 1.12)
    pen.fill(
        _smooth(
            (0, -0.84), (0.62, -0.66), (0.95, -0.1), (cheek, 0.34), (0.72, 0.66), (0.3, 0.86), (0, 0.9),
            (-0.3, 0.86), (-0.72, 0.66), (-cheek, 0.34), (-0.95, -0.1), (-0.62, -0.66),
        ),
        coat.fur,
        coat.outline,
    )  # fmt: skip
    _markings(pen, coat, -0.8)
    if rng.random() < 0.6:  # a tabby's stripes
        for at in (-0.22, 0, 0.22):
            pen.fill(np.array([(x + at - 0.06, -0.78), (x + at + 0.06, -0.78), (x + at * 0.7, -0.4)]), coat.outline)
        for side in (-1, 1):
            for y in (0.1, 0.32):
                pen.fill(
                    _flipped(np.array([(1.02, y - 0.05), (1.0, y + 0.07), (0.7, y + 0.04)]), side),
                    coat.outline,
                )

    eye, wide = rng.uniform(0.4, 0.46), rng.uniform(0.21, 0.26)
    for side in (-1, 1):
        almond = _smooth((-wide, 0.04), (-0.05, -0.17), (wide, -0.1), (0.06, 0.16))
        middle = x + side * eye
        pen.fill(np.add(_flipped(almond, side), (middle, -0.1)), coat.iris, _INK)
        pen.fill(_ellipse(middle, -0.1, 0.05, 0.15), _INK)
        pen.fill(_ellipse(middle + 0.06, -0.17, 0.035, 0.035), _WHITE)
    for side in (-1, 1):
        pen.fill(_ellipse(x * 1.3 + side * 0.17, 0.47, 0.21, 0.17), coat.light)
    x *= 1.3
    pen.fill(_smooth((x - 0.13, 0.25), (x, 0.22), (x + 0.13, 0.25), (x, 0.37)), coat.nose, _INK)
    for side in (-1, 1):
        pen.line(_arc(x + side * 0.13, 0.46, 0.13, 0.13, 0, 180), _INK, 0.035)
    whisker = _WHITE if sum(coat.fur) < 380 else _INK
    for side in (-1, 1):
        for drop, reach in ((-0.16, 1.25), (0.04, 1.35), (0.24, 1.25)):
            bend = np.array(
                [(x * side + 0.28, 0.44 + drop * 0.3), (0.8, 0.42 + drop * 0.7), (reach, 0.44 + drop * 1.5)]
            )
            pen.line(_flipped(bend, side), whisker, 0.026)


def _dog(pen: _Pen, rng: np.random.Generator, coat: _Coat) -> None:
    x = pen.yaw
    pen.fill(
        _smooth(
            (0, -0.86), (0.5, -0.76), (0.8, -0.3), (0.8, 0.2), (0.62, 0.68), (0.34, 1.02), (0, 1.1),
            (-0.34, 1.02), (-0.62, 0.68), (-0.8, 0.2), (-0.8, -0.3), (-0.5, -0.76),
        ),
        coat.fur,
        coat.outline,
    )  # fmt: skip
    _markings(pen, coat, -0.8)
    drop, splay = rng.uniform(0.55, 0.95), rng.uniform(1.05, 1.28)
    for side in (-1, 1):
        ear = _smooth(
            (0.42, -0.8), (0.82, -0.82), (splay, -0.3), (splay + 0.08, drop - 0.3), (splay - 0.12, drop),
            (0.84, drop - 0.25), (0.74, -0.2),
        )  # fmt: skip
        pen.fill(_flipped(ear, side), coat.second, coat.outline)

    eye, radius = rng.uniform(0.33, 0.4), rng.uniform(0.13, 0.17)
    for side in (-1, 1):
        middle = x + side * eye
        pen.fill(_ellipse(middle, -0.2, radius, radius * 1.1), coat.iris, _INK)
        pen.fill(_ellipse(middle, -0.2, radius * 0.66, radius * 0.72), _INK)
        pen.fill(_ellipse(middle + 0.05, -0.26, 0.04, 0.04), _WHITE)
        pen.line(_arc(middle, -0.34, 0.17, 0.12, 215, 325), coat.outline, 0.05)

    x *= 1.5
    if rng.random() < 0.7:
        length = rng.uniform(0.3, 0.5)
        pen.fill(
            _smooth(
                (x - 0.17, 0.85),
                (x + 0.17, 0.85),
                (x + 0.19, 0.9 + length),
                (x, 1.02 + length),
                (x - 0.19, 0.9 + length),
            ),
            _PINK,
            _INK,
        )
        pen.line(np.array([(x, 0.9), (x, 0.86 + length)]), _mix(_PINK, _INK, 0.35), 0.03)
    muzzle = rng.uniform(0.46, 0.56)
    pen.fill(
        _smooth((x, 0.05), (x + muzzle * 0.8, 0.3), (x + muzzle, 0.68), (x + 0.28, 0.96), (x, 0.88),
                (x - 0.28, 0.96), (x - muzzle, 0.68), (x - muzzle * 0.8, 0.3)),
        coat.light,
        coat.outline,
    )  # fmt: skip
    pen.line(np.array([(x, 0.4), (x, 0.88)]), _INK, 0.04)
    for side in (-1, 1):
        pen.line(_arc(x + side * 0.2, 0.74, 0.2, 0.16, 0, 180), _INK, 0.04)
        for dx, y in ((0.24, 0.52), (0.34, 0.6), (0.24, 0.66)):
            pen.fill(_ellipse(x + side * dx, y, 0.02, 0.02), coat.outline)
    pen.fill(
        _smooth((x - 0.24, 0.18), (x, 0.1), (x + 0.24, 0.18), (x + 0.17, 0.36), (x, 0.46), (x - 0.17, 0.36)),
        coat.nose,
        _INK,
    )
    pen.fill(_ellipse(x - 0.07, 0.2, 0.06, 0.035), _mix(coat.nose, _WHITE, 0.6))
