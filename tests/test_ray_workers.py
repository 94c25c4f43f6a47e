"""Work on a real Ray cluster of two machines with one processor each, both of them here."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from frostline.config.load import compose_conf
from frostline.config.paths import ARCHIVE
from frostline.data.preprocess import preprocess
from frostline.features import cache as feature_cache
from frostline.features import extract as features
from frostline.runtime import ray_pool
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras
from frostline.stages.preprocess import main as run_preprocess
from frostline.training import phases
from servers import wait_until

pytestmark = pytest.mark.ray

pytest.importorskip("ray")

SIZE = 24
LAYERS = ["depthwise", "sum"]
COUNT = 601
"""Images: their features are 4.7 MB, so that a pass is killed after an eighth of them."""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """The address of the cluster, which this process is in. Its folder's path is short enough for sockets."""
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        machine = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        machines = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
        machines.add_node(**machine)
        ray_pool.join(machines.address)
        yield machines.address
        ray.shutdown()
        machines.shutdown()


def test_results_come_in_order_little_is_taken_ahead_and_errors_are_those_of_the_function(tmp_path):
    taken = 0

    def items():
        nonlocal taken
        for taken in range(1, 1001):
            yield f"{taken}.txt"

    results = ray_pool.mapped(os.path.realpath, items())
    assert [next(results) for _ in range(10)] == [f"{tmp_path}/{number}.txt" for number in range(1, 11)]
    assert taken <= 10 + 3 * 2
    results.close()
    with pytest.raises(ValueError, match=r"^invalid literal for int"):
        list(ray_pool.mapped(int, ["1", "one"]))


@pytest.mark.long
def test_a_killed_process_is_replaced_and_an_item_that_kills_every_one_is_told_in_two_lines(tmp_path):
    def die_once(name):
        if not Path(name).exists():
            Path(name).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return name

    assert list(ray_pool.mapped(die_once, ["a", "b", "c"])) == ["a", "b", "c"]
    with pytest.raises(FrostlineError, match="Ray gave up: ") as raised:
        list(ray_pool.mapped(os._exit, [3]))
    assert len(str(raised.value).splitlines()) == 2


_LEFT_EARLY = """
import sys
import ray
from frostline.runtime import ray_pool
ray.cancel = None
ray_pool.join(sys.argv[1])
for number in range(int(sys.argv[2])):
    results, taken = ray_pool.mapped(abs, range(-50, 0)), number % 10 + 1
    assert [next(results) for _ in range(taken)] == list(range(50, 50 - taken, -1))
    results.close()
"""


@pytest.mark.parametrize("passes", [3, pytest.param(200, marks=pytest.mark.long)])
def test_passes_that_are_left_early_never_abort_this_process(cluster, passes):
    """A task that ends while it is cancelled makes Ray 2.60 abort: here within 50 such passes, beside other work."""
    command = [sys.executable, "-c", _LEFT_EARLY, cluster, str(passes)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_nothing_runs_on_after_a_pass_that_is_left_early():
    results = ray_pool.mapped(time.sleep, [0, 600, 600])
    next(results)
    results.close()
    wait_until(lambda: not processes("ray::_Process.apply"), seconds=60)


def test_what_is_missing_is_told_in_two_lines(monkeypatch):
    with pytest.raises(FrostlineError, match="no machine of the Ray cluster has 1 CPU and 1 GPU") as raised:
        next(ray_pool.mapped(abs, [1], gpus=1))
    assert len(str(raised.value).splitlines()) == 2
    code = "from frostline.runtime import ray_pool; ray_pool.join('127.0.0.1:1')"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "FrostlineError: cannot join the Ray cluster at 127.0.0.1:1: " in process.stderr.splitlines()[-1]
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FrostlineError, match=r"^workers=ray needs ray, .*\n.*make install-sweeps"):
        next(ray_pool.mapped(abs, [1]))


def test_who_asks_for_no_gpu_sees_none():
    """Else what it computes there would be called a processor's."""
    assert list(ray_pool.mapped(os.getenv, ["CUDA_VISIBLE_DEVICES"])) == ["-1"]  # os.environ would be sent along


@pytest.mark.long
def test_the_setting_reaches_what_it_is_for(project, archive, prepared, monkeypatch):
    with pytest.raises(FrostlineError, match=r"workers is 'dask'; valid: local, ray\."):
        compose_conf(["workers=dask"])
    config = compose_conf(["workers=ray"])
    ARCHIVE.parent.mkdir(parents=True)
    shutil.copy(archive, ARCHIVE)
    inputs = keras.Input(prepared.images("test").shape[1:])
    model = keras.Model(inputs, keras.layers.Rescaling(1 / 255, name="scale")(inputs))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FrostlineError, match="workers=ray needs ray"):
        run_preprocess(config)
    with pytest.raises(FrostlineError, match="workers=ray needs ray"):
        phases.split_features(phases.extractor_of(model, ["scale"], config, "float32"), prepared, "test")


def test_a_folder_that_a_machine_has_not_got_is_named(tmp_path):
    with pytest.raises(FrostlineError, match=f"has no folder {tmp_path}/gone.\n.*shared file system"):
        ray_pool._Process([], tmp_path / "gone").apply(1)


def test_nothing_else_imports_ray():
    code = "import frostline.data.preprocess, frostline.runtime.ray_pool, sys; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_preprocess_gives_the_bytes_of_local_processes(tmp_path):
    with zipfile.ZipFile("archive.zip", "w") as archive:
        for number, pixels in enumerate(np.random.default_rng(1).integers(0, 256, (100, 3, 5, 3), np.uint8)):
            buffer = io.BytesIO()
            Image.fromarray(pixels).resize((50, 40)).save(buffer, "JPEG")
            archive.writestr(f"{('cats', 'dogs')[number % 2]}/{number}.jpg", buffer.getvalue())
        archive.writestr("cats/bad.jpg", buffer.getvalue()[:-99])
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    made = []
    for processes in (2, "ray"):
        folder = Path(str(processes))
        summary = preprocess(
            Path("archive.zip"), folder, size=SIZE, seed=1, shares=shares, max_rejected=0.1, processes=processes
        )
        assert summary.rejected == {"truncated": 1}
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1]


def extract(images, cache, workers):
    """In batches of two, and with what `inference_copy` treats in ways of its own."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    inputs = keras.Input((SIZE, SIZE, 3), name="images")
    outputs = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(inputs)
    outputs = keras.layers.Conv2D(16, 3, strides=2, use_bias=False)(outputs)
    left = outputs = keras.layers.BatchNormalization(beta_initializer="random_uniform")(outputs)
    outputs = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise", activation="relu")(outputs)
    outputs = keras.layers.Add(name="sum")([left, outputs])
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(outputs))
    features.BATCH = 2
    return features.Extractor(model, LAYERS, "bfloat16", cache=cache, workers=workers)(images, "digest")


_KILLED = """
import sys
from pathlib import Path
import numpy as np
sys.path.append(sys.argv[1])
import test_ray_workers
images = np.load("images.npy", mmap_mode="r")[:, :, ::-1]
test_ray_workers.extract(images, Path("killed"), "ray")
"""


def processes(name):
    """Those of the cluster that Ray has named so."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[:1] == [name]:
                found.append(process)
    return found


def kill_one():
    """Kill the first process that computes."""
    while not (found := processes("ray::_Process.apply")):
        time.sleep(0.01)
    found[0].kill()


@pytest.mark.long
def test_features_have_the_bytes_of_one_process_though_the_pass_and_a_worker_are_killed(cluster, monkeypatch):
    monkeypatch.setattr(features, "BATCH", 2)
    np.save("images.npy", np.random.default_rng(1).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8))
    killed = Path("killed")
    command = [sys.executable, "-c", _KILLED, Path(__file__).parent]
    process = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": cluster}, stderr=subprocess.PIPE)
    while process.poll() is None and sum(path.stat().st_size for path in killed.glob("*/*.npy")) < 600_000:
        time.sleep(0.01)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert feature_cache.entries(killed) == []

    wait_until(lambda: not processes("ray::_Process.apply"), seconds=60)  # Ray ends those of the killed pass
    images = np.load("images.npy", mmap_mode="r")[:, :, ::-1]
    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    resumed = extract(images, killed, "ray")
    thread.join()
    alone = extract(images, Path("alone"), "local")
    for left, right in zip(resumed, alone, strict=True):
        assert len(left) == COUNT
        assert left.tobytes() == right.tobytes()
