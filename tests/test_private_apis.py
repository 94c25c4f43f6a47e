"""What we use of libraries beyond what they document, each in one module; and what to do when a release breaks it.

Hydra's has a file of its own, test_hydra_api.py.
"""

import inspect
import re
from importlib.metadata import version
from pathlib import Path

import optuna
import pytest
from kaggle.api.kaggle_api_extended import KaggleApi

import frostline
from frostline.runtime.quiet_tensorflow import keras

PACKAGE = Path(frostline.__file__).parent


def what_to_do(library, place, *, says):
    return (
        f"{library} {version(library)} differs from what {place} is written for: {says} Adapt that file, or keep "
        "the older release in pyproject.toml until that is done."
    )


@pytest.mark.parametrize(
    ("private", "place"),
    [
        ("_inbound_nodes", "models/graph.py"),
        ("_outbound_nodes", "models/graph.py"),
        ("_flatten_layers", "models/hub.py"),
        ("_trial_id", "sweep/search.py"),
        ("download_file", "sources/kaggle.py"),
    ],
)
def test_it_is_used_in_one_module(private, place):
    used = [path for path in PACKAGE.rglob("*.py") if re.search(rf"\.{private}\b", path.read_text(encoding="utf-8"))]
    assert [path.relative_to(PACKAGE).as_posix() for path in used] == [place]


def test_kaggles_client_hands_the_answer_to_download_file_before_it_writes():
    """`_check_disk_before_downloads` wraps it, since nothing public tells the size before the first byte is kept."""
    says = what_to_do("kaggle", "sources/kaggle.py", says="download_file no longer gets (response, outfile).")
    assert list(inspect.signature(KaggleApi.download_file).parameters)[1:3] == ["response", "outfile"], says
    assert "self.download_file(" in inspect.getsource(KaggleApi.competition_download_files), says


def test_optuna_gives_a_frozen_trial_the_id_that_its_storage_knows_it_by():
    """`reporter` needs it to report from another process on a trial that Hydra's sweeper asked for."""
    says = what_to_do("optuna", "sweep/search.py", says="a trial cannot be found again by FrozenTrial._trial_id.")
    study = optuna.create_study()
    number = study.ask().number
    frozen = study.get_trials(deepcopy=False)[number]
    assert hasattr(frozen, "_trial_id"), says
    optuna.trial.Trial(study, frozen._trial_id).report(0.5, 1)
    assert study.get_trials()[number].intermediate_values == {1: 0.5}, says


def test_kerass_layers_tell_the_layers_inside_them():
    """KerasHub's blocks keep theirs under names of their own."""
    says = what_to_do("keras", "models/hub.py", says="a layer's layers are found otherwise.")
    outer = keras.layers.MultiHeadAttention(2, 4)
    outer(keras.Input((3, 8)), keras.Input((3, 8)))
    assert len(list(outer._flatten_layers(include_self=False, recursive=False))) >= 4, says


def test_kerass_layers_know_their_neighbours():
    """Nothing public tells which layers a layer reads from and which read it."""
    says = what_to_do("keras", "models/graph.py", says="a layer's nodes have other names.")
    inputs = keras.Input((4,))
    first = keras.layers.Dense(2)
    outputs = [keras.layers.Dense(1)(first(inputs)) for _ in "ab"]
    keras.Model(inputs, outputs)
    assert len(first._inbound_nodes[0].parent_nodes) == 1, says
    assert first._inbound_nodes[0].parent_nodes[0].operation.name == inputs._keras_history.operation.name, says
    assert len(first._outbound_nodes) == 2, says
