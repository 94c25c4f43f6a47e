"""The GPU that TensorFlow cannot use, and why: on this machine's files, and on those of a machine that has one."""

import _ctypes
import ctypes
import mmap
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from frostline.config.load import compose_conf
from frostline.runtime import hardware
from frostline.runtime.errors import FrostlineError

FRAMEWORK = Path(hardware._packages(), "tensorflow/libtensorflow_framework.so.2")


@pytest.fixture
def node(tmp_path):
    (tmp_path / "nvidia0").touch()
    return tmp_path / "nvidia0"


def test_the_gpu_that_windows_lends_to_linux_is_one():
    assert Path("/usr/lib/wsl/lib/libcuda.so.1") in hardware.GPU_NODES


@pytest.fixture
def packages(tmp_path):
    """A folder of packages with wheels of NVIDIA's: libcudnn.so.9 is a library, libcufft.so.11 is damaged."""
    for name in ("cudnn/lib/libcudnn.so.9", "cusolver/lib/libcusolver.so.11", "cufft/lib/libcufft.so.11"):
        path = tmp_path / "packages/nvidia" / name
        path.parent.mkdir(parents=True)
        shutil.copy(_ctypes.__file__, path)
    path.write_text("damaged")
    return tmp_path / "packages"


def test_flags_are_read_from_cpuinfo(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx512f amx_bf16\nbugs\t: none\n")
    assert hardware.cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx512f", "amx_bf16"}
    assert hardware.cpu_flags(tmp_path / "nowhere") == set()


def test_a_library_is_found_in_its_wheel_unless_it_cannot_be_loaded(packages):
    wanted = ("libcudnn.so.9", "libcufft.so.11", "libnccl.so.2")
    assert hardware.missing_libraries(wanted, packages) == ["libcufft.so.11", "libnccl.so.2"]
    assert hardware.missing_libraries(("libc.so.6",), packages) == [], "the system has it"


def test_every_library_has_a_package_that_tensorflows_extra_installs():
    extra = {re.match("[a-z0-9-]+", line)[0] for line in requires("tensorflow") if "and-cuda" in line}
    assert set((hardware.CUDA_LIBRARIES | hardware.NCCL).values()) <= extra


def test_the_libraries_are_those_that_tensorflow_asks_for():
    """Its own loader, called as TensorFlow calls it; the system's says what it is asked for."""
    code = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
for name in ("CudaDriver", "CudaRuntime", "Cublas", "CublasLt", "Cufft", "Cusolver", "Cusparse", "Cudnn", "Nccl"):
    get = f"Get{name}DsoHandle"
    function = getattr(library, f"_ZN3tsl8internal9DsoLoader{len(get)}{get}Ev")  # tsl::internal::DsoLoader::Get…
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
    function((ctypes.c_uint64 * 8)())
"""
    environment = os.environ | {"LD_DEBUG": "libs"}
    done = subprocess.run([sys.executable, "-c", code, FRAMEWORK], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    asked = set(re.findall(r"find library=(\S+)", done.stderr))
    assert {hardware.DRIVER, *hardware.CUDA_LIBRARIES, *hardware.NCCL} <= asked


def test_tensorflow_still_does_not_look_into_the_wheel_of_cusolver():
    """If this fails, `preload_cusolver` can go."""
    with FRAMEWORK.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        assert content.find(b"nvidia/cusparse/lib") > 0
        assert content.find(b"nvidia/cusolver/lib") < 0


@pytest.mark.parametrize(("gpu", "visible", "loaded"), [(True, "0", True), (False, "0", False), (True, "-1", False)])
def test_cusolver_is_loaded_from_its_wheel_where_there_is_a_gpu(node, packages, monkeypatch, gpu, visible, loaded):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    hardware.preload_cusolver([node if gpu else node.with_name("nvidia1")], packages)
    there = str(packages / "nvidia/cusolver/lib") in Path("/proc/self/maps").read_text()
    assert there == loaded
    assert ctypes.CDLL(_ctypes.__file__), "and nothing else is harmed"


def test_a_missing_library_is_named_with_what_to_do():
    assert hardware.why_no_gpu(["libcudnn.so.9"]) == "(libcudnn.so.9 is missing): run `make install GPU=1`"
    every = list(hardware.CUDA_LIBRARIES)
    assert hardware.why_no_gpu(every) == "(libcudart.so.12 and 6 more are missing): run `make install GPU=1`"
    assert "install NVIDIA's driver" in hardware.why_no_gpu([hardware.DRIVER, *every])
    assert "nvidia-smi" in hardware.why_no_gpu([])


def test_a_gpu_that_is_not_used_is_said_in_one_line(node, monkeypatch, capsys):
    from frostline.runtime import quiet_tensorflow

    monkeypatch.setattr(quiet_tensorflow, "on_gpu", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    quiet_tensorflow.warn_of_unused_gpu([node.with_name("nvidia1")])
    assert capsys.readouterr().err == "", "there is none"
    quiet_tensorflow.warn_of_unused_gpu([node])
    said = capsys.readouterr().err
    assert said.startswith("warning: this machine has a GPU that TensorFlow cannot use (")
    assert said.endswith("; computing on the CPU\n")
    assert said.count("\n") == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    quiet_tensorflow.warn_of_unused_gpu([node])
    assert capsys.readouterr().err == "", "that it is hidden is a wish"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("command", ["transfer", "finetune", "evaluate", "sweep"])
def test_whatever_computes_says_it(project, monkeypatch, capsys, command):
    """Once, and before anything else: here the data are missing."""
    from frostline.runtime import quiet_tensorflow
    from frostline.stages import evaluate, finetune, transfer
    from frostline.sweep.run import run

    monkeypatch.setattr(quiet_tensorflow, "on_gpu", lambda: False)
    monkeypatch.setattr(hardware, "has_gpu", lambda nodes: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    stages = {"transfer": transfer, "finetune": finetune, "evaluate": evaluate}
    with pytest.raises(FrostlineError, match="data/processed"):
        stages[command].main(compose_conf()) if command in stages else run(["-m", "seed=1,2"])
    assert capsys.readouterr().err.count("this machine has a GPU that TensorFlow cannot use") == 1
