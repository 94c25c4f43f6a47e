"""frostline audit: how much of what is planted does it find, and how much that was not?

    python benchmarks/audit.py [--seeds 5] [--data FOLDER | --images 600] [--weights FILE.h5]
    python benchmarks/audit.py --scale 25000

With each seed, copies of 20% of the images are planted among them (saved again, scaled, mirrored, cropped, or all of
that; half of them in another class), and 5% of the labels are changed. Labels are judged by the out-of-fold
probabilities of a logistic regression on pooled features of the backbone, a stand-in for a study. `--scale` measures
the time for so many drawn images instead.
"""

import argparse
import io
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from measuring import prepare, weights_from
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from frostline.audit.findings import Labelled, labelled
from frostline.audit.labels import wrong_labels
from frostline.audit.outliers import pooled_features
from frostline.audit.quality import measure
from frostline.config.load import load_params
from frostline.config.paths import ARCHIVE, PROCESSED
from frostline.data.archive import list_images, read_member
from frostline.data.dataset import SPLITS, load_dataset
from frostline.data.preprocess import preprocess
from frostline.sources.sample import draw_images
from frostline.training.near_duplicates import near_duplicates, thumbnails

COPIES, WRONG = 0.2, 0.05  # shares of the images
MOST_CROPPED = 0.05  # of a side, at each edge
FOLDS, REGULARIZATION = 5, 1e-3
SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}


def again(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(50, 91)))
    return Image.open(buffer).convert("RGB")


def scaled(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = rng.uniform(0.5, 0.9)
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    left, top, right, bottom = rng.uniform(0, MOST_CROPPED, 4)
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return image.crop(tuple(map(round, box)))


CHANGES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "saved again": again,
    "scaled": scaled,
    "mirrored": lambda image, rng: ImageOps.mirror(image),
    "cropped": cropped,
    "all": lambda image, rng: again(cropped(scaled(ImageOps.mirror(image), rng), rng), rng),
}


def opaque(content: bytes) -> Image.Image:
    """On white, as preprocessing lays it."""
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def read_images() -> list[tuple[str, bytes]]:
    """Class and content of each labelled image of the archive."""
    with tempfile.TemporaryDirectory() as scratch:
        members = [member for member in list_images(ARCHIVE, Path(scratch)).members if member.label]
        zips = {source: zipfile.ZipFile(source) for source in {member.source for member in members}}
        return [(member.label or "", read_member(zips[member.source], member.index)) for member in members]


def planted(images: Sequence[tuple[str, bytes]], path: Path, rng: np.random.Generator) -> dict[str, tuple[str, str]]:
    """Write `images` and changed copies of some to the zip `path`; return each copy's original and its change."""
    classes, originals = sorted({label for label, _ in images}), {}
    with zipfile.ZipFile(path, "w") as archive:
        for number, (label, content) in enumerate(images):
            archive.writestr(f"{label}/{number}.jpg", content)
        for count, number in enumerate(rng.choice(len(images), int(COPIES * len(images)), replace=False)):
            label, content = images[number]
            change = list(CHANGES)[count % len(CHANGES)]
            buffer = io.BytesIO()
            CHANGES[change](opaque(content), rng).save(buffer, "PNG")
            place = label if rng.random() < 0.5 else classes[(classes.index(label) + 1) % len(classes)]
            name = f"{place}/copy{count}.png"
            archive.writestr(name, buffer.getvalue())
            originals[name] = f"{label}/{number}.jpg", change
    return originals


def find_copies(images: Sequence[tuple[str, bytes]], seed: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        path, folder = Path(name) / "planted.zip", Path(name) / "processed"
        originals = planted(images, path, np.random.default_rng(seed))
        preprocess(path, folder, size=size, seed=seed, shares=SHARES, max_rejected=1, processes=1)
        data = labelled(load_dataset(folder))
        pairs = near_duplicates(np.concatenate([thumbnails(data.data.images(split)) for split in SPLITS]))
    found = {frozenset((data.names[pair.first], data.names[pair.second])) for pair in pairs}
    expected = {  # without those that preprocessing rejects: of equal pixels, in two classes
        frozenset((copy, original)): change for copy, (original, change) in originals.items() if copy in data.names
    }
    hits = found & expected.keys()
    missed = sorted(expected[pair] for pair in expected.keys() - found)
    print(
        f"copies, seed {seed}: {len(expected)} planted, recall {len(hits) / len(expected):.3f}, "
        f"{len(found - hits)} other pairs of {len(found)} reported; missed: {', '.join(missed) or 'none'}",
        flush=True,
    )


def find_wrong_labels(data: Labelled, features: np.ndarray, seed: int) -> None:
    rng, count = np.random.default_rng(seed), len(data.labels)
    changed = rng.choice(count, round(WRONG * count), replace=False)
    labels = data.labels.copy()
    labels[changed] = (labels[changed] + rng.integers(1, len(data.data.classes), len(changed))) % len(data.data.classes)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARIZATION, max_iter=1000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    probabilities = cross_val_predict(model, features, labels, cv=folds, method="predict_proba")
    found = list(wrong_labels(replace(data, labels=labels), probabilities))
    hits = len({finding.row for finding in found} & set(changed))
    score = 1 - probabilities[np.arange(count), labels]
    ranked = average_precision_score(np.isin(np.arange(count), changed), score)
    right = (probabilities.argmax(axis=1) == data.labels).mean()
    print(
        f"labels, seed {seed}: {len(changed)} changed, recall {hits / len(changed):.3f}, "
        f"precision {hits / max(len(found), 1):.3f} of {len(found)}; average precision {ranked:.3f}; "
        f"accuracy of the model on the right labels {right:.3f}",
        flush=True,
    )


def time_many(count: int) -> None:
    images = draw_images(count, 100, seed=1)
    begun = time.perf_counter()
    measure(images)
    print(f"quality: {time.perf_counter() - begun:.1f} s", flush=True)
    begun = time.perf_counter()
    pairs = near_duplicates(thumbnails(images))
    print(f"near-duplicates: {time.perf_counter() - begun:.1f} s, {len(pairs)} pairs of {count} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="a folder of class folders (default: drawn images)")
    parser.add_argument("--images", type=int, default=600, help="to draw")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--scale", type=int, help="only the time for so many drawn images")
    options = parser.parse_args()
    if options.scale:
        return time_many(options.scale)
    source = ["data=folder", f"data.path='{options.data.resolve()}'"] if options.data else []
    source = source or [f"data.images={options.images}", "data.unlabelled=0"]
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), *source, *weights_from(options.weights))
        os.chdir(name)
        settings = load_params()
        data, images = labelled(load_dataset(PROCESSED)), read_images()
        features = pooled_features(data.data, settings)
        for seed in range(options.seeds):
            find_wrong_labels(data, features, seed)
        for seed in range(options.seeds):
            find_copies(images, seed, settings.preprocess.image_size)
        os.chdir("/")
    return None


if __name__ == "__main__":
    main()
