"""The recipe with fast feature extraction, in plain Keras: what a skilled user would write, for `vs_keras.py --peers`.

    python benchmarks/features_first.py FOLDER WEIGHTS.h5 --epochs 2

As in Chollet's "Deep Learning with Python", the frozen backbone runs once, and the dense head is trained on the arrays
that it gave; to fine-tune, both are trained as one model on the images. Arguments and the last line are those of
`plain_keras.py`.
"""

import argparse
import json
import time
from pathlib import Path

clocks = time.perf_counter(), time.process_time()

import keras  # noqa: E402  the import is a part of what is timed
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

SIZE = (150, 150)

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("weights", type=Path)
parser.add_argument("--epochs", type=int, default=2, help="of each phase")
parser.add_argument("--precision", default="float32", help="a Keras dtype policy, such as mixed_bfloat16")
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
    return data.map(lambda images, labels: (rescale(images), labels)).prefetch(tf.data.AUTOTUNE)


def features_of(data: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    parts = [(frozen.predict_on_batch(images), labels.numpy()) for images, labels in data]
    features, labels = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def compile_with(model: keras.Model, learning_rate: float) -> None:
    model.compile(keras.optimizers.Adam(learning_rate), loss="binary_crossentropy", metrics=["accuracy"])


def test_after(phase: str) -> None:
    loss, accuracy = whole.evaluate(held_out, verbose=0)
    test[phase] = {"log_loss": loss, "accuracy": accuracy}
    lap(f"{phase} test")


lap("import")
train, validation, held_out = load("train"), load("validation"), load("test")

base = keras.applications.InceptionV3(input_shape=(*SIZE, 3), include_top=False, weights=None)
base.load_weights(arguments.weights)
base.trainable = False
frozen = keras.Model(base.input, base.get_layer("mixed7").output)
head = keras.Sequential(
    [
        keras.Input(frozen.output.shape[1:]),
        keras.layers.Flatten(),
        keras.layers.Dense(1024, activation="relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(1, activation="sigmoid", dtype="float32"),
    ]
)
whole = keras.Model(base.input, head(frozen.output))
lap("build")

features, labels = features_of(train)
compile_with(head, 1e-3)
head.fit(
    features,
    labels,
    validation_data=features_of(validation),
    batch_size=32,
    epochs=arguments.epochs,
    verbose=2,
)
lap("transfer")
compile_with(whole, 1e-5)
test_after("transfer")

base.trainable = True
for layer in base.layers[: base.layers.index(base.get_layer("mixed6")) + 1]:
    layer.trainable = False
compile_with(whole, 1e-5)
whole.fit(train, validation_data=validation, epochs=arguments.epochs, verbose=2)
lap("finetune")
test_after("finetune")

print(json.dumps({"seconds": seconds, "cpu": cpu, "test": test}))
