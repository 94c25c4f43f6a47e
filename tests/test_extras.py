"""What an extra is needed for says so where a package of it is missing, with the command that installs it."""

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from frostline import cli
from frostline.models.hub import keras_hub
from frostline.runtime import ray_pool
from frostline.runtime.errors import FrostlineError
from frostline.serving.export import FORMATS, export
from frostline.sweep.plan import plan
from frostline.tracking.server import serve
from tracked import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
CALLERS = {
    "serve": ("starlette uvicorn python_multipart", "serve", lambda: command("serve")),
    "audit": ("cleanlab", "audit", lambda: command("audit")),
    "a server to share": ("psycopg2", "server", lambda: serve("127.0.0.1", 0)),
    "optuna": ("optuna", "sweeps", lambda: plan(["hydra/sweeper=optuna", "transfer.epochs=range(1,3)"])),
    "launcher ray": ("ray", "sweeps", lambda: plan(["hydra/launcher=ray", "seed=1,2"])),
    "launcher local": ("submitit", "sweeps", lambda: plan(["hydra/launcher=submitit_local", "seed=1,2"])),
    "launcher slurm": ("submitit", "sweeps", lambda: plan(["hydra/launcher=submitit_slurm", "seed=1,2"])),
    "workers=ray": ("ray", "sweeps", lambda: next(ray_pool.mapped(abs, [1]))),
    "hub": ("keras_hub", "hub", keras_hub),
    "export": (" ".join(FORMATS["onnx"].needs), "export", lambda: exported("onnx")),
}


def command(name):
    arguments = cli._parser().parse_args([name])
    arguments.run(arguments)


def exported(name):
    export(None, None, name, Path("model.onnx"), np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(("packages", "extra", "call"), CALLERS.values(), ids=CALLERS)
def test_what_is_missing_is_named_with_the_command_that_installs_it(packages, extra, call, project, monkeypatch):
    (project / "dvc.yaml").touch()
    before = sorted(project.rglob("*"))
    for package in packages.split():
        monkeypatch.setitem(sys.modules, package, None)
        assert any(each.startswith(package.replace("_", "-")) for each in EXTRAS[extra])
    with pytest.raises(FrostlineError) as raised:
        call()
    first, second = str(raised.value).splitlines()
    assert f" needs {', '.join(packages.split())}, which" in first
    assert f": make install-{extra}, or pip install" in second
    assert sorted(project.rglob("*")) == before
