"""Damage images in thousands of ways and decode each with the real decoder, in processes of bounded memory.

    make fuzz                                                # 50,000 files
    python tests/fuzz/fuzz_images.py --files 500 --seed 7

It prints files, accepted, rejected by reason, crashes, hangs and the peak of memory, and fails on a crash, on a hang
and on a file that wants more memory than the bound. File `number` of a seed is always the same: `damaged`.
"""

import argparse
import io
import multiprocessing
import os
import resource
import struct
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from frostline.data.images import UnreadableImageError, decode_image

SIZE = 32  # pixels that an image is scaled to
SECONDS = 30
"""A file that takes longer hangs. The largest that is accepted, of 100 megapixels, takes a few."""
MEMORY = 2 << 30
"""Bytes that a worker may take beyond what it begins with. Measured for 100 megapixels: up to 1.7 GiB."""
FAILURES = ("crash", "hang", "out of memory")


@dataclass
class Result:
    outcomes: Counter[str] = field(default_factory=Counter)
    """Files per outcome: "accepted", a reason for rejection, or one of FAILURES."""
    failed: list[tuple[int, str]] = field(default_factory=list)
    """Number and outcome of each file that must not be."""
    peak: int = 0
    """The most resident memory of any worker, in bytes."""

    def add(self, number, outcome):
        self.outcomes[outcome.partition(":")[0]] += 1
        if outcome.startswith(FAILURES):
            self.failed.append((number, outcome))


# What is damaged, and how


def images():
    """Small images in every format that is accepted, and in the ways that take other paths in the decoders."""
    photo = Image.merge("RGB", [Image.radial_gradient("L").resize((40, 28), box=(n, 0, 256, 200)) for n in (0, 40, 90)])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    grey, palette, clear = photo.convert("L"), photo.convert("P"), photo.convert("RGBA")
    black_and_white = grey.convert("1")
    clear.putalpha(grey)
    frames: dict[str, Any] = {"save_all": True, "append_images": [photo.rotate(90)]}

    def encoded(image, kind, **options):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    kinds: dict[str, list[tuple[Image.Image, dict[str, Any]]]] = {
        "JPEG": [(photo, {"exif": exif}), (photo, {"progressive": True}), (photo.convert("CMYK"), {}), (grey, {})],
        "PNG": [(photo, {}), (palette, {"transparency": 3}), (clear, {}), (grey.convert("I;16"), {}), (photo, frames)],
        "GIF": [(palette, {}), (palette, {"interlace": 0}), (photo, frames)],
        "WEBP": [(photo, {}), (clear, {"lossless": True}), (clear, frames)],
        "BMP": [(photo, {}), (palette, {}), (black_and_white, {})],
        "TIFF": [(photo, {"compression": f"tiff_{name}"}) for name in ("lzw", "adobe_deflate")]
        + [(photo, {"compression": name}) for name in ("raw", "jpeg", "packbits")]
        + [(black_and_white, {"compression": "group4"}), (clear, {})],
        "MPO": [(photo, frames)],
    }
    return [encoded(image, kind, **options) for kind, images in kinds.items() for image, options in images]


def damaged(seed, number, whole):
    """Return one of the `whole` images with one to six damages; the same for the same seed and number."""
    random = Random(f"{seed}/{number}")
    data = bytearray(random.choice(whole))
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        # half of them in the first 100 bytes, where sizes and counts stand
        place = random.randrange(min(len(data), 100) if random.random() < 0.5 else len(data))
        length = random.choice((1, 2, 4, 16, len(data) // 4))
        match random.randrange(6):
            case 0:
                data[place] ^= 1 << random.randrange(8)
            case 1:
                data[place : place + length] = random.randbytes(length)
            case 2:
                extreme = random.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
                data[place : place + 4] = struct.pack(random.choice("<>") + "I", extreme)
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = data[place : place + length]
            case 5:
                other = random.choice(whole)
                data[place : place + length] = other[place : place + length]
        data = data or bytearray(b"\0")
    if random.random() < 0.2:
        del data[random.randrange(len(data)) :]
    return _with_checksums(data) if random.random() < 0.7 else bytes(data)


def _with_checksums(data):
    """Mend the checksums of a PNG's chunks, without which its decoder looks no further."""
    place = 8
    while data.startswith(b"\x89PNG") and place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 <= len(data):
            data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)


# Decoding in processes that may crash and hang


def outcome_of(data):
    """Decode `data` as preprocessing does."""
    try:
        shape = decode_image(data, SIZE).shape
    except UnreadableImageError as error:
        return str(error)
    return "accepted" if shape == (SIZE, SIZE, 3) else f"crash: {shape}"


def fuzz(files, seed, processes, outcome_of=outcome_of):
    """Give files 0 to `files` of `seed` to `outcome_of`, shared out among so many worker processes."""
    shares = [range(first, files, processes) for first in range(processes)]
    result = Result()
    with ThreadPoolExecutor(processes) as pool:
        for part in pool.map(lambda numbers: _work_off(numbers, seed, outcome_of), shares):
            result.outcomes += part.outcomes
            result.failed += part.failed
            result.peak = max(result.peak, part.peak)
    return result


def _work_off(numbers, seed, outcome_of):
    """Have one worker process after the other, each until it crashes or hangs, deal with the files `numbers`."""
    result, left = Result(), list(reversed(numbers))
    while left:
        here, there = multiprocessing.Pipe()
        worker = multiprocessing.get_context("spawn").Process(target=_work, args=(there, seed, outcome_of), daemon=True)
        worker.start()
        there.close()
        here.recv()  # it has imported what it needs
        alive = True
        while left and alive:
            number = left.pop()
            here.send(number)
            outcome, peak = _answer(here)
            result.add(number, outcome)
            result.peak = max(result.peak, peak)
            alive = peak > 0
        worker.kill()
        worker.join()
    return result


def _answer(worker):
    """Return the outcome and the worker's peak of memory, which is 0 if it gave no answer."""
    try:
        if not worker.poll(SECONDS):
            return "hang", 0
        answer: tuple[str, int] = worker.recv()
    except (EOFError, ConnectionError):
        return "crash: the process died", 0
    return answer


def _work(parent, seed, outcome_of):
    whole = images()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent.send("ready")
    while True:
        data = damaged(seed, parent.recv(), whole)
        try:
            outcome = outcome_of(data)
        except MemoryError:
            outcome = "out of memory"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            outcome = f"crash: {error!r}"
        parent.send((outcome, _peak()))


def _peak():
    """This process' peak of resident memory in bytes; getrusage would count the parent's, shared until the exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main():
    parser = argparse.ArgumentParser(description="Damage images and decode them.")
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    result = fuzz(arguments.files, arguments.seed, len(os.sched_getaffinity(0)))
    print(f"files {sum(result.outcomes.values()):,}")
    print(f"accepted {result.outcomes['accepted']:,}")
    for outcome, count in sorted(result.outcomes.items(), key=lambda item: (-item[1], item[0])):
        if outcome not in ("accepted", *FAILURES):
            print(f"rejected {count:,}: {outcome}")
    print(f"crashes {result.outcomes['crash']}, hangs {result.outcomes['hang']} (of {SECONDS} s)")
    beyond = result.outcomes["out of memory"]
    print(f"memory: at most {result.peak / 2**20:,.0f} MiB; beyond {MEMORY >> 20:,} MiB {beyond}")
    for number, outcome in result.failed:
        print(f"file {number} of seed {arguments.seed}: {outcome}")
    if result.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
