"""`frostline doctor`: every part on what real machines show, and the command where much is missing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.config.load import compose_conf
from frostline.project import doctor
from frostline.runtime import hardware

SMI = "NVIDIA H200, 143771, 9.0, 570.86.15\nNVIDIA H200, 143771, 9.0, 570.86.15\n"
FACTS = {
    "version": "2.21.0",
    "keras": "3.15.1",
    "cuda": "12.5.1",
    "gpus": [],
    "precision": "float32",
    "why": "the processor has neither",
}
IN_PROJECT = ("dvc.yaml", ".git/HEAD", ".dvc/config")


@pytest.fixture
def whole_project(project):
    """What the doctor asks for of a project that DVC works in."""
    for name in IN_PROJECT:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    return project


def run_doctor(*options, **environment):
    command = [sys.executable, "-m", "frostline.cli", "doctor", *options]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def broken_tensorflow(folder, code):
    """A folder for PYTHONPATH, in which TensorFlow runs `code` when it is imported."""
    (folder / "broken/tensorflow").mkdir(parents=True)
    (folder / "broken/tensorflow/__init__.py").write_text(code)
    return os.pathsep.join((str(folder / "broken"), *sys.path))


def test_gpus_are_read_from_what_nvidia_smi_prints():
    first, second = doctor.parse_smi(SMI)
    assert first == second
    assert first == {
        "name": "NVIDIA H200",
        "memory_mib": "143771",
        "compute_capability": "9.0",
        "driver": "570.86.15",
    }
    assert doctor.parse_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") == []
    assert doctor.parse_smi("") == []


@pytest.mark.parametrize(
    ("smi", "present", "facts", "missing", "said"),
    [
        ("", False, FACTS, [], "none: training computes on the processor"),
        (SMI, True, FACTS | {"gpus": ["NVIDIA H200"] * 2}, [], "driver 570.86.15; TensorFlow uses 2"),
        (SMI, True, FACTS, ["libcudnn.so.9"], "cannot use it (libcudnn.so.9 is missing): run `make install GPU=1`"),
        ("", True, FACTS, [hardware.DRIVER], "does not tell; TensorFlow cannot use it (libcuda.so.1 is missing)"),
        (SMI, True, None, [], "not used: TensorFlow cannot be imported"),
    ],
)
def test_a_gpu_is_used_or_it_is_said_why_not(monkeypatch, smi, present, facts, missing, said):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = doctor.gpu(doctor.parse_smi(smi), present, facts, missing)
    assert said in found.text
    assert not found.missing, "the pipeline runs without"


def test_a_hidden_gpu_is_no_fault(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert doctor.gpu(doctor.parse_smi(SMI), True, FACTS, []).text.endswith("CUDA_VISIBLE_DEVICES hides it")


def test_each_missing_library_is_named_with_its_package_where_it_would_be_used():
    assert doctor.cuda([], present=True).text == "all 8 libraries found"
    assert doctor.cuda(["libcudnn.so.9"], present=False).text.startswith("7 of 8 libraries found; a GPU would")
    found = doctor.cuda(["libcudnn.so.9", "libnccl.so.2"], present=True)
    assert (
        "missing: libcudnn.so.9 (nvidia-cudnn-cu12), libnccl.so.2 (nvidia-nccl-cu12); `make install GPU=1`"
        in found.text
    )
    assert found.facts["libraries"]["libcudnn.so.9"] == {"found": False, "package": "nvidia-cudnn-cu12"}


def test_the_processor_and_what_it_lacks(tmp_path):
    (tmp_path / "cpuinfo").write_text("flags\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n")
    assert doctor.processor(tmp_path / "cpuinfo").text.endswith("; AVX2, AVX-512, bf16, AMX")
    (tmp_path / "cpuinfo").write_text("flags\t: fpu avx2\n")
    assert doctor.processor(tmp_path / "cpuinfo").text.endswith("; AVX2; no AVX-512, bf16, AMX")


def test_precision_is_the_setting_or_what_auto_is():
    assert doctor.precision(FACTS, "auto").text == "auto is float32: the processor has neither"
    assert doctor.precision(FACTS, "bfloat16").text.startswith("bfloat16, as set; auto would be float32")
    assert not doctor.precision(None, "auto").missing


def test_credentials_are_named_by_their_place_alone(tmp_path):
    assert doctor.kaggle({}, tmp_path).facts == {"credentials": None}
    for variables in ({"KAGGLE_API_TOKEN": "s3cret"}, {"KAGGLE_USERNAME": "me", "KAGGLE_KEY": "s3cret"}):
        found = doctor.kaggle(variables, tmp_path)
        assert found.text == f"credentials in {' and '.join(variables)}"
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle/kaggle.json").write_text("s3cret")
    assert doctor.kaggle({}, tmp_path).text == f"credentials in {tmp_path}/.kaggle/kaggle.json"
    (tmp_path / ".kaggle/access_token").write_text("s3cret")
    assert doctor.kaggle({}, tmp_path).text == f"credentials in {tmp_path}/.kaggle/access_token"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kaggle.json").touch()
    (tmp_path / ".kaggle/access_token").unlink()
    elsewhere = {"KAGGLE_CONFIG_DIR": str(tmp_path / "elsewhere")}
    assert doctor.kaggle(elsewhere, tmp_path).facts["credentials"] == f"{tmp_path}/elsewhere/kaggle.json"


def test_a_disk_with_less_room_than_the_cache_may_take(project):
    text = doctor.disk(project, compose_conf()).text
    assert "the feature cache has 0.0 of at most 20 GiB" in text
    assert "more than is free" in doctor.disk(project, compose_conf(["feature_cache_gib=1e9"])).text
    assert "cache" not in doctor.disk(project, None).text


def test_a_project_that_dvc_works_in_and_one_that_it_does_not(whole_project):
    from frostline.config.local import set_local

    set_local({"transfer.epochs": "3", "tracking.uri": "http://me:s3cret@host:5000"})
    found = doctor.project()
    assert not found.missing
    assert "settings that stay: tracking.uri=http://host:5000, transfer.epochs=3" in found.text
    said = {".dvc/config": "dvc init", ".git/HEAD": "no git repository", "dvc.yaml": "is no Frostline project"}
    for name in reversed(IN_PROJECT):
        Path(name).unlink()
        if name != "dvc.yaml":
            Path(name).parent.rmdir()
        found = doctor.project()
        assert found.missing
        assert said[name] in found.text


@pytest.mark.slow
def test_a_store_answers_is_not_there_yet_or_cannot_be_used(project, monkeypatch):
    assert doctor.store(None).text == "no store: no project"
    found = doctor.store(compose_conf())
    assert found.text == "sqlite:///mlruns/mlflow.db is not there yet: the first run makes it"
    assert not Path("mlruns/mlflow.db").exists(), "nothing is made"

    from frostline.tracking.runs import open_pipeline

    open_pipeline(compose_conf(), "data")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it itself
    assert doctor.store(compose_conf()).text == "sqlite:///mlruns/mlflow.db answers"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("mlruns/mlflow.db").write_text("damaged" * 1000)
    found = doctor.store(compose_conf())
    assert found.missing
    assert "no SQLite database, or damaged" in found.text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@127.0.0.1:9")
    found = doctor.store(compose_conf())
    assert found.missing
    assert "nothing listens there" in found.text
    assert "s3cret" not in found.text + str(found.facts)


def test_what_cannot_be_looked_at_is_a_line_and_no_traceback():
    def look():
        raise RuntimeError("broken\nin two lines")

    found = doctor._carefully(look)
    assert found == doctor.Finding("cannot be looked at: RuntimeError: broken in two lines", missing=True)


def test_the_text_fits_100_columns_and_names_what_is_missing():
    long = ", ".join(hardware.CUDA_LIBRARIES) + " " + "x" * 300
    text = doctor.as_text({"python": doctor.Finding(long), "mlflow": doctor.Finding("no", missing=True)})
    assert max(map(len, text.splitlines())) <= 100
    assert "mlflow      MISSING: no\nThe pipeline cannot run here: mlflow." in text


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('libfoo.so: cannot open')", "ImportError: libfoo.so: cannot open"),
        (f"import os; os.kill(os.getpid(), {signal.SIGILL.value})", "SIGILL (the processor lacks an instruction"),
    ],
)
def test_a_tensorflow_that_cannot_be_imported_is_said(tmp_path, code, said):
    done = run_doctor(PYTHONPATH=broken_tensorflow(tmp_path, code))
    assert (done.returncode, done.stderr) == (1, "")
    text = " ".join(done.stdout.split())
    assert "tensorflow MISSING: cannot be imported: " in text
    assert said in text
    assert "precision unknown: TensorFlow cannot be imported" in text
    assert text.endswith("The pipeline cannot run here: tensorflow, project.")
    assert len(done.stdout.splitlines()) < 16


@pytest.mark.long
@pytest.mark.slow
def test_in_a_project_that_can_run_and_outside_of_one(whole_project, tmp_path):
    done = run_doctor("--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["can_run"]
    assert found["tensorflow"]["version"].startswith("2.21")
    assert found["precision"]["auto"] in ("float32", "bfloat16")
    (whole_project / "dvc.yaml").unlink()
    (whole_project / "params.yaml").unlink()
    done = run_doctor()
    assert (done.returncode, done.stderr) == (1, "")
    assert "The pipeline cannot run here: project." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
