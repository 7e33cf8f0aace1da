"""A strict walk over JSON text that knows the position of everything: used to say where a row is wrong.

The fast parser of the standard library accepts lone surrogates, repeated keys and NaN, and cannot say where a value
stands. This walk is slow and is run only on rows that are suspected or known to be wrong.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Final

MAX_DEPTH: Final = 100  # levels of nesting; real data sets have fewer than ten
SPACE: Final = re.compile(r"[ \t\n\r]*")
NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
UNFINISHED: Final = re.compile(r"\.|[eE][+-]?")
PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]*')
HEX4: Final = re.compile(r"[0-9a-fA-F]{4}")
WORD: Final = re.compile(r"[-+]?[A-Za-z_]\w*")


class Fault(ValueError):  # noqa: N818 - turned into an InputError by whoever knows the file
    """The first thing wrong in a JSON text: ``position`` counts characters from 0.

    ``cut`` is True where the text merely ends too early.
    """

    def __init__(self, position: int, what: str, *, cut: bool = False) -> None:
        super().__init__(what)
        self.position, self.what, self.cut = position, what, cut


def check(text: str, position: int = 0, *, whole: bool = True) -> int:
    """Walk one value and return the position after it.

    Args:
        text: JSON text.
        position: where the value (or white space before it) begins.
        whole: nothing but white space may follow.

    Raises:
        Fault: bad syntax, a repeated key, a lone surrogate, NaN or Infinity, a number too large, nesting deeper than
            ``MAX_DEPTH``.
    """
    end = _Walk(text, None).value(position, 0, ())
    if whole and _skip(text, end) < len(text):
        raise Fault(_skip(text, end), "text after the end of the value")
    return end


def find(text: str, keys: Sequence[str | int], position: int = 0) -> int | None:
    """Return where the value under a path of keys and indices begins, None where there is none."""
    walk = _Walk(text, tuple(keys))
    walk.value(position, 0, ())
    return walk.found


class _Walk:
    """One pass over a text; notes where the value under ``wanted`` begins."""

    def __init__(self, text: str, wanted: tuple[str | int, ...] | None) -> None:
        self.text, self.wanted = text, wanted
        self.found: int | None = None

    def value(self, position: int, depth: int, path: tuple[str | int, ...]) -> int:
        position = _skip(self.text, position)
        if path == self.wanted:
            self.found = position
        if depth > MAX_DEPTH:
            raise Fault(position, f"nesting deeper than {MAX_DEPTH} levels")
        head = self.text[position : position + 1]
        if head == "{":
            return self._object(position, depth, path)
        if head == "[":
            return self._array(position, depth, path)
        if head == '"':
            return self._string(position)[1]
        return self._scalar(position)

    def _object(self, position: int, depth: int, path: tuple[str | int, ...]) -> int:
        seen: set[str] = set()
        position = _skip(self.text, position + 1)
        if self.text.startswith("}", position):
            return position + 1
        while True:
            self._expect('"', position, "a key in double quotes")
            key, after = self._string(position)
            if key in seen:
                raise Fault(position, f"the key {key!r} occurs twice in one object")
            seen.add(key)
            after = _skip(self.text, after)
            self._expect(":", after, "a colon")
            position = _skip(self.text, self.value(after + 1, depth + 1, (*path, key)))
            if self.text.startswith("}", position):
                return position + 1
            self._expect(",", position, "a comma or }")
            position = _skip(self.text, position + 1)

    def _array(self, position: int, depth: int, path: tuple[str | int, ...]) -> int:
        position = _skip(self.text, position + 1)
        if self.text.startswith("]", position):
            return position + 1
        index = 0
        while True:
            position = _skip(self.text, self.value(position, depth + 1, (*path, index)))
            if self.text.startswith("]", position):
                return position + 1
            self._expect(",", position, "a comma or ]")
            position, index = position + 1, index + 1

    def _string(self, position: int) -> tuple[str, int]:
        text, at, parts = self.text, position + 1, []
        while True:
            plain = PLAIN.match(text, at)
            assert plain is not None  # the pattern matches the empty string
            parts.append(plain[0])
            at = plain.end()
            if at >= len(text):
                raise Fault(at, "a string that is not closed", cut=True)
            if text[at] == '"':
                return "".join(parts), at + 1
            if text[at] != "\\":
                raise Fault(at, f"the control character U+{ord(text[at]):04X} inside a string, where \\u is needed")
            piece, at = self._escape(at)
            parts.append(piece)

    def _escape(self, at: int) -> tuple[str, int]:
        text, letter = self.text, self.text[at + 1 : at + 2]
        if letter != "u":
            if not letter:
                raise Fault(at, "a string that is not closed", cut=True)
            if letter not in '"\\/bfnrt':
                raise Fault(at, f"the escape \\{letter}, which JSON does not have")
            return letter, at + 2
        unit = self._unit(at)
        if 0xD800 <= unit < 0xDC00 and text.startswith("\\u", at + 6):
            low = self._unit(at + 6)
            if 0xDC00 <= low < 0xE000:
                return chr(0x10000 + ((unit - 0xD800) << 10) + low - 0xDC00), at + 12
        if 0xD800 <= unit < 0xE000:
            raise Fault(at, f"the lone surrogate \\u{unit:04x}, half of a character")
        return chr(unit), at + 6

    def _unit(self, at: int) -> int:
        digits = HEX4.match(self.text, at + 2)
        if digits is None:
            raise Fault(at, "a \\u without four hexadecimal digits", cut=at + 6 > len(self.text))
        return int(digits[0], 16)

    def _scalar(self, position: int) -> int:
        text = self.text
        for word in ("true", "false", "null"):
            if text.startswith(word, position):
                return position + len(word)
        if position >= len(text):
            raise Fault(position, "the end of the text where a value is needed", cut=True)
        number = NUMBER.match(text, position)
        if number is None or text.startswith("-Infinity", position):
            name = WORD.match(text, position)
            rest = text[position:]
            cut = name is not None and name[0] == rest and any(w.startswith(rest) for w in ("true", "false", "null"))
            shown = name[0] if name is not None else text[position]
            raise Fault(position, f"{shown!r}, which is no JSON value", cut=cut or rest == "-")
        if UNFINISHED.fullmatch(text, number.end()):
            raise Fault(position, "a number that does not end", cut=True)
        self._check_size(number, position)
        return number.end()

    def _check_size(self, number: re.Match[str], position: int) -> None:
        whole = not number[1] and not number[2]
        limit = sys.get_int_max_str_digits()
        if whole and limit and len(number[0].lstrip("-")) > limit:
            raise Fault(position, f"a number of {len(number[0])} digits")
        if not whole and float(number[0]) in (float("inf"), float("-inf")):
            raise Fault(position, f"the number {number[0][:20]}, which is too large")

    def _expect(self, sign: str, position: int, what: str) -> None:
        if not self.text.startswith(sign, position):
            if position >= len(self.text):
                raise Fault(position, f"the end of the text where {what} is needed", cut=True)
            raise Fault(position, f"{self.text[position]!r} where {what} is needed")


def _skip(text: str, position: int) -> int:
    space = SPACE.match(text, position)
    assert space is not None  # the pattern matches the empty string
    return space.end()
