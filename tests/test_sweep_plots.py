import warnings

import numpy as np
import pytest
from PIL import Image

from frostline.sweep.plots import heat_map_axes, write_figures
from frostline.sweep.results import rank

pytestmark = pytest.mark.slow

VERMILLION = (213, 94, 0)
LONG = "a_long_name_of_a_layer_such_as_some_networks_have"


def grid(rates=("1e-05", "0.0001"), layers=("mixed5", "mixed6"), seeds=("1", "2"), extra=()):
    trials = []
    for layer in layers:
        for rate in rates:
            for seed in seeds:
                overrides = [*extra, f"model.cut_layer={layer}", f"finetune.learning_rate={rate}", f"seed={seed}"]
                loss = 0.3 + 0.1 * layers.index(layer) + 0.01 * rates.index(rate) + 0.001 * float(seed)
                figures = {"validation/loss": loss, "validation/accuracy": 0.9}
                trials.append({"trial": "", "overrides": overrides, "transfer": figures, "finetune": figures})
    return rank(trials)


def shown(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.long
def test_the_figures_are_light_and_the_same_bytes_each_time(tmp_path):
    first = {path.name: path.read_bytes() for path in write_figures(tmp_path, grid())}
    assert sorted(first) == ["heat_map.png", "parallel_coordinates.png"]
    assert {path.name: path.read_bytes() for path in write_figures(tmp_path, grid())} == first
    assert all(len(content) < 100_000 for content in first.values())


@pytest.mark.parametrize(
    "settings",
    [
        grid(seeds=("1", "2", "3")),
        pytest.param(grid(layers=(LONG, "b")), marks=pytest.mark.long),
        pytest.param(grid(rates=(LONG, "0.1")), marks=pytest.mark.long),
        grid(rates=("고양이 강아지 토끼 다람쥐", "قطة"), layers=("$\\frac{$", "b")),
    ],
)
def test_nothing_is_cut_off_or_over_something_else(tmp_path, settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in write_figures(tmp_path, settings):
            image = shown(path)
            assert (image[:, -3:] > 240).all(), "it ends before the right edge"
            assert (image[:, :3] > 240).all()
    cells = shown(tmp_path / "heat_map.png")
    colours = np.ptp(cells, axis=2) > 60
    assert colours.any(axis=0).sum() > 200, "two columns of cells and the scale"


def test_the_best_cell_is_framed(tmp_path):
    write_figures(tmp_path, grid(seeds=("1",)))
    image = shown(tmp_path / "heat_map.png")
    near = np.abs(image - VERMILLION).sum(axis=2) < 40
    rows, columns = np.nonzero(near)
    assert len(rows) > 100
    height, width = near.shape
    assert rows.mean() < height / 2, "mixed5 is the upper row"
    assert columns.mean() < width / 2, "1e-05 is the left column"


@pytest.mark.parametrize(
    ("settings", "axes"),
    [
        (grid(), ("model.cut_layer", "finetune.learning_rate")),
        (grid(layers=("mixed5",)), None),
        (grid(rates=tuple(str(rate / 1000) for rate in range(1, 20))), None),  # a search: as many rates as trials
    ],
)
def test_a_heat_map_needs_two_settings_of_few_values(settings, axes):
    assert heat_map_axes(settings) == axes


@pytest.mark.parametrize(
    "settings", [grid(layers=("mixed5",)), grid(rates=("1e-05",), layers=("mixed5",), seeds=("1",))]
)
def test_one_swept_setting_or_one_trial_is_drawn_too(tmp_path, settings):
    assert [path.name for path in write_figures(tmp_path, settings)] == ["parallel_coordinates.png"]


def test_a_sweep_over_seeds_alone_has_nothing_to_draw(tmp_path):
    assert write_figures(tmp_path, grid(rates=("1e-05",), layers=("mixed5",))) == []
