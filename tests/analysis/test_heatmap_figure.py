import io
import warnings
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from heatmap_frames import heatmap

from analysis.heatmap_axes import POINTS_PER_INCH, panel_height
from analysis.heatmap_figure import heatmap_figure, heatmap_typeface, save_figure
from analysis.look import Page
from uncertainty.errors import InputError

SMALL = Page(width=3.25, dpi=72)
AWKWARD = ["$x_1^{$", " \\alpha", " {{x}}", "<script>", " &amp;", "\x1b[31m", "\u202e"]
AWKWARD += [" 漢", "字", " 🦜", " مر", "حبا", "\n", "<|end|>"]


def saved(figure, format):
    """The bytes, and every warning on the way."""
    file = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(file, format=format)
    return file.getvalue(), caught


def pixels(figure):
    return matplotlib.image.imread(io.BytesIO(saved(figure, "png")[0]))[..., :3]


@pytest.mark.parametrize("format", ["png", "pdf", "svg"])
def test_awkward_text_is_drawn_in_every_format_without_a_warning(format):
    content, caught = saved(heatmap_figure(heatmap(AWKWARD, measures=("loss", "epistemic")), SMALL), format)
    assert len(content) > 1000
    assert [str(warning.message) for warning in caught] == []


def test_markup_in_a_token_stays_inert_in_svg(tmp_path):
    made = heatmap(["<script>alert(1)</script>", " -->", "]]>"])
    save_figure(heatmap_figure(made, SMALL), tmp_path / "x.svg", "svg", title="<script>", facts="a -- b <b>")
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(tmp_path / "x.svg").iter()}
    assert "script" not in tags
    assert "b" not in tags


def test_the_darkest_box_has_the_darkest_colour_of_the_map_and_the_palest_the_palest():
    made = heatmap(["mmmm", "mmmm"], loss=[0, 2], measures=("loss",))
    picture = pixels(heatmap_figure(made, Page(width=3.25, dpi=144)))
    for position in (0.0, 1.0):
        # More pixels than the end of the colour bar alone would give.
        assert np.sum(np.all(np.abs(picture - made.colours(position)) < 0.003, axis=-1)) > 300


@pytest.mark.parametrize("width", [2.0, 3.25, 6.75])
def test_nothing_reaches_beyond_the_figure(width):
    made = heatmap([" word"] * 80 + ["\n", "<|end|>"], measures=("loss", "epistemic"), scale="percentile")
    figure = heatmap_figure(made, Page(width=width, dpi=72))
    figure.canvas.draw()
    frame = figure.bbox
    for ax in figure.axes:
        for text in ax.texts:
            box = text.get_window_extent()
            assert box.x0 >= frame.x0
            assert box.x1 <= frame.x1 + 0.5
            assert box.y0 >= frame.y0
            assert box.y1 <= frame.y1


def test_sections_do_not_overlap_and_each_is_as_high_as_its_text_needs():
    made = heatmap([" word"] * 50, measures=("loss", "epistemic"))
    figure = heatmap_figure(made, SMALL)
    places = [ax.get_position() for ax in figure.axes]
    assert all(upper.y0 >= lower.y1 - 1e-9 for upper, lower in pairwise(places))
    width = places[1].width * figure.get_figwidth() * POINTS_PER_INCH
    needed = panel_height(made, made.panels[0], heatmap_typeface(made, SMALL), width)
    assert places[1].height * figure.get_figheight() * POINTS_PER_INCH >= needed


@pytest.mark.parametrize("format", ["png", "pdf", "svg"])
def test_the_same_heatmap_gives_the_same_bytes(tmp_path, format):
    for name in ("a", "b"):
        save_figure(heatmap_figure(heatmap(["a", " b"]), SMALL), tmp_path / name, format, title="t", facts="f")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_carries_its_facts(tmp_path):
    figure = heatmap_figure(heatmap(["a"]), SMALL)
    for format in ("png", "pdf", "svg"):
        save_figure(figure, tmp_path / format, format, title="t", facts="run 0123456789ab")
        assert b"run 0123456789ab" in (tmp_path / format).read_bytes()
    assert b"Type3" not in (tmp_path / "pdf").read_bytes()


def test_a_png_has_the_width_and_resolution_asked_for(tmp_path):
    save_figure(heatmap_figure(heatmap(["a"]), Page(width=3.25, dpi=200)), tmp_path / "x.png", "png")
    assert matplotlib.image.imread(tmp_path / "x.png").shape[1] == 650


def test_settings_of_matplotlib_are_left_as_they_were(tmp_path):
    before = dict(matplotlib.rcParams)
    save_figure(heatmap_figure(heatmap(["a"]), SMALL), tmp_path / "x.svg", "svg")
    assert dict(matplotlib.rcParams) == before


def test_the_users_own_settings_do_not_turn_tokens_into_mathematics(tmp_path):
    with matplotlib.rc_context(
        {"text.parse_math": True, "figure.autolayout": True, "savefig.bbox": "tight", "savefig.dpi": 50}
    ):
        save_figure(heatmap_figure(heatmap(["$x_1^{$"]), SMALL), tmp_path / "a.png", "png")
    save_figure(heatmap_figure(heatmap(["$x_1^{$"]), SMALL), tmp_path / "b.png", "png")
    one, other = (matplotlib.image.imread(tmp_path / name) for name in ("a.png", "b.png"))
    assert np.array_equal(one, other)


def test_an_unknown_format_a_giant_and_an_unwritable_file_are_refused(tmp_path):
    figure = heatmap_figure(heatmap(["a"]), SMALL)
    with pytest.raises(InputError, match="unknown picture format 'gif'"):
        save_figure(figure, tmp_path / "x", "gif")
    with pytest.raises(InputError, match="cannot be written"):
        save_figure(figure, tmp_path / "none" / "x.png", "png")
    figure.set_size_inches(3, 4000)
    with pytest.raises(InputError, match="pixels tall"):
        save_figure(figure, tmp_path / "x.png", "png")
