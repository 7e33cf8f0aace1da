import doctest

from analysis import report_parts
from analysis.report_parts import visible, visible_token


def test_doctests_hold():
    assert doctest.testmod(report_parts).failed == 0


def test_nothing_invisible_stays_invisible():
    shown = visible("a\tb\nc\u202ed\x1b[31m")
    assert not set(shown) & set("\t\n\u202e\x1b")


def test_tokens_that_differ_in_blanks_look_different():
    assert len({visible_token(text) for text in ("a", " a", "a ", " a ", "  a", " ", "  ", "")}) == 8
