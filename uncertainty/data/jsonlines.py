"""The strict reader of JSON lines and JSON arrays: every row an object, every fault named by file, line and column."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from uncertainty.data.json_scan import MAX_DEPTH, SPACE, Fault, check, find
from uncertainty.data.text_file import Line, Place, Record, read_lines, read_text
from uncertainty.errors import InputError

SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_lines(path: Path) -> Iterator[Record]:
    """Yield the rows of a ``.jsonl`` file; blank lines are passed over.

    Raises:
        InputError: the file is not UTF-8, or a line is not one JSON object: what, line, column.
    """
    for line in read_lines(path):
        if line.text.strip(" \t\r"):
            yield _row_of_line(line, path)


def read_json(path: Path) -> Iterator[Record]:
    """Yield the rows of a ``.json`` file: an array of objects, or JSON lines.

    Raises:
        InputError: as `read_json_lines`, or the file is one single object over several lines.
    """
    text = read_text(path)
    start = _after_space(text, 0)
    if text.startswith("[", start):
        yield from _rows_of_array(text, start, path)
        return
    if text.startswith("{", start) and _is_one_object_on_many_lines(text, start):
        _stop(path, text, start, "the file is one object; rows are an array [...] of objects, or one object a line")
    yield from read_json_lines(path)


def locate(place: Place, keys: Sequence[str | int]) -> tuple[int, int]:
    """Return line and column (both from 1) of the value under a path of keys in a row that was read before.

    The file is read again: this is for error messages only.
    """
    text = read_text(place.path)
    start = 0
    for _ in range(place.line - 1):
        start = text.index("\n", start) + 1
    found = find(text, keys, start + place.column - 1)
    return _line_and_column(text, start + place.column - 1 if found is None else found)


def _row_of_line(line: Line, path: Path) -> Record:
    try:
        value, _ = _parse(line.text, 0, whole=True)
    except Fault as fault:
        if fault.cut and not line.ended:
            _stop_at(path, line.number, fault.position + 1, "the last line is cut off here", "write the file again")
        _stop_at(path, line.number, fault.position + 1, fault.what)
    column = _after_space(line.text, 0) + 1
    _check_object(value, path, line.number, column)
    return Record(value, f"{path.name} line {line.number}", Place(path, line.number, column))


def _rows_of_array(text: str, start: int, path: Path) -> Iterator[Record]:
    position = _after_space(text, start + 1)
    line, counted, number = 1, 0, 0
    closed = text.startswith("]", position)
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        column = position - (text.rfind("\n", 0, position) + 1) + 1
        try:
            value, after = _parse(text, position, whole=False)
        except Fault as fault:
            _stop(path, text, fault.position, "the file is cut off here" if fault.cut else fault.what)
        _check_object(value, path, line, column)
        yield Record(value, f"{path.name} row {number} (line {line})", Place(path, line, column))
        number, after = number + 1, _after_space(text, after)
        closed = text.startswith("]", after)
        if not closed and not text.startswith(",", after):
            cut = after >= len(text)
            _stop(path, text, after, "the file is cut off here" if cut else "a comma or ] is needed after a row")
        position = after if closed else _after_space(text, after + 1)
    if (after := _after_space(text, position + 1)) < len(text):
        _stop(path, text, after, "text after the end of the array")


def _parse(text: str, position: int, *, whole: bool) -> tuple[Any, int]:
    """Parse one value with the fast parser; `Fault` where it, or the strict walk, finds anything wrong."""
    start = _after_space(text, position)
    try:
        value, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        check(text, start, whole=whole)
        at = error.pos if isinstance(error, json.JSONDecodeError) else start
        raise Fault(at, str(error)) from error  # the walk sees nothing: the parser's own words
    deep = text.count("[", start, end) + text.count("{", start, end) > MAX_DEPTH
    if deep or SURROGATE.search(text, start, end):
        check(text, start, whole=whole)
    if whole and _after_space(text, end) < len(text):
        raise Fault(_after_space(text, end), "text after the end of the row")
    return value, end


def _is_one_object_on_many_lines(text: str, start: int) -> bool:
    first = text[start:].split("\n", 1)[0]
    try:
        check(first)
    except Fault as fault:
        if not fault.cut:
            return False
    else:
        return False
    try:
        check(text, start)
    except Fault:
        return False
    return True


def _check_object(value: Any, path: Path, line: int, column: int) -> None:
    if not isinstance(value, dict):
        mend = "; a JSON array of rows belongs in a .json file" if isinstance(value, list) else ""
        _stop_at(path, line, column, f"a row is an object {{...}}, this is {kind_of(value)}{mend}")


def kind_of(value: Any) -> str:
    """Name a JSON value's type for a person, short values with it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value:.6g}" if abs(value) < 1e15 else "a number"
    names: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _stop(path: Path, text: str, position: int, what: str) -> NoReturn:
    _stop_at(path, *_line_and_column(text, position), what)


def _stop_at(path: Path, line: int, column: int, what: str, mend: str = "mend the file") -> NoReturn:
    raise InputError(f"{path} line {line} column {column}: {what}; {mend}")


def _line_and_column(text: str, position: int) -> tuple[int, int]:
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def _after_space(text: str, position: int) -> int:
    space = SPACE.match(text, position)
    assert space is not None  # the pattern matches the empty string
    return space.end()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return fields


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
