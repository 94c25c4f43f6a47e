"""`frostline doctor`: what a run here would use, and why not more.

Nothing is changed. Each part is looked at on its own, so that a broken one is a line of the answer and not its end.
TensorFlow is imported in a process of its own: its import may end it (by an instruction that the processor lacks).
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import psutil  # type: ignore[import-untyped]  # comes without types

from frostline.common.urls import hide_credentials
from frostline.config.kept import read_local
from frostline.config.load import load_params
from frostline.config.paths import PARAMS
from frostline.config.project import check_repository
from frostline.config.settings import Config
from frostline.features.cache import entries
from frostline.runtime import hardware
from frostline.runtime.errors import FrostlineError, brief
from frostline.runtime.process_pool import cores
from frostline.sources.kaggle import place_of_credentials
from frostline.tracking.places import store_address

_PYTHONS = ((3, 11), (3, 13))
"""The first and the last one that TensorFlow 2.21 has."""
_FLAGS = {"AVX2": "avx2", "AVX-512": "avx512f", "bf16": "avx512_bf16", "AMX": "amx_bf16"}
_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap,driver_version", "--format=csv,noheader,nounits")
_SECONDS = 300
"""For TensorFlow's import."""
_WIDTH, _INDENT = 100, 12


@dataclass(frozen=True)
class Finding:
    """What one part was found to be."""

    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same for machines."""
    missing: bool = False
    """Whether the pipeline cannot run for it."""


def examine() -> dict[str, Finding]:
    """Look at all that a run in the current folder would use, by the name of the part."""
    code = "import json; from frostline.project import doctor; print(json.dumps(doctor.tensorflow_facts()))"
    importing = _start(sys.executable, "-c", code)
    try:
        config = load_params() if PARAMS.is_file() else None
    except FrostlineError:  # `project` says what is wrong with it
        config = None
    found = {
        "python": _carefully(python),
        "processor": _carefully(processor),
        "disk": _carefully(lambda: disk(Path.cwd(), config)),
        "mlflow": _carefully(lambda: store(config)),
        "kaggle": _carefully(lambda: kaggle(os.environ, Path.home())),
        "project": _carefully(project),
    }
    facts, error = _answer_of(importing)
    gpus = parse_smi(_output_of(*_SMI))
    present = bool(gpus) or hardware.has_gpu()
    missing = hardware.missing_libraries((hardware.DRIVER, *hardware.CUDA_LIBRARIES, *hardware.NCCL))
    found |= {
        "tensorflow": tensorflow(facts, error),
        "gpu": gpu(gpus, present, facts, [name for name in missing if name not in hardware.NCCL]),
        "cuda": cuda([name for name in missing if name != hardware.DRIVER], present),
        "precision": precision(facts, config.precision if config else "auto"),
    }
    return {name: found[name] for name in _ORDER}


_ORDER = ("python", "tensorflow", "processor", "gpu", "cuda", "precision", "disk", "mlflow", "kaggle", "project")


def can_run(found: Mapping[str, Finding]) -> bool:
    return not any(finding.missing for finding in found.values())


def as_text(found: Mapping[str, Finding]) -> str:
    """A line per part and a last one that sums up, at most 100 columns wide."""
    lines = []
    for name, finding in found.items():
        text = f"{'MISSING: ' if finding.missing else ''}{finding.text}"
        lines += textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=f"{name:<{_INDENT}}",
            subsequent_indent=" " * _INDENT,
            break_on_hyphens=False,
        )
    lacking = [name for name, finding in found.items() if finding.missing]
    return "\n".join(
        [*lines, f"The pipeline cannot run here: {', '.join(lacking)}." if lacking else "The pipeline can run here."]
    )


def as_json(found: Mapping[str, Finding]) -> str:
    """One object: `can_run`, and by part its text, whether it is missing, and its facts."""
    parts = {name: {"text": each.text, "missing": each.missing, **each.facts} for name, each in found.items()}
    return json.dumps({"can_run": can_run(found), **parts}, indent=2)


def _carefully(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:  # noqa: BLE001  (whatever is broken: that is what was asked)
        said = brief(error)
        return Finding(f"cannot be looked at: {type(error).__name__}: {said}", missing=True)


# What each part is


def python() -> Finding:
    number, fits = platform.python_version(), _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]
    text = f"{number} on {platform.system()} {platform.release()} ({platform.machine()})"
    if platform.system() == "Darwin":
        text += "; macOS is not tested"
    if not fits:
        text += "; TensorFlow 2.21 needs 3.11, 3.12 or 3.13"
    return Finding(text, {"version": number, "platform": platform.platform()}, missing=not fits)


def processor(cpuinfo: Path = hardware.CPUINFO) -> Finding:
    """`cpuinfo`: the file that names the processor's flags."""
    flags, count = hardware.cpu_flags(cpuinfo), cores()
    has = {name: flag in flags for name, flag in _FLAGS.items()}
    memory = psutil.virtual_memory().total
    there, lacking = ([name for name in has if has[name] == wanted] for wanted in (True, False))
    said = [", ".join(there)] * bool(there) + [f"no {', '.join(lacking)}"] * bool(lacking)
    known = said if flags else []  # not every system has such a file
    text = "; ".join([f"{count} core{'s' * (count != 1)}, {memory / 2**30:.1f} GiB of memory", *known])
    return Finding(text, {"cores": count, "memory_bytes": memory, "instructions": has})


def tensorflow_facts() -> dict[str, Any]:
    """What TensorFlow says, in the process that imports it: its versions, its GPUs, what `precision: auto` is."""
    from frostline.runtime.quiet_tensorflow import keras, tf
    from frostline.training.precision import choose_here

    devices = tf.config.list_physical_devices("GPU")
    chosen, why = choose_here()
    return {
        "version": tf.__version__,
        "keras": keras.__version__,
        "cuda": tf.sysconfig.get_build_info().get("cuda_version"),
        "gpus": [
            tf.config.experimental.get_device_details(device).get("device_name", device.name) for device in devices
        ],
        "precision": chosen,
        "why": why,
    }


def tensorflow(facts: Mapping[str, Any] | None, error: str) -> Finding:
    """`facts`: as `tensorflow_facts` gives them; None: the import failed, with `error`."""
    if facts is None:
        return Finding(f"cannot be imported: {error}", {"error": error}, missing=True)
    versions = {"version": facts["version"], "keras": facts["keras"], "cuda": facts["cuda"]}
    built = f", built for CUDA {facts['cuda']}" if facts["cuda"] else ", built without CUDA"
    return Finding(f"{facts['version']}{built}; Keras {facts['keras']}", versions)


def parse_smi(text: str) -> list[dict[str, str]]:
    """The GPUs in what `nvidia-smi` prints: a line each, with name, MiB of memory, compute capability and driver."""
    rows = ([part.strip() for part in line.split(",")] for line in text.splitlines())
    names = ("name", "memory_mib", "compute_capability", "driver")
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def gpu(gpus: list[dict[str, str]], present: bool, facts: Mapping[str, Any] | None, missing: list[str]) -> Finding:
    """Which GPUs there are and whether they are used.

    Args:
        gpus: as `parse_smi` gives them.
        present: whether there is one at all: `nvidia-smi` may be missing.
        facts: TensorFlow's; None where it cannot be imported.
        missing: libraries that it needs for a GPU.
    """
    used = facts["gpus"] if facts else []
    known = {"gpus": gpus, "used": used}
    if not present and not used:
        return Finding("none: training computes on the processor", known)
    each = (
        [
            f"{one['name']}, {one['memory_mib']} MiB, compute capability {one['compute_capability']}, "
            f"driver {one['driver']}"
            for one in gpus
        ]
        or used
        or ["of a kind that `nvidia-smi` does not tell"]
    )
    if facts is None:
        use = "not used: TensorFlow cannot be imported"
    elif used:
        use = f"TensorFlow uses {len(used)}"
    elif hardware.gpus_hidden():
        use = "not used: CUDA_VISIBLE_DEVICES hides it"
    else:
        use = f"TensorFlow cannot use it {hardware.why_no_gpu(missing)}"
    return Finding(f"{'; '.join(each)}; {use}", known)


def cuda(missing: list[str], present: bool) -> Finding:
    """Which of CUDA's libraries TensorFlow finds; each that is missing with its package, where there is a GPU."""
    packages = hardware.CUDA_LIBRARIES | hardware.NCCL
    facts = {name: {"found": name not in missing, "package": package} for name, package in packages.items()}
    count = f"{len(packages) - len(missing)} of {len(packages)} libraries found"
    if not missing:
        return Finding(f"all {len(packages)} libraries found", {"libraries": facts})
    if not present:
        return Finding(f"{count}; a GPU would need them (`make install GPU=1`)", {"libraries": facts})
    named = ", ".join(f"{name} ({packages[name]})" for name in missing)
    return Finding(f"{count}; missing: {named}; `make install GPU=1` installs them", {"libraries": facts})


def precision(facts: Mapping[str, Any] | None, setting: str) -> Finding:
    """`setting`: the project's, "auto" outside of one."""
    if facts is None:
        return Finding("unknown: TensorFlow cannot be imported")
    known = {"setting": setting, "auto": facts["precision"]}
    if setting == "auto":
        return Finding(f"auto is {facts['precision']}: {facts['why']}", known)
    return Finding(f"{setting}, as set; auto would be {facts['precision']}: {facts['why']}", known)


def disk(folder: Path, config: Config | None) -> Finding:
    """What is free in `folder`, and what the feature cache has of it and may still take."""
    free = shutil.disk_usage(folder).free
    text, facts = f"{free / 2**30:.1f} GiB free", {"free_bytes": free}
    if config:
        cached, limit = sum(entry.bytes for entry in entries()), round(config.feature_cache_gib * 2**30)
        facts |= {"cached_bytes": cached, "cache_limit_bytes": limit}
        text += f"; the feature cache has {cached / 2**30:.1f} of at most {limit / 2**30:g} GiB"
        if free + cached < limit:
            text += ": more than is free, set feature_cache_gib"
    return Finding(text, facts)


def store(config: Config | None) -> Finding:
    """Whether MLflow's store, which no training starts without, answers."""
    uri = store_address(config.tracking.uri if config else "")
    if not uri:
        return Finding("no store: no project")
    # A doctor's patience; a run has more of it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from frostline.tracking.store import answers, store_is_needed

    known = {"uri": hide_credentials(uri)}
    try:
        with store_is_needed():
            there = answers(uri)
    except FrostlineError as error:
        return Finding(" ".join(str(error).split()), known, missing=True)
    return Finding(f"{known['uri']} {'answers' if there else 'is not there yet: the first run makes it'}", known)


def kaggle(environment: Mapping[str, str], home: Path) -> Finding:
    """Where credentials are, never what they are."""
    place = place_of_credentials(environment, home)
    text = f"credentials in {place}" if place else "no credentials; only data=kaggle needs them"
    return Finding(text, {"credentials": place})


def project() -> Finding:
    """Whether DVC can work in the current folder, and what was set for good."""
    try:
        check_repository()
        if not Path(".dvc").is_dir():
            raise FrostlineError("DVC is not set up here: run `dvc init`.")
        if shutil.which("git") is None:
            raise FrostlineError("DVC needs the command git, which is not installed.")
        load_params()
        kept = read_local()
    except FrostlineError as error:
        return Finding(" ".join(str(error).split()), missing=True)
    shown = {key: hide_credentials(value) if isinstance(value, str) else value for key, value in kept.items()}
    listed = ", ".join(f"{key}={'null' if value is None else value}" for key, value in sorted(shown.items()))
    return Finding(f"git, DVC {version('dvc')}; settings that stay: {listed or 'none'}", {"settings": shown})


# What other programs say


def _start(*command: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, errors="replace")  # noqa: S603 - a tuple


def _output_of(*command: str) -> str:
    """What `command` prints; nothing where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""


def _answer_of(process: "subprocess.Popen[str]") -> tuple[dict[str, Any] | None, str]:
    """What `process` prints as JSON; or None, and what ended it."""
    try:
        printed, errors = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None, f"it takes more than {_SECONDS} s"
    if process.returncode < 0:
        ended = signal.Signals(-process.returncode).name
        hint = " (the processor lacks an instruction that it is built for)" if ended == "SIGILL" else ""
        return None, f"the import ends in {ended}{hint}"
    if process.returncode:
        said = [line.strip() for line in errors.splitlines() if line.strip()]
        return None, said[-1][:200] if said else f"the import ends with status {process.returncode}"
    return cast(dict[str, Any], json.loads(printed.splitlines()[-1])), ""
