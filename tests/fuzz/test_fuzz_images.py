"""A short fuzz run, and that the harness would notice what it looks for."""

import os
import time

import fuzz_images
import pytest
from fuzz_images import damaged, fuzz, images

pytestmark = pytest.mark.slow


def test_300_damaged_images_do_no_harm():
    result = fuzz(300, seed=1, processes=2)
    assert result.failed == []
    assert result.outcomes.total() == 300
    assert result.outcomes["accepted"] > 30 and len(result.outcomes) > 4  # it reaches the decoders and all reasons
    assert 0 < result.peak < fuzz_images.MEMORY


def test_files_are_the_same_every_time_and_the_whole_ones_are_good():
    whole = images()
    assert images() == whole
    assert [damaged(1, number, whole) for number in range(50)] == [damaged(1, number, whole) for number in range(50)]
    assert {fuzz_images.outcome_of(data) for data in whole} == {"accepted"}


def abort(data):
    os.abort()


def sleep(data):
    time.sleep(60)
    return "accepted"


def hoard(data):
    return str(len(bytes(3 << 30)))


def stumble(data):
    raise KeyError("unexpected")


@pytest.mark.parametrize(
    ("decoder", "outcome"),
    [
        (abort, "crash"),
        pytest.param(sleep, "hang", marks=pytest.mark.long),
        (hoard, "out of memory"),
        (stumble, "crash"),
    ],
)
def test_harm_is_noticed(decoder, outcome, monkeypatch):
    if outcome == "hang":
        monkeypatch.setattr(fuzz_images, "SECONDS", 0.5)
    result = fuzz(2, seed=1, processes=1, outcome_of=decoder)
    assert result.outcomes == {outcome: 2}
    assert [number for number, _ in result.failed] == [0, 1]
