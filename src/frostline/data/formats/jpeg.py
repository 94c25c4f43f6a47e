"""JPEG: its segments, and whether every pixel is there.

To libjpeg, an image whose data end too early is an image: it makes the rest up, grey or coarse, and says so in a
warning that Pillow does not pass on. But where data may still come, it waits. So it is not shown the mark of the end
at first; bytes without a meaning stand there instead: whoever has all pixels does not need them.
"""

import bisect
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from frostline.common.fit_names import Fit
from frostline.data.fitting import scaled_to
from frostline.data.formats.picture import Picture, UnreadableImageError, check_size

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOS, _DRI, _APP0, _APP1, _APP14, _JPEG_LS = 0xDA, 0xDD, 0xE0, 0xE1, 0xEE, 0xF7
_TABLES = frozenset((0xC4, 0xCC, 0xDB, _DRI))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS, _PROGRESSIVE, _ARITHMETIC = 0xC3, (0xC2, 0xCA), (0xC9, 0xCA)
_UNUSUAL = (0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)  # hierarchical, or lossless by arithmetic coding
_EXIF = b"Exif\0\0"

# What stands in place of the mark of the end. The decoder reads up to 8 bytes ahead, so a whole image needs no more
# than 8. All ones are no code: they stand in for three values that are missing, at most.
_AHEAD = b"\xff\x00" * 8
_FILLER = b"\xaa"
_FILLERS = 24
_NOISE = bytes(number * number % 251 for number in range(64))


@dataclass
class _Layout:
    data: bytes
    """The file."""
    header: bytes = b""
    """From the start of the image to its first scan, without metadata."""
    exif: bytes = b""
    frame: int = 0
    """The marker of its kind."""
    size: tuple[int, int] = (0, 0)
    """Width and height."""
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

    def followed_by(self, tail: bytes) -> bytes:
        """Return the image without metadata, and with `tail` after its data."""
        end = self.end
        while self.data[end - 1] == 0xFF:  # the first half of something
            end -= 1
        return b"".join([self.header, memoryview(self.data)[self.start : end], tail])

    def next_restart(self) -> bytes:
        """Return the restart marker that the decoder would wait for after the last one there is."""
        scan = self.data.rindex(b"\xff\xda", 0, self.end)
        number = sum(self.data.count(bytes((0xFF, 0xD0 + number)), scan, self.end) for number in range(8))
        return bytes((0xFF, 0xD0 + number % 8))


def open_jpeg(data: bytes, size: int, fit: Fit) -> Picture:
    """Decode a JPEG, at 1/2, 1/4 or 1/8 of its size where that still covers what it is scaled to (`scaled_to`).

    It need not have a mark of its end, if only all its pixels are there. What cannot be told: that less than a block
    of 16 x 16 pixels is missing before the mark, or how much, if the coding is arithmetic.
    """
    layout = _layout(data)
    least = scaled_to(layout.size, size, fit)
    if layout.frame in _ARITHMETIC:
        return Picture(_decoded(layout, _EOI, least), layout.exif, whole=layout.size)
    if layout.one_pass:
        image = _decoded(layout, _AHEAD, least)
    elif layout.restarts:
        image = _decoded(layout, _NOISE + layout.next_restart() + _NOISE + _EOI, least)
    else:
        image = _decoded_scans(layout, least)
    if not layout.closed or (layout.restarts and not layout.one_pass):
        pixels = image.tobytes()
        for tail in (_EOI, _NOISE + _EOI):
            if pixels != _decoded(layout, tail, least).tobytes():
                raise UnreadableImageError("truncated")  # what follows makes a difference
    return Picture(image, layout.exif, whole=layout.size)


def _decoded(layout: _Layout, tail: bytes, least: tuple[int, int]) -> Image.Image:
    with JpegImageFile(io.BytesIO(layout.followed_by(tail))) as image:
        if layout.frame != _LOSSLESS:
            image.draft(None, least)
        if layout.frame in _ARITHMETIC:
            image.decodermaxblock = len(layout.data)  # this decoder cannot wait for more
        image.load()
    return image


def _decoded_scans(layout: _Layout, least: tuple[int, int]) -> Image.Image:
    """Decode a JPEG of several scans: of each pixel something is there early, so they must all be read to their end.

    Past the end of a scan, the decoder passes over whatever is no marker, byte by byte. Before, it waits until it has
    as many bytes as it wants to look ahead.
    """
    left = layout.followed_by(_FILLER * 8)
    with JpegImageFile(io.BytesIO(left)) as image:
        image.draft(None, least)
        codec, extents, _, options = image.tile[0]
        decoder = Image._getdecoder(image.mode, codec, options, image.decoderconfig)
        image.load_prepare()
        decoder.setimage(image.im, extents)
        for more in [b"", *[_FILLER] * _FILLERS]:
            left += more
            taken, _ = decoder.decode(left)
            left = left[taken:]
            if taken < 0 or len(left) > 1:
                raise UnreadableImageError("damaged" if taken < 0 else "truncated")
        taken, error = decoder.decode(left + _EOI)
        decoder.cleanup()
        if taken >= 0 or error < 0:
            raise UnreadableImageError("damaged")
        image.tile = []
    return image


def _layout(data: bytes) -> _Layout:
    layout, kept = _Layout(data, end=len(data)), [_SOI]
    for code, place, end in _segments(data):
        if layout.scans and (code == _EOI[1] or layout.one_pass):
            layout.end, layout.closed = place, True
            break
        if code in _TABLES:
            layout.restarts = any(data[place + 4 : end]) if code == _DRI else layout.restarts
            kept.append(data[place:end])
            continue
        body = data[place + 4 : end]
        if code == _SOS:
            if not layout.frame or not body or len(body) != 4 + 2 * body[0]:
                raise UnreadableImageError("damaged")
            if not layout.scans:
                layout.start, layout.header = place, b"".join(kept)
            layout.scans.append(body)
        elif code in _FRAMES or code == _JPEG_LS:
            _read_frame(layout, code, body)
            kept.append(data[place:end])
        elif code == _APP1 and body.startswith(_EXIF) and not layout.exif:
            layout.exif = body[len(_EXIF) :]
        elif _tells_colours(code, body):
            kept.append(data[place:end])
    if not layout.scans:
        raise UnreadableImageError("truncated")
    _check_scans(layout)
    return layout


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, start and end of each whole segment; behind that of a scan its data follow."""
    place, size = len(_SOI), len(data)
    markers: list[int] | None = None
    while (place := data.find(b"\xff", place)) >= 0 and place + 1 < size:
        code = data[place + 1]
        if code == _EOI[1]:
            yield code, place, place + 2
            return
        if code == 0xFF or code <= 1 or 0xD0 <= code <= 0xD8:  # nothing follows these
            place += 1 if code == 0xFF else 2
            continue
        end = place + 2 + (data[place + 2] << 8 | data[place + 3]) if place + 4 <= size else size + 1
        if end > size or end < place + 4:
            return
        yield code, place, end
        place = end
        if code == _SOS:
            if markers is None:
                values = np.frombuffer(data, np.uint8, offset=end)
                found = (values == 0xFF).nonzero()[0]
                codes = values.take(found + 1, mode="clip")
                found = found[codes.nonzero()] + end
                markers = [at for at in found.tolist() if at + 1 < size and not 0xD0 <= data[at + 1] <= 0xD7]
                markers = [at for at in markers if data[at + 1] != 0xFF]
            following = bisect.bisect_left(markers, end)
            if following == len(markers):
                return
            place = markers[following]


def _tells_colours(code: int, body: bytes) -> bool:
    """Whether libjpeg concludes from the segment what the components are."""
    return (code == _APP0 and body.startswith(b"JFIF\0") and len(body) >= 14) or (
        code == _APP14 and body.startswith(b"Adobe") and len(body) >= 12
    )


def _read_frame(layout: _Layout, code: int, body: bytes) -> None:
    if code == _JPEG_LS:
        raise UnreadableImageError("JPEG-LS is not supported")
    if code in _UNUSUAL:
        raise UnreadableImageError(f"JPEG of the kind SOF{code - 0xC0} is not supported")
    if layout.frame or len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise UnreadableImageError("damaged")
    if body[0] != 8:
        raise UnreadableImageError(f"{body[0]}-bit JPEG is not supported")
    if body[5] not in (1, 3, 4):
        raise UnreadableImageError(f"JPEG of {body[5]} components is not supported")
    height, width = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
    if not height:
        raise UnreadableImageError("JPEG that gives its height at its end is not supported")
    check_size(width, height)
    layout.frame, layout.components, layout.size = code, body[5], (width, height)


def _check_scans(layout: _Layout) -> None:
    """Raise if scans are missing: each component needs all 64 coefficients, to their last bit."""
    if layout.one_pass:
        return
    missing: dict[int, list[int]] = {}
    for header in layout.scans:
        components, (first, last, bits) = header[1:-3:2], header[-3:]
        if layout.frame not in _PROGRESSIVE:
            first, last, bits = 0, 63, 0
        for component in components:
            missing.setdefault(component, [1] * 64)[first : last + 1] = [bits & 15] * (last + 1 - first)
    if len(missing) < layout.components or any(map(any, missing.values())):
        raise UnreadableImageError("truncated")
