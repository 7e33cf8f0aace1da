import numpy as np
import pytest
from heatmap_frames import heatmap
from matplotlib.figure import Figure

from analysis.colours import contrast
from analysis.heatmap_axes import (
    caption_height,
    draw_caption,
    draw_panel,
    draw_prompt,
    n_undrawable,
    panel_height,
    prompt_height,
)
from analysis.heatmap_figure import heatmap_figure, heatmap_typeface
from analysis.look import Page

SMALL = Page(width=3.25, dpi=72)


def test_every_drawing_function_takes_an_axes_and_returns_it():
    made = heatmap(["a", " b"])
    face = heatmap_typeface(made)
    figure = Figure(figsize=(4, 2))
    ax = figure.add_axes((0, 0, 1, 1))
    assert draw_panel(ax, made, made.panels[0], face) is ax
    assert draw_prompt(ax, made, face) is ax
    assert draw_caption(ax, made, face) is ax


def test_a_dollar_sign_and_a_backslash_are_text():
    figure = heatmap_figure(heatmap(["$x_1^{$", " \\alpha$"], measures=("loss",)), SMALL)
    texts = [text for ax in figure.axes for text in ax.texts]
    assert {"$x_1^{$", " \\alpha$"} <= {text.get_text() for text in texts}
    assert not any(text.get_parse_math() or text.get_usetex() for text in texts)


def test_every_string_contrasts_with_the_boxes_under_it():
    rng = np.random.default_rng(1)
    made = heatmap([" token"] * 60, loss=rng.gamma(1, 1, 60), measures=("loss",))
    ax = heatmap_figure(made, SMALL).axes[1]
    inks = [text.get_color() for text in ax.texts if text.get_text() == " token" or text.get_text() == "token"]
    backgrounds = [made.colours(position) for position in made.panels[0].positions]
    assert len(inks) == 60
    assert min(contrast(ink, back) for ink, back in zip(inks, backgrounds, strict=True)) >= 4.5


def test_one_word_over_a_pale_and_a_dark_token_is_drawn_once_per_ink_and_clipped_to_it():
    ax = heatmap_figure(heatmap(["مر", "حبا"], loss=[0, 2], measures=("loss",)), SMALL).axes[1]
    words = [text for text in ax.texts if text.get_text() == "مرحبا"]
    assert {text.get_color() for text in words} == {(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)}
    boxes = sorted((text.get_clip_box().x0, text.get_clip_box().x1) for text in words)
    assert boxes[0][1] == pytest.approx(boxes[1][0])


def test_tokens_without_a_prediction_are_framed_and_white():
    made = heatmap(["mm", " mm"], loss=[np.nan, 2], measures=("loss",))
    ax = heatmap_figure(made, SMALL).axes[1]
    boxes = next(c for c in ax.collections if len(c.get_facecolors()) == 2)
    assert boxes.get_facecolors()[0][:3].tolist() == [1, 1, 1]
    assert boxes.get_edgecolors()[0][:3].tolist() != [1, 1, 1]


def test_characters_without_a_glyph_are_counted_and_said():
    made = heatmap(["𓀀", "b"], measures=("loss",))
    n_missing = n_undrawable(made, heatmap_typeface(made))
    drawn = ["".join(text.get_text() for text in ax.texts) for ax in heatmap_figure(made, SMALL).axes]
    assert n_missing == (0 if "𓀀" in drawn[1] else 1)
    assert ("1 character has no glyph" in drawn[-1]) == (n_missing == 1)
    assert ("‹U+13000›" in drawn[1]) == (n_missing == 1)


def test_a_control_character_is_not_counted_as_a_missing_glyph():
    made = heatmap(["\x1b", "b"])
    assert n_undrawable(made, heatmap_typeface(made)) == 0


def test_heights_are_those_of_what_is_drawn():
    made = heatmap([" word"] * 40 + ["\n", "end"], measures=("loss",))
    face = heatmap_typeface(made, SMALL)
    for draw, needed in (
        (lambda ax: draw_panel(ax, made, made.panels[0], face), panel_height(made, made.panels[0], face, 216)),
        (lambda ax: draw_prompt(ax, made, face), prompt_height(made, face, 216)),
        (lambda ax: draw_caption(ax, made, face), caption_height(made, face, 216)),
    ):
        ax = draw(Figure(figsize=(3, 20), dpi=72).add_axes((0, 0, 1, 1)))
        lowest = max(text.get_position()[1] for text in ax.texts)
        assert needed - 1.0 * face.size <= lowest <= needed
