import numpy as np
import pytest
from scipy import stats

from frostline.runtime.errors import FrostlineError
from frostline.studies.cross_validation import is_better, mean_difference, shallowest_enough, within_chance


def folds_of(images, count=5):
    return np.arange(images) % count


def study(rng, seeds, images, luck, noise=0.5):
    """Differences whose expectation is 0: an image's own, heavy-tailed, its training's luck, and noise."""
    folds = folds_of(images)
    own = rng.standard_t(3, images) / 3**0.5
    return own + luck * rng.normal(size=(seeds, 5))[:, folds] + noise * rng.normal(size=(seeds, images)), folds


def test_one_seed_by_hand():
    # Fold means 1 and 5; within folds the squares add up to 4, over 2 degrees: 2. Between: (4 * 4 + 4 * 0) / 1 = 16.
    found = mean_difference(np.array([[0.0, 4.0, 2.0, 6.0]]), np.array([0, 1, 0, 1]))
    assert (found.mean, found.standard_error, found.degrees) == (3, (16 / 4) ** 0.5, 1)
    half = stats.t.ppf(0.975, 1) * 2
    np.testing.assert_allclose([found.low, found.high], [3 - half, 3 + half])
    np.testing.assert_allclose(found.p_value, 2 * stats.t.sf(1.5, 1))


def test_folds_that_differ_less_than_their_images_leave_the_variance_to_the_images():
    values = np.array([-3.0, -1.0, 1.0, 3.0, -3.0, -1.0, 1.0, 3.0])
    found = mean_difference(values[None], np.repeat([0, 1], 4))
    assert found.degrees == 6
    np.testing.assert_allclose(found.standard_error, (40 / 6 / 8) ** 0.5)


def test_several_seeds_by_hand():
    """Luck alone: every image of a fold has what its training has."""
    luck = np.array([[1.0, -1.0], [3.0, 1.0]])  # (seeds, folds); fold means 2 and 0, both with a variance of 2
    found = mean_difference(luck[:, [0, 0, 1, 1]], np.array([0, 0, 1, 1]))
    assert found.mean == 1
    np.testing.assert_allclose(found.standard_error, (2 / 4) ** 0.5)  # of four trainings
    assert found.degrees == 2


def test_of_images_alone_it_is_the_t_test():
    rng = np.random.default_rng(0)
    values = rng.normal(size=200)
    found = mean_difference(np.stack([values] * 3), folds_of(200))
    np.testing.assert_allclose(found.standard_error, stats.sem(values), rtol=0.03)  # but within folds
    assert found.degrees == 195


def test_the_interval_reaches_further_on_the_side_of_a_long_tail():
    values = np.random.default_rng(0).lognormal(0, 1, 60)
    values -= values.mean()
    right, left = mean_difference(values[None], folds_of(60)), mean_difference(-values[None], folds_of(60))
    assert right.high > -right.low
    np.testing.assert_allclose([left.low, left.high], [-right.high, -right.low], atol=1e-12)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("images", [5, 6, 10, 90])
def test_p_is_below_five_percent_where_the_interval_excludes_zero(seeds, images):
    rng = np.random.default_rng(images)
    for shift in np.linspace(-3, 3, 41):
        differences, folds = study(rng, seeds, images, luck=0.2)
        found = mean_difference(differences + shift, folds)
        assert found.low <= found.mean <= found.high
        assert (found.p_value < 0.05) == found.excludes_zero()


@pytest.mark.parametrize(("seeds", "images", "luck"), [(1, 90, 0), (1, 90, 0.3), (3, 90, 0.1), (3, 300, 0.3)])
def test_intervals_cover_what_they_promise(seeds, images, luck):
    """400 studies: chance alone moves a coverage of 95% by 1.1%. Images alone would cover 75% at luck 0.3."""
    rng = np.random.default_rng(7)
    found = [mean_difference(*study(rng, seeds, images, luck)) for _ in range(400)]
    assert 0.92 <= np.mean([not each.excludes_zero() for each in found]) <= 0.99
    assert np.mean([each.high < 0 for each in found]) <= 0.05


def test_equal_models_differ_by_exactly_nothing():
    found = mean_difference(np.zeros((3, 20)), folds_of(20))
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert not found.excludes_zero()


def test_the_same_difference_everywhere_is_certain():
    found = mean_difference(np.full((2, 20), -0.5), folds_of(20))
    assert (found.low, found.high, found.p_value) == (-0.5, -0.5, 0)


def test_two_images_in_two_folds():
    found = mean_difference(np.array([[0.1, 0.3]]), np.array([0, 1]))
    half = stats.t.ppf(0.975, 1) * 0.1
    np.testing.assert_allclose([found.low, found.high], [0.2 - half, 0.2 + half])


def test_folds_may_have_any_names_order_and_sizes():
    differences, folds = study(np.random.default_rng(1), 3, 53, luck=0.2)
    named, order = 7 * folds - 3, np.random.default_rng(2).permutation(53)
    expected, found = mean_difference(differences, folds), mean_difference(differences[:, order], named[order])
    np.testing.assert_allclose([found.low, found.high, found.p_value], [expected.low, expected.high, expected.p_value])
    assert mean_difference(differences, folds) == expected


def test_what_is_no_study_is_refused():
    losses = np.zeros((2, 3, 10))
    losses[1, 2, 4] = np.nan
    for judge in (within_chance, shallowest_enough):
        with pytest.raises(FrostlineError, match="1 of 10 images: training diverged"):
            judge(losses, folds_of(10))
    with pytest.raises(FrostlineError, match="1 of 10 images"):
        mean_difference(losses[1], folds_of(10))
    with pytest.raises(FrostlineError, match="at least two folds"):
        mean_difference(losses[0][:1], np.zeros(10, int))
    with pytest.raises(ValueError, match="the folds of"):
        mean_difference(losses[0], folds_of(9))


def points(rng, truths, images=100, seeds=2):
    """Losses (P, S, N): images are hard alike for all points, and little else differs."""
    hard, folds = rng.lognormal(-1, 1, images), folds_of(images)
    luck = 0.02 * rng.normal(size=(len(truths), seeds, 5))[:, :, folds]
    return np.asarray(truths)[:, None, None] + hard + luck + 0.1 * rng.normal(size=luck.shape), folds


def test_points_within_chance_of_the_best():
    losses, folds = points(np.random.default_rng(1), [0.5, 0.0, 0.001, 0.1])
    found = within_chance(losses, folds)
    assert found.best in (1, 2)
    assert found.within.tolist() == [False, True, True, False]
    assert found.p_values[found.best] == 1
    assert found.differences[found.best].high == 0
    np.testing.assert_allclose([each.mean for each in found.means], losses.mean(axis=(1, 2)))
    alone = found.means[3].high - found.means[3].low
    assert alone > 2 * (found.differences[3].high - found.differences[3].low)  # how hard the images are cancels


@pytest.mark.slow
def test_the_truly_best_point_is_kept_whichever_is_chosen():
    """Of 12 equal points each is truly best: the first one may be left out in 5% of 200 studies."""
    rng = np.random.default_rng(3)
    kept = [within_chance(*points(rng, [0.0] * 12)).within[0] for _ in range(200)]
    assert np.mean(kept) >= 0.93


def test_ties_and_a_single_point():
    losses, folds = points(np.random.default_rng(0), [0.0])
    assert within_chance(losses, folds).within.tolist() == [True]
    assert shallowest_enough(losses, folds) == 0
    tied = within_chance(np.concatenate([losses, losses]), folds)
    assert (tied.best, tied.within.tolist(), tied.p_values.tolist()) == (0, [True, True], [1, 0.5])
    assert shallowest_enough(np.concatenate([losses + 1, losses, losses]), folds) == 1


def test_better_is_by_more_than_a_standard_error_and_by_one_fold_by_two():
    folds = np.repeat([0, 1], 4)
    wobble = np.array([[-3.0, -1.0, 1.0, 3.0, -3.0, -1.0, 1.0, 3.0]])  # its mean's standard error is 0.91
    for shift, one_fold, better in (
        (-0.90, False, False),
        (-0.92, False, True),
        (-1.6, True, False),
        (-1.8, True, True),
    ):
        assert is_better(wobble + shift, folds * (not one_fold)) is better, shift
    assert not is_better(np.zeros((2, 8)), folds)
    assert not is_better(np.zeros((1, 8)), 0 * folds)


def test_the_shallowest_point_within_a_standard_error():
    losses = np.zeros((4, 1, 8))
    folds = np.repeat([0, 1], 4)
    wobble = np.array([-3.0, -1.0, 1.0, 3.0, -3.0, -1.0, 1.0, 3.0])  # its mean's standard error is 0.91
    losses[0] = wobble + 0.92
    losses[1] = wobble + 0.90
    losses[2] = -wobble + 0.5
    assert shallowest_enough(losses, folds) == 1
    hard = np.linspace(0, 50, 8)  # the same for all points: an unpaired error would let the first one through
    assert shallowest_enough(losses + hard, folds) == 1
