import re
from types import SimpleNamespace

import numpy as np
import pytest

from frostline.runtime.errors import FrostlineError
from frostline.studies.learning_curve import fit_learning_curve, what_more_images_give

SIZES = np.array([100, 200, 400, 800])


def runs(a, b, c, noise=0.02, count=5, seed=0, sizes=SIZES):
    """`count` runs at each size around a + b * n^-c, with a noise relative to it."""
    mean = a + b * np.asarray(sizes, float) ** -c
    return mean[:, None] * (1 + noise * np.random.default_rng(seed).normal(size=(len(sizes), count)))


def test_a_known_curve_is_found_and_forecast():
    curve = fit_learning_curve(SIZES, runs(0.1, 4, 0.7, noise=0))
    for images in (100, 400, 800, 1600):
        median, low, high = curve.forecast(images)
        np.testing.assert_allclose(median, 0.1 + 4 * images**-0.7, rtol=0.05)
        assert low <= 0.1 + 4 * images**-0.7 <= high
    assert curve.a[0] >= 0
    assert curve.weights.sum() == pytest.approx(1)
    assert curve.weights[0] == curve.weights.max()


@pytest.mark.parametrize("sizes", [[90, 180], [90, 180, 360], [50, 100, 200, 400, 800]])
@pytest.mark.parametrize("count", [1, 5])
def test_a_forecast_never_rises_and_widens_with_distance(sizes, count):
    curve = fit_learning_curve(np.array(sizes), runs(0.1, 3, 0.6, noise=0.1, count=count, sizes=sizes))
    found = np.array([curve.forecast(images) for images in np.geomspace(sizes[-1], 100 * sizes[-1], 20)])
    assert np.all(np.diff(found, axis=0) <= 0)
    assert np.all(found >= 0)
    assert np.all((found[:, 1] <= found[:, 0]) & (found[:, 0] <= found[:, 2]))
    relative = (found[:, 2] - found[:, 1]) / found[:, 0]
    assert relative[-1] > relative[0]


def test_losses_that_rise_or_stay_promise_little():
    flat = fit_learning_curve(SIZES, runs(0.3, 0, 1, noise=0.01))
    assert flat.forecast(800)[0] - flat.forecast(1600)[0] < 0.005
    rising = fit_learning_curve(SIZES, np.linspace(0.2, 0.3, 4)[:, None] + np.zeros((4, 5)))
    assert rising.forecast(800)[0] - rising.forecast(1600)[0] < 0.02
    nothing = fit_learning_curve(SIZES, np.zeros((4, 5)))
    assert nothing.forecast(1600) == (0, 0, 0)


def test_what_a_run_has_at_all_sizes_does_not_hide_the_curve():
    """Folds of hard and of easy images: their level stays uncertain, the drop does not."""
    hard = np.array([-0.1, -0.05, 0, 0.05, 0.1])
    curve = fit_learning_curve(SIZES, runs(0.1, 4, 0.7, noise=0.01) + hard)
    drops = curve.b * (100**-curve.c - 800**-curve.c)
    levels = curve.a + curve.b * 800**-curve.c

    def spread(values):
        mean = np.sum(curve.weights * values)
        return np.sum(curve.weights * (values - mean) ** 2) ** 0.5

    assert spread(drops) < spread(levels) / 1.5


@pytest.mark.slow
def test_forecasts_cover_about_what_they_promise():
    rng, covered = np.random.default_rng(5), []
    for study in range(60):
        a, c, drop = rng.uniform(0, 0.2), rng.uniform(0.2, 1.2), rng.uniform(0.05, 0.4)
        b = drop / (100**-c - 800**-c)
        _, low, high = fit_learning_curve(SIZES, runs(a, b, c, noise=0.08, seed=study)).forecast(2400)
        covered.append(low <= a + b * 2400**-c <= high)
    assert 0.65 <= np.mean(covered) <= 0.97


def test_in_words():
    curve = fit_learning_curve(SIZES, runs(0.1, 4, 0.7, noise=0.02))
    text = what_more_images_give(curve, 800, 1000)
    median, low, high = curve.forecast(1800)
    assert text == (
        f"1,000 more images would lower log loss from about {curve.forecast(800)[0]:.2f} to about {median:.2f} "
        f"({low:.2f} to {high:.2f})"
    )
    flat = fit_learning_curve(SIZES, runs(0.3, 0, 1, noise=0.001))
    assert what_more_images_give(flat, 800, 50).startswith(
        "50 more images would hardly change log loss: it would stay about 0.3"
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.1249, 0.1151, "would lower log loss from about 0.12 to about 0.12"),
        (0.0404, 0.03955, "would lower log loss from about 0.040 to about 0.040"),
        (0.3051, 0.3049, "would hardly change log loss: it would stay about 0.30"),
    ],
)
def test_digits_do_not_hide_what_changes_or_show_what_does_not(before, after, said):
    curve = SimpleNamespace(
        forecast=lambda images: (before, before, before) if images == 100 else (after, after, after)
    )
    words = what_more_images_give(curve, 100, 100)
    if "lower" in said:
        assert said not in words
        found = re.search(r"lower log loss from about (\S+) to about (\S+) ", words)
        assert float(found[1]) > float(found[2])
    else:
        assert said in words


def test_a_loss_of_nothing_hardly_changes():
    assert "hardly" in what_more_images_give(fit_learning_curve(SIZES, np.zeros((4, 5))), 800, 800)


def test_what_is_no_curve_is_refused():
    losses = runs(0.1, 4, 0.7)
    losses[2, 1] = np.nan
    with pytest.raises(FrostlineError, match="training diverged"):
        fit_learning_curve(SIZES, losses)
    for sizes, shape in ((SIZES[:1], (1, 5)), (SIZES, (3, 5)), (SIZES[::-1], (4, 5)), (SIZES, (4, 0))):
        with pytest.raises(ValueError, match="sizes"):
            fit_learning_curve(sizes, np.zeros(shape))


def test_twice_the_same():
    first, second = (fit_learning_curve(SIZES, runs(0.1, 4, 0.7)) for _ in range(2))
    assert first.forecast(3000) == second.forecast(3000)
