"""A short seeded run of chaos.py: what `make chaos` does at length."""

import pytest

from chaos import Project, full_disk, kill


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize(
    ("stage", "moment", "alone"),
    [("preprocess", 0.7, False), ("transfer", 0.8, True), ("finetune", 0.7, False), ("evaluate", 0.8, False)],
)
def test_a_killed_stage_run_again_leaves_the_same_bytes(
    project: Project, stage: str, moment: float, alone: bool
) -> None:
    outcome = kill(project, stage, moment, alone=alone, cold=True)
    assert (outcome.wrong, outcome.differing) == ("", 0)


def test_a_full_disk_is_an_error_that_one_recovers_from(project: Project) -> None:
    outcome = full_disk(project, "transfer")
    assert outcome.hit
    assert (outcome.wrong, outcome.differing) == ("", 0)
