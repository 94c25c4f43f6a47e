"""A short seeded run of chaos.py: what `make chaos` does at length."""

import pytest

from chaos import Project, kill


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize(
    ("stage", "moment", "alone"),
    [("transfer", 0.8, True), ("finetune", 0.7, False), ("evaluate", 0.8, False)],
)
def test_a_killed_stage_run_again_leaves_the_same_bytes(
    project: Project, stage: str, moment: float, alone: bool
) -> None:
    outcome = kill(project, stage, moment, alone=alone, cold=True)
    assert (outcome.wrong, outcome.differing) == ("", 0)
