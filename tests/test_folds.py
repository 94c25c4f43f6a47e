"""Folds and shares: other splits of the same images, as lists of rows."""

import numpy as np
import pytest

from frostline.data.dataset import SPLITS
from frostline.data.grouping import deal, joined
from frostline.data.rows import Rows
from frostline.runtime.errors import FrostlineError
from frostline.training.folds import choose_images


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # near-duplicates are kept under the working folder


def paths_of(data, split):
    return dict(zip(data.names(split), data.labels(split).tolist(), strict=True))


def test_without_fold_and_share_the_data_set_is_itself(prepared):
    assert choose_images(prepared, None, 5, 1) is prepared


@pytest.mark.parametrize("folds", [3, 5])
def test_each_image_is_in_one_test_set_and_in_one_validation_set(prepared, folds):
    chosen = [choose_images(prepared, fold, folds, 1) for fold in range(folds)]
    everything = {name: label for split in SPLITS for name, label in paths_of(prepared, split).items()}
    for split in ("test", "validation"):
        found = [paths_of(data, split) for data in chosen]
        assert sum(map(len, found)) == len(everything)
        assert {name: label for paths in found for name, label in paths.items()} == everything
    for data in chosen:
        sets = [paths_of(data, split) for split in SPLITS]
        assert {name: label for paths in sets for name, label in paths.items()} == everything
        assert sum(map(len, sets)) == len(everything)
    assert len({data.digest for data in chosen} | {prepared.digest}) == folds + 1


def test_the_prepared_test_set_is_in_no_fold_where_it_shall_judge(prepared):
    learning = {**paths_of(prepared, "train"), **paths_of(prepared, "validation")}
    judged = {}
    for fold in range(4):
        data = choose_images(prepared, fold, 4, 1, "train_and_validation")
        sets = [paths_of(data, split) for split in SPLITS]
        assert {name: label for paths in sets for name, label in paths.items()} == learning
        assert sum(map(len, sets)) == len(learning)
        judged |= paths_of(data, "test")
    assert judged == learning
    assert choose_images(prepared, None, 4, 1, "train_and_validation") is prepared


def test_its_images_are_those_of_its_names(prepared):
    stored = {
        name: image.tobytes()
        for split in SPLITS
        for name, image in zip(prepared.names(split), prepared.images(split), strict=True)
    }
    data = choose_images(prepared, 1, 5, 0.5)
    for split in SPLITS:
        images = data.images(split)
        assert images.shape == (len(data.names(split)), *prepared.images("test").shape[1:])
        assert [image.tobytes() for image in images[:]] == [stored[name] for name in data.names(split)]


def test_a_smaller_share_is_part_of_a_larger_one_in_every_class_and_the_other_sets_stay(prepared):
    for fold in (None, 2):
        whole = choose_images(prepared, fold, 5, 1)
        before: dict = {}
        for share in (0.01, 0.25, 0.5, 0.75, 1):
            data = choose_images(prepared, fold, 5, share)
            paths = paths_of(data, "train")
            assert before.items() <= paths.items()
            assert set(paths.values()) == set(range(len(data.classes)))
            for split in ("validation", "test"):
                assert paths_of(data, split) == paths_of(whole, split)
            before = paths
        assert before == paths_of(whole, "train")
    assert len(paths_of(choose_images(prepared, None, 5, 0.01), "train")) == len(prepared.classes)


def test_copies_are_in_one_fold_and_folds_are_even():
    rng = np.random.default_rng(1)
    labels = rng.integers(7, size=500)
    pixels = np.array([f"{label}-{rng.integers(40)}" for label in labels])
    found = deal(labels, pixels, joined([pixels.tolist()]), [1 / 5] * 5, "fold")
    for digest in set(pixels):
        assert len(set(found[pixels == digest])) == 1
    for chosen in [labels == number for number in range(7)] + [np.full(500, True)]:
        sizes = [len(set(pixels[chosen & (found == fold)])) for fold in range(5)]
        assert max(sizes) - min(sizes) <= 1


def test_many_classes_of_three_images_each_leave_no_fold_empty_and_no_class_untrained():
    labels, pixels = np.repeat(np.arange(100), 3), np.array([str(number) for number in range(300)])
    found = deal(labels, pixels, joined([pixels.tolist()]), [1 / 5] * 5, "fold")
    assert set(np.bincount(found, minlength=5)) == {60}
    for fold in range(5):
        trained = labels[(found != fold) & (found != (fold + 1) % 5)]
        assert set(trained) == set(range(100))


def test_a_fold_without_an_image_is_said(prepared):
    with pytest.raises(
        FrostlineError, match=r"fold=998 with folds=1000: the validation set would have no image\.\nUse fewer"
    ):
        choose_images(prepared, 998, 1000, 1)


@pytest.mark.parametrize("key", [3, slice(None), slice(2, 5), np.array([5, 0, 2, 2])])
def test_rows_are_those_of_the_arrays_joined(tmp_path, key):
    arrays = []
    for number, count in enumerate((4, 0, 5)):
        np.save(tmp_path / f"{number}.npy", np.arange(count * 6, dtype=np.float16).reshape(count, 2, 3) + 100 * number)
        arrays.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r" if count else None))
    chosen = np.array([8, 1, 3, 4, 0, 7])
    rows, joined = Rows(arrays, chosen), np.concatenate(arrays)[chosen]
    assert (len(rows), rows.shape, rows.dtype) == (6, joined.shape, joined.dtype)
    np.testing.assert_array_equal(rows[key], joined[key])
    np.testing.assert_array_equal(np.asarray(rows), joined)
