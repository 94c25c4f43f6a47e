"""WebP: its pixels' chunks, in a container that names no metadata."""

import io

from PIL import Image

from frostline.data.formats.picture import Picture, UnreadableImageError, check_size

_PIXELS = (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L")
_METADATA, _ALPHA, _ANIMATION = 0x2C, 0x10, 0x02  # flags in VP8X: profile, EXIF and XMP; the others


def open_webp(data: bytes) -> Picture:
    """Decode a WebP; of an animation the first frame, with transparency where it does not draw."""
    chunks, exif = [], b""
    place = 12
    while place + 8 <= len(data):
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        end = place + 8 + length + length % 2
        if kind in _PIXELS:
            if place + 8 + length > len(data):
                raise UnreadableImageError("truncated")
            chunks.append(data[place:end].ljust(end - place, b"\0"))
        elif kind == b"EXIF":
            exif = data[place + 8 : place + 8 + length]
        place = end
    if chunks and chunks[0][:4] == b"VP8X" and len(chunks[0]) == 18:
        flags = chunks[0][8] & ~_METADATA
        chunks[0] = chunks[0][:8] + bytes([flags | _ALPHA if flags & _ANIMATION else flags]) + chunks[0][9:]
    if not chunks:
        raise UnreadableImageError("truncated")
    body = b"WEBP" + b"".join(chunks)
    content = b"RIFF" + len(body).to_bytes(4, "little") + body
    with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
        check_size(*image.size)
        image.load()
    return Picture(image, exif)
