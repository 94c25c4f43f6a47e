"""BMP: palettes, run lengths and any bit fields, read with NumPy; Pillow knows some layouts of each."""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data.formats.picture import Picture, UnreadableImageError, check_size

_PLAIN, _RLE8, _RLE4, _BITFIELDS, _ALPHA_BITFIELDS = 0, 1, 2, 3, 6
_CORE, _INFO, _V2, _V3, _OS2 = 12, 40, 52, 56, 64  # lengths of headers
_MASKS = {16: (0x7C00, 0x03E0, 0x001F), 24: (0xFF0000, 0xFF00, 0xFF), 32: (0xFF0000, 0xFF00, 0xFF)}
_BYTES = {0xFF << 8 * number: number for number in range(4)}  # masks of one whole byte
_ROWS = 1 << 20  # pixels that are unpacked at a time, about


@dataclass(frozen=True)
class _Layout:
    width: int
    height: int
    upside_down: bool
    """The first row in the file is the lowest one, as in most files."""
    bits: int
    """Per pixel."""
    compression: int
    offset: int
    """Where the pixels begin in the file."""
    palette: NDArray[np.uint8]
    """(2 ** bits, 3) RGB; up to 8 bits."""
    masks: tuple[int, ...]
    """Of red, green, blue and perhaps alpha in a pixel; from 16 bits on."""


def is_bmp(data: bytes) -> bool:
    """Whether `data` begins as a BMP: two letters are too few to tell."""
    length = int.from_bytes(data[14:18], "little")
    return data[:2] == b"BM" and (length in (_CORE, _V2, _V3, 108, 124) or 16 <= length <= _OS2)


def open_bmp(data: bytes) -> Picture:
    """Decode a BMP of 1, 2, 4, 8, 16, 24 or 32 bits per pixel.

    An alpha of 0 all over the image is none: there are programs that leave it so.
    """
    layout = _layout(data)
    if layout.compression in (_RLE8, _RLE4):
        rows = _run_lengths(data, layout)
    else:
        stride, used = (layout.width * layout.bits + 31) // 32 * 4, (layout.width * layout.bits + 7) // 8
        stored = np.frombuffer(data, np.uint8, offset=min(layout.offset, len(data)))
        if len(stored) < stride * (layout.height - 1) + used:
            raise UnreadableImageError("truncated")
        if len(stored) < stride * layout.height:  # the last row may lack its padding
            stored = np.concatenate([stored, np.zeros(stride, np.uint8)])
        rows = stored[: stride * layout.height].reshape(layout.height, stride)
    if layout.upside_down:
        rows = rows[::-1]
    step = max(1, _ROWS // layout.width)
    unpack = _indexed if layout.bits <= 8 else _by_masks
    parts = [unpack(rows[start : start + step], layout) for start in range(0, layout.height, step)]
    pixels = np.concatenate(parts)
    if pixels.shape[-1] == 4 and not pixels[..., 3].any():
        pixels = np.ascontiguousarray(pixels[..., :3])
    return Picture(Image.fromarray(pixels))


def _layout(data: bytes) -> _Layout:
    if len(data) < 18:
        raise UnreadableImageError("truncated")
    offset, length = struct.unpack_from("<I", data, 10)[0], struct.unpack_from("<I", data, 14)[0]
    header = data[14 : 14 + length]
    if len(header) < length:
        raise UnreadableImageError("truncated")
    if length == _CORE:
        width, height, _, bits = struct.unpack_from("<HHHH", header, 4)
        compression, colours, place, entry = _PLAIN, 0, 14 + length, 3
    else:
        header = header.ljust(124, b"\0")
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", header, 4)
        colours, place, entry = struct.unpack_from("<I", header, 32)[0], 14 + length, 4
    os2 = length in range(16, _OS2 + 1) and length not in (_INFO, _V2, _V3)
    if (os2 and compression in (3, 4)) or compression in (4, 5):
        raise UnreadableImageError(f"BMP compression {compression} is not supported")
    if bits == 64:
        raise UnreadableImageError("BMP of 64 bits per pixel is not supported")
    if bits not in (1, 2, 4, 8, 16, 24, 32):
        raise UnreadableImageError("damaged")
    check_size(width, abs(height))
    masks: tuple[int, ...]
    if (compression, bits) in ((_RLE8, 8), (_RLE4, 4), (_PLAIN, bits)):
        masks = _MASKS.get(bits, ())
    elif compression in (_BITFIELDS, _ALPHA_BITFIELDS) and bits >= 16:
        number = 4 if length >= _V3 or compression == _ALPHA_BITFIELDS else 3  # a header of 40 is followed by them
        masks = struct.unpack_from(f"<{number}I", data, 14 + _INFO)
        masks = masks[:3] if not masks[-1] else masks
    else:
        raise UnreadableImageError("damaged")
    palette = np.zeros((256, 3), np.uint8)  # what has no colour is black
    if bits <= 8:
        end = place + entry * min(colours or 1 << bits, 256)
        offset = offset if offset > place else end
        stored = data[place : min(end, offset)]  # no further than the pixels, whatever is said of the number
        entries = np.frombuffer(stored[: len(stored) // entry * entry], np.uint8).reshape(-1, entry)
        palette[: len(entries)] = entries[:, 2::-1]
    offset = offset or place
    return _Layout(width, abs(height), height > 0, bits, compression, offset, palette, masks)


def _indexed(rows: NDArray[np.uint8], layout: _Layout) -> NDArray[np.uint8]:
    bits = 8 if layout.compression in (_RLE8, _RLE4) else layout.bits
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    indices = rows[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return np.take(layout.palette, indices.reshape(len(rows), -1)[:, : layout.width], axis=0)


def _by_masks(rows: NDArray[np.uint8], layout: _Layout) -> NDArray[np.uint8]:
    stored = rows[:, : layout.width * layout.bits // 8].reshape(len(rows), layout.width, -1)
    if all(mask in _BYTES for mask in layout.masks):
        order = [_BYTES[mask] for mask in layout.masks]
        return stored[..., 2::-1] if order == [2, 1, 0] else stored[..., order]  # a view: most files are so
    pixels = np.zeros(stored.shape[:2], np.uint32)
    for number in range(stored.shape[-1]):
        pixels |= stored[..., number].astype(np.uint32) << np.uint32(8 * number)
    return np.stack([_channel(pixels, mask) for mask in layout.masks], axis=-1)


def _channel(pixels: NDArray[np.uint32], mask: int) -> NDArray[np.uint8]:
    """The bits of `mask`, spread over 0 to 255."""
    shift = (mask & -mask).bit_length() - 1 if mask else 0
    bits = mask.bit_length() - shift
    values = (pixels & np.uint32(mask)) >> np.uint32(shift + max(0, bits - 16))  # times 255, they must still fit
    return (values * np.uint32(255) // np.uint32(max(1, (1 << min(bits, 16)) - 1))).astype(np.uint8)


def _run_lengths(data: bytes, layout: _Layout) -> NDArray[np.uint8]:
    """Return the indices, (height, width), in the order of the file; what is skipped has index 0."""
    width, height, nibbles = layout.width, layout.height, layout.compression == _RLE4
    canvas, place, x, y = bytearray(width * height), layout.offset, 0, 0
    while y < height:
        code = data[place : place + 2]
        if len(code) < 2:
            if y == height - 1 and x >= width:
                break  # all is there but the mark of the end
            raise UnreadableImageError("truncated")
        count, value = code
        place += 2
        if count:
            run = (bytes((value >> 4, value & 15)) if nibbles else bytes((value,))) * count
        elif value == 0:
            x, y = 0, y + 1
            continue
        elif value == 1:
            break
        elif value == 2:
            x, y = x + sum(data[place : place + 1]), y + sum(data[place + 1 : place + 2])
            place += 2
            continue
        else:
            count, length = value, (value + 1) // 2 if nibbles else value
            run = data[place : place + length]
            if len(run) < length:
                raise UnreadableImageError("truncated")
            place += length + length % 2
            if nibbles:
                run = bytes(half for byte in run for half in (byte >> 4, byte & 15))
        run = run[: min(count, max(0, width - x))]
        canvas[y * width + x : y * width + x + len(run)] = run
        x += count
    return np.frombuffer(canvas, np.uint8).reshape(height, width)
