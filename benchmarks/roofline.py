"""How near the three heavy parts of the recipe come to the limits of this machine, measured in the same run.

    python benchmarks/roofline.py [--weights FILE.h5]

Limits: the rate of large matrix products and of copying memory. Parts: extracting features, one step of the transfer
phase, one step of fine-tuning, each by the pipeline's own functions at the recipe's shapes.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import cpu_of_all
from rich.console import Console
from rich.table import Table

from frostline.common.phase_names import PhaseName
from frostline.features import extract
from frostline.models import backbone, frost_line, graph
from frostline.models.head import add_head
from frostline.runtime.quiet_tensorflow import keras, tf
from frostline.sources.random_weights import write_random_weights
from frostline.training import loop, precision
from frostline.training.loop import Examples, Task
from frostline.training.resolved import Resolved

SIZE, CUT, THAW_FROM = 150, "mixed7", "mixed6"
BATCH = 32  # images of a training step
STEPS = 30
MATRIX = 4096
COPY = 1 << 28  # float32 numbers: 1 GiB, far more than any cache
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Work:
    """What one step of a part takes."""

    part: str
    precision: str
    seconds: float
    flops: float
    bytes: float


# Limits


def measure_limits() -> dict[str, float]:
    """FLOP/s by precision, and `copy` in bytes/s."""
    return {computed_in: matrix_product(computed_in) for computed_in in BYTES} | {"copy": copying()}


def matrix_product(computed_in: str) -> float:
    """FLOP/s of a square matrix product: 2 n³ operations."""
    a, b = (tf.cast(tf.random.normal((MATRIX, MATRIX)), computed_in) for _ in range(2))
    product = tf.function(lambda: tf.linalg.matmul(a, b)[:1])
    return 2 * MATRIX**3 / least_seconds(lambda: product().numpy())


def copying() -> float:
    """Bytes/s read and written by copying with every core (NumPy's copies run side by side in threads)."""
    source, target = np.ones(COPY, np.float32), np.zeros(COPY, np.float32)
    cores = os.cpu_count() or 1
    pieces = [slice(COPY * n // cores, COPY * (n + 1) // cores) for n in range(cores)]
    with ThreadPoolExecutor(cores) as pool:
        copy = lambda: list(pool.map(lambda piece: np.copyto(target[piece], source[piece]), pieces))  # noqa: E731
        return 2 * source.nbytes / least_seconds(copy)


def least_seconds(step: Callable[[], object]) -> float:
    laps = []
    for _ in range(6):  # the first one traces and compiles
        started = time.perf_counter()
        step()
        laps.append(time.perf_counter() - started)
    return min(laps)


# Operations and bytes, counted from the layers' shapes


def product_flops(layer: keras.layers.Layer, batch: int) -> float:
    """One pass of a convolution, 2·k·k·cin·cout·h·w per image, or of a dense layer, 2·in·out; else 0."""
    if not isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
        return 0
    return float(2 * batch * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1]))


def extraction(model: keras.Model, batch: int) -> tuple[float, float]:
    """FLOPs of one forward pass, and the numbers that it moves: every convolution, pooling and concatenation reads its
    inputs and writes its output once, batch norm and ReLU being fused into the convolution before."""
    flops = count = 0.0
    for layer in model.layers:
        flops += product_flops(layer, batch)
        if not isinstance(layer, keras.layers.BatchNormalization | keras.layers.Activation | keras.layers.InputLayer):
            tensors = [*keras.tree.flatten(layer.input), layer.output]
            count += sum(batch * math.prod(tensor.shape[1:]) for tensor in tensors) + layer.count_params()
    return flops, count


def training_step(model: keras.Model) -> tuple[float, float]:
    """FLOPs and bytes of one training step of `model`, whose input is the features.

    A product counts once forward, once for its kernel's gradient, and once for its input's gradient where trained
    weights lie below it. Bytes are those of the trained weights alone: read forward, read again for the input's
    gradient; gradient written and read; the weights and Adam's m and v read and written.
    """
    flops = count = 0.0
    above_trained: set[int] = set()
    for layer in model.layers:
        inputs = [id(tensor) for tensor in keras.tree.flatten(layer.input)]
        passes_gradient = any(tensor in above_trained for tensor in inputs)
        if passes_gradient or layer.trainable_weights:
            above_trained.add(id(layer.output))
        flops += product_flops(layer, BATCH) * (3 if passes_gradient else 2)
        trained = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
        count += trained * (1 + passes_gradient + 2 + 6)
    return flops, BYTES["float32"] * count


# Parts


def measure_extraction(model: keras.Model, computed_in: str, cache: Path) -> Work:
    """features.extract at mixed7, files included; the difference of two passes leaves out what each does once."""
    images = np.random.default_rng(1).integers(256, size=(extract.BATCH * 17, SIZE, SIZE, 3), dtype=np.uint8)
    took = []
    for number, batches in enumerate((1, 1, 17)):  # the first warms up
        started = time.perf_counter()
        extract.Extractor(model, [CUT], computed_in, cache=cache)(images[: extract.BATCH * batches], str(number))
        took.append(time.perf_counter() - started)
    flops, numbers = extraction(keras.Model(model.input, model.get_layer(CUT).output), extract.BATCH)
    step = (took[2] - took[1]) / 16
    return Work(f"features, batch {extract.BATCH}", computed_in, step, flops, BYTES[computed_in] * numbers)


def measure_step(model: keras.Model, phase: PhaseName, start: str, computed_in: str) -> Work:
    """One step of `phase` on the part of `model` above `start`, as training.train runs it: the median from one
    batch's arrival to the next's, reading of the features included. Weights are float32 whatever it is computed in."""
    part = graph.part(model, [start])
    values = np.random.default_rng(1).random((STEPS * BATCH, *part.inputs[0].shape[1:]), np.float32)
    examples = Examples([values.astype(extract.DTYPE)], np.arange(len(values)) % 2)
    arrivals = []

    def note(inputs: Any) -> Any:
        arrivals.append(time.perf_counter())
        return lambda rows: inputs[rows]

    options = Resolved(
        epochs=1,
        learning_rate=1e-5,
        schedule="constant",
        patience=None,
        batch_size=BATCH,
        weight_decay=0,
        label_smoothing=0,
        mixup=0,
        class_weight="none",
    )
    with precision.computing_in(part, computed_in):
        trainer = loop.trainer_of(part, options, len(values))
        loop.train(trainer, Task(phase, 1, examples, examples, prepare=lambda seed: note), options)
    step = float(np.median(np.diff(arrivals)))
    return Work(f"{phase} step, batch {BATCH}", computed_in, step, *training_step(part))


def print_work(console: Console, works: list[Work], limits: Mapping[str, float]) -> None:
    columns = ("", "precision", "ms", "GFLOP", "GFLOP/s", "of limit", "MB", "GB/s", "of limit", "least ms")
    table = Table(*columns, title="Achieved")
    for work in works:
        rate, flow = work.flops / work.seconds, work.bytes / work.seconds
        product, copy = limits[work.precision], limits["copy"]
        least = max(work.flops / product, work.bytes / copy)
        table.add_row(
            work.part,
            work.precision,
            f"{work.seconds * 1e3:.0f}",
            f"{work.flops / 1e9:.1f}",
            f"{rate / 1e9:.0f}",
            f"{rate / product:.0%}",
            f"{work.bytes / 1e6:,.0f}",
            f"{flow / 1e9:.1f}",
            f"{flow / copy:.0%}",
            f"{least * 1e3:.0f}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, help="the backbone's weights (default: seeded random ones)")
    arguments, console = parser.parse_args(), Console(width=120)

    others = cpu_of_all() - time.process_time()
    before = measure_limits()
    with tempfile.TemporaryDirectory() as temporary:
        weights = arguments.weights
        if weights is None:
            weights = Path(temporary) / "backbone.h5"
            write_random_weights(weights, SIZE, seed=1)
        base = backbone.build_backbone(SIZE, weights)
        model = add_head(base, CUT, dense_units=1024, dropout=0.2, seed=1)
        works = [measure_extraction(model, computed_in, Path(temporary) / "features") for computed_in in BYTES]
    frost_line.freeze(model, base)
    works += [measure_step(model, "transfer", CUT, computed_in) for computed_in in BYTES]
    frost_line.thaw(model, THAW_FROM)
    works += [measure_step(model, "finetune", THAW_FROM, computed_in) for computed_in in BYTES]
    after = measure_limits()  # again, as other jobs come and go

    others = cpu_of_all() - time.process_time() - others
    limits = {name: max(before[name], after[name]) for name in before}
    table = Table("fp32 GFLOP/s", "bf16 GFLOP/s", "copy, GB/s", title="Limits, the best of before and after")
    table.add_row(*(f"{limit / 1e9:.1f}" for limit in limits.values()))
    console.print(table)
    print_work(console, works, limits)
    rates = " and ".join(f"{extract.BATCH / work.seconds:.0f}" for work in works[:2])
    console.print(f"Features: {rates} images/s. Other jobs used {others:.0f} s of CPU time meanwhile.")


if __name__ == "__main__":
    main()
