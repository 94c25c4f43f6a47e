"""GIF: the first frame on its canvas."""

import io

from PIL import Image

from frostline.data.formats.picture import Picture, UnreadableImageError, check_size

_EXTENSION, _GRAPHIC_CONTROL, _FRAME, _TRAILER = b"!", 0xF9, b",", b";"


def open_gif(data: bytes) -> Picture:
    """Decode the first frame; where it does not draw, the canvas is transparent."""
    content, box = _first_frame(data)
    with Image.open(io.BytesIO(content), formats=["GIF"]) as image:
        check_size(*image.size)
        image.load()
    if box == (0, 0, *image.size) or "transparency" in image.info:  # with it, Pillow sees to that
        return Picture(image)
    drawn = Image.new("L", image.size)
    drawn.paste(255, box)
    canvas = image.convert("RGB")
    canvas.putalpha(drawn)
    return Picture(canvas)


def _first_frame(data: bytes) -> tuple[bytes, tuple[int, int, int, int]]:
    """Return a GIF of the first frame alone, without comments and the like, and the frame's box on the canvas."""
    place = 13 + _palette_bytes(data[10:11])
    header, control = data[:place], b""
    while (kind := data[place : place + 1]) == _EXTENSION:
        start, label = place, data[place + 1 : place + 2]
        place = _end_of_blocks(data, place + 2)
        if label == bytes([_GRAPHIC_CONTROL]):
            control = data[start:place]
    frame = data[place : place + 10]
    if kind != _FRAME or len(frame) < 10:
        raise UnreadableImageError("truncated" if len(frame) < 10 else "damaged")
    end = _end_of_blocks(data, place + 11 + _palette_bytes(frame[9:]))
    x, y, width, height = (int.from_bytes(frame[n : n + 2], "little") for n in (1, 3, 5, 7))
    check_size(width, height)
    return header + control + data[place:end] + _TRAILER, (x, y, x + width, y + height)


def _palette_bytes(flags: bytes) -> int:
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _end_of_blocks(data: bytes, place: int) -> int:
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return place + 1
