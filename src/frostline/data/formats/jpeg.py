"""JPEG: its segments, and whether every pixel is there.

To libjpeg, an image whose data end too early is an image: it makes the rest up, grey or coarse, and says so in a
warning that Pillow does not pass on. But where data may still come, it waits. So it is not shown the mark of the end
at first; bytes without a meaning stand there instead: whoever has all pixels does not need them.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from frostline.data.formats import Picture, UnreadableImageError, check_size

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOS, _DRI, _APP0, _APP1, _APP14, _JPEG_LS = 0xDA, 0xDD, 0xE0, 0xE1, 0xEE, 0xF7
_TABLES = (0xC4, 0xCC, 0xDB, _DRI)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS, _PROGRESSIVE, _ARITHMETIC = 0xC3, (0xC2, 0xCA), (0xC9, 0xCA)
_UNUSUAL = (0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)  # hierarchical, or lossless by arithmetic coding
_EXIF = b"Exif\0\0"

# The decoder reads up to 8 bytes ahead. All ones are no code: it takes 17 of them for each value that is missing.
_AHEAD = b"\xff\x00" * 8
_FILLER = b"\xaa"
_FILLERS = 24


@dataclass
class _Layout:
    header: bytes = b""
    """From the start of the image to its first scan, without metadata."""
    exif: bytes = b""
    frame: int = 0
    """The marker of its kind."""
    components: int = 0
    restarts: bool = False
    scans: list[bytes] = field(default_factory=list)
    """The header of each."""
    start: int = 0
    end: int = 0
    """Where the first scan begins, and where the data of the last one end."""
    closed: bool = False
    """Whether the file goes on behind that."""

    @property
    def one_pass(self) -> bool:
        """Whether a single scan has everything."""
        return self.frame not in _PROGRESSIVE and self.scans[0][0] == self.components


def open_jpeg(data: bytes, size: int) -> Picture:
    """Decode a JPEG, at 1/2, 1/4 or 1/8 of its size where that still covers `size` on both sides.

    It need not have a mark of its end, if only all its pixels are there. What cannot be told: that less than a block
    of 16 x 16 pixels is missing before the mark, or how much, if the coding is arithmetic.
    """
    layout = _layout(data)
    content = (layout.header + data[layout.start : layout.end]).rstrip(b"\xff")
    if layout.frame in _ARITHMETIC:
        return Picture(_decoded(content + _EOI, layout, size), layout.exif)
    if layout.one_pass:
        image = _decoded(content + _AHEAD, layout, size)
    elif layout.restarts:
        last = sum(content.count(bytes((0xFF, 0xD0 + number)), content.rindex(b"\xff\xda")) for number in range(8))
        image = _decoded(content + _FILLER * 16 + bytes((0xFF, 0xD0 + last % 8)) + _FILLER * 16 + _EOI, layout, size)
    else:
        image = _decoded_scans(content, size)
    if not layout.closed or (layout.restarts and not layout.one_pass):
        pixels = image.tobytes()
        for tail in (_EOI, _FILLER * 16 + _EOI):
            if pixels != _decoded(content + tail, layout, size).tobytes():
                raise UnreadableImageError("truncated")  # what follows makes a difference
    return Picture(image, layout.exif)


def _decoded(content: bytes, layout: _Layout, size: int) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        if layout.frame != _LOSSLESS:
            image.draft(None, (size, size))
        if layout.frame in _ARITHMETIC:
            image.decodermaxblock = len(content)  # this decoder cannot wait for more
        image.load()
    return image


def _decoded_scans(content: bytes, size: int) -> Image.Image:
    """Decode a JPEG of several scans: of each pixel something is there early, so they must all be read to their end.

    Past the end of a scan, the decoder passes over whatever is no marker, byte by byte. Before, it waits until it has
    as many bytes as it wants to look ahead.
    """
    with Image.open(io.BytesIO(content + _EOI), formats=["JPEG"]) as image:
        image.draft(None, (size, size))
        codec, extents, _, options = image.tile[0]
        decoder = Image._getdecoder(image.mode, codec, options, image.decoderconfig)
        image.load_prepare()
        decoder.setimage(image.im, extents)
        left = content + _FILLER * 8
        for more in [b"", *[_FILLER] * _FILLERS, _EOI]:
            left += more
            taken, _ = decoder.decode(left)
            if more == _EOI:
                break
            left = left[taken:]
            if taken < 0 or len(left) > 1:
                raise UnreadableImageError("damaged" if taken < 0 else "truncated")
        decoder.cleanup()
        image.tile = []
    return image


def _layout(data: bytes) -> _Layout:
    layout, kept = _Layout(end=len(data)), [_SOI]
    for code, place, end in _segments(data):
        body = data[place + 4 : end]
        if layout.scans and (layout.one_pass or code == _EOI[1]):
            layout.end, layout.closed = place, True
            break
        if code == _SOS:
            if not layout.frame or not body or len(body) != 4 + 2 * body[0]:
                raise UnreadableImageError("damaged")
            layout.start = layout.start or place
            layout.scans.append(body)
        elif code == _DRI:
            layout.restarts = any(body)
        elif code in (*_FRAMES, _JPEG_LS) and not layout.frame:
            _check_frame(code, body)
            layout.frame, layout.components = code, body[5]
        elif code == _APP1 and body.startswith(_EXIF) and not layout.exif:
            layout.exif = body[len(_EXIF) :]
        if not layout.scans and (code in _FRAMES or code in _TABLES or _tells_colours(code, body)):
            kept.append(data[place:end])
    if not layout.scans:
        raise UnreadableImageError("truncated")
    layout.header = b"".join(kept)
    _check_scans(layout)
    return layout


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, start and end of each whole segment; behind that of a scan its data follow."""
    place, markers = len(_SOI), np.zeros(0, np.intp)
    while (place := data.find(b"\xff", place)) >= 0:
        while data[place + 1 : place + 2] == b"\xff":
            place += 1
        code = data[place + 1] if place + 1 < len(data) else 0
        if code == _EOI[1]:
            yield code, place, place + 2
            return
        if code <= 1 or 0xD0 <= code <= 0xD8:  # nothing follows these
            place += 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
        if end > len(data) or end < place + 4:
            return
        yield code, place, end
        place = end
        if code == _SOS:
            if not len(markers):
                values = np.frombuffer(data, np.uint8)
                found = np.flatnonzero(values[:-1] == 0xFF)
                codes = values[found + 1]
                markers = found[(codes != 0) & (codes != 0xFF) & ((codes < 0xD0) | (codes > 0xD7))]
            following = np.searchsorted(markers, end)
            if following == len(markers):
                return
            place = int(markers[following])


def _tells_colours(code: int, body: bytes) -> bool:
    """Whether libjpeg concludes from the segment what the components are."""
    return (code == _APP0 and body.startswith(b"JFIF\0") and len(body) >= 14) or (
        code == _APP14 and body.startswith(b"Adobe") and len(body) >= 12
    )


def _check_frame(code: int, body: bytes) -> None:
    if code == _JPEG_LS:
        raise UnreadableImageError("JPEG-LS is not supported")
    if code in _UNUSUAL:
        raise UnreadableImageError(f"JPEG of the kind SOF{code - 0xC0} is not supported")
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise UnreadableImageError("damaged")
    if body[0] != 8:
        raise UnreadableImageError(f"{body[0]}-bit JPEG is not supported")
    if body[5] not in (1, 3, 4):
        raise UnreadableImageError(f"JPEG of {body[5]} components is not supported")
    height, width = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
    if not height:
        raise UnreadableImageError("JPEG that gives its height at its end is not supported")
    check_size(width, height)


def _check_scans(layout: _Layout) -> None:
    """Raise if scans are missing: each component needs all 64 coefficients, to their last bit."""
    missing: dict[int, list[int]] = {}
    for header in layout.scans:
        components, (first, last, bits) = header[1:-3:2], header[-3:]
        if layout.frame not in _PROGRESSIVE:
            first, last, bits = 0, 63, 0
        for component in components:
            missing.setdefault(component, [1] * 64)[first : last + 1] = [bits & 15] * (last + 1 - first)
    if len(missing) < layout.components or any(map(any, missing.values())):
        raise UnreadableImageError("truncated")
