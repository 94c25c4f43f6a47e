"""Hundreds of files of every format, depth, colour, alpha and compression, against readers that are not Pillow.

OpenCV, tifffile and imagecodecs give the samples; what they mean on white paper is worked out here.
"""

import io
import itertools
import struct
import zlib
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from corpus import S, encoded
from frostline.data.images import UnreadableImageError, decode_image

Pixels = NDArray[Any]
File = tuple[str, bytes, Pixels]


def on_white(samples, top, *, associated=False):
    """RGB, (S, S, 3), of grey, grey and alpha, RGB or RGBA samples from 0 to `top`."""
    values = samples.reshape(S, S, -1).astype(float) / top
    alpha = values[..., -1:] if values.shape[-1] in (2, 4) else np.ones((S, S, 1))
    colours = np.broadcast_to(values[..., : 1 if values.shape[-1] < 3 else 3], (S, S, 3))
    return 255 * np.clip(colours * (1 if associated else alpha) + 1 - alpha, 0, 1)


def wrong(files):
    """The names of those that are decoded otherwise or refused, and how many there are.

    2 of 255 may be lost: colour and alpha are each cut to 8 bits before they are multiplied.
    """
    names, number = [], 0
    for name, data, expected in files:
        number += 1
        try:
            pixels = decode_image(data, S)
        except UnreadableImageError as error:
            names.append(f"{name}: {error}")
            continue
        if np.abs(pixels - expected.astype(float)).max() > 2:
            names.append(name)
    return names, number


def samples(channels, bits, seed=1):
    """Noise over the whole range, smooth enough to compress."""
    values = np.random.default_rng(seed).integers(0, 1 << bits, (S, S, channels), np.uint64)
    values[S // 2 :] = values[: S // 2, ::-1] // 2
    return values.astype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)


# PNG


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values, bits, colours, *extra, interlaced=False):
    """A PNG of `values`, (S, S, channels), with chunks `extra` before the pixels."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    stream = b""
    for x, y, across, down in passes if interlaced else [(0, 0, 1, 1)]:
        for row in values[y::down, x::across].reshape(-1, len(range(x, S, across)) * values.shape[-1]):
            places = row[:, None].astype(np.uint32) >> np.arange(bits - 1, -1, -1, dtype=np.uint32) & 1
            stream += b"\0" + np.packbits(places.astype(np.uint8).ravel()).tobytes()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", S, S, bits, colours, 0, 0, interlaced))
    content = [header, *extra, png_chunk(b"IDAT", zlib.compress(stream)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(content)


def png_files():
    kinds = {0: (1, 2, 4, 8, 16), 2: (8, 16), 4: (8, 16), 6: (8, 16)}
    channels = {0: 1, 2: 3, 4: 2, 6: 4}
    for colours, interlaced, seed in itertools.product(kinds, (False, True), (1, 2)):
        for bits in kinds[colours]:
            values = samples(channels[colours], bits, seed)
            name = f"PNG {colours}/{bits} interlaced {interlaced}"
            data = png(values, bits, colours, interlaced=interlaced)
            read = imagecodecs.png_decode(data)
            assert bits < 8 or (read.reshape(S, S, -1) == values).all()
            yield name, data, on_white(values, (1 << bits) - 1)
            if colours not in (0, 2):
                continue
            clear = values[3, 5].astype(int)
            values[9, 9] = clear ^ 1  # but for the last bit it is the same
            alpha = (values != clear).any(axis=-1, keepdims=True) * ((1 << bits) - 1)
            mark = png_chunk(b"tRNS", b"".join(struct.pack(">H", value) for value in clear))
            data = png(values, bits, colours, mark, interlaced=interlaced)
            yield f"{name} tRNS", data, on_white(np.concatenate([values, alpha], axis=-1), (1 << bits) - 1)
    for bits, interlaced in itertools.product((1, 2, 4, 8), (False, True)):
        palette = np.random.default_rng(bits).integers(0, 256, (1 << bits, 4), np.uint8)
        colours_chunk = png_chunk(b"PLTE", palette[:, :3].tobytes())
        values = samples(1, bits)
        data = png(values, bits, 3, colours_chunk, interlaced=interlaced)
        yield f"PNG palette/{bits} {interlaced}", data, on_white(palette[values[..., 0], :3], 255)
        data = png(values, bits, 3, colours_chunk, png_chunk(b"tRNS", palette[:, 3].tobytes()), interlaced=interlaced)
        yield f"PNG palette/{bits} {interlaced} tRNS", data, on_white(palette[values[..., 0]], 255)


# TIFF


def tiff_files():
    compressions = [None, "lzw", "deflate", "packbits", "zstd", "lzma"]
    layouts: list[dict[str, Any]] = [
        {},
        {"rowsperstrip": 7},
        {"tile": (16, 16)},
        {"predictor": True, "rowsperstrip": 10},
        {"byteorder": ">"},
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "tile": (16, 16), "byteorder": ">", "predictor": True},
    ]
    kinds = [  # photometric, channels, extra samples
        ("minisblack", 1, []),
        ("miniswhite", 1, []),
        ("minisblack", 2, ["unassalpha"]),
        ("minisblack", 2, ["assocalpha"]),
        ("rgb", 3, []),
        ("rgb", 4, ["unassalpha"]),
        ("rgb", 4, ["assocalpha"]),
        ("rgb", 4, ["unspecified"]),
        ("rgb", 5, ["unspecified", "unspecified"]),
    ]
    for place, ((photometric, channels, extra), layout) in enumerate(itertools.product(kinds, layouts)):
        for number, (bits, compression) in enumerate(itertools.product((8, 16), compressions)):
            if (place + number) % 2:
                continue
            if (layout.get("predictor") and compression in (None, "packbits")) or (
                channels == 1 and "planarconfig" in layout
            ):
                continue
            values = samples(channels, bits, number)
            if extra == ["assocalpha"]:
                values[..., :-1] = np.minimum(values[..., :-1], values[..., -1:])
            buffer = io.BytesIO()
            options = {**layout, "extrasamples": extra} if extra else layout
            stored = (
                np.moveaxis(values, -1, 0) if "planarconfig" in layout else values if channels > 1 else values[..., 0]
            )
            tifffile.imwrite(buffer, stored, photometric=photometric, compression=compression, metadata=None, **options)
            read = tifffile.imread(io.BytesIO(buffer.getvalue()))
            read = np.moveaxis(read, 0, -1) if "planarconfig" in layout else read
            shown = read.reshape(S, S, -1)[..., : 3 if extra[:1] == ["unspecified"] else None]
            shown = (1 << bits) - 1 - shown if photometric == "miniswhite" else shown
            expected = on_white(shown, (1 << bits) - 1, associated=extra == ["assocalpha"])
            yield f"TIFF {photometric} {extra} {bits} {compression} {layout}", buffer.getvalue(), expected


def other_tiff_files():
    def written(values, **options):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, metadata=None, **options)
        return buffer.getvalue()

    deep = samples(1, 32)[..., 0]
    for compression in (None, "lzw", "deflate"):
        for order in "<>":
            options = {"compression": compression, "byteorder": order, "photometric": "minisblack"}
            yield f"uint32 {options}", written(deep, **options), on_white(deep, 2**32 - 1)
            yield f"uint32 of 16 bits {options}", written(deep >> 16, **options), on_white(deep >> 16, 65535)
            signed = (deep >> 17).astype(np.int32)
            yield f"int32 {options}", written(signed, **options), on_white(signed, 65535)
        bilevel = samples(1, 1)[..., 0]
        yield (
            f"1 bit {compression}",
            written(bilevel > 0, photometric="minisblack", compression=compression),
            on_white(bilevel, 1),
        )
    for bits in (2, 4, 10, 12, 14):
        values = samples(1, bits)[..., 0]
        yield (
            f"{bits} bits",
            written(values, bitspersample=bits, photometric="minisblack"),
            on_white(values, (1 << bits) - 1),
        )
        values = samples(3, bits)
        yield (
            f"RGB {bits} bits",
            written(values, bitspersample=bits, photometric="rgb"),
            on_white(values, (1 << bits) - 1),
        )
    palette = np.random.default_rng(3).integers(0, 65536, (3, 256), np.uint16)
    values = samples(1, 8)[..., 0]
    data = written(values, photometric="palette", colormap=palette)
    yield "palette", data, (palette >> 8).T[values]
    photo = cv2.resize(samples(3, 8)[:4, :4], (S, S), interpolation=cv2.INTER_CUBIC)
    for options in ({}, {"tile": (16, 16)}, {"rowsperstrip": 16}, {"subsampling": (1, 1)}, {"subsampling": (2, 2)}):
        for shape in (photo, photo[..., 0]):
            kind = {"photometric": "rgb" if shape.ndim == 3 else "minisblack", "compression": "jpeg", **options}
            data = written(
                shape, **{key: value for key, value in kind.items() if shape.ndim == 3 or key != "subsampling"}
            )
            yield f"JPEG in TIFF {kind}", data, on_white(tifffile.imread(io.BytesIO(data)), 255)
    inks = samples(4, 8)
    shades = (255 - inks[..., :3].astype(int)) * (255 - inks[..., 3:].astype(int)) / 255
    yield "CMYK", written(inks, photometric="separated"), shades


# BMP


def bmp(pixels, bits, *, masks=(), header=40, palette=b"", up=1):
    """A BMP of rows of `pixels`; `header` is the length of the second header, `up` is -1 for the upper row first."""
    fields = struct.pack("<iiHHIIiiII", S, up * S, 1, bits, 3 if masks else 0, len(pixels), 0, 0, 0, 0)
    fields += struct.pack(f"<{len(masks)}I", *masks)
    fields = fields.ljust(header - 4, b"\0")
    start = 14 + 4 + len(fields) + len(palette)
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
        + struct.pack("<I", header)
        + fields
        + palette
        + pixels
    )


def bmp_files_of_runs():
    """In each row a run and pixels as they are; but for three rows, in which pixels are skipped.

    The reader is Pillow, whose decoder ours is not: OpenCV does not go up within run lengths of 4 bits.
    """
    for bits, run, header in itertools.product((4, 8), (8, 9), (40, 64, 108, 124)):
        colours = np.random.default_rng(bits).integers(0, 256, (1 << bits, 4), np.uint8)
        indices, rows = samples(1, bits)[..., 0], []
        for row in indices:
            row[2:run:2], row[1:run:2] = row[0], row[1] if bits == 4 else row[0]
            rest = np.append(row[run:], np.uint8(0))  # one more, for pairs
            plain = (rest[:-1:2] << 4 | rest[1::2] if bits == 4 else rest[:-1]).tobytes()
            rows.append(bytes((run, row[0] << 4 | row[1] if bits == 4 else row[0], 0, S - run)) + plain)
            rows[-1] += bytes(len(plain) % 2) + b"\0\0"
        indices[5:8] = 0
        indices[5, :4] = indices[7, 3:7] = (0, 1, 0, 1) if bits == 4 else (1, 1, 1, 1)
        rows[5:8] = [b"\4\1\0\0", b"\0\2\3\1\4\1\0\0"]  # the end of the line; 3 to the right and 1 up
        data = bytearray(bmp(b"".join(rows) + b"\0\1", bits, header=header, palette=colours.tobytes()))
        data[30] = 1 if bits == 8 else 2  # the compression
        expected = colours[indices][::-1, :, 2::-1]
        assert (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) == expected).all()
        yield f"BMP RLE{bits} {run} {header}", bytes(data), expected


def bmp_files_of_os2():
    """Headers of OS/2: the first one, with three bytes per colour, and two lengths of the second one."""
    for bits, header in itertools.product((1, 4, 8, 24), (12, 16, 64)):
        values = samples(1 if bits <= 8 else 3, min(bits, 8))
        places = values[..., None] >> np.arange(min(bits, 8) - 1, -1, -1, dtype=np.uint8) & 1
        rows = np.packbits(places.reshape(S, -1), axis=1).tobytes()
        colours = np.random.default_rng(bits).integers(0, 256, (1 << bits if bits <= 8 else 0, 4), np.uint8)
        if header == 64:
            data = bmp(rows, bits, header=header, palette=colours.tobytes())
        else:
            content = struct.pack("<IHHHH" if header == 12 else "<IIIHH", header, S, S, 1, bits)
            content += colours[:, : 3 if header == 12 else 4].tobytes()
            data = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(content)) + content + rows
        expected = (colours[values[..., 0], :3] if bits <= 8 else values)[::-1, :, ::-1]
        assert (
            header == 16 or (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] == expected).all()
        )  # it does not know the shortened one
        yield f"BMP of OS/2 {bits} {header}", data, expected


def bmp_files():
    fields = {
        "565": (16, (0xF800, 0x7E0, 0x1F)),
        "555": (16, (0x7C00, 0x3E0, 0x1F)),
        "231": (16, (0x6000, 0x1C00, 0x200)),
        "4444": (16, (0xF00, 0xF0, 0xF, 0xF000)),
        "RGBA": (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
        "shifted": (32, (0xFF00, 0xFF0000, 0xFF000000)),
        "101010": (32, (0x3FF00000, 0xFFC00, 0x3FF)),
        "11-11-10": (32, (0xFFE00000, 0x1FFC00, 0x3FF)),
        "1010102": (32, (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000)),
    }
    for (name, (bits, masks)), header, up in itertools.product(fields.items(), (40, 52, 56, 108, 124), (1, -1)):
        if len(masks) == 4 and header < 56:
            continue
        stored = samples(1, bits, len(name))[..., 0]
        channels = [(stored & mask) >> (mask & -mask).bit_length() - 1 for mask in masks]
        tops = [mask >> (mask & -mask).bit_length() - 1 for mask in masks]
        values = np.stack([channel / top for channel, top in zip(channels, tops, strict=True)], axis=-1)
        data = bmp(stored.astype(f"<u{bits // 8}").tobytes(), bits, masks=masks, header=header, up=up)
        yield f"BMP {name} {header} {up}", data, on_white(values[::-up], 1)
    for bits, header, up in itertools.product((1, 2, 4, 8), (40, 108, 124), (1, -1)):
        colours = np.random.default_rng(bits).integers(0, 256, (1 << bits, 4), np.uint8)
        for kind in ("colours", "greys"):  # a palette of its own indices is one that Pillow takes for none
            colours = colours if kind == "colours" else np.arange(1 << bits, dtype=np.uint8)[:, None].repeat(4, axis=1)
            indices = samples(1, bits)[..., 0]
            places = indices[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint8) & 1
            rows = np.packbits(places.reshape(S, -1), axis=1)
            data = bmp(rows.tobytes(), bits, header=header, palette=colours.tobytes(), up=up)
            yield f"BMP {bits} {kind} {header} {up}", data, colours[indices][::-up, :, 2::-1]
    yield from bmp_files_of_runs()
    yield from bmp_files_of_os2()
    for values in (samples(3, 8), samples(1, 8)[..., 0]):
        data = cv2.imencode(".bmp", values)[1].tobytes()
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        yield "BMP by OpenCV", data, read[..., ::-1]


# JPEG, WebP


def jpeg_files():
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8)).resize((S, S), 3)
    for mode, quality, subsampling in itertools.product(("L", "RGB"), (30, 90), (0, 1, 2)):
        for options in (
            {},
            {"progressive": True},
            {"restart_marker_blocks": 3},
            {"progressive": True, "restart_marker_rows": 1},
        ):
            data = encoded(photo.convert(mode), "JPEG", quality=quality, subsampling=subsampling, **options)
            expected = np.broadcast_to(imagecodecs.jpeg8_decode(data).reshape(S, S, -1), (S, S, 3))
            name = f"JPEG {mode} {quality} {subsampling} {options}"
            yield name, data, expected
            yield f"{name}, no mark of the end", data[:-2], expected
            yield f"{name}, something behind it", data + data[: len(data) // 2], expected


def webp_files():
    for channels, seed in itertools.product((3, 4), range(4)):
        data = imagecodecs.webp_encode(samples(channels, 8, seed), lossless=True)
        yield f"WebP {channels}", data, on_white(imagecodecs.webp_decode(data), 255)


@pytest.mark.parametrize(
    ("files", "least"),
    [(png_files, 80), (tiff_files, 250), (other_tiff_files, 40), (bmp_files, 100), (jpeg_files, 140), (webp_files, 8)],
)
def test_every_pixel_is_as_other_readers_have_it(files, least):
    names, number = wrong(files())
    assert names == []
    assert number >= least


def undeclared(tiff):
    """The same TIFF without ExtraSamples: the tag gets a number that no one knows."""
    assert tiff.count(struct.pack("<HHI", 338, 3, 1)) == 1
    return tiff.replace(struct.pack("<HHI", 338, 3, 1), struct.pack("<HHI", 65000, 3, 1))


def test_fourth_band_of_an_rgb_tiff_is_no_alpha_unless_it_says_so():
    values = samples(4, 8)
    values[..., 3] = 0
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
    assert (decode_image(buffer.getvalue(), S) == 255).all()
    assert (decode_image(undeclared(buffer.getvalue()), S) == values[..., :3]).all()


# GIF


def gif(box, indices, *, clear=None, extension=b""):
    """A GIF with a frame in `box` (x, y, width, height) of the canvas, in four colours, codes of 3 bits each."""
    codes: list[int] = []
    for start in range(0, indices.size, 2):  # after a clear code two literals still have 3 bits
        codes += [4, *indices.ravel()[start : start + 2].tolist()]
    bits = "".join(f"{code:03b}"[::-1] for code in [*codes, 5])
    packed = np.packbits([int(bit) for bit in bits], bitorder="little").tobytes()
    blocks = b"".join(bytes([len(packed[n : n + 255])]) + packed[n : n + 255] for n in range(0, len(packed), 255))
    control = b"" if clear is None else bytes((0x21, 0xF9, 4, 1, 0, 0, clear, 0))
    start = b"GIF89a" + struct.pack("<HHBBB", S, S, 0x81, 0, 0) + PALETTE.tobytes() + extension + control
    return start + b"," + struct.pack("<HHHHB", *box, 0) + b"\x02" + blocks + b"\0;"


PALETTE = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)], np.uint8)


@pytest.mark.parametrize("clear", [None, 0, 3])
@pytest.mark.parametrize("box", [(0, 0, S, S), (0, 0, S, S // 2), (8, 4, 10, 6), (0, 0, 1, 1), (S - 1, S - 1, 1, 1)])
def test_gif_canvas_is_white_where_nothing_is_drawn(box, clear):
    x, y, width, height = box
    indices = np.random.default_rng(1).integers(0, 3, (height, width))
    expected = np.full((S, S, 3), 255)
    expected[y : y + height, x : x + width] = np.where((indices == clear)[..., None], 255, PALETTE[indices])
    data = gif(box, indices, clear=clear, extension=b"!\xfe\xff" + b"c" * 255 + b"\0")
    assert (decode_image(data, S) == expected).all()
    assert reason(data[:-8]) == "truncated"
    assert (
        reason(gif(box, indices[: height // 2]) + data) == "truncated"
    )  # the frame ends early, and another one follows


def reason(data):
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(data, S)
    return str(caught.value)


# Whether all is there


def photo(width=200, height=150):
    small = np.random.default_rng(2).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimize": True},
        {"restart_marker_rows": 2},
        {"progressive": True},
        {"progressive": True, "restart_marker_rows": 2},
    ],
)
def test_jpeg_that_ends_early_is_truncated_whatever_closes_it(options, mode):
    data = encoded(photo().convert(mode), "JPEG", quality=90, **options)
    pixels, start = decode_image(data, S), data.index(b"\xff\xda") + 14
    for share in (0.02, 0.3, 0.5, 0.8, 0.97):
        cut = data[: start + int(share * (len(data) - start))]
        for tail in (b"", b"\xff\xd9", b"\xff\xd9" + data):
            assert reason(cut + tail) in ("truncated", "damaged")
    try:
        assert (decode_image(data[:-30], S) == pixels).all()  # if what is missing says nothing
    except UnreadableImageError as error:
        assert str(error) == "truncated"
    for end in (data[:-1], data[:-2], data[:-2] + b"\xff\xff\xff\xd9", data + data, data + bytes(100)):
        assert (decode_image(end, S) == pixels).all()


def test_png_whose_stream_ends_early_but_in_order_is_truncated():
    for colours, bits, channels in ((0, 1, 1), (0, 8, 1), (0, 16, 1), (2, 8, 3), (6, 8, 4), (6, 16, 4)):
        for value, interlaced in itertools.product((0, 91, 164, 255), (False, True)):
            values = np.full((S, S, channels), value >> 8 - min(bits, 8))
            whole = png(values, bits, colours, interlaced=interlaced)
            assert decode_image(whole, S).shape == (S, S, 3)
            place = whole.index(b"IDAT")
            stream = zlib.decompress(whole[place + 4 : -16])
            for length in (0, len(stream) // 2, len(stream) - 5):
                short = whole[: place - 4] + png_chunk(b"IDAT", zlib.compress(stream[:length])) + whole[-12:]
                assert reason(short) == "truncated"


# Metadata decides nothing


def test_metadata_that_is_large_or_damaged_is_ignored():
    picture, xmp = photo(S, S), b'<x tiff:Orientation="6"/>'
    wrong_sum = b"\0\0\0\4tEXtabcd\0\0\0\0"
    for chunk in (
        wrong_sum,
        png_chunk(b"zTXt", b"k\0\7" + bytes(20)),
        png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(8 << 20))),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        png_chunk(b"acTL", b"\0"),
        png_chunk(b"pHYs", b"") + png_chunk(b"gAMA", b"") + png_chunk(b"sRGB", b"") + png_chunk(b"cHRM", b""),
        png_chunk(b"eXIf", b"MM\0*"),
    ):
        data = encoded(picture)
        assert (decode_image(data[:33] + chunk + data[33:], S) == np.asarray(picture)).all()
    jpeg = encoded(picture, "JPEG")
    for code, body in (
        (0xE0, b"JFIF"),
        (0xED, b"Photoshop 3.0\08BIM"),
        (0xEE, b"Adobe"),
        (0xE1, b"Exif\0\0MM\0*"),
        (0xFE, b""),
    ):
        segment = bytes((0xFF, code)) + struct.pack(">H", len(body) + 2) + body
        assert (decode_image(jpeg[:2] + segment + jpeg[2:], S) == decode_image(jpeg, S)).all()
    for kind in ("JPEG", "WEBP", "PNG"):
        plain = encoded(picture, kind, quality=90, lossless=True)
        data = encoded(picture, kind, quality=90, lossless=True, xmp=xmp)
        assert len(data) > len(plain) + 20 or kind == "PNG"
        assert (decode_image(data, S) == decode_image(plain, S)).all()
    webp = encoded(picture, "WEBP", lossless=True, xmp=xmp)
    assert (decode_image(webp[:-4], S) == np.asarray(picture)).all()  # what is missing is only XMP
    tiff = io.BytesIO()
    tifffile.imwrite(
        tiff, np.asarray(picture), photometric="rgb", metadata=None, extratags=[(700, 7, len(xmp), xmp, True)]
    )
    assert (decode_image(tiff.getvalue(), S) == np.asarray(picture)).all()


def test_orientation_counts_as_a_number_of_any_kind_and_as_no_text():
    picture = photo(S, S)
    for kind, value, turned in (
        (3, b"\6\0\0\0", True),
        (4, b"\6\0\0\0", True),
        (1, b"\6\0\0\0", True),
        (2, b"6\0\0\0", False),
    ):
        exif = b"II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, 1) + value
        expected = np.rot90(np.asarray(picture), -1) if turned else np.asarray(picture)
        assert (decode_image(encoded(picture, exif=exif), S) == expected).all()


EXIF_6 = b"II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, 3, 1) + b"\6\0\0\0"


def pairs_of_pngs():
    for name, data, _ in png_files():
        for place in (33, len(data) - 12):  # before the pixels and after them
            yield f"{name} {place}", data, data[:place] + png_chunk(b"eXIf", EXIF_6) + data[place:]


def pairs_of_tiffs():
    def written(values, *tags, **options):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, metadata=None, extratags=tags, **options)
        return buffer.getvalue()

    def pair(values, **options):
        return written(values, **options), written(values, (274, 3, 1, 6, True), **options)

    for bits in (1, 2, 4, 8, 10, 12, 16, 32):
        values = samples(1, bits)[..., 0]
        depth = {"bitspersample": bits} if bits in (2, 4, 10, 12) else {}
        yield f"grey {bits}", *pair(values > 0 if bits == 1 else values, photometric="minisblack", **depth)
    kinds = [
        ("miniswhite", 1, ""),
        ("minisblack", 2, "unassalpha"),
        ("minisblack", 2, "assocalpha"),
        ("rgb", 3, ""),
        ("rgb", 4, "unassalpha"),
        ("rgb", 4, "assocalpha"),
        ("rgb", 4, "unspecified"),
        ("separated", 4, ""),
    ]
    for (photometric, channels, extra), bits in itertools.product(kinds, (8, 16)):
        values = samples(channels, bits)
        if extra == "assocalpha":
            values[..., :-1] = np.minimum(values[..., :-1], values[..., -1:])
        options = {"photometric": photometric, "extrasamples": [extra] if extra else None}
        yield f"{photometric} {extra} {bits}", *pair(values if channels > 1 else values[..., 0], **options)
    for compression in ("lzw", "deflate", "jpeg"):
        yield compression, *pair(samples(3, 8), photometric="rgb", compression=compression)
    colours = np.random.default_rng(3).integers(0, 65536, (3, 256), np.uint16)
    yield "palette", *pair(samples(1, 8)[..., 0], photometric="palette", colormap=colours)


def pairs_of_others():
    modes = {"JPEG": ("L", "RGB", "CMYK"), "WEBP": ("RGB", "RGBA")}
    for kind, progressive in itertools.product(modes, (False, True)):
        for mode in modes[kind]:
            options: dict[str, Any] = {"progressive": progressive, "lossless": True}
            picture = photo(S, S).convert(mode)
            turned = encoded(picture, kind, exif=b"Exif\0\0" + EXIF_6, **options)
            yield f"{kind} {mode} {progressive}", encoded(picture, kind, **options), turned


@pytest.mark.parametrize(("pairs", "least"), [(pairs_of_pngs, 100), (pairs_of_tiffs, 28), (pairs_of_others, 10)])
def test_orientation_counts_in_every_mode(pairs, least):
    found = {name: (decode_image(plain, S), decode_image(turned, S)) for name, plain, turned in pairs()}
    assert [name for name, (plain, turned) in found.items() if (np.rot90(plain, -1) != turned).any()] == []
    assert [name for name, (plain, turned) in found.items() if (plain == turned).all()] == []
    assert len(found) >= least


# What is refused, and why


def test_the_reason_is_true():
    def tiff(values, **options):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, metadata=None, **options)
        return buffer.getvalue()

    twelve = imagecodecs.jpeg8_encode(samples(1, 12)[..., 0], bitspersample=12)
    jpeg = encoded(photo(S, S), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    two = jpeg[: frame + 9] + b"\2" + jpeg[frame + 10 :]
    flat = np.full((S, S), 0.5, np.float32)
    assert reason(twelve) == "12-bit JPEG is not supported"
    assert reason(two) == "damaged"
    assert reason(imagecodecs.jpegls_encode(samples(1, 8)[..., 0])) == "JPEG-LS is not supported"
    for values, kind in (
        (flat, "minisblack"),
        (np.stack([flat] * 3, -1), "rgb"),
        (flat.astype(np.float16), "minisblack"),
    ):
        assert reason(tiff(values, photometric=kind)) == "floating-point pixels are not supported"
    negative = np.full((S, S), -1, np.int16)
    assert reason(tiff(negative, photometric="minisblack")) == "negative pixel values are not supported"
    grey = tiff(samples(2, 8), photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"])
    assert reason(undeclared(grey)) == "TIFF of 2 samples per pixel without their meaning is not supported"
    preview = "TIFF that begins with a preview, as raw files of cameras do, is not supported"
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(samples(3, 8)[::2, ::2], photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        file.write(samples(3, 8), photometric="rgb", metadata=None)
    assert reason(buffer.getvalue()) == preview
    assert reason(tiff(samples(3, 8), photometric="rgb", extratags=[(255, 3, 1, 2, True)])) == preview
    assert reason(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n").startswith("a pointer of Git LFS")
    assert reason(bmp(bytes(99), 24)) == "truncated"
    assert reason(b"\x89PNG\r\n\x1a\n" + bytes(4)) == "truncated"
    assert reason(b"RIFF\0\1\0\0WEBPVP8 ") == "truncated"
    assert reason(b"BMW is a car") == "not a JPEG, PNG, GIF, WebP, BMP or TIFF image"
