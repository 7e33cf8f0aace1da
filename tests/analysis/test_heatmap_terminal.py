import re
import unicodedata

import numpy as np
import pytest
from heatmap_frames import heatmap
from rich.cells import cell_len

from analysis.colours import contrast
from analysis.heatmap_terminal import colour_depth, heatmap_text

CODES = re.compile(r"\x1b\[[0-9;]*m")
PAINTED = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)[;34]*m([^\x1b]*)\x1b\[0m")
AWKWARD = ["a", "\x1b[31mred", "\x9b", "\x07", "\u202e", " 漢字", " 👩\u200d👧", "\n", " מה", "<|end|>"]


def painted(text):
    """(ink, background, text) of everything with a background."""
    return [
        (tuple(int(v) / 255 for v in m[:3]), tuple(int(v) / 255 for v in m[3:6]), m[6]) for m in PAINTED.findall(text)
    ]


def test_tokens_have_the_colour_of_their_value():
    made = heatmap(["mm", " nn"], loss=[0, 2])
    backgrounds = {text: back for _, back, text in painted(heatmap_text(made, 80, "24bit")) if text.strip()}
    assert backgrounds["mm"] == pytest.approx(made.colours(0.0), abs=0.002)
    assert backgrounds[" nn"] == pytest.approx(made.colours(1.0), abs=0.002)


def test_ink_is_readable_on_every_background():
    made = heatmap([" tok"] * 50, loss=np.linspace(0, 3, 50))
    pairs = painted(heatmap_text(made, 80, "24bit"))
    assert len(pairs) >= 50
    assert min(contrast(ink, back) for ink, back, _ in pairs) >= 4.5


def test_256_colours_use_indices_of_the_palette_only():
    text = heatmap_text(heatmap(["mm", " nn"], loss=[0, 2]), 80, "256")
    codes = re.findall(r"\x1b\[38;5;(\d+);48;5;(\d+)", text)
    assert codes
    assert {ink for ink, _ in codes} == {"16", "231"}
    assert all(16 <= int(back) <= 255 for _, back in codes)
    assert "38;2;" not in text


def test_without_colours_there_is_no_code_and_a_line_of_shades():
    text = heatmap_text(heatmap(["mm", "nn"], loss=[0, 2], measures=("loss",)), 80, "none")
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[lines.index("mmnn") + 1] == "▁▁██"


def test_an_output_without_those_signs_gets_digits():
    lines = heatmap_text(heatmap(["mm", "nn"], loss=[0, 2]), 80, "none", ascii_only=True).splitlines()
    assert lines[lines.index("mmnn") + 1] == "0099"


@pytest.mark.parametrize("depth", ["24bit", "256", "none"])
@pytest.mark.parametrize("width", [20, 47, 100])
def test_no_line_is_wider_than_the_terminal(depth, width):
    made = heatmap([*AWKWARD, *[" word"] * 30, " 漢字漢字"], measures=("loss", "epistemic"), scale="percentile")
    for line in heatmap_text(made, width, depth).splitlines():
        assert cell_len(CODES.sub("", line)) <= width


@pytest.mark.parametrize("depth", ["24bit", "256", "none"])
def test_control_characters_of_a_token_never_reach_the_terminal(depth):
    left = CODES.sub("", heatmap_text(heatmap(AWKWARD), 80, depth)).replace("\n", "")
    assert not {c for c in left if unicodedata.category(c) in ("Cc", "Cf")} - {"\u200d"}
    assert "‹U+001B›[31mred" in left


def test_control_characters_of_an_id_never_reach_the_terminal():
    from dataclasses import replace

    text = heatmap_text(replace(heatmap(["a"]), example_id="\x1b]0;x\x07", facts="\x1b[2J"), 80, "none")
    assert "\x1b" not in text
    assert "\x07" not in text


def test_every_colour_ends_on_its_line():
    for line in heatmap_text(heatmap([" word"] * 60), 40, "24bit").splitlines():
        assert line.count("\x1b[0m") * 2 == line.count("\x1b")


def test_a_wide_character_is_shaded_over_both_its_cells():
    lines = heatmap_text(heatmap(["漢", "a"], loss=[2, 0]), 80, "none").splitlines()
    assert lines[lines.index("漢a") + 1] == "██▁"


def test_a_token_without_a_prediction_is_left_plain():
    assert "mm\x1b" in heatmap_text(heatmap(["mm", " nn"], loss=[np.nan, 2]), 80, "24bit")


def test_a_character_of_several_tokens_shows_the_highest_and_says_so():
    from heatmap_frames import FACTS, example, tokens

    from analysis.heatmap import make_heatmap
    from analysis.look import Look

    frame = tokens(["é", "x"], [0.5, 2.0]).assign(char_start=[0, 0], char_end=[1, 1])
    made = make_heatmap(frame, example("é"), frame, Look(measures=("loss",), clip_percentile=100), FACTS)
    text = heatmap_text(made, 80, "none")
    assert text.splitlines()[text.splitlines().index("é") + 1] == "█"
    assert "A character that several tokens spell shows the highest of them." in text


@pytest.mark.parametrize(
    ("choice", "environment", "is_terminal", "depth"),
    [
        ("auto", {"COLORTERM": "truecolor", "TERM": "xterm"}, True, "24bit"),
        ("auto", {"TERM": "xterm-256color"}, True, "256"),
        ("auto", {"COLORTERM": "truecolor"}, False, "none"),
        ("auto", {"COLORTERM": "truecolor", "NO_COLOR": "1"}, True, "none"),
        ("auto", {"COLORTERM": "truecolor", "NO_COLOR": ""}, True, "24bit"),
        ("auto", {"TERM": "dumb"}, True, "none"),
        ("always", {"COLORTERM": "24bit", "NO_COLOR": "1"}, False, "24bit"),
        ("never", {"COLORTERM": "truecolor"}, True, "none"),
    ],
)
def test_colours_follow_the_terminal_and_no_color(choice, environment, is_terminal, depth):
    assert colour_depth(choice, environment, is_terminal) == depth
