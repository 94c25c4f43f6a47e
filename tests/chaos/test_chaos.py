"""A short seeded run of chaos.py: what `make chaos` does at length."""

from functools import partial

import pytest

from chaos import kill
from faults import bad_tls, read_only
from recovery import Outcome, Project

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize(
    ("stage", "moment", "alone"),
    [("transfer", 0.8, True), ("finetune", 0.7, False), ("evaluate", 0.8, False)],
)
def test_a_killed_stage_run_again_leaves_the_same_bytes(project, stage, moment, alone):
    for share in (moment, 0.8 * moment, 0.6 * moment):  # of the first run, which took longest
        outcome = kill(project, stage, share, alone=alone, cold=True)
        if outcome.hit:
            break
    assert (outcome.wrong, outcome.differing, outcome.hit) == ("", 0, True)


@pytest.mark.parametrize(
    "fault",
    [partial(read_only, stage="preprocess"), partial(bad_tls, name="a certificate that nobody trusts")],
    ids=lambda fault: fault.func.__name__,
)
def test_so_does_one_that_met_a_fault(project, fault):
    outcome = fault(project)
    assert outcome == Outcome(outcome.fault, hit=True)
