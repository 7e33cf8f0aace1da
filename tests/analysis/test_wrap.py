from hypothesis import given
from hypothesis import strategies as st

from analysis.token_text import Token, completion_clusters
from analysis.wrap import visual_runs, wrap


def clusters_of(*pieces):
    tokens, start = [], 0
    for piece in pieces:
        tokens.append(Token(piece, start, start + len(piece), False))
        start += len(piece)
    return completion_clusters("".join(pieces), tokens)


def lines_of(text, width):
    return ["".join(c.text for c in line.clusters) for line in wrap(clusters_of(text), lambda c: len(c.text), width)]


def seen(text):
    """What stands on the first line from left to right, each run in logical order."""
    line = wrap(clusters_of(text), lambda c: 1, 1000)[0]
    return ["".join(c.text for c in run.clusters) for run in visual_runs(line)]


def test_lines_break_at_blanks_which_then_vanish():
    assert lines_of("the quick brown fox", 10) == ["the quick", "brown fox"]


def test_a_blank_that_just_does_not_fit_is_dropped():
    assert lines_of("abcd efgh", 4) == ["abcd", "efgh"]


def test_a_word_longer_than_the_line_is_broken_inside():
    assert lines_of("abcdefghij kl", 4) == ["abcd", "efgh", "ij", "kl"]


def test_a_line_ends_after_each_newline_mark_and_an_empty_line_stays():
    assert lines_of("a\n\nb", 10) == ["a↵", "↵", "b"]


def test_wide_characters_break_anywhere_but_before_closing_punctuation():
    assert lines_of("漢字漢字。漢", 4) == ["漢字漢", "字。漢"]


def test_a_line_breaks_after_hyphens_and_slashes():
    assert lines_of("well-known/path", 6) == ["well-", "known/", "path"]


def test_a_cluster_wider_than_the_line_stands_alone():
    assert lines_of("a\x1bb", 4) == ["a", "‹U+001B›", "b"]


def test_an_arabic_run_in_an_english_line_keeps_its_place():
    assert seen("we say مرحبا بكم and go") == ["we say ", "مرحبا بكم", " and go"]


def test_an_english_run_in_an_arabic_line_stands_to_the_left_of_what_precedes_it():
    assert seen("عاصمة Cairo هي.") == [" هي.", "Cairo", "عاصمة "]


def test_a_number_goes_with_the_letters_before_it():
    assert seen("say مرحبا 10.") == ["say ", "مرحبا 10", "."]
    assert seen("שלום in 2024.") == [".", "in 2024", "שלום "]


def test_the_line_end_of_an_arabic_paragraph_is_on_its_left():
    assert seen("ok מה?\n") == ["ok ", "מה", "?↵"]
    assert seen("מה ok\n") == ["↵", "ok", "מה "]


def test_the_direction_of_a_paragraph_is_that_of_its_first_letter():
    lines = wrap(clusters_of("1. שלום\nhello"), lambda c: 1, 1000)
    assert [line.rtl for line in lines] == [True, False]


@given(
    st.lists(st.text(st.sampled_from("ab \n-漢م1."), min_size=1, max_size=8), min_size=1, max_size=10),
    st.integers(8, 30),
)
def test_lines_hold_every_cluster_but_blanks_once_and_in_order_and_fit(pieces, width):
    clusters = clusters_of(*pieces)
    lines = wrap(clusters, lambda c: len(c.text), width)
    held = [c for line in lines for c in line.clusters]
    assert [c for c in held if c.text != " "] == [c for c in clusters if c.text != " "]
    assert {token for c in held for token in c.tokens} == set(range(len(pieces)))
    assert all(sum(len(c.text) for c in line.clusters) <= width for line in lines)
    for line in lines:
        turned = [c for run in visual_runs(line) for c in run.clusters]
        assert sorted(map(id, turned)) == sorted(map(id, line.clusters))
