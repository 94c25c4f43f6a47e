"""This machine's processor and GPU, and what TensorFlow needs to use the GPU: found without TensorFlow."""

import ctypes
import os
import sysconfig
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
GPU_NODES = (Path("/dev/nvidia0"), Path("/proc/driver/nvidia/gpus"), Path("/usr/lib/wsl/lib/libcuda.so.1"))
"""One of these is there where NVIDIA's driver runs a GPU; the last is what Windows lends to Linux in WSL2."""

DRIVER = "libcuda.so.1"
"""Comes with NVIDIA's driver, and into a container with its GPUs."""
CUDA_LIBRARIES = {
    "libcudart.so.12": "nvidia-cuda-runtime-cu12",
    "libcublas.so.12": "nvidia-cublas-cu12",
    "libcublasLt.so.12": "nvidia-cublas-cu12",
    "libcufft.so.11": "nvidia-cufft-cu12",
    "libcusolver.so.11": "nvidia-cusolver-cu12",
    "libcusparse.so.12": "nvidia-cusparse-cu12",
    "libcudnn.so.9": "nvidia-cudnn-cu12",
}
"""What TensorFlow 2.21 opens before it takes a GPU, and the package of tensorflow[and-cuda] that has it.

Without one of them it takes none (TryDlopenCUDALibraries in its tsl/platform/default/dlopen_checker.cc). The names are
those that it asks the loader for: `LD_DEBUG=libs` shows them.
"""
NCCL = {"libnccl.so.2": "nvidia-nccl-cu12"}
"""What several GPUs need to train together; one does without."""


def cpu_flags(cpuinfo: Path = CPUINFO) -> set[str]:
    """The processor's flags, as the file `cpuinfo` names them; none where there is no such file."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


def gpus_hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES says that no GPU shall be used."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")


def has_gpu(nodes: Sequence[Path] = GPU_NODES) -> bool:
    """Whether there is a GPU of NVIDIA's: one of `nodes` exists."""
    return any(node.exists() for node in nodes)


def missing_libraries(libraries: Sequence[str] = (*CUDA_LIBRARIES, *NCCL), packages: Path | None = None) -> list[str]:
    """Which of `libraries` can be loaded neither from NVIDIA's wheels in the folder `packages` nor by the system.

    None: the folder that TensorFlow is in, where it looks for them.
    """
    folder = packages or _packages()
    return [name for name in libraries if not (_loads(_in_wheel(name, folder)) or _loads(name))]


def preload_cusolver(nodes: Sequence[Path] = GPU_NODES, packages: Path | None = None) -> None:
    """Where there is a GPU, load what TensorFlow 2.21 does not find in its wheel; it then gets it by its name.

    The library that opens the others (libtensorflow_framework.so.2) has the folders of all wheels in its RUNPATH but
    that of cuSOLVER: with all of tensorflow[and-cuda] installed, TensorFlow would take no GPU. `nodes`, `packages`: as
    for `has_gpu` and `missing_libraries`.
    """
    if has_gpu(nodes) and not gpus_hidden():
        _loads(_in_wheel("libcusolver.so.11", packages or _packages()))


def why_no_gpu(missing: Sequence[str] | None = None) -> str:
    """Why TensorFlow cannot use this machine's GPU, and what to do, in one line.

    `missing`: libraries, the driver's among them; None: looked for now.
    """
    if missing is None:
        missing = missing_libraries((DRIVER, *CUDA_LIBRARIES))
    if DRIVER in missing:
        return (
            f"({DRIVER} is missing): install NVIDIA's driver, "
            "or start the container with its GPUs (docker run --gpus all)"
        )
    if missing:
        others = f" and {len(missing) - 1} more are missing" if len(missing) > 1 else " is missing"
        return f"({missing[0]}{others}): run `make install GPU=1`"
    return "(its libraries are all there): see what `nvidia-smi` says of the driver"


def _packages() -> Path:
    found = find_spec("tensorflow")
    return Path(found.origin).parents[1] if found and found.origin else Path(sysconfig.get_path("purelib"))


def _in_wheel(library: str, packages: Path) -> Path:
    package = (CUDA_LIBRARIES | NCCL).get(library, "")
    return (
        packages / "nvidia" / package.removeprefix("nvidia-").removesuffix("-cu12").replace("-", "_") / "lib" / library
    )


def _loads(library: Path | str) -> bool:
    try:
        ctypes.CDLL(str(library))
    except OSError:
        return False
    return True
