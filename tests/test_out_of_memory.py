"""What a device's memory does not hold at once is computed in parts. The device here is a process with a limit."""

import json
import subprocess
import sys

import numpy as np
import pytest

from frostline.config.load import compose_conf
from frostline.models.inference import within_memory
from frostline.runtime.quiet_tensorflow import memory_errors, tf
from frostline.stages._phase import _trained
from frostline.training.loop import BatchTooLargeError, Session
from tracked import tracked_conf

pytestmark = pytest.mark.slow

SETUP = """
import json, resource, sys
from types import SimpleNamespace
import numpy as np
from frostline.config.settings import Phase
from frostline.models.inference import predictor
from frostline.runtime.quiet_tensorflow import keras
from frostline.stages._phase import _trained
from frostline.training.loop import Examples, Session, Task, train, trainer_of

ROWS = 1024
features = np.random.default_rng(0).normal(size=(ROWS, 64)).astype(np.float16)
labels = (features[:, 0] > 0).astype(np.uint8)

def build(seed=1):
    init = keras.initializers.GlorotUniform(seed=seed)
    inputs = keras.Input((64,))
    x = keras.layers.Reshape((256, 1))(keras.layers.Dense(256, activation="relu", kernel_initializer=init)(inputs))
    for _ in range(2):  # 0.1 GB for all rows, each; as much again for its gradient
        x = keras.layers.Dense(128, activation="relu", kernel_initializer=init)(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", kernel_initializer=init)(x))

options = Phase(
    epochs=1, learning_rate=0.01, schedule="constant", patience=None, batch_size=ROWS,
    weight_decay=0.0, label_smoothing=0.0, mixup=0.0, class_weight="none",
)
examples = Examples([features], labels), Examples([features[:64]], labels[:64])

def phase(model, data, config, session):
    return train(trainer_of(model, options, ROWS, parts=session.parts), Task("finetune", 1, *data), options, session)

def trained():
    model, history = _trained("finetune", SimpleNamespace(finetune=options), build, examples, phase, Session())
    return model, history[-1]["validation/loss"]

def predicted(model):
    return predictor(model, ROWS)([features])[:, 1].tolist()

def limit(mib):
    predictor(build(), 64)([features[:64]])  # threads and kernels have their memory now
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + mib * 2**20,) * 2)
"""


def result_of(code):
    """What `code` prints as JSON, and all that it says."""
    process = subprocess.run([sys.executable, "-c", SETUP + code], capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1]), process.stderr + process.stdout


@pytest.mark.long
def test_a_batch_is_trained_in_parts_and_that_is_said():
    whole, silent = result_of("print(json.dumps(trained()[1]))")
    found, said = result_of("limit(300); print(json.dumps(trained()[1]))")
    assert "memory" not in silent
    assert "finetune: the memory does not hold a batch of 1024 images; their gradients are added up" in said
    assert found == pytest.approx(whole, abs=1e-4)


def test_features_leave_the_device_before_a_batch_is_trained_in_parts(capsys):
    """A model of parts is another one; that of features read batch by batch is the same within rounding."""
    tried = []

    def train(model, data, config, session):
        tried.append((config.feeding, session.parts))
        if len(tried) < 4:
            raise BatchTooLargeError("finetune", 8, beside_features=config.feeding == "auto")
        return []

    _trained("finetune", compose_conf([], tracked_conf()), lambda: None, None, train, Session())
    assert tried == [("auto", 1), ("batches", 1), ("batches", 2), ("batches", 4)]
    assert "finetune: the memory does not hold a step beside all features" in "".join(capsys.readouterr())


@pytest.mark.parametrize("error", ["InternalError", "NotFoundError"])
def test_whatever_a_gpu_says_of_its_memory_images_are_predicted_in_parts(error):
    said = {
        "InternalError": "Dst tensor is not initialized.",
        "NotFoundError": "No algorithm worked! RESOURCE_EXHAUSTED: x",
    }

    def forward(arrays):
        if len(arrays[0]) > 2:
            raise getattr(tf.errors, error)(None, None, said[error])
        return [2 * arrays[0]]

    rows = np.arange(5)
    np.testing.assert_array_equal(within_memory(forward)([rows])[0], 2 * rows)
    with pytest.raises(tf.errors.NotFoundError, match="no such file"), memory_errors():
        raise tf.errors.NotFoundError(None, None, "no such file")


@pytest.mark.long
def test_a_batch_is_predicted_in_parts_and_that_is_said():
    whole, silent = result_of("print(json.dumps(predicted(build())))")
    found, said = result_of("model = build(); limit(150); print(json.dumps(predicted(model)))")
    assert "memory" not in silent
    assert "the memory does not hold 1024 images at a time: 512 are taken." in said
    assert found == pytest.approx(whole, abs=1e-5)
