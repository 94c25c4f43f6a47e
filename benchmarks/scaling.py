"""How time and memory of the heavy stages grow with the number of images.

    python benchmarks/scaling.py [--sizes 1000,5000,25000] [--weights FILE.h5]

Images have the size of Kaggle's (about 500x375) and are all different: faces drawn once, then cropped, flipped and
lit by seeded chance. Each stage runs as a process of its own. Writes scaling.csv and scaling.png to benchmarks/results.
"""

import argparse
import io
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import matplotlib as mpl
from measuring import new_project, stage, weights_from
from PIL import Image, ImageEnhance, ImageOps
from rich.console import Console
from rich.table import Table

from frostline.common.files import write_csv
from frostline.common.seeds import generator
from frostline.config.paths import ARCHIVE
from frostline.sources.sample import CLASSES, draw_archive

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).with_name("results")
STAGES = ("preprocess", "transfer", "finetune")
COLUMNS = ("images", "stage", "seconds", "images_per_second", "resident_mb", "anonymous_mb")
DRAWN = 500
LONG, SHORT = 500, 375

Row = Mapping[str, str | int | float]


def draw_faces(folder: Path) -> list[tuple[str, bytes]]:
    """`DRAWN` faces, cats and dogs in turn: class and JPEG."""
    draw_archive(folder / "drawn.zip", DRAWN, unlabelled=0, seed=1)
    with zipfile.ZipFile(folder / "drawn.zip") as outer, zipfile.ZipFile(io.BytesIO(outer.read("train.zip"))) as inner:
        return [(name, inner.read(f"train/{name}.{number}.jpg")) for number in range(DRAWN // 2) for name in CLASSES]


def vary(jpeg: bytes, number: int) -> bytes:
    """An image of its own made from `jpeg`: cropped, flipped and lit by the chance of `number`; quality 90."""
    rng = generator(1, "vary", number)
    image: Image.Image = Image.open(io.BytesIO(jpeg))
    margins = [rng.uniform(0, 0.1) * side for side in (*image.size, *image.size)]
    box = (margins[0], margins[1], image.width - margins[2], image.height - margins[3])
    size = (LONG, SHORT) if image.width > image.height else (SHORT, LONG)
    image = image.resize(size, Image.Resampling.BILINEAR, box)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    buffer = io.BytesIO()
    ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def pack(path: Path, faces: list[tuple[str, bytes]], count: int) -> None:
    """Write `count` images to the archive `path`, one folder per class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            name, jpeg = faces[number % len(faces)]
            archive.writestr(f"{name}/{number}.jpg", vary(jpeg, number))


def measure_size(project: Path, count: int) -> Iterator[Row]:
    """Run the stages on the archive of `project`; one row for each, and one for the features within transfer."""
    for name in STAGES:
        measured = stage(name, project)
        memory = {"resident_mb": measured.resident / 1e6, "anonymous_mb": measured.anonymous / 1e6}
        if name == "transfer":
            extracted, seconds = measured.progress["features"]
            yield row(count, "features", extracted, seconds)
        yield row(count, name, count, measured.seconds) | memory


def row(count: int, name: str, processed: int, seconds: float) -> dict[str, str | int | float]:
    rate = processed / seconds
    return {"images": count, "stage": name, "seconds": seconds, "images_per_second": rate}


def plot(rows: list[Row], path: Path) -> None:
    figure, (time, memory) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    sizes = sorted({int(row["images"]) for row in rows})
    for name in STAGES:
        points = [row for row in rows if row["stage"] == name]
        (line,) = time.plot(sizes, [row["seconds"] for row in points], marker="o", label=name)
        for column, style in (("resident_mb", "-"), ("anonymous_mb", ":")):
            memory.plot(sizes, [row[column] for row in points], style, marker="o", color=line.get_color())
    time.set(title="Time", xlabel="images", ylabel="seconds, whole process", xscale="log", yscale="log")
    memory.set(title="Peak memory (dotted: without mapped files)", xlabel="images", ylabel="MB", xscale="log")
    memory.set_ylim(bottom=0)
    for axes in (time, memory):
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xticks([], minor=True)
    time.legend()
    figure.savefig(path, dpi=150, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="1000,5000,25000", help="numbers of images, separated by commas")
    parser.add_argument("--weights", type=Path, help="the backbone's weights (default: seeded random ones)")
    arguments, console = parser.parse_args(), Console(width=110)
    weights = weights_from(arguments.weights)

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        faces = draw_faces(Path(temporary))
        for count in sorted(map(int, arguments.sizes.split(","))):
            with tempfile.TemporaryDirectory(dir=temporary) as folder:
                project = Path(folder)
                new_project(project, *weights)
                stage("fetch_weights", project)
                pack(project / ARCHIVE, faces, count)
                for measured in measure_size(project, count):
                    console.print(" ".join(f"{key} {value}" for key, value in text(measured).items()))
                    rows.append(measured)
                    RESULTS.mkdir(exist_ok=True)
                    write_csv(RESULTS / "scaling.csv", COLUMNS, map(text, rows))  # after each: a large size takes hours
    plot(rows, RESULTS / "scaling.png")
    table = Table(*COLUMNS)
    for measured in rows:
        table.add_row(*(str(text(measured).get(column, "")) for column in COLUMNS))
    console.print(table)


def text(values: Row) -> dict[str, str]:
    return {key: f"{value:.1f}" if isinstance(value, float) else str(value) for key, value in values.items()}


if __name__ == "__main__":
    main()
