"""Promises of SECURITY.md that no single module keeps."""

import ast
import re
import subprocess
import sys

import pytest
import yaml

from tracked import ROOT, tracked_names, tracked_text

SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
CODE_LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch"}
UNSAFE_ARGUMENTS = {("safe_mode", False), ("allow_pickle", True), ("verify", False), ("shell", True)}
UNSAFE_CALLS = {"extractall", "unpack_archive", "enable_unsafe_deserialization", "eval", "exec"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_code_is_loaded_nothing_unpacked_by_name_and_no_check_switched_off(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                assert not CODE_LOADERS & {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=str(module)):
                assert module.partition(".")[0] not in CODE_LOADERS
            case ast.keyword(arg=str(name), value=ast.Constant(value=value)):
                assert (name, value) not in UNSAFE_ARGUMENTS
            case ast.Call(func=ast.Attribute(attr=name)) | ast.Call(func=ast.Name(id=name)):
                assert name not in UNSAFE_CALLS


def test_the_ui_listens_on_this_machine_only():
    printed = subprocess.run(["make", "-n", "ui"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--host 127.0.0.1" in printed
    assert "MLFLOW_DISABLE_TELEMETRY=true" in printed
    for path in (*SOURCES, ROOT / "Makefile", ROOT / "README.md"):
        assert "0.0.0.0" not in path.read_text(encoding="utf-8")


def test_the_addresses_that_are_downloaded_from_are_https():
    groups = [yaml.safe_load(tracked_text(name)) or {} for name in tracked_names("conf")]
    groups += [group["imagenet"] for group in groups if "imagenet" in group]  # each backbone's weights
    addresses = [group["url"] for group in groups if not (group.get("url") or "${").startswith("${")]
    assert len(addresses) == 7
    assert all(address.startswith("https://") for address in addresses)


@pytest.mark.slow
def test_telemetry_is_off():
    code = "import os, frostline.tracking.runs; print(os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "true\n"
    assert "analytics = false" in tracked_text(".dvc/config")


def test_every_test_that_the_promises_name_exists():
    rows = [line for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(rows) > 25
    for row in rows:
        text = ""
        for item in re.findall("`([^`]+)`", row.rstrip("| ").rpartition(" | ")[2]):
            file, _, name = item.rpartition(": ")
            if item.endswith(".py"):
                file, name = item, ""
            if file:
                text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert f"def test_{name}" in text, row
