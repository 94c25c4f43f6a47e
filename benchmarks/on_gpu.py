"""What one GPU gives: correctness against the CPU, the same bytes twice, and speed beside plain Keras on the same GPU.

    python benchmarks/on_gpu.py [--seconds 600] [--json FILE]

Needs TensorFlow with CUDA and nothing of DVC or MLflow: the phases are run by the package's own functions, each in a
process of its own, imports and all. Drawn images, seeded untrained weights; the speed does not depend on either.
Jobs are run in the order of JOBS until the time is over; what did not fit is named. Prints one JSON object.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
SIZE = 150
COUNTS = {"small": (256, 128, 128), "2048": (1687, 361, 256), "25000": (17_500, 3_750, 3_750)}
"""Images for training, validation and test."""
SPLITS = ("train", "validation", "test")


# Images: drawn on all cores, once for every job


def _draw(number: int) -> np.ndarray:
    from frostline.sources.sample import draw_images

    return draw_images(100, SIZE, 1000 + number)


def _write_png(job: tuple[np.ndarray, Path]) -> None:
    from PIL import Image

    pixels, path = job
    Image.fromarray(pixels).save(path, compress_level=1)


def prepare(folder: Path) -> None:
    """Write for each of COUNTS what preprocess leaves, by rows of the same images, and PNG files for plain Keras."""
    from frostline.common.files import write_csv
    from frostline.data.dataset import MANIFEST_COLUMNS

    most = sum(COUNTS["25000"])
    with multiprocessing.get_context("spawn").Pool() as pool:
        images = np.concatenate(pool.map(_draw, range(-(-most // 100)), chunksize=1))
        for name, counts in COUNTS.items():
            start, processed = 0, folder / name / "processed"
            processed.mkdir(parents=True)
            rows = []
            for split, count in zip(SPLITS, counts, strict=True):
                part = images[start : start + count]
                labels = (np.arange(start, start + count) % 2).astype(np.uint8)
                np.save(processed / f"{split}.npy", part)
                np.save(processed / f"{split}_labels.npy", labels)
                rows += [{"path": f"{start + row}", "split": split, "verdict": "ok"} for row in range(count)]
                start += count
                if name != "small":
                    for kind in ("cat", "dog"):
                        (folder / name / "png" / split / kind).mkdir(parents=True)
                    png = folder / name / "png" / split
                    paths = [png / ("cat", "dog")[label] / f"{row:06}.png" for row, label in enumerate(labels)]
                    pool.map(_write_png, zip(part, paths, strict=True), chunksize=64)
            (processed / "classes.json").write_text('["cat", "dog"]')
            write_csv(processed / "manifest.csv", MANIFEST_COLUMNS, rows)
    (folder / "ready").touch()


# Jobs: each is run as `on_gpu.py JOB ...` in a process of its own and prints JSON as its last line


def hardware(folder: Path) -> dict[str, Any]:
    from frostline.runtime.quiet_tensorflow import keras, tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    a = tf.random.normal((8192, 8192))
    rates = {}
    for name, kind, tf32 in (("fp32", "float32", False), ("tf32", "float32", True), ("bf16", "bfloat16", True)):
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
        b = tf.cast(a, kind)
        product = tf.function(lambda b=b: tf.reduce_sum(tf.cast(tf.matmul(b, b)[:1], tf.float32)))
        product().numpy()
        started = time.perf_counter()
        for _ in range(5):
            product().numpy()
        rates[name] = 2 * 8192**3 * 5 / (time.perf_counter() - started) / 1e12
    build = {key: str(value) for key, value in tf.sysconfig.get_build_info().items()}
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    return {"gpus": [str(detail) for detail in details], "matmul_tflops": rates, "build": build, **versions}


def weights(folder: Path) -> dict[str, Any]:
    from frostline.sources.random_weights import write_random_weights

    write_random_weights(folder / "backbone.h5", SIZE, 1)
    return {}


def extraction(folder: Path, deterministic: str) -> dict[str, Any]:
    """Features per second, first passes left out; the first 256 images' features are kept to be compared."""
    from frostline.features.extract import Extractor
    from frostline.models.backbone import build_backbone
    from frostline.runtime.quiet_tensorflow import tf

    if deterministic == "1":
        tf.config.experimental.enable_op_determinism()
    images = np.load(folder / "25000/processed/train.npy", mmap_mode="r")[:16_384]
    base = build_backbone(SIZE, folder / "backbone.h5")
    device = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    found: dict[str, Any] = {}
    kinds = {"fp32": ("float32", False), "tf32": ("float32", True), "bf16": ("bfloat16", True)}
    for name, (precision, tf32) in kinds.items():
        if device == "cpu" and name != "fp32":
            continue
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
        cache = folder / f"cache-{device}-{name}-{deterministic}"
        started = time.perf_counter()
        extractor = Extractor(base, ["mixed7"], precision, cache=cache)
        (first,) = extractor(np.array(images[:256]), "first")
        found[f"{name} first 256, s"] = time.perf_counter() - started
        np.save(folder / f"first-{device}-{name}-{deterministic}.npy", first)
        if device == "cpu":
            continue
        tf.config.experimental.reset_memory_stats("GPU:0")
        started = time.perf_counter()
        extractor(images, "all")
        found[f"{name} images/s, into the cache"] = len(images) / (time.perf_counter() - started)
        found[f"{name} peak MiB"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    return found


def compare(folder: Path) -> dict[str, Any]:
    """How far the first images' features are from the CPU's at most, as a share of the largest of these."""
    cpu = np.load(folder / "first-cpu-fp32-1.npy").astype(np.float32)
    gpu = {kind: np.load(folder / f"first-gpu-{kind}-1.npy").astype(np.float32) for kind in ("fp32", "tf32", "bf16")}
    return {kind: float(np.abs(features - cpu).max() / np.abs(cpu).max()) for kind, features in gpu.items()}


def phases(folder: Path, name: str, tag: str, *overrides: str) -> dict[str, Any]:
    """Both phases on COUNTS[name]: losses, seconds, and the digest of both models' weights."""
    return {phase: stage(folder, name, tag, phase, *overrides) for phase in ("transfer", "finetune")}


def stage(folder: Path, name: str, tag: str, phase: str, *overrides: str) -> dict[str, Any]:
    """What the stage `phase` does, without MLflow; in the folder of `tag`, which keeps its feature cache and models."""
    clock = [time.perf_counter()]
    from frostline.config.load import load_params
    from frostline.data.dataset import load_dataset
    from frostline.models import saving
    from frostline.runtime.quiet_tensorflow import tf
    from frostline.training import phases as recipe
    from frostline.training import precision
    from frostline.training.loop import Session

    laps: dict[str, float] = {}

    def lap(part: str) -> None:
        now = time.perf_counter()
        laps[part] = laps.get(part, 0) + now - clock[0]
        clock[0] = now

    lap("import")
    here = folder / name / tag
    here.mkdir(exist_ok=True)
    os.chdir(here)
    (here / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    config = load_params(overrides)
    data = load_dataset(folder / name / "processed")
    if phase == "transfer":
        model = recipe.build_classifier(data, folder / "backbone.h5", config)
    else:
        model = saving.load_model(here / "transfer.keras")
    lap("build")
    epochs: list[dict[str, float]] = []

    def on_epoch(epoch: dict[str, float]) -> None:
        epochs.append(epoch)
        lap(f"epoch {len(epochs)}")

    extract = recipe.split_features

    def timed(*arguments: Any, **options: Any) -> Any:
        lap("before features")
        result = extract(*arguments, **options)
        lap("features")
        return result

    recipe.split_features = timed
    {"transfer": recipe.transfer, "finetune": recipe.finetune}[phase](model, data, config, Session(on_epoch))
    lap("end")
    saving.save_model(model, here / f"{phase}.keras", data.classes)
    lap("saving")
    digest = hashlib.sha256((here / f"{phase}.keras").read_bytes()).hexdigest()[:16]
    gpu = tf.config.list_physical_devices("GPU")
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20 if gpu else 0
    kind = precision.resolve(config.precision)
    return {"epochs": epochs, "laps": laps, "sha256": digest, "peak MiB": peak, "precision": kind}


def plain(folder: Path, name: str, precision: str) -> dict[str, Any]:
    script, files = ROOT / "benchmarks/plain_keras.py", [folder / name / "png", folder / "backbone.h5"]
    command = [sys.executable, "-c", PRELOADED, *map(str, (script, *files)), "--precision", precision]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(output.stdout.splitlines()[-1]))


PRELOADED = """
import runpy, sys
from frostline.runtime import hardware
hardware.preload_cusolver()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script that knows nothing of the library without which TensorFlow takes no GPU (see `preload_cusolver`)."""

PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function for function in (hardware, weights, extraction, compare, phases, stage, plain)
}
F32, BATCHES = "precision=float32", "feeding=batches"
JOBS: list[tuple[str, str]] = [
    ("hardware", ""),
    ("weights", ""),
    # correctness, and the same bytes twice: side by side
    ("& cpu extraction", "1"),
    ("& extraction", "1"),
    ("& cpu phases", f"small cpu {F32}"),
    ("& phases", f"small gpu {F32}"),
    ("& phases", "small a"),
    ("& phases", "small b"),
    ("& phases", f"small batches_a {BATCHES}"),
    ("& phases", f"small batches_b {BATCHES}"),
    # speed: alone
    ("compare", ""),
    ("extraction", "0"),
    ("stage", "25000 device transfer"),
    ("stage", "25000 device finetune"),
    ("stage", "2048 device transfer"),
    ("stage", "2048 device finetune"),
    ("stage", f"2048 batches transfer {BATCHES}"),
    ("stage", f"2048 batches finetune {BATCHES}"),
    ("plain", "2048 mixed_bfloat16"),
    ("stage", "2048 fast transfer deterministic=false"),
    ("stage", "2048 fast finetune deterministic=false"),
    ("plain", "25000 mixed_bfloat16"),  # last, as it takes longest
]
"""A part and its arguments; "&": beside the ones around it, "cpu": without a GPU."""


def start(folder: Path, job: str, arguments: str) -> tuple[str, subprocess.Popen[str], float]:
    *options, name = job.removeprefix("& ").split()
    environment = dict(os.environ)
    if "cpu" in options:
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
    command = [sys.executable, __file__, "--folder", str(folder), name, *arguments.split()]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    return f"{job.removeprefix('& ')} {arguments}", process, time.perf_counter()


def run(arguments: argparse.Namespace) -> None:
    """Prepare the images, if they are not there, and run the jobs until the time is over."""
    began = time.perf_counter()
    if not (arguments.folder / "ready").exists():
        prepare(arguments.folder)
    found: dict[str, Any] = {}
    beside: list[tuple[str, subprocess.Popen[str], float]] = []

    def finish(name: str, process: subprocess.Popen[str], started: float) -> None:
        left = max(1.0, arguments.seconds - (time.perf_counter() - began))
        try:
            out, err = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its child, which has its pipes
            out, err = process.communicate()
            err += "\nended: the time is over"
        except BaseException:  # Ctrl-C does not reach a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            raise
        try:
            result = json.loads(out.splitlines()[-1])
        except (IndexError, ValueError):
            result = {"failed": err[-1500:]}
        result["wall"] = time.perf_counter() - started
        found[name] = result
        arguments.json.write_text(json.dumps(found, indent=1))
        print(f"{time.perf_counter() - began:6.1f} {name}: {str(result)[-700:]}", flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as `timeout` ends it
    try:
        for job, options in JOBS[arguments.first :]:
            if time.perf_counter() - began > arguments.seconds - 5:
                print(f"no time left for: {job} {options}", flush=True)
                continue
            if job.startswith("& "):
                beside.append(start(arguments.folder, job, options))
                continue
            while beside:
                finish(*beside.pop(0))
            finish(*start(arguments.folder, job, options))
    finally:
        for _, process, _ in beside:
            os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/frostline-gpu"))
    parser.add_argument("--json", type=Path, default=Path("on_gpu.json"))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--first", type=int, default=0, help="the number of the job to begin with")
    parser.add_argument("part", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part == "prepare":
        prepare(arguments.folder)
        return
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments.folder, *arguments.arguments)))
        return
    run(arguments)


if __name__ == "__main__":
    main()
