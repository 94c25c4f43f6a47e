"""The recipe as a tutorial writes it, in plain Keras: what `vs_keras.py` measures the pipeline against.

    python benchmarks/plain_keras.py FOLDER WEIGHTS.h5 --epochs 2

FOLDER holds train/, validation/ and test/, each with one subfolder of images per class. The last line printed is
JSON: each part's seconds (and its CPU time), the loss and accuracy on the test set after each phase, and how many GPUs
TensorFlow saw.
"""

import argparse
import json
import time
from pathlib import Path

clocks = time.perf_counter(), time.process_time()

import keras  # noqa: E402  the import is a part of what is timed
import tensorflow as tf  # noqa: E402

SIZE = (150, 150)

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("weights", type=Path)
parser.add_argument("--epochs", type=int, default=2, help="of each phase")
parser.add_argument("--precision", default="float32", help="a Keras dtype policy, such as mixed_bfloat16")
parser.add_argument("--jit", action="store_true", help="compile the steps with XLA")
parser.add_argument("--cache", action="store_true", help="keep the decoded images in memory after the first epoch")
arguments = parser.parse_args()
keras.config.set_dtype_policy(arguments.precision)

seconds: dict[str, float] = {}
cpu: dict[str, float] = {}
test: dict[str, dict[str, float]] = {}


def lap(part: str) -> None:
    """Count the time since the last lap as `part`."""
    global clocks
    now = time.perf_counter(), time.process_time()
    (seconds[part], cpu[part]), clocks = (after - before for after, before in zip(now, clocks, strict=True)), now


def load(split: str) -> tf.data.Dataset:
    data = keras.utils.image_dataset_from_directory(
        arguments.folder / split, label_mode="binary", image_size=SIZE, batch_size=32, shuffle=split == "train"
    )
    rescale = keras.layers.Rescaling(1 / 127.5, offset=-1)
    data = data.map(lambda images, labels: (rescale(images), labels))
    return (data.cache() if arguments.cache else data).prefetch(tf.data.AUTOTUNE)


def train_and_test(phase: str, learning_rate: float) -> None:
    model.compile(
        keras.optimizers.Adam(learning_rate),
        loss="binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=arguments.jit,
    )
    model.fit(train, validation_data=validation, epochs=arguments.epochs, verbose=2)
    lap(phase)
    loss, accuracy = model.evaluate(held_out, verbose=0)
    test[phase] = {"log_loss": loss, "accuracy": accuracy}
    lap(f"{phase} test")


lap("import")
train, validation, held_out = load("train"), load("validation"), load("test")

base = keras.applications.InceptionV3(input_shape=(*SIZE, 3), include_top=False, weights=None)
base.load_weights(arguments.weights)
for layer in base.layers:
    layer.trainable = False

x = keras.layers.Flatten()(base.get_layer("mixed7").output)
x = keras.layers.Dense(1024, activation="relu")(x)
x = keras.layers.Dropout(0.2)(x)
x = keras.layers.Dense(1, activation="sigmoid", dtype="float32")(x)
model = keras.Model(base.input, x)
lap("build")

train_and_test("transfer", 1e-3)

above = False
for layer in base.layers:
    if above:
        layer.trainable = True
    above = above or layer.name == "mixed6"
train_and_test("finetune", 1e-5)

gpus = len(tf.config.list_physical_devices("GPU"))
print(json.dumps({"seconds": seconds, "cpu": cpu, "test": test, "gpus": gpus}))
