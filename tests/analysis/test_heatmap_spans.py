import unicodedata

import numpy as np
import pytest
from heatmap_frames import FACTS, example, heatmap, tokens
from heatmap_markup import PAYLOADS, nasty_heatmap, read, rgb, style_of

from analysis.colours import contrast
from analysis.heatmap import make_heatmap
from analysis.heatmap_spans import heatmap_fragment, paragraphs
from analysis.look import Look
from analysis.token_text import Cluster

# What JupyterLab leaves of an untrusted output, and the two attributes of accessibility that it drops.
ELEMENTS = {"div", "span", "strong"}
ATTRIBUTES = {"class", "dir", "style", "title", "role", "aria-label"}
PROPERTIES = {
    "background-color", "color", "box-shadow", "font-style", "font-size", "outline", "opacity", "line-height", "margin",
    "white-space", "overflow-wrap", "max-width",
}  # fmt: skip


def token_spans(text):
    return [element for element in read(text) if "title" in element.attributes]


def test_a_fragment_has_only_what_untrusted_notebooks_keep_whatever_its_tokens_hold():
    assert len(PAYLOADS) >= 25
    for element in read(heatmap_fragment(nasty_heatmap())):
        assert element.name in ELEMENTS
        assert set(element.attributes) <= ATTRIBUTES
        assert set(style_of(element)) <= PROPERTIES
        assert "url" not in element.attributes.get("style", "")


def test_every_payload_is_shown_as_text():
    shown = read(heatmap_fragment(nasty_heatmap()))[0].text
    for payload in PAYLOADS:
        if all(unicodedata.category(sign)[0] not in "CZ" for sign in payload):
            assert shown.count(payload) >= 4, payload
    assert "‹U+202E›" in shown


def test_no_invisible_character_reaches_the_html():
    text = heatmap_fragment(nasty_heatmap()).replace("\n", "")
    assert not {unicodedata.category(sign) for sign in text} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    text.encode("utf-8")


def test_nothing_is_left_for_a_typesetter_of_mathematics():
    fragment = heatmap_fragment(heatmap(["$a$", "\\(b\\)"]))
    assert read(fragment)[0].attributes["class"] == "tex2jax_ignore mathjax_ignore"
    outside = "".join(part.split(">", 1)[1] for part in fragment.split("<")[1:] if len(part.split(">", 1)[1]) > 1)
    assert "$" not in outside
    assert "\\" not in outside


def test_tokens_have_the_colour_of_their_value_and_readable_ink():
    made = heatmap([" tok"] * 60, loss=np.linspace(0, 3, 60))
    styles = [style_of(span) for span in token_spans(heatmap_fragment(made))]
    assert len(styles) == 60
    assert rgb(styles[0]["background-color"]) == pytest.approx(made.colours(0.0), abs=0.003)
    assert rgb(styles[-1]["background-color"]) == pytest.approx(made.colours(1.0), abs=0.003)
    assert min(contrast(rgb(style["background-color"]), rgb(style["color"])) for style in styles) >= 4.5


def test_spans_take_no_room_and_end_no_run_of_letters():
    for span in token_spans(heatmap_fragment(heatmap(["مر", "حبا", "<|end|>", "\t"]))):
        assert not {"padding", "margin", "border", "display", "unicode-bidi"} & set(style_of(span))
        assert "dir" not in span.attributes


def test_each_paragraph_finds_its_own_direction():
    made = read(heatmap_fragment(heatmap(["one", "\n", "שלום", "\n", "two"])))
    blocks = [element for element in made if element.text in ("one↵", "שלום↵", "two")]
    assert [(block.name, block.attributes.get("dir"), block.text) for block in blocks if block.name == "div"] == [
        ("div", "auto", "one↵"), ("div", "auto", "שלום↵"), ("div", "auto", "two"),
    ]  # fmt: skip


def test_a_tooltip_has_all_values_of_its_token():
    span = token_spans(heatmap_fragment(heatmap(["a", " b"], loss=[0.5, 2])))[1]
    assert span.attributes["title"].split("\n") == [
        "token  b", "id 7", "position 6", "loss 2.00 nats", "entropy 0.200 nats", "total 0.200 nats",
        "aleatoric 0.200 nats", "epistemic 0.200 ± 0.20 nats", "mc_loss 0.200 nats", "label_prob 0.135",
        "margin 0.0183", "rank 0", "passes 100",
    ]  # fmt: skip


def test_a_token_without_a_prediction_is_outlined_and_not_coloured():
    span = token_spans(heatmap_fragment(heatmap(["a", "b"], loss=[np.nan, 1])))[0]
    assert style_of(span) == {"outline": "1px dotted #888"}


def test_a_character_of_several_tokens_shows_the_highest_tells_of_all_and_says_so():
    frame = tokens(["<0xC3>", "<0xA9>", "x"], [0.5, 2.0, 0.0]).assign(char_start=[0, 0, 1], char_end=[0, 1, 2])
    made = make_heatmap(frame, example("éx"), frame, Look(measures=("loss",), clip_percentile=100), FACTS)
    fragment = heatmap_fragment(made)
    shared = token_spans(fragment)[0]
    assert shared.text == "é"
    assert rgb(style_of(shared)["background-color"]) == pytest.approx(made.colours(1.0), abs=0.003)
    assert "loss 0.500 nats" in shared.attributes["title"]
    assert "loss 2.00 nats" in shared.attributes["title"]
    assert "A character that several tokens spell shows the highest of them." in fragment


def test_paragraphs_end_after_a_line_end_and_none_is_empty():
    a, end = Cluster("a", (0,), "text"), Cluster("↵", (1,), "newline")
    assert paragraphs([a, end, end, a]) == [[a, end], [end], [a]]
    assert paragraphs([a, end]) == [[a, end]]
