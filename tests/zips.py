"""Zip files for tests: of small images, and what stands for a model file."""

import io
import json
import zipfile

import numpy as np
from PIL import Image

from frostline.common.files import zip_entry


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


def write_model_like(path, content, classes):
    """What tracking reads of a model file: the names of its classes, and `content` in the place of weights."""
    archive_of(
        path,
        {zip_entry("metadata.json"): json.dumps({"classes": list(classes)}), zip_entry("model.weights.h5"): content},
    )
