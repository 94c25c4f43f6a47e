"""What the modules beside this one make of a file: its pixels, or the reason why there are none."""

from typing import NamedTuple

from PIL import Image

PIXELS_LIMIT = 100_000_000
"""Larger images are refused before they are decoded: 100 megapixels are 300 MB as RGB."""


class UnreadableImageError(ValueError):
    """Bytes that are no image we accept; `str(error)` is a short, stable reason."""


class NotAImageError(UnreadableImageError):
    """Bytes of another kind than the images we accept."""


class ImageTooLargeError(UnreadableImageError):
    """An image of more pixels than we accept."""

    def __init__(self) -> None:
        super().__init__(f"more than {PIXELS_LIMIT // 1_000_000} megapixels")


class Picture(NamedTuple):
    """A decoded file. The image has an alpha channel where it is transparent, or else none."""

    image: Image.Image
    exif: bytes = b""
    """The EXIF block, from its TIFF header on."""
    orientation: int = 1
    """As EXIF's, where the format itself says so."""
    whole: tuple[int, int] | None = None
    """Width and height in the file, where the image may have been decoded at a fraction of them."""


def check_size(width: int, height: int) -> None:
    """Raise if an image of so many pixels is refused."""
    if width < 1 or height < 1:
        raise UnreadableImageError("damaged")
    if width * height > PIXELS_LIMIT:
        raise ImageTooLargeError()
