"""What an account, a terminal or the environment has set changes no byte of what is made, and breaks nothing."""

import io
import os
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

MAKE = """
from pathlib import Path
from frostline.runtime import own_process
own_process.begin()
import numpy as np
from frostline.common.files import sha256_of
from frostline.config.settings import Phase
from frostline.models.saving import save_model
from frostline.report.charts import learning_curves
from frostline.runtime.quiet_tensorflow import keras
from frostline.training.loop import Examples, Task, train, trainer_of

images = np.random.default_rng(0).integers(256, size=(64, 8, 8, 3)).astype(np.float16)
labels = (images.mean(axis=(1, 2, 3)) > 127).astype(np.uint8)
inputs = keras.Input((8, 8, 3))
x = keras.layers.Rescaling(1 / 255)(inputs)
seeded = keras.initializers.HeNormal
for filters in (16, 32):
    x = keras.layers.Conv2D(filters, 3, activation="relu", kernel_initializer=seeded(filters))(x)
x = keras.layers.Dense(64, activation="relu", kernel_initializer=seeded(1))(keras.layers.Flatten()(x))
model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", kernel_initializer=seeded(2))(x))
examples = Examples([images[:48]], labels[:48]), Examples([images[48:]], labels[48:])
phase = Phase(
    epochs=2,
    learning_rate=1e-3,
    schedule="constant",
    patience=None,
    batch_size=16,
    weight_decay=0,
    label_smoothing=0,
    mixup=0,
    class_weight="none",
)
history = train(trainer_of(model, phase, 48), Task("transfer", 1, *examples), phase)
save_model(model, Path("made/model.keras"), ["개", "고양이"])
learning_curves(Path("made/curves.png"), history, history)
for path in sorted(Path("made").iterdir()):
    print(path, sha256_of(path))
print("한글")
"""
HOSTILE = {
    "KERAS_BACKEND": "torch",
    "KERAS_MAX_EPOCHS": "x",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
    "XLA_FLAGS": "--no_such_flag",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "ONEDNN_VERBOSE": "1",
    "MPLBACKEND": "no such backend",
    "PYTHONHASHSEED": "7",
    "PYTHONIOENCODING": "ascii",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "LC_ALL": "C",
}


def made(folder, environment, umask):
    folder.mkdir()
    script = folder.with_suffix(".py")
    script.write_text(MAKE, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if name not in HOSTILE}
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=kept | environment, umask=umask, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.long
def test_the_account_has_no_say_in_what_is_made(tmp_path):
    home = tmp_path / "home"
    for name, content in {
        ".keras/keras.json": '{"backend": "jax", "floatx": "float64", "epsilon": 0.1}',
        ".config/matplotlib/matplotlibrc": "savefig.dpi: 33\nfont.size: 30\nno colon",
    }.items():
        (home / name).parent.mkdir(parents=True)
        (home / name).write_bytes(content.encode() + b"\n# \xff\n")
    usual = made(tmp_path / "usual", {"HOME": str(tmp_path)}, umask=0o022)
    assert len(usual) == 4
    hostile = made(
        tmp_path / "hostile", {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), **HOSTILE}, umask=0o077
    )
    assert hostile == [*usual[:-1], r"\ud55c\uae00"]
    assert not (tmp_path / ".keras").exists()
    assert made(tmp_path / "nowhere", {"HOME": "/dev/null/nobody"}, umask=0o022) == usual


@pytest.mark.long
@pytest.mark.parametrize(
    "encoding",
    [pytest.param("ascii", marks=pytest.mark.long), "cp949", pytest.param("latin-1", marks=pytest.mark.long)],
)
def test_a_terminal_of_any_encoding_gets_its_lines(project, encoding):
    """Names of classes that it cannot show are escaped; in what others read, as JSON escapes them."""
    with zipfile.ZipFile(project / "archive.zip", "w") as archive:
        for number in range(40):
            picture = io.BytesIO()
            Image.new("RGB", (80, 80), (number * 6, 0, 255 - number * 6)).save(picture, "PNG")
            archive.writestr(f"{('고양이', '🐶')[number % 2]}/{number}.png", picture.getvalue())
    (project / "data/raw").mkdir(parents=True)
    (project / "archive.zip").rename(project / "data/raw/archive.zip")
    command = [sys.executable, "-m", "frostline.stages", "preprocess"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode(encoding)
    assert ("고양이" if encoding == "cp949" else r"\uace0\uc591\uc774") in said
    assert r"\U0001f436" in said


def test_params_are_written_in_utf_8_on_any_terminal(project):
    command = [sys.executable, "-m", "frostline.config.load", "name='고양이'"]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
    assert "name: 고양이\n" in done.stdout.decode()


def test_closed_streams_lead_nowhere_and_into_no_file(tmp_path):
    script = """
import os, sys
from pathlib import Path
from frostline.runtime import own_process
own_process.begin()
from frostline.runtime.stderr import silent_stderr
with Path(sys.argv[1]).open("w") as file, silent_stderr():
    os.write(2, b"from C code")
    print("nowhere", file=sys.stderr)
    print("nowhere", sys.stdin.read())
    file.write("whole")
os.write(2, b"from C code")
"""
    path = tmp_path / "a.txt"
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        command = ["sh", "-c", f'exec "$0" -c "$1" "$2" {closed}', sys.executable, script, str(path)]
        assert subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0
        assert path.read_text() == "whole"
        path.unlink()
