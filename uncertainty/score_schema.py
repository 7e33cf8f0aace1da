"""The columns of the tokens table and of the examples table; unit and meaning in each field's metadata.

Long layout, one row per completion token: an engine then filters, groups and correlates without unnesting, and one
example out of a large run is read by its row group. Measures are float32 in the tokens table (float16 is not read
everywhere). No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from uncertainty.errors import InputError
from uncertainty.measure_columns import ALL_COLUMNS, columns_of

STATISTICS = {
    "mean": "mean of {} over the predicted tokens",
    "sum": "sum of {} over the predicted tokens",
    "max": "largest {} of the predicted tokens",
}


def _field(name: str, kind: pa.DataType, unit: str, meaning: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit, "meaning": meaning})


def _measure(name: str) -> pa.Field:
    column = ALL_COLUMNS[name]
    few = "with too few passes and " if column.members > 1 else ""
    meaning = f"{column.meaning}; null {few}where nothing is predicted (the first token of a sequence)"
    return _field(name, pa.float32(), column.unit, meaning, nullable=True)


_PLACE_FIELDS = [
    _field("example_id", pa.string(), "", "id of the example; key of the examples table"),
    _field("turn", pa.int32(), "index", "message of the conversation that the token belongs to"),
    _field("position", pa.int32(), "index", "place of the token in the example's input_ids"),
    _field("index_in_completion", pa.int32(), "index", "place of the token among the completion tokens"),
    _field("token_id", pa.int32(), "id", "id of the token in the tokenizer's vocabulary"),
    _field("token", pa.string(), "", "the token as it reads in the text; part of a character as <0xE2>"),
    _field("char_start", pa.int32(), "characters", "first character of the token in the completion text"),
    _field("char_end", pa.int32(), "characters", "one past the last character of the token"),
    _field("is_special", pa.bool_(), "", "special token of the tokenizer (end of turn, end of text)"),
]
_COUNT_FIELDS = [
    _field(
        "label_rank",
        pa.int32(),
        "rank",
        "tokens that are more probable, dropout off (0: it is the most probable); null where nothing is predicted",
        nullable=True,
    ),
    _field("n_passes", pa.int32(), "members", "dropout passes that went into the row"),
]
_EXAMPLE_FIELDS = [
    _field("id", pa.string(), "", "id of the example; example_id of the tokens table"),
    _field("prompt", pa.string(), "", "text before the first completion token"),
    _field("completion", pa.string(), "", "what the completion tokens spell; char_start and char_end index into it"),
    _field("messages", pa.string(), "JSON", "the conversation: a list of objects with role and content"),
    _field("input_ids", pa.list_(pa.field("element", pa.int32())), "id", "the rendered sequence"),
    _field("n_prompt_tokens", pa.int32(), "tokens", "tokens that are not completion"),
    _field("n_completion_tokens", pa.int32(), "tokens", "completion tokens: rows in the tokens table"),
    _field("truncated", pa.bool_(), "", "the sequence was cut at the maximum length"),
]


def token_schema(added: Iterable[str] = ()) -> pa.Schema:
    """The tokens table's columns; ``added`` are the measures beside those of every run."""
    return pa.schema([*_PLACE_FIELDS, *(_measure(name) for name in columns_of(added)), *_COUNT_FIELDS])


def _statistics(names: Iterable[str]) -> list[pa.Field]:
    # float64, from the engine's float64 values: a sum of thousands of float32 values would lose digits.
    return [
        _field(
            f"{statistic}_{name}",
            pa.float64(),
            ALL_COLUMNS[name].unit,
            f"{meaning.format(name)}; null if there is none",
            nullable=True,
        )
        for name in names
        for statistic, meaning in STATISTICS.items()
    ]


def kept_types(rows: Iterable[Mapping[str, Any]]) -> dict[str, pa.DataType]:
    """Column types for the kept input columns of a whole run.

    They must be the same in every shard, so they are chosen from all rows before the first shard is written: bool,
    int64, float64 or string where all values agree (numbers may mix), JSON text where they do not. A column without
    a value is string.

    Raises:
        InputError: a kept column has the name of a column of the examples table.
    """
    kinds: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            seen = kinds.setdefault(name, set())
            if value is not None:
                seen.add(_kind(value))
    # The measures that a run could add count as well: a column should not mean one thing here and another there.
    own = {item.name for item in (*_EXAMPLE_FIELDS, *_statistics(ALL_COLUMNS))}
    for name in kinds:
        if name in own:
            mend = "rename it in the data set, or leave it out"
            raise InputError(f"--keep-columns: {name!r} is already a column of the examples table; {mend}")
    return {name: _KEPT_TYPES.get(frozenset(seen), pa.string()) for name, seen in kinds.items()}


def example_schema(kept: Mapping[str, pa.DataType] | None = None, added: Iterable[str] = ()) -> pa.Schema:
    """The examples table's columns, the kept input columns last; ``added`` as in ``token_schema``."""
    columns = [_field(name, kind, "", "column of the data set", nullable=True) for name, kind in (kept or {}).items()]
    return pa.schema([*_EXAMPLE_FIELDS, *_statistics(columns_of(added)), *columns])


def _kind(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "other"
    return {float: "float", str: "str"}.get(type(value), "other")


_KEPT_TYPES: dict[frozenset[str], pa.DataType] = {
    frozenset({"bool"}): pa.bool_(),
    frozenset({"int"}): pa.int64(),
    frozenset({"float"}): pa.float64(),
    frozenset({"int", "float"}): pa.float64(),
}

TOKEN_SCHEMA = token_schema()  # of a run that adds nothing
