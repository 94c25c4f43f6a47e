"""Zip files of small images for tests."""

import io
import zipfile

import numpy as np
from PIL import Image


def image(number, kind="JPEG"):
    """An image of its own for every number."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((50, 40), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def archive_of(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path
