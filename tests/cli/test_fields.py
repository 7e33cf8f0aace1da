"""Texts to values, and the near names that a refusal offers."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from uncertainty.cli.fields import nearest, option, option_table, quoted, same_option
from uncertainty.errors import InputError


@dataclass(frozen=True)
class Numbers:
    """Options to read numbers and paths with."""

    whole: int = option(0, "a whole number")
    decimal: float = option(0.0, "a decimal number")
    folder: Path = option(Path(), "a path")


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("-3", -3), ("+3", 3), ("1_000", 1000), ("007", 7)])
def test_whole_numbers_are_read(text: str, value: int) -> None:
    assert option_table(Numbers)["whole"].value([text], "here") == value


@pytest.mark.parametrize(
    "text",
    [
        *("", " 1", "1 ", "1_", "_1", "1__0", "0x10", "1e3", "1.0", "true", "１"),
        "9" * (sys.get_int_max_str_digits() + 1),
    ],
)
def test_what_is_not_a_whole_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^here: .{1,70} is not a whole number; the default is 0$"):
        option_table(Numbers)["whole"].value([text], "here")


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1.0), ("1.", 1.0), (".5", 0.5), ("-1e-1", -0.1), ("1E+3", 1000.0), ("1_0.2_5", 10.25)]
)
def test_decimal_numbers_are_read(text: str, value: float) -> None:
    assert option_table(Numbers)["decimal"].value([text], "here") == value


@pytest.mark.parametrize("text", ["", ".", "e5", "1e", "nan", "inf", "-Infinity", "1e309", "0x1p3", "1,5", "½", "1 0"])
def test_what_is_not_a_finite_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^here: .* is not a finite number; the default is 0.0$"):
        option_table(Numbers)["decimal"].value([text], "here")


def test_a_tilde_means_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert option_table(Numbers)["folder"].value(["~/runs"], "here") == Path("/home/somebody/runs")
    assert option_table(Numbers)["folder"].value(["~nobody-of-that-name/x"], "here") == Path("~nobody-of-that-name/x")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("--pases", "; did you mean --passes?"),
        ("--tokens", "; did you mean --tokens-per-batch?"),
        ("--", ""),
        ("--colour", ""),
    ],
)
def test_the_nearest_name_is_offered(text: str, hint: str) -> None:
    assert nearest(text, ["--passes", "--tokens-per-batch", "--rate"]) == hint


def test_long_texts_are_cut_when_they_are_shown() -> None:
    assert quoted("x" * 60) == repr("x" * 60)
    assert quoted("x" * 61) == repr("x" * 57 + "...")
    assert quoted("two\nlines") == r"'two\nlines'"


@dataclass(frozen=True)
class Other:
    """Options of another command."""

    rows: int | None = option(None, "rows to read", unit="rows", group="data")
    kind: str = option("b", "a kind", choices=("a", "b"))


@dataclass(frozen=True)
class Borrower:
    """Options that stand in another command too."""

    kind: str = same_option(Other, "kind")
    rows: int | None = same_option(Other, "rows")


def test_an_option_of_another_command_is_the_same_here() -> None:
    assert {name: option_table(Borrower)[name] for name in ("rows", "kind")} == option_table(Other)
    assert Borrower() == Borrower(kind="b", rows=None)


def test_an_option_that_the_other_command_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="not enough values"):
        same_option(Other, "columns")
