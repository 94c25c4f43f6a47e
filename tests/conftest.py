"""What several tests need: a small data set drawn and prepared for real, and a small untrained backbone."""

import os
import shutil
import signal

import pytest
from hypothesis import settings

from frostline.data.dataset import load_dataset
from frostline.runtime.logs import show
from small import SIZE
from tracked import unstaged, write_tracked

# Where the tests run in the background, their shell has Ctrl-C ignored, and so would every process they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

show()  # as the commands do

settings.register_profile("same every time", derandomize=True, deadline=None, database=None)
settings.load_profile("same every time")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    """No test sees the user's MLflow store, Kaggle account or Ray cluster, or what the `make` around it was told, or
    leaves anything in the project."""
    foreign = ("MLFLOW_", "KAGGLE_", "RAY_ADDRESS", "TF_CONFIG", "MAKE", "MFLAGS")
    for name in [name for name in os.environ if name.startswith(foreign)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    from frostline.sources.sample import draw_archive

    path = tmp_path_factory.mktemp("archive") / "archive.zip"
    draw_archive(path, images=80, unlabelled=6, seed=1)
    return path


@pytest.fixture(scope="session")
def prepared(archive, tmp_path_factory):
    from frostline.data.preprocess import preprocess

    folder = tmp_path_factory.mktemp("prepared") / "processed"
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    preprocess(archive, folder, size=SIZE, seed=1, shares=shares, max_rejected=0)
    return load_dataset(folder)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    from frostline.sources.random_weights import write_random_weights

    path = tmp_path_factory.mktemp("weights") / "backbone.h5"
    write_random_weights(path, SIZE, seed=1)
    return path


@pytest.fixture(scope="session")
def lay_prepared(prepared, weights):
    """Lays the prepared data and the backbone's weights where a project in a folder has them."""
    from frostline.config.paths import BACKBONE_WEIGHTS, PROCESSED

    def lay(folder):
        shutil.copytree(prepared.folder, folder / PROCESSED)
        (folder / BACKBONE_WEIGHTS).parent.mkdir()
        shutil.copy(weights, folder / BACKBONE_WEIGHTS)

    return lay


@pytest.fixture
def project(tmp_path):
    """A folder with the project's configuration, where commands can be run; the current directory."""
    return write_tracked(tmp_path, "conf", "params.yaml")


@pytest.fixture
def any_fall(monkeypatch):
    """Let range tests take any fall of the loss: random weights learn nothing of note from so few images."""
    monkeypatch.setattr("frostline.training.rate_test._FALL", 0)
    monkeypatch.setattr("frostline.training.rate_test._RISE", float("inf"))


def pytest_terminal_summary(terminalreporter):
    if names := unstaged():
        terminalreporter.write_line(f"as git has them, not as they lie here: {', '.join(names)} (`git add` shows them)")
