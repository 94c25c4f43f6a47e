"""A temporary clone of the project with settings that make it quick, and real commands run in it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import yaml

from tracked import CODE, ROOT, write_tracked

_CACHES = shutil.ignore_patterns("__pycache__", "*.egg-info")
BACKBONE = "inception_v3"
TINY = {
    "data": {"images": 80, "unlabelled": 6},
    "preprocess": {"image_size": 75, "train": 0.6, "validation": 0.2, "test": 0.2},
    "model": {"dense_units": 16, "cut_layer": "mixed1"},  # a third of the layers to trace, train and explain
    "transfer": {
        "epochs": 2,
        "learning_rate": 1e-4,
    },  # at 1e-3 so small a head dies, and every image gets one probability
    "finetune": {"epochs": 1},
    "evaluate": {"bootstrap": 200},
}
STAGES = ["fetch-data", "fetch-weights", "preprocess", "transfer", "finetune", "evaluate"]
SECRET = "s3cret-never-to-be-seen"


class Clone:
    """A clone of the project as it stands here, with settings that make it quick, and commands run in it."""

    def __init__(self, root):
        self.root = root
        write_tracked(root, ":/")
        for name in CODE:  # as it lies here
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, ignore=_CACHES, dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / name, root)
        (root / "dvc.lock").unlink(missing_ok=True)
        for section, values in TINY.items():  # in conf/ and params.yaml alike, so that `dvc exp run` composes the same
            for path in (root / "conf" / section).glob("*.yaml"):
                content = yaml.safe_load(path.read_text())
                if content.get("source", "sample") == "sample" and content.get("backbone", BACKBONE) == BACKBONE:
                    path.write_text(yaml.safe_dump(content | values))
        self.python("-m", "frostline.config.load", into="params.yaml")
        for command in (["init", "-q", "."], ["add", "-A"], ["commit", "-q", "-m", "tiny"]):
            subprocess.run(["git", *command], cwd=root, env=self.environment, check=True)

    @property
    def environment(self):
        foreign = ("MLFLOW_", "DVC_", "KAGGLE_", "GIT_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        return kept | {
            "PYTHONPATH": str(self.root / "src"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KAGGLE_USERNAME": SECRET,
            "KAGGLE_KEY": SECRET,
            "DVC_GLOBAL_CONFIG_DIR": f"{self.root}/.git/none",
            "DVC_SYSTEM_CONFIG_DIR": f"{self.root}/.git/none",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.com",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.com",
        }

    def python(self, *arguments, into="", code=0):
        return self.run(sys.executable, *arguments, into=into, code=code)

    def dvc(self, *arguments, code=0):
        return self.run(sys.executable, "-m", "dvc", *arguments, code=code)

    def run(self, *command, into="", code=0):
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        if into:
            (self.root / into).write_text(done.stdout)
        return done.stdout + done.stderr

    def json(self, name):
        return json.loads((self.root / name).read_text())

    def client(self):
        store = f"sqlite:///{self.root}/mlruns/mlflow.db"
        return mlflow.MlflowClient(store, store)

    def runs(self, data="sample"):
        client = self.client()
        experiment = client.get_experiment_by_name(f"frostline-{data}")
        return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))

    def phases(self, phase):
        return [run for run in self.runs() if run.data.tags["frostline.phase"] == phase]


def ran(output):
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
