"""PNG: its critical chunks, and transparency by the values of the file."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from frostline.data.formats.picture import Picture, UnreadableImageError, check_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GREY, _RGB, _PALETTE = 0, 2, 3  # colour types (W3C PNG, 11.2.1)
_FILL, _OTHER_FILL = 91, 164  # values of pixels that few images have


def open_png(data: bytes) -> Picture:
    """Decode a PNG; of an APNG, the image that is shown where nothing moves.

    Chunks that decide no pixel are left out, whatever is in them; the EXIF block is that of the chunk eXIf.
    """
    chunks, pixels = _chunks(data)
    header, transparency, palette = (chunks.get(kind, b"") for kind in (b"IHDR", b"tRNS", b"PLTE"))
    if len(header) != 13:
        raise UnreadableImageError("damaged" if pixels else "truncated")
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    check_size(width, height)
    start = _chunk(b"IHDR", header)
    if colours == _PALETTE:
        if not palette or len(palette) % 3:
            raise UnreadableImageError("damaged")
        start += _chunk(b"PLTE", palette[:768].ljust(768, b"\0"))  # what has no colour is black
        if transparency:
            start += _chunk(b"tRNS", transparency[: len(palette) // 3])
    # one chunk for all the pixels; Pillow does not look at its checksum, as they have one of their own
    length = struct.pack(">I", sum(map(len, pixels)))
    content = b"".join([SIGNATURE, start, length, b"IDAT", *pixels, bytes(4), _chunk(b"IEND", b"")])
    image = _load(content, interlaced=interlaced != 0)
    if colours == _GREY:
        image = _grey(image, depth, transparency)
    elif colours == _RGB and len(transparency) >= 6:
        image.putalpha(_opaque(image, content, depth, struct.unpack_from(">HHH", transparency)))
    return Picture(image, chunks.get(b"eXIf", b""))


def _chunks(data: bytes) -> tuple[dict[bytes, bytes], list[memoryview]]:
    """Return the chunks, by kind, that say how the pixels are to be read, and the pixels' own in their order."""
    view, place = memoryview(data), len(SIGNATURE)
    chunks: dict[bytes, bytes] = {}
    pixels: list[memoryview] = []
    while place + 8 <= len(data):
        end = place + 8 + int.from_bytes(view[place : place + 4])
        kind, body = bytes(view[place + 4 : place + 8]), view[place + 8 : end]
        if kind == b"IDAT":
            pixels.append(body)
        elif kind == b"IEND":
            break
        elif kind in (b"IHDR", b"PLTE", b"tRNS") and not pixels:
            if end + 4 > len(data):
                raise UnreadableImageError("truncated")
            if zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4]):
                raise UnreadableImageError("damaged")
            chunks.setdefault(kind, bytes(body))
        elif kind == b"eXIf":
            chunks[kind] = bytes(body)
        elif kind == b"CgBI":
            raise UnreadableImageError("PNG as iPhones' apps have it (CgBI) is not supported")
        place = end + 4
    return chunks, pixels


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _load(content: bytes, *, interlaced: bool) -> Image.Image:
    """Decode, and see that every pixel was there: a stream that ends early, but in order, is no error to Pillow.

    It leaves what is missing as it was. So where what comes last is as before, it is decoded into something else.
    """
    image = _decoded(content, _FILL)
    last = image.height // 2 * 2 - 1 if interlaced and image.height > 1 else image.height - 1
    corner = image.getpixel((image.width - 1, last))
    if corner == _blank(image, (1, 1), _FILL).getpixel((0, 0)) or (interlaced and image.height == 1):
        row, other = (0, last, image.width, last + 1), _decoded(content, _OTHER_FILL)
        if image.crop(row).tobytes() != other.crop(row).tobytes():
            raise UnreadableImageError("truncated")
    return image


def _blank(image: Image.Image, size: tuple[int, int], value: int) -> Image.Image:
    bands = len(image.getbands())
    if image.mode == "1":
        value = 255 * (value > 127)
    return Image.new(image.mode, size, value if bands == 1 else (value,) * bands)


def _decoded(content: bytes, fill: int, rawmode: str = "") -> Image.Image:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.im = _blank(image, image.size, fill).im
        if rawmode:
            image.tile = [tile._replace(args=rawmode) for tile in image.tile]
        image.load()
    return image


def _grey(image: Image.Image, depth: int, transparency: bytes) -> Image.Image:
    """Return 8-bit grey (mode L) or, if one of its values means transparent, LA."""
    values = np.asarray(image)
    grey = (
        image.convert("L")
        if depth < 16
        else Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    )
    if len(transparency) < 2:
        return grey
    clear = int.from_bytes(transparency[:2]) & ((1 << depth) - 1)
    if depth < 16:  # Pillow has spread them over 0 to 255
        values, clear = np.asarray(grey), clear * 255 // ((1 << depth) - 1)
    return Image.merge("LA", (grey, _mask(values != clear)))


def _opaque(image: Image.Image, content: bytes, depth: int, clear: tuple[int, ...]) -> Image.Image:
    """Return the mask of the pixels of an RGB image that are not of the colour `clear`."""
    colours = np.array(clear, ">u2").view(np.uint8).reshape(3, 2)  # their higher and lower bytes
    if depth == 8:
        return _mask((np.asarray(image) != colours[:, 1]).any(axis=-1))
    low = _decoded(content, _FILL, "RGB;16L")  # Pillow keeps the byte that comes second, here the lower one
    differ = np.asarray(image) != colours[:, 0]
    differ |= np.asarray(low) != colours[:, 1]
    return _mask(differ.any(axis=-1))


def _mask(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8) * np.uint8(255))
