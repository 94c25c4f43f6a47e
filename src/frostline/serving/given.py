"""What a program gives to be classified (files, folders, their contents, pixels), as the model takes it."""

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frostline.common.fit_names import Fit
from frostline.data.images import ORIENTATION, UnreadableImageError, decode_image, orientation_in, read_image
from frostline.runtime.errors import FrostlineError
from frostline.runtime.process_pool import cores
from frostline.serving.predict import find_images, shown

_AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_DEEP = ("I;16B", "I;16L", "I;16N")  # I;16, with their bytes in another order
_TO_RGB = ("RGBX", "CMYK", "YCbCr")
_TAKEN = (
    "a path, the bytes of an image file, a PIL image, or uint8 pixels from 0 to 255: "
    "(H, W), (H, W, 1), (H, W, 3), (H, W, 4), or a batch of those with three axes behind N"
)


@dataclass(frozen=True)
class Given:
    """One image."""

    name: str
    """What errors call it: its path, or where it stood among those that were given."""
    content: Path | bytes | np.ndarray | Image.Image
    """An array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8."""

    @property
    def path(self) -> str | None:
        return self.name if isinstance(self.content, Path) else None


def given_in(images: Any) -> list[Given]:
    """List the images in `images`: one of what _TAKEN says, a folder, or an iterable of these; `decoded` reads them.

    Raises:
        FrostlineError: something else is among them, or a folder or file that is not there, or holds no image.
        OSError: a folder cannot be read.
    """
    if hasattr(images, "read"):  # a file of tempfile's is no io.IOBase
        raise _refused("the image", "an open file")
    single = isinstance(images, str | Path | bytes | bytearray | memoryview | np.ndarray | Image.Image)
    if not single and not isinstance(images, Iterable):
        raise _refused("the image", f"of the type {type(images).__name__}")
    items = [images] if single else list(images)
    return [one for number, item in enumerate(items) for one in _expanded(item, "" if single else f"[{number}]")]


def named(place: str | Path, what: str) -> Path:
    """The path `place`; raises FrostlineError, which calls it `what`, for a blank one: to Python that is a folder."""
    if isinstance(place, str) and not place.strip():
        raise FrostlineError(f"{what} is an empty path.\nThe current folder is called by a dot.")
    return Path(place)


def _expanded(item: Any, place: str) -> Iterator[Given]:
    name = f"image{place}"
    match item:
        case str() | Path():
            for path in find_images([named(item, name)]):
                yield Given(shown(path), path)
        case bytes() | bytearray() | memoryview():
            yield Given(name, bytes(item))
        case Image.Image():
            _load(item, name)
            yield Given(name, item)
        case np.ndarray():
            _check_pixels(item, name)
            if item.ndim < 4:
                yield Given(name, item)
            else:
                yield from (Given(f"{name}[{row}]", image) for row, image in enumerate(item))
        case _:
            raise _refused(name, f"of the type {type(item).__name__}")


def _load(image: Image.Image, name: str) -> None:
    """Read the pixels of `image`, if it is one that can be taken; of a file that is opened, this is only now."""
    if 0 in image.size:
        raise _refused(name, f"a PIL image of {image.width} x {image.height} pixels")
    if image.mode in ("I", "F"):  # .convert("RGB") would clip, to white mostly
        raise FrostlineError(
            f"{name} is a PIL image of mode {image.mode}, which does not say what its numbers go from and to.\n"
            "Give the file itself, or numbers from 0 to 255 as uint8."
        )
    if image.mode not in _AS_PNG + _DEEP + _TO_RGB:
        raise FrostlineError(f"{name} is a PIL image of mode {image.mode}.\nConvert it first: .convert('RGB')")
    try:
        image.load()  # by one thread
    except Exception as error:  # Pillow's decoders raise errors of many kinds on damaged data
        raise FrostlineError(f"{name} cannot be read: {error}.") from error


def _check_pixels(pixels: np.ndarray, name: str) -> None:
    if pixels.dtype != np.uint8:
        raise FrostlineError(
            f"{name} has pixels of the type {pixels.dtype}, and only uint8 says that they go from 0 to 255.\n"
            "If yours do: .astype('uint8'). If they go from 0 to 1: (255 * pixels).round().astype('uint8')."
        )
    fits = pixels.ndim == 2 or (pixels.ndim in (3, 4) and pixels.shape[-1] in (1, 3, 4))
    if not fits or 0 in pixels.shape[-3 if pixels.ndim > 2 else -2 :]:
        raise _refused(name, f"an array of the shape {pixels.shape}")


def _refused(name: str, what: str) -> FrostlineError:
    return FrostlineError(f"{name} is {what}.\nGive {_TAKEN}.")


def decoded(images: Sequence[Given], size: int, fit: Fit) -> list[np.ndarray | UnreadableImageError]:
    """Read `images` as training does: of each its pixels, (size, size, 3) uint8 RGB, or why there are none.

    Pixels and PIL images are taken for a PNG file that holds them. On all cores, in threads: other processes would run
    the script that calls this once more.
    """

    def read(one: Given) -> np.ndarray | UnreadableImageError:
        try:
            content = one.content
            if isinstance(content, Path):
                return read_image(content, size, fit)
            return decode_image(_file(content), size, fit)
        except UnreadableImageError as error:
            return error

    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        # Decoding silences warnings, and threads that do so at once leave them silenced; here they come back.
        return list(pool.map(read, images))


def _upright(image: Image.Image) -> Image.Exif:
    """What side of it is up, by its EXIF alone, as in a file: what else that holds may be damaged; XMP has no say."""
    side, kept = orientation_in(image.info.get("exif", b"")), Image.Exif()
    if side in range(1, 9):
        kept[ORIENTATION] = side
    return kept


def _file(content: bytes | np.ndarray | Image.Image) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, np.ndarray):
        content = Image.fromarray(np.ascontiguousarray(content[..., 0] if content.shape[2:] == (1,) else content))
    image, exif = content, _upright(content)
    if image.mode in _TO_RGB:
        image = image.convert("RGB")
    elif image.mode in _DEEP:
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0, exif=exif)
    return buffer.getvalue()
