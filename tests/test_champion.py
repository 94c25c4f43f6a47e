import numpy as np
import pytest

from frostline.tracking.champion import FILES, NotComparableError, challenge
from results import noisy, noisy_of_many, write_answers


def write_both(folder, labels, validation, test=None, **options):
    """A folder with a model's answers for the images of both splits."""
    folder.mkdir()
    for split, name in FILES.items():
        probabilities = test if split == "test" and test is not None else validation
        write_answers(folder / name, labels, probabilities, **options)
    return folder


@pytest.mark.parametrize("classes", [2, 4])
def test_the_better_one_wins_and_the_other_way_around_it_does_not(tmp_path, classes):
    labels, good = noisy(300, 1.0) if classes == 2 else noisy_of_many(300, classes, 0.5)
    bad = np.full_like(good, 1 / classes)
    files = [write_both(tmp_path / str(n), labels, p) for n, p in enumerate((good, bad))]
    names = [f"c{number}" for number in range(classes)]
    outcome = challenge(files[1], files[0], names, resamples=300, seed=1)
    assert outcome.wins
    assert ". Also on the same 300 test images: log loss " in outcome.reason
    assert outcome.reason.startswith("Better than the champion on the same 300 validation images: log loss ")
    outcome = challenge(files[0], files[1], names, resamples=300, seed=1)
    assert not outcome.wins
    assert outcome.reason.startswith("Not better than the champion beyond chance")


def test_a_contest_draws_only_the_interval_that_it_tells(tmp_path, monkeypatch):
    def unread(*_):
        raise AssertionError("areas below ROC curves are drawn, and nobody reads them")

    monkeypatch.setattr("frostline.metrics.bootstrap._mean_roc_aucs", unread)
    model = write_both(tmp_path / "model", *noisy(40, 2.0))
    assert not challenge(model, model, ["c0", "c1"], resamples=100, seed=1).wins


def test_a_difference_that_may_be_chance_and_equal_predictions_do_not_win(tmp_path):
    labels, probabilities = noisy(40, 2.0)
    rng = np.random.default_rng(1)
    shaken = np.clip(probabilities + rng.normal(0, 0.01, 40)[:, None] * [1, -1], 0, 1)
    files = [write_both(tmp_path / str(n), labels, p) for n, p in enumerate((probabilities, shaken))]
    for old, new in ((0, 1), (1, 0), (0, 0)):
        assert not challenge(files[old], files[new], ["c0", "c1"], resamples=300, seed=1).wins


def test_five_validation_images_or_fewer_choose_no_champion(tmp_path):
    for images, wins in ((5, False), (6, True)):
        labels = np.arange(images) % 2
        unsure = np.where(labels[:, None] == [0, 1], 0.6, 0.4)
        sure = np.where(labels[:, None] == [0, 1], 0.7, 0.3)
        files = [write_both(tmp_path / f"{images}{n}", labels, p) for n, p in enumerate((unsure, sure))]
        assert challenge(*files, ["c0", "c1"], resamples=300, seed=1).wins == wins


def test_other_images_are_not_compared(tmp_path):
    labels, probabilities = noisy(30, 1.0)
    old = write_both(tmp_path / "old", labels, np.full_like(probabilities, 0.5))
    renamed = write_both(tmp_path / "renamed", labels, probabilities, names=[f"new{n}.jpg" for n in range(30)])
    relabelled = write_both(tmp_path / "relabelled", 1 - labels, 1 - probabilities)
    for new in (renamed, relabelled):
        with pytest.raises(NotComparableError):
            challenge(old, new, ["c0", "c1"], resamples=300, seed=1)


def test_validation_images_choose_and_test_images_are_told(tmp_path):
    labels, good = noisy(300, 1.0)
    bad = np.full_like(good, 0.5)
    champion = write_both(tmp_path / "champion", labels, bad, good)
    new = write_both(tmp_path / "new", labels, good, bad)
    outcome = challenge(champion, new, ["c0", "c1"], resamples=300, seed=1)
    assert outcome.wins
    assert ". But on the same 300 test images: log loss " in outcome.reason
    outcome = challenge(new, champion, ["c0", "c1"], resamples=300, seed=1)
    assert not outcome.wins
    assert ". But on the same 300 test images: log loss " in outcome.reason
