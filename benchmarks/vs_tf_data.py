"""The preprocess stage against plain tf.data on the same JPEGs, of about Kaggle's size.

    python benchmarks/vs_tf_data.py [--images 4000] [--pairs 3]

tf.data decodes and resizes every image once, on all cores, and keeps nothing; importing TensorFlow is not counted.
The stage is a whole process, imports and all: it also checks each image, turns it upright, finds duplicates, splits,
and writes the arrays. The two take turns. Last comes a bound for both: how fast the cores read the bits of the JPEGs,
by decoding them at an eighth of their size, where hardly any pixels are left to compute.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from measuring import measure, new_project, stage
from PIL import Image
from rich.console import Console
from scaling import draw_faces, pack

from frostline.config.paths import ARCHIVE
from frostline.runtime.process_pool import cores

PLAIN = """
import sys, time
import keras
data = keras.utils.image_dataset_from_directory(sys.argv[1], image_size=(150, 150), batch_size=32, shuffle=False)
started = time.perf_counter()
print(sum(len(labels) for _, labels in data), time.perf_counter() - started)
"""


def bound(archive: Path, images: int = 1000) -> float:
    """Images/s of all cores, estimated from one, if a JPEG cost nothing but the reading of its bits."""
    with zipfile.ZipFile(archive) as source:
        files = [source.read(name) for name in source.namelist()[:images]]
    started = time.perf_counter()
    for file in files:
        with Image.open(io.BytesIO(file)) as image:
            image.draft(None, (1, 1))
            image.load()
    return cores() * len(files) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--pairs", type=int, default=3)
    arguments, console, ratios = parser.parse_args(), Console(width=110), []
    with tempfile.TemporaryDirectory() as temporary:
        project, images = Path(temporary) / "project", Path(temporary) / "images"
        new_project(project)
        pack(project / ARCHIVE, draw_faces(Path(temporary)), arguments.images)
        with zipfile.ZipFile(project / ARCHIVE) as archive:
            for name in archive.namelist():
                (images / name).parent.mkdir(parents=True, exist_ok=True)
                (images / name).write_bytes(archive.read(name))
        for pair in range(1, arguments.pairs + 1):
            plain = measure([sys.executable, "-c", PLAIN, images], project)
            count, seconds = map(float, plain.output.splitlines()[-1].split())
            ours = stage("preprocess", project)
            ratios.append(seconds / ours.seconds)
            console.print(
                f"pair {pair}: tf.data {count / seconds:.0f} images/s, preprocess {count / ours.seconds:.0f} (whole "
                f"process; other jobs {plain.others + ours.others:.1f} s of CPU time), ratio {ratios[-1]:.2f}"
            )
        console.print(f"bound: {bound(project / ARCHIVE):.0f} images/s")
    console.print(f"tf.data over preprocess, seconds: median {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
