import numpy as np

from frostline.metrics.label_issues import find_label_issues


def test_by_hand():
    # Mean P(own class): class 0 (0.9 + 0.8 + 0.1) / 3 = 0.6, class 1 (0.9 + 0.7 + 0.35) / 3 = 0.65.
    labels = np.array([0, 0, 0, 1, 1, 1])
    second = np.array([0.1, 0.2, 0.9, 0.9, 0.7, 0.35])
    rows, probable = find_label_issues(labels, np.stack([1 - second, second], axis=1))
    assert rows.tolist() == [2, 5]  # margins 0.1 - 0.9 and 0.35 - 0.65
    assert probable.tolist() == [1, 0]


def test_a_contradiction_that_is_less_probable_than_the_class_usually_is_does_not_count():
    labels = np.array([0, 0, 1, 1])
    second = np.array([0.1, 0.6, 0.9, 0.9])  # 0.6 is predicted as class 1, but its images have 0.9 on average
    rows, _ = find_label_issues(labels, np.stack([1 - second, second], axis=1))
    assert rows.tolist() == []


def test_swapped_labels_are_found_among_several_classes():
    rng = np.random.default_rng(0)
    actual = rng.integers(0, 4, 400)
    scores = 5 * np.eye(4)[actual] + rng.normal(0, 1, (400, 4))
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels, swapped = actual.copy(), np.arange(0, 400, 20)
    labels[swapped] = (actual[swapped] + 1) % 4
    rows, probable = find_label_issues(labels, probabilities)
    first = rows[: len(swapped)]
    assert len(np.intersect1d(first, swapped)) >= 18
    found = np.isin(rows, swapped)
    np.testing.assert_array_equal(probable[found], actual[rows[found]])
    assert len(rows) <= 40


def test_a_class_without_images_and_no_images_at_all():
    probabilities = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    rows, probable = find_label_issues(np.array([0, 1]), probabilities)
    assert (rows.tolist(), probable.tolist()) == ([1, 0], [0, 1])  # never class 2: no image says what is probable of it
    rows, probable = find_label_issues(np.empty(0, np.int64), np.empty((0, 2)))
    assert (len(rows), len(probable)) == (0, 0)
