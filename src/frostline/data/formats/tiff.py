"""TIFF: samples of any number, depth and layout; libtiff, by way of Pillow, only undoes the compression.

Pillow knows layouts from a table, and fits some others into the nearest one. So it gets each run of strips, and each
tile, as a grey image of the bytes; what they mean is settled here.
"""

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import PREFIXES, ImageFileDirectory_v2

from frostline.common.fit_names import SQUASH
from frostline.data.formats.jpeg import open_jpeg
from frostline.data.formats.picture import PIXELS_LIMIT, Picture, UnreadableImageError, check_size
from frostline.runtime.stderr import silent_stderr

SIGNATURES = tuple(PREFIXES)

_NONE, _LZW, _OLD_JPEG, _JPEG, _PACK_BITS, _LZMA, _ZSTD = 1, 5, 6, 7, 32773, 34925, 50000
_FAX, _DEFLATE = (2, 3, 4), (8, 32946)
_WHITE_IS_0, _BLACK_IS_0, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8  # photometric interpretations
_COLOURS = {_WHITE_IS_0: 1, _BLACK_IS_0: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}  # samples of each
_ASSOCIATED, _UNASSOCIATED = 1, 2  # extra samples that are alpha: the colours were multiplied with it, or were not
_SIGNED, _FLOAT, _COMPLEX = 2, 3, (5, 6)  # sample formats; all others are read as unsigned
_HORIZONTAL = 2  # the predictor: samples are differences
_RUN = 4 << 20  # bytes of samples that are dealt with at a time, about
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _ORIENTATION = 256, 257, 258, 259, 262, 266, 274
_SAMPLES, _ROWS_PER_STRIP, _PLANAR, _PREDICTOR, _COLOR_MAP, _TILE_WIDTH, _TILE_HEIGHT = (
    277,
    278,
    284,
    317,
    320,
    322,
    323,
)
_SUBFILE, _OLD_SUBFILE = 254, 255
_STRIPS, _TILES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _JPEG_TABLES = (273, 279), (324, 325), 338, 339, 347


class _Tags:
    """The tags of the first image that are integers. One that cannot be read is as good as none."""

    def __init__(self, data: bytes) -> None:
        self.order = ">" if data[:2] == b"MM" else "<"
        big = 43 in data[2:4]
        self._values: dict[int, tuple[int, ...]] = {}
        count, entry, room = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
        place = self._read("Q" if big else "I", data, 8 if big else 4)[0]
        entries = self._read(count, data, place)[0]
        place += struct.calcsize(count)
        for _ in range(entries):
            tag, kind, number, _ = self._read(entry, data, place)
            format_ = _INTEGERS.get(kind, "")
            if format_ and tag not in self._values:
                start = place + struct.calcsize("=" + entry) - room
                if number * struct.calcsize("=" + format_) > room:
                    start = self._read("Q" if big else "I", data, start)[0]
                if start + number * struct.calcsize("=" + format_) <= len(data):
                    self._values[tag] = self._read(f"{number}{format_}", data, start)
            place += struct.calcsize("=" + entry)

    def _read(self, format_: str, data: bytes, place: int) -> tuple[int, ...]:
        if place + struct.calcsize("=" + format_) > len(data):
            raise UnreadableImageError("truncated")
        return struct.unpack_from(self.order + format_, data, place)

    def every(self, tag: int) -> tuple[int, ...]:
        return self._values.get(tag, ())

    def first(self, tag: int, default: int = 0) -> int:
        values = self.every(tag)
        return values[0] if values else default


@dataclass(frozen=True)
class _Layout:
    tags: _Tags
    width: int
    height: int
    bits: int
    """Per sample."""
    samples: int
    """Per pixel."""
    signed: bool
    compression: int
    photometric: int
    wanted: list[int]
    """The samples that are looked at: of the colours and, if it has one, of alpha."""
    associated: bool
    """The colours were multiplied with alpha."""
    planes: int
    """In how many parts of the file each pixel lies: in 1, or in one for each sample."""
    tiled: bool
    block: tuple[int, int]
    """Width and height of the strips or tiles."""

    @property
    def row_bytes(self) -> int:
        """Of a row of a strip or tile."""
        return (self.block[0] * self.bits * (self.samples // self.planes) + 7) // 8


def open_tiff(data: bytes) -> Picture:
    """Decode the first image of a TIFF, of integers of up to 16 or of 32 bits.

    They are scaled to 8 bits by their range. 32 bits mostly hold 16: if no value is above 65535, that is the range.
    """
    tags = _Tags(data)
    if tags.first(_SUBFILE) & 1 or tags.first(_OLD_SUBFILE) == 2:  # cameras' raw files have the picture further behind
        raise UnreadableImageError("TIFF that begins with a preview, as raw files of cameras do, is not supported")
    if tags.first(_COMPRESSION, 1) in (*_FAX, _OLD_JPEG) or (
        tags.first(_PHOTOMETRIC) == _YCBCR and tags.first(_COMPRESSION, 1) != _JPEG
    ):
        return Picture(_by_pillow(data))
    layout = _layout(tags)
    top = (1 << layout.bits) - 1
    if layout.bits == 32:
        highest = max(int(values.max()) for values, _, _, _ in _values(data, layout))
        top = 65535 if highest <= 65535 else 2**31 - 1 if layout.signed else 2**32 - 1
    pixels = np.zeros((layout.height, layout.width, len(layout.wanted)), np.uint8)
    for values, plane, x, y in _values(data, layout):
        target = pixels[y : y + values.shape[0], x : x + values.shape[1]]
        values = values[: target.shape[0], : target.shape[1]]
        if layout.photometric != _PALETTE:
            values = _to_8_bit(values, top)
        if layout.planes == 1:
            target[:] = values if len(layout.wanted) == layout.samples else values[..., layout.wanted]
        elif plane in layout.wanted:
            target[..., layout.wanted.index(plane)] = values[..., 0]
    return Picture(_image(pixels, layout), orientation=tags.first(_ORIENTATION, 1))


def _by_pillow(data: bytes) -> Image.Image:
    """Decode fax, and YCbCr without JPEG, for which libtiff itself sees to the colours. It is turned upright."""
    with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
        check_size(*image.size)
        image.info.pop("xmp", None)  # Pillow would turn the image by this, too
        with silent_stderr():  # libtiff's complaints
            image.load()
    return image


def _layout(tags: _Tags) -> _Layout:
    width, height = tags.first(_WIDTH), tags.first(_HEIGHT)
    check_size(width, height)
    samples = tags.first(_SAMPLES, 1)
    photometric = tags.first(_PHOTOMETRIC, _RGB if samples > 2 else _BLACK_IS_0)
    depths, formats, extra = (
        set(tags.every(_BITS)[:samples] or (1,)),
        set(tags.every(_SAMPLE_FORMAT)),
        tags.every(_EXTRA_SAMPLES),
    )
    bits = min(depths)
    colours = _COLOURS.get(photometric, 0)
    _check_kind(tags, photometric, samples, formats)
    if len(depths) > 1:
        raise UnreadableImageError("TIFF of samples of different depths is not supported")
    if not 1 <= bits <= 128:
        raise UnreadableImageError("damaged")
    if not (bits <= 16 or bits == 32) or (bits > 8 and photometric in (_PALETTE, _LAB)):
        raise UnreadableImageError(f"TIFF of this kind with {bits} bits per sample is not supported")
    alphas = [colours + number for number, kind in enumerate(extra) if kind in (_ASSOCIATED, _UNASSOCIATED)]
    alphas = [alpha for alpha in alphas if alpha < samples][:1]
    tiled = bool(tags.first(_TILE_WIDTH))
    block = (
        (tags.first(_TILE_WIDTH), tags.first(_TILE_HEIGHT)) if tiled else (width, tags.first(_ROWS_PER_STRIP, height))
    )
    block = (block[0], block[1] if tiled else min(block[1], height))
    check_size(*block)
    return _Layout(
        tags=tags,
        width=width,
        height=height,
        bits=bits,
        samples=samples,
        signed=_SIGNED in formats,
        compression=tags.first(_COMPRESSION, _NONE),
        photometric=photometric,
        wanted=[*range(colours), *alphas],
        associated=_ASSOCIATED in extra and bool(alphas) and extra[alphas[0] - colours] == _ASSOCIATED,
        planes=samples if tags.first(_PLANAR, 1) == 2 else 1,
        tiled=tiled,
        block=block,
    )


def _check_kind(tags: _Tags, photometric: int, samples: int, formats: set[int]) -> None:
    compression, predictor = tags.first(_COMPRESSION, _NONE), tags.first(_PREDICTOR, 1)
    if photometric not in _COLOURS:
        raise UnreadableImageError(f"TIFF with photometric interpretation {photometric} is not supported")
    if compression not in (_NONE, *_DEFLATE, _LZW, _JPEG, _PACK_BITS, _LZMA, _ZSTD):
        raise UnreadableImageError(f"TIFF compression {compression} is not supported")
    if _FLOAT in formats:  # no telling what its range is
        raise UnreadableImageError("floating-point pixels are not supported")
    if formats & set(_COMPLEX) or len(formats) > 1:
        raise UnreadableImageError("TIFF of complex or mixed samples is not supported")
    if predictor not in (1, _HORIZONTAL):
        raise UnreadableImageError(f"TIFF predictor {predictor} is not supported")
    missing = samples - _COLOURS[photometric] - len(tags.every(_EXTRA_SAMPLES))
    if samples < _COLOURS[photometric] or (missing > 0 and _COLOURS[photometric] != 3):
        raise UnreadableImageError(f"TIFF of {samples} samples per pixel without their meaning is not supported")


# From the file to samples


def _values(data: bytes, layout: _Layout) -> Iterator[tuple[NDArray[Any], int, int, int]]:
    """Yield unsigned values, (rows, columns, samples), and their plane, column and row, in pieces of moderate size."""
    for rows, plane, x, y in _blocks(data, layout):
        step = max(1, _RUN // layout.row_bytes)
        for start in range(0, len(rows), step):
            values = rows[start : start + step]
            if layout.compression != _JPEG:
                values = _samples(values, layout)
            if layout.signed and (values >> (layout.bits - 1)).any():
                raise UnreadableImageError("negative pixel values are not supported")
            yield values, plane, x, y + start


def _samples(rows: NDArray[np.uint8], layout: _Layout) -> NDArray[Any]:
    """Return the samples, (rows, columns, samples), that rows of bytes stand for."""
    shape = (len(rows), layout.block[0], layout.samples // layout.planes)
    if layout.bits in (8, 16, 32):
        values = rows.view(f"{layout.tags.order}u{layout.bits // 8}").reshape(shape)
    else:
        bits = np.unpackbits(rows, axis=1, count=shape[1] * shape[2] * layout.bits).reshape(*shape, layout.bits)
        values = np.zeros(shape, np.uint16)
        for number in range(layout.bits):
            values = values << np.uint16(1) | bits[..., number]
    if layout.tags.first(_PREDICTOR, 1) == _HORIZONTAL:
        values = np.cumsum(values, axis=1, dtype=values.dtype.newbyteorder("="))
        values &= values.dtype.type((1 << layout.bits) - 1)
    return values


def _blocks(data: bytes, layout: _Layout) -> Iterator[tuple[NDArray[np.uint8], int, int, int]]:
    """Yield runs of strips, and tiles, as rows of bytes, and the plane, column and row where they belong.

    Of JPEG, as (rows, columns, samples).
    """
    tiles = layout.tiled and layout.tags.every(_TILES[0])  # there are tiles that are called strips
    starts, lengths = (layout.tags.every(tag) for tag in (_TILES if tiles else _STRIPS))
    width, height = layout.block
    across, down = -(-layout.width // width), -(-layout.height // height)
    if len(starts) < across * down * layout.planes:
        raise UnreadableImageError("truncated")
    run = 1 if layout.tiled or layout.compression == _JPEG else max(1, _RUN // (layout.row_bytes * height))
    for first in range(0, down, run):
        for plane, column in itertools.product(range(layout.planes), range(across)):
            parts = []
            for row in range(first, min(first + run, down)):
                number = (plane * down + row) * across + column
                length = lengths[number] if number < len(lengths) else 0
                parts.append(data[starts[number] : starts[number] + length if length else None])
            rows = height if layout.tiled else min(height * len(parts), layout.height - first * height)
            try:
                block = _unpacked(parts, rows, layout)
            except (OSError, zlib.error) as error:
                reason = "damaged" if starts[number] + length <= len(data) else "truncated"
                raise UnreadableImageError(reason) from error
            yield block, plane, column * width, first * height


def _unpacked(parts: list[bytes], rows: int, layout: _Layout) -> NDArray[np.uint8]:
    """Undo the compression of strips that follow one another, or of one tile."""
    if layout.compression == _JPEG:
        return _from_jpeg(parts[0], rows, layout)
    if layout.compression not in (_NONE, *_DEFLATE):
        return _from_libtiff(parts, rows, layout)
    room = layout.row_bytes * layout.block[1]
    if layout.tags.first(_FILL_ORDER, 1) == 2:
        parts = [part.translate(_REVERSED) for part in parts]
    if layout.compression in _DEFLATE:
        parts = [zlib.decompressobj().decompress(part, room) for part in parts]
    whole = b"".join(part[:room] for part in parts)[: rows * layout.row_bytes]
    if len(whole) < rows * layout.row_bytes:
        raise UnreadableImageError("truncated")
    return np.frombuffer(whole, np.uint8).reshape(rows, layout.row_bytes)


def _from_libtiff(parts: list[bytes], rows: int, layout: _Layout) -> NDArray[np.uint8]:
    """Have libtiff decompress a grey image as wide as a row has bytes."""
    if rows * layout.row_bytes > PIXELS_LIMIT:
        raise UnreadableImageError("TIFF in strips of more than 100 MB is not supported")
    tags = ImageFileDirectory_v2()
    tags[_WIDTH], tags[_HEIGHT], tags[_ROWS_PER_STRIP] = layout.row_bytes, rows, layout.block[1]
    tags[_BITS], tags[_PHOTOMETRIC], tags[_SAMPLES] = 8, _BLACK_IS_0, 1
    tags[_COMPRESSION], tags[_FILL_ORDER] = layout.compression, layout.tags.first(_FILL_ORDER, 1)
    tags[_STRIPS[0]] = list(itertools.accumulate((len(part) for part in parts[:-1]), initial=0))  # from its end on
    tags[_STRIPS[1]] = [len(part) for part in parts]
    content = b"".join([b"II*\0", struct.pack("<I", 8), tags.tobytes(8), *parts])
    # libtiff complains on stderr
    with Image.open(io.BytesIO(content), formats=["TIFF"]) as image, silent_stderr():
        image.load()
    return np.asarray(image)


def _from_jpeg(part: bytes, rows: int, layout: _Layout) -> NDArray[np.uint8]:
    """Decode a strip or tile that is a JPEG, its tables perhaps kept apart."""
    tables = bytes(layout.tags.every(_JPEG_TABLES))
    # it does not say what its components are, but the TIFF does, so that libjpeg is told as by Adobe
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([layout.photometric == _YCBCR])
    image = open_jpeg(b"\xff\xd8" + adobe + tables[2:-2] + part[2:], 1 << 16, SQUASH).image
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    if layout.photometric == _CMYK:
        pixels = ~pixels  # of a file of its own Pillow takes the inverse, as Adobe writes it
    if pixels.shape[0] < rows or pixels.shape[1:] != (layout.block[0], layout.samples // layout.planes):
        raise UnreadableImageError("damaged")
    return pixels[:rows]


# From samples to an image


def _to_8_bit(values: NDArray[Any], top: int) -> NDArray[np.uint8]:
    """Scale values from 0 to `top` to 8 bits."""
    if top == 255:
        return values.astype(np.uint8, copy=False)
    wide: NDArray[Any] = values.astype(np.uint64 if top > 65535 else np.uint32)
    for step, number in ((np.multiply, 255), (np.add, top // 2), (np.floor_divide, top)):
        step(wide, wide.dtype.type(number), out=wide)
    return wide.astype(np.uint8)


def _image(pixels: NDArray[np.uint8], layout: _Layout) -> Image.Image:
    """Return the image of samples of 8 bits, of the colours and perhaps alpha; those of a palette are as they were."""
    number = _COLOURS[layout.photometric]
    colours, alpha = pixels[..., :number], pixels[..., number:]
    match layout.photometric:
        case 0:  # white is 0
            image = Image.fromarray(~colours[..., 0])
        case 1:
            image = Image.fromarray(colours[..., 0])
        case 3:
            image = Image.fromarray(_palette(layout)[colours[..., 0]])
            alpha = _to_8_bit(alpha, (1 << layout.bits) - 1)
        case 5:
            image = Image.frombytes("CMYK", (layout.width, layout.height), colours.tobytes()).convert("RGB")
        case 8:
            image = Image.frombytes("LAB", (layout.width, layout.height), colours.tobytes(), "raw", "LAB").convert(
                "RGB"
            )
        case _:
            image = Image.fromarray(np.ascontiguousarray(colours))
    if alpha.size and layout.associated:
        bands = [*image.convert("RGB").split(), Image.fromarray(alpha[..., 0])]
        return Image.merge("RGBa", bands).convert("RGBA")
    if alpha.size:
        image.putalpha(Image.fromarray(alpha[..., 0]))
    return image


def _palette(layout: _Layout) -> NDArray[np.uint8]:
    """Return the colours, (2 ** bits, 3). They have 16 bits; where all are below 256, they were written with 8."""
    entries = np.array(layout.tags.every(_COLOR_MAP), np.uint32)
    if len(entries) != 3 << layout.bits:
        raise UnreadableImageError("damaged")
    return (entries if np.max(entries) < 256 else entries >> 8).astype(np.uint8).reshape(3, -1).T.copy()
