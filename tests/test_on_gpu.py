"""benchmarks/on_gpu.py where there is no GPU: it prepares what the stages read, and no job outlives its time."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frostline.data.dataset import load_dataset

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import on_gpu

    monkeypatch.setattr(on_gpu, "COUNTS", {"small": (4, 2, 2), "2048": (4, 2, 2), "25000": (6, 2, 2)})
    return on_gpu


def test_its_images_are_a_data_set(on_gpu, tmp_path):
    on_gpu.prepare(tmp_path)
    data = load_dataset(tmp_path / "25000/processed")
    assert [len(data.labels(split)) for split in on_gpu.SPLITS] == [6, 2, 2]
    assert data.classes == ("cat", "dog")
    assert len(list((tmp_path / "2048/png").rglob("*.png"))) == 8


def test_features_are_compared_with_the_cpus(on_gpu, tmp_path):
    for name, value in (("cpu-fp32", 2.0), ("gpu-fp32", 2.0), ("gpu-tf32", 2.5), ("gpu-bf16", 1.0)):
        np.save(tmp_path / f"first-{name}-1.npy", np.array([value, 1.0], np.float16))
    assert on_gpu.compare(tmp_path) == {"fp32": 0.0, "tf32": 0.25, "bf16": 0.5}


def test_a_job_ends_with_its_children_when_the_time_is_over(tmp_path):
    code = """
import subprocess, sys
import on_gpu
if "plain" in sys.argv:
    subprocess.run(["sleep", "300"])
on_gpu.__file__ = __file__
on_gpu.JOBS = [("plain", "")]
on_gpu.main()
"""
    (tmp_path / "ready").touch()
    (tmp_path / "script.py").write_text(code)
    options = ["--folder", tmp_path, "--json", tmp_path / "found.json", "--seconds", "6"]
    environment = {"PYTHONPATH": str(BENCHMARKS), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, tmp_path / "script.py", *options]
    subprocess.run(command, env=environment, capture_output=True, timeout=100, check=True)
    assert "the time is over" in json.loads((tmp_path / "found.json").read_text())["plain "]["failed"]
