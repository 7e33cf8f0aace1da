import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.heatmap_layout import drawable, set_lines
from analysis.look import MONOSPACED
from analysis.token_text import TEXT, Cluster, Token, completion_clusters
from analysis.typeface import Typeface

FACE = Typeface(MONOSPACED, 10.0)
CELL = FACE.advance("m")


def lines_of(*pieces, width=1000.0, face=FACE):
    tokens, start = [], 0
    for piece in pieces:
        tokens.append(Token(piece, start, start + len(piece), False))
        start += len(piece)
    return set_lines(tuple(completion_clusters("".join(pieces), tokens)), face, width)


def spans(line):
    return [(box.token, round(box.left / CELL, 2), round(box.right / CELL, 2)) for box in line.boxes]


def test_boxes_of_left_to_right_text_follow_each_other():
    assert spans(lines_of("ab", " cd", "e")[0]) == [(0, 0, 2), (1, 2, 5), (2, 5, 6)]


def test_a_character_of_three_tokens_is_divided_into_three_equal_pieces():
    pieces = tuple(Token(f"<0x{i}{i}>", 1, 2, False) for i in range(3))
    clusters = completion_clusters("aé", [Token("a", 0, 1, False), *pieces])
    line = set_lines(tuple(clusters), FACE, 1000.0)[0]
    assert spans(line) == [(0, 0, 1), (1, 1, 1.33), (2, 1.33, 1.67), (3, 1.67, 2)]
    assert [box.joins_next for box in line.boxes] == [False, True, True, False]
    assert [string.text for string in line.strings] == ["a", "é"]


def test_two_characters_of_the_same_two_tokens_are_divided_one_by_one():
    pieces = [Token("<0x00>", 0, 2, False), Token("<0x01>", 0, 2, False)]
    line = set_lines(tuple(completion_clusters("éè", pieces)), FACE, 1000.0)[0]
    assert [box.token for box in line.boxes] == [0, 1, 0, 1]


def test_a_right_to_left_run_is_one_string_over_boxes_from_right_to_left():
    line = lines_of("שלום", " עולם", width=100.0)[0]
    assert [string.text for string in line.strings] == ["שלום עולם"]
    assert [box.token for box in line.boxes] == [1, 0]
    assert line.boxes[-1].right == pytest.approx(100)
    total = FACE.advance("שלום עולם")
    assert line.boxes[0].left == pytest.approx(100 - total)
    assert line.boxes[0].right == pytest.approx(100 - FACE.advance("שלום"))


def test_boxes_of_joined_letters_end_where_the_joined_letters_end():
    face = Typeface(("DejaVu Sans",), 10.0)
    line = lines_of("مر", "حبا", face=face)[0]
    reach = face.advance("مر\u200d")
    assert line.boxes[1].token == 0
    assert line.boxes[1].right - line.boxes[1].left == pytest.approx(reach)


def test_the_pieces_of_a_right_to_left_letter_stand_from_right_to_left():
    pieces = [Token("<0xD7>", 0, 1, False), Token("<0xA9>", 0, 1, False), Token("ל", 1, 2, False)]
    line = set_lines(tuple(completion_clusters("של", pieces)), FACE, 1000.0)[0]
    assert [(box.token, box.joins_next) for box in line.boxes] == [(2, False), (1, True), (0, False)]


def test_digits_in_right_to_left_text_are_coloured_from_left_to_right():
    line = lines_of("שלום ", "1", "2", "3")[0]
    assert [box.token for box in line.boxes] == [1, 2, 3, 0]


def test_an_arabic_word_in_an_english_line_stands_in_its_place():
    line = lines_of("say", " ", "مرح", "با", " now")[0]
    assert [string.text for string in line.strings] == ["say", "·", "مرحبا", " now"]
    assert [box.token for box in line.boxes] == [0, 1, 3, 2, 4]


def test_what_has_no_glyph_is_drawn_as_its_code_point():
    shown = drawable(Cluster("\U000e0fff", (0,), TEXT), FACE)
    assert (shown.text, shown.kind) == ("‹U+E0FFF›", "mark")


def test_variation_selectors_are_not_drawn():
    assert drawable(Cluster("❤\ufe0f", (0,), TEXT), FACE).text == "❤"


@settings(max_examples=25)
@given(
    st.lists(st.text(st.sampled_from("ab -מ1."), min_size=1, max_size=8), min_size=1, max_size=10),
    st.floats(60, 300),
)
def test_boxes_never_overlap_and_stay_on_the_line(pieces, width):
    lines = lines_of(*pieces, width=width)
    assert {box.token for line in lines for box in line.boxes} == set(range(len(pieces)))
    for line in lines:
        edges = [edge for box in line.boxes for edge in (box.left, box.right)]
        assert edges == pytest.approx(sorted(edges))
        assert edges[0] >= -1e-6
        assert edges[-1] <= width * 1.001
