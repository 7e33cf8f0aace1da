import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.token_text import (
    MARK,
    NEWLINE,
    SPACE,
    SPECIAL,
    TEXT,
    Token,
    code_points,
    completion_clusters,
    context_clusters,
    cut_middle,
    grapheme_clusters,
)

AWKWARD = "ab \n\t\r\x1b\u202e\u200b\u00a0é\u0301👩\u200d👧🏽🇫🇷漢각क्षمرحبا$\\{<>_"


def tokens_of(*pieces):
    made, start = [], 0
    for piece in pieces:
        made.append(Token(piece, start, start + len(piece), False))
        start += len(piece)
    return made


def shown(*pieces):
    return completion_clusters("".join(pieces), tokens_of(*pieces))


def test_a_character_spelled_by_three_tokens_with_one_span_is_one_cluster_of_the_three():
    pieces = [Token("<0xE6>", 0, 1, False), Token("<0xBC>", 0, 1, False), Token("<0xA2>", 0, 1, False)]
    assert [(c.text, c.tokens) for c in completion_clusters("漢", pieces)] == [("漢", (0, 1, 2))]


def test_pieces_with_empty_spans_are_joined_with_the_piece_that_completes_the_character():
    pieces = [Token("<0xE6>", 0, 0, False), Token("<0xBC>", 0, 0, False), Token("<0xA2>", 0, 1, False)]
    assert [(c.text, c.tokens) for c in completion_clusters("漢", pieces)] == [("漢", (0, 1, 2))]


def test_a_token_that_holds_a_word_and_half_a_character_is_alone_in_the_word():
    pieces = [Token("a <0xE6>", 0, 3, False), Token("<0xBC><0xA2>", 2, 3, False)]
    assert [(c.text, c.tokens) for c in completion_clusters("a 漢", pieces)] == [
        ("a", (0,)), (" ", (0,)), ("漢", (0, 1)),
    ]  # fmt: skip


def test_an_accent_in_a_token_of_its_own_is_joined_with_its_letter_only():
    assert [(c.text, c.tokens) for c in shown("he", "\u0301!")] == [("h", (0,)), ("e\u0301", (0, 1)), ("!", (1,))]


def test_bytes_that_are_no_character_are_shown_as_bytes():
    pieces = [Token("a", 0, 1, False), Token("<0xE6>", 1, 2, False)]
    assert [c.text for c in completion_clusters("a\ufffd", pieces)] == ["a", "<0xE6>"]


def test_a_token_that_spells_nothing_is_drawn_as_its_name_or_as_the_empty_set():
    pieces = [Token("▁", 0, 0, False), Token("a", 0, 1, False), Token("", 1, 1, False)]
    assert [(c.text, c.tokens, c.kind) for c in completion_clusters("a", pieces)] == [
        ("▁", (0,), MARK), ("a", (1,), TEXT), ("∅", (2,), MARK),
    ]  # fmt: skip


def test_a_blank_inside_running_text_is_blank_and_every_other_space_is_a_dot():
    assert "".join(c.text for c in shown("a", " b", "  ", "c d ")) == "a b··c d·"


def test_a_token_that_is_only_a_space_is_a_dot():
    assert [c.text for c in shown("a", " ", "b")] == ["a", "·", "b"]


def test_indentation_is_dots():
    assert "".join(c.text for c in shown("x\n", "    ", "y")) == "x↵····y"


def test_line_breaks_and_tabs_are_marks():
    clusters = shown("a\n\n\tb\r\nc")
    assert [c.kind for c in clusters] == [TEXT, NEWLINE, NEWLINE, MARK, TEXT, NEWLINE, TEXT]
    assert [c.text for c in clusters if c.kind == NEWLINE] == ["↵", "↵", "‹U+000D+000A› ↵"]


@pytest.mark.parametrize(
    "character", ["\x1b", "\x00", "\x7f", "\x9b", "\u202e", "\u200b", "\ufeff", "\u2028", "\ue000"]
)
def test_what_is_invisible_is_named_by_its_code_point(character):
    clusters = shown(character, "a")
    assert clusters[0].text == f"‹U+{ord(character):04X}›"
    assert clusters[0].kind == MARK


def test_a_joiner_between_letters_stays_in_its_letter():
    assert [c.text for c in shown("می\u200cخواهم")][1] == "ی\u200c"


def test_a_mark_without_a_letter_stands_on_a_dotted_circle():
    assert shown("\u0301")[0].text == "◌\u0301"


def test_special_tokens_are_kept_literal_and_nothing_joins_them():
    pieces = [Token("a", 0, 1, False), Token("<|end\n|>", 1, 9, True), Token("\u0301b", 9, 11, False)]
    clusters = completion_clusters("a<|end\n|>\u0301b", pieces)
    assert [c.kind for c in clusters if c.tokens == (1,)] == [SPECIAL] * len([c for c in clusters if c.tokens == (1,)])
    assert "".join(c.text for c in clusters) == "a<|end‹U+000A›|>◌\u0301b"


def test_context_has_no_tokens_and_no_line_ends():
    clusters = context_clusters("Why?\n\x1b[31m")
    assert all(c.tokens == () for c in clusters)
    assert NEWLINE not in {c.kind for c in clusters}
    assert "".join(c.text for c in clusters) == "Why?↵‹U+001B›[31m"


def test_cutting_the_middle_keeps_both_ends_and_counts_what_is_left_out():
    assert cut_middle("abcdefghij", 10) == "abcdefghij"
    assert cut_middle("0123456789" * 200, 10) == "01234 […1,990 characters left out…] 56789"


def test_code_points_leave_out_variation_selectors():
    assert code_points("❤\ufe0f") == "‹U+2764›"


@given(st.lists(st.text(st.sampled_from(AWKWARD), min_size=1, max_size=6), min_size=1, max_size=12))
def test_every_token_is_drawn_and_nothing_invisible_is(pieces):
    clusters = shown(*pieces)
    assert {token for cluster in clusters for token in cluster.tokens} == set(range(len(pieces)))
    drawn = "".join(cluster.text for cluster in clusters)
    assert not {c for c in drawn if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")} - {"\u200c", "\u200d"}
    assert [c.tokens for c in clusters] == sorted((c.tokens for c in clusters), key=lambda held: held[0])
    assert all(c.text in (" ", "·") for c in clusters if c.kind == SPACE)


@given(st.text(st.sampled_from(AWKWARD + "\u1100\u1161\u11a8เก้ำ")))
def test_clusters_are_those_of_the_unicode_standard(text):
    regex = pytest.importorskip("regex")
    found = grapheme_clusters(text)
    assert "".join(found) == text
    assert found == regex.findall(r"\X", text)
