"""Splits depend on content, class and seed alone, keep copies together, and move little when data is added."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.data.dataset import SPLITS
from frostline.data.splitting import assign_groups, assign_splits, complete_splits
from frostline.runtime.errors import FrostlineError

SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}


@st.composite
def shares(draw):
    train, validation, test = (draw(st.floats(0.05, 1)) for _ in range(3))
    total = train + validation + test
    return {"train": train / total, "validation": validation / total, "test": test / total}


def digests_of(prefix, count):
    return [f"{prefix}{number}" for number in range(count)]


@given(st.integers(3, 60), st.integers(0, 2**32 - 1), shares(), st.randoms())
def test_copies_stay_together_and_order_does_not_matter(count, seed, shares, random):
    images = [(name, digest) for name in ("cat", "dog") for digest in digests_of(name, count)]
    images += random.choices(images, k=count)  # copies
    splits = assign_splits([c for c, _ in images], [d for _, d in images], seed, shares)
    split_of = dict(zip(images, splits, strict=True))
    assert [split_of[image] for image in images] == splits

    shuffled = random.sample(images, k=len(images))
    again = assign_splits([c for c, _ in shuffled], [d for _, d in shuffled], seed, shares)
    assert again == [split_of[image] for image in shuffled]


@given(st.integers(3, 200), st.integers(0, 99), shares())
def test_every_class_is_in_every_split_within_one_of_its_share(count, seed, shares):
    counts = Counter(assign_splits(["cat"] * count, digests_of("cat", count), seed, shares))
    assert all(counts[split] >= 1 for split in SPLITS)
    if min(shares.values()) * count >= 1:
        assert all(abs(counts[split] - shares[split] * count) <= 1 + 1e-9 for split in SPLITS)


@given(st.integers(3, 80), st.integers(1, 40), st.integers(0, 99), shares())
def test_added_images_move_at_most_their_number_across_a_boundary(count, added, seed, shares):
    names = ["cat"] * count + ["dog"] * 5
    old = digests_of("cat", count) + digests_of("dog", 5)
    before = assign_splits(names, old, seed, shares)
    after = assign_splits(names + ["cat"] * added, old + digests_of("new", added), seed, shares)
    pairs = list(zip(before, after, strict=False))
    assert all(was == now for was, now in pairs[count:])  # the dogs
    for lower in ({"test"}, {"test", "validation"}):
        assert sum((was in lower) != (now in lower) for was, now in pairs) <= added


def test_a_few_added_images_hardly_move_any():
    old, new = digests_of("a", 1000), digests_of("b", 20)
    before = assign_splits(["cat"] * 1000, old, 42, SHARES)
    after = assign_splits(["cat"] * 1020, old + new, 42, SHARES)
    assert sum(was != now for was, now in zip(before, after, strict=False)) <= 10
    assert assign_splits(["cat"] * 1000, old, 43, SHARES) != before  # the seed counts


def test_split_is_pinned():
    """A change of the rule would silently move everybody's test set."""
    splits = assign_splits(["cat"] * 6, digests_of("a", 6), 42, SHARES)
    assert splits == ["train", "train", "train", "train", "validation", "test"]


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images(count):
    names = ["cat"] * 10 + ["dog"] * count
    words = rf"Too few distinct readable images for a training, a validation and a test set in class 'dog' \({count}\)"
    with pytest.raises(FrostlineError, match=words):
        assign_splits(names, digests_of("x", 10 + count), 1, SHARES)


def test_all_classes_with_too_few_images_are_named_at_once():
    names = ["cat"] * 10 + [f"class{number}" for number in range(12) for _ in range(1 + number % 2)]
    few = "'class0' (1), 'class1' (2), 'class10' (1), 'class11' (2), 'class2' (1), 'class3' (2), 'class4' (1)"
    with pytest.raises(FrostlineError) as raised:
        assign_splits(names, digests_of("x", len(names)), 1, SHARES)
    assert f" set in 12 classes: {few}, 'class5' (2) and 4 more.\n" in str(raised.value)


@pytest.mark.parametrize(
    ("images", "given", "shares"),
    [
        (4, "train", {"train": 0.2, "validation": 0.4, "test": 0.4}),
        (3, "train", {"train": 0.2, "validation": 0.6, "test": 0.2}),
    ],
)
def test_cutting_what_is_missing_leaves_each_class_an_image_to_train_on(images, given, shares):
    names = [name for name in ("cat", "dog") for _ in range(images)]
    splits = complete_splits(names, digests_of("x", len(names)), [""] * len(names), [given] * len(names), 1, shares)
    for name in ("cat", "dog"):
        assert {split for split, of in zip(splits, names, strict=True) if of == name} == set(shares)


def test_all_that_given_splits_lack_is_named_at_once():
    """The validation set is cut from the training set, where birds are too few for that and fish have none."""
    places = {"cat": "train train test", "dog": "train train", "bird": "train test", "fish": "test", "owl": "train"}
    images = [(name, split) for name, splits in places.items() for split in splits.split()]
    names, given = zip(*images, strict=True)
    with pytest.raises(FrostlineError) as raised:
        complete_splits(names, digests_of("x", len(names)), [""] * len(names), given, 1, SHARES)
    assert str(raised.value).startswith(
        "preprocess.splits=given: the train set has no image of class 'fish'; the test set has no image of 2 classes: "
        "'dog', 'owl'; too few distinct training images to cut a validation set from in 2 classes: "
        "'bird' (1), 'owl' (1).\n"
    )


def test_all_classes_that_whole_groups_leave_out_are_named_at_once():
    names = ["cat"] * 6 + ["dog"] * 6 + ["owl"] * 6
    groups = [*map(str, range(6)), *["a", "b"] * 3, *["c"] * 6]
    with pytest.raises(FrostlineError) as raised:
        assign_groups(names, digests_of("x", 18), groups, 1, SHARES)
    assert "each of train, validation, test images of 2 classes: 'dog' (2 groups), 'owl' (1 group)." in str(
        raised.value
    )


def test_one_image_in_two_classes_is_not_split():
    with pytest.raises(ValueError, match="two classes"):
        assign_splits(["cat", "dog"], ["same", "same"], 1, SHARES)
