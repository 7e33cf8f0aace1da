import math

import matplotlib
import numpy as np
import pytest

from analysis.colours import (
    BLACK,
    WHITE,
    colours,
    contrast,
    difference_scale,
    diverging_colours,
    luminance,
    make_scale,
    text_colour,
)  # fmt: skip
from uncertainty.errors import InputError

ORDERED = ["magma", "viridis", "cividis", "plasma", "inferno", "Blues", "OrRd", "YlGnBu", "Greys", "gray"]


@pytest.mark.parametrize("name", ORDERED)
def test_high_is_darker_than_low_all_the_way(name):
    levels = [luminance(colours(name)(position)) for position in np.linspace(0, 1, 64)]
    assert levels[0] > 0.6
    assert levels[-1] < 0.15
    assert max(np.diff(levels)) < 0.003


@pytest.mark.parametrize("name", ORDERED)
def test_text_has_a_contrast_of_at_least_four_and_a_half_on_every_colour(name):
    table = colours(name)
    for position in np.linspace(0, 1, 257):
        background = table(position)
        assert contrast(background, text_colour(background)) >= 4.5


def test_text_contrast_is_enough_on_any_colour_there_is():
    grid = [(r / 15, g / 15, b / 15) for r in range(16) for g in range(16) for b in range(16)]
    assert min(contrast(colour, text_colour(colour)) for colour in grid) >= math.sqrt(21) - 1e-9


def test_contrast_of_known_pairs():
    assert contrast(BLACK, WHITE) == pytest.approx(21)
    assert contrast((0x76 / 255,) * 3, WHITE) == pytest.approx(4.54, abs=0.005)  # the well-known lightest grey for AA


def test_reversed_names_give_the_same_direction():
    assert colours("viridis")(1.0) == colours("viridis_r")(1.0)


def test_a_map_without_an_order_of_lightness_is_refused():
    for name in ("jet", "turbo", "RdBu", "hsv"):
        with pytest.raises(InputError, match=f"'{name}' is not ordered by lightness"):
            colours(name)


def test_an_unknown_map_names_the_nearest():
    with pytest.raises(InputError, match="'virids' is not one of matplotlib's; did you mean 'viridis'"):
        colours("virids")


def test_no_prediction_is_white():
    assert colours("magma")(math.nan) == WHITE


def test_matplotlib_itself_is_not_changed():
    before = matplotlib.colormaps["magma"](np.linspace(0, 1, 9)).copy()
    colours("magma")
    assert np.array_equal(matplotlib.colormaps["magma"](np.linspace(0, 1, 9)), before)


def test_a_value_scale_is_linear_up_to_the_percentile_and_flat_above():
    scale = make_scale("value", np.arange(101.0), "the run", clip_percentile=50)
    assert scale.upper == 50
    assert scale.positions(np.array([0, 25, 50, 99])).tolist() == [0, 0.5, 1, 1]
    assert scale.n_clipped(np.array([50, 51, 99, np.nan])) == 2
    assert scale.value_at(0.5) == 25


def test_a_percentile_scale_is_the_share_below_with_ties_counted_half():
    scale = make_scale("percentile", np.array([1.0, 2.0, 2.0, 3.0]), "the run")
    assert scale.positions(np.array([0, 1, 2, 3, 4])).tolist() == [0, 0.125, 0.5, 0.875, 1]
    assert scale.n_clipped(np.array([9.0])) == 0


@pytest.mark.parametrize("kind", ["value", "percentile"])
def test_no_prediction_has_no_position_and_does_not_count(kind):
    scale = make_scale(kind, np.array([1.0, np.nan, 3.0]), "the run", clip_percentile=100)
    assert scale.upper == 3
    assert np.isnan(scale.positions(np.array([np.nan, 1.0]))).tolist() == [True, False]


def test_a_measure_that_is_zero_everywhere_is_pale_everywhere():
    scale = make_scale("value", np.zeros(5), "the run")
    assert scale.positions(np.zeros(3)).tolist() == [0, 0, 0]


def test_a_measure_that_is_nearly_always_zero_ends_at_its_largest_value():
    scale = make_scale("value", np.array([0.0] * 999 + [2.0]), "the run", clip_percentile=99)
    assert (scale.upper, scale.clip_percentile) == (2.0, 100.0)


@pytest.mark.parametrize("kind", ["value", "percentile"])
def test_a_reference_without_any_value_gives_positions_all_the_same(kind):
    scale = make_scale(kind, np.array([np.nan]), "the run")
    assert scale.positions(np.array([1.0])).tolist() == [0.0]


@pytest.mark.parametrize("kind", ["value", "percentile"])
def test_a_larger_value_never_has_a_paler_colour(kind):
    rng = np.random.default_rng(0)
    values = np.sort(rng.gamma(0.3, 1.0, 500))
    positions = make_scale(kind, rng.gamma(0.3, 1.0, 2000), "the run").positions(values)
    assert np.all(np.diff(positions) >= 0)
    assert positions.min() >= 0
    assert positions.max() <= 1


def test_a_scale_of_differences_reaches_as_far_to_both_sides():
    scale = difference_scale(np.array([-4.0, 1.0, np.nan, 2.0]), "all", clip_percentile=100)
    assert scale.positions(np.array([-4, -8, 0, 2, 4, np.nan])).tolist()[:5] == [0, 0, 0.5, 0.75, 1]
    assert scale.n_clipped(np.array([-5.0, 5.0, 1.0])) == 2
    assert [scale.value_at(position) for position in (0, 0.5, 1)] == [-4, 0, 4]
    assert difference_scale(np.zeros(3), "all").positions(np.zeros(1)).tolist() == [0.5]


def test_differences_stand_away_from_the_page_to_both_sides():
    for made, outward in ((diverging_colours(), -1), (diverging_colours().for_dark_page, 1)):
        levels = [luminance(made(position)) for position in (0.0, 0.25, 0.5, 0.75, 1.0)]
        steps = np.sign(np.diff(levels)) * outward
        assert steps.tolist() == [-1, -1, 1, 1]


def test_on_a_dark_page_a_map_runs_from_dark_to_light():
    levels = [luminance(colours("magma").for_dark_page(position)) for position in np.linspace(0, 1, 20)]
    assert levels == sorted(levels)
