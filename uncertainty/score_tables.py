"""From scores and texts to the two Arrow tables of a shard, and from a table to parquet bytes.

Nothing that differs between two executions of the same run (times, host names, file names) enters a table or its
footer: the same scores give the same bytes.

Suffix N: completion tokens of the shard, in the order of its examples, then of positions. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from uncertainty.measure_columns import ALL_COLUMNS, columns_of
from uncertainty.score_schema import STATISTICS, example_schema, token_schema
from uncertainty.scores import ExampleText, TokenScores

FOOTER_KEY = "token_uncertainty"
ROW_GROUP_ROWS = 131_072

# Where values repeat. pyarrow's default, a dictionary on every column, makes the file 38 % larger.
_DICTIONARY_COLUMNS = frozenset({"example_id", "turn", "token_id", "token", "n_passes"})


def shard_tables(
    scores: Iterable[TokenScores],
    texts: Sequence[ExampleText],
    kept: Mapping[str, pa.DataType] | None = None,
    added: Sequence[str] = (),
) -> tuple[pa.Table, pa.Table]:
    """The tokens table and the examples table of one shard.

    Args:
        scores: the engine's blocks, examples in any order; together they hold every example of ``texts`` once.
        texts: the shard's examples in the order of the data set. Unusable ones are left out of both tables.
        kept: types of the kept input columns, from ``kept_types`` over the whole run.
        added: the measures that the run adds to those of every run.

    Returns:
        Tables with ``token_schema(added)`` and ``example_schema(kept, added)``. NaN became null; rows follow ``texts``.

    Raises:
        ValueError: scores and texts disagree (an example, a position or a token id), or a measure is NaN at a token
            that has a prediction.
    """
    blocks = list(scores)
    unusable = {name for block in blocks for name in block.unusable}
    scored = [text for text in texts if text.id not in unusable]
    names = columns_of(added)
    columns = _aligned(blocks, scored, unusable, names)
    _check_measures(columns, scored, names)
    return _tokens_table(columns, scored, names), _examples_table(columns, scored, kept or {}, names)


def parquet_bytes(table: pa.Table, footer: bytes) -> bytes:
    """The table as a parquet file: zstd-3, byte-stream-split floats, page checksums, statistics.

    ``footer`` stands in the file's key-value metadata under ``token_uncertainty``.
    """
    sink = pa.BufferOutputStream()
    floats = [item.name for item in table.schema if pa.types.is_floating(item.type)]
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=[name for name in table.schema.names if name in _DICTIONARY_COLUMNS],
        use_byte_stream_split=floats,
        write_statistics=True,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        # Not in the schema's metadata: pyarrow would store it a second time, encoded, in ARROW:schema.
        writer.add_key_value_metadata({FOOTER_KEY: footer})
    return sink.getvalue().to_pybytes()


def rows_sha256(table: pa.Table) -> str:
    """Hex sha256 of the values, whatever the file format: the same rows give the same hash in any pyarrow version."""
    digest = hashlib.sha256()
    for item in table.schema:
        digest.update(f"{item.name}:{item.type}:{table.num_rows}".encode())
        _hash_values(digest, table[item.name].combine_chunks())
    return digest.hexdigest()


def _aligned(
    blocks: Sequence[TokenScores], texts: Sequence[ExampleText], unusable: set[str], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The blocks' columns in the order of the texts, checked against positions and token ids of the texts."""
    place = {text.id: index for index, text in enumerate(texts)}
    named = [name for block in blocks for name in block.ids if name not in unusable]
    if len(place) != len(texts) or sorted(named) != sorted(place):
        odd = sorted(set(named) ^ set(place)) or sorted({name for name in named if named.count(name) > 1})
        raise ValueError(f"scores and texts name different examples, or one twice: {odd[:5]}")
    example_N = _joined([np.array([place.get(n, -1) for n in b.ids], np.int64)[b.example_N] for b in blocks], np.int64)
    columns = {
        "position": _joined([block.position_N for block in blocks], np.int64),
        "token_id": _joined([block.token_id_N for block in blocks], np.int64),
        "n_passes": _joined([block.n_passes_N for block in blocks], np.int64),
        "label_rank": _joined([block.label_rank_N for block in blocks], np.int64),
    }
    for block in blocks:
        if set(block.measures) != set(names):
            raise ValueError(f"scores hold the measures {sorted(block.measures)}, not {sorted(names)}")
    columns |= {name: _joined([b.measures[name] for b in blocks], np.float64) for name in names}
    for name, column in columns.items():
        if column.shape != example_N.shape:
            raise ValueError(f"scores have {column.shape} values of {name} for {example_N.shape} tokens")
    if (example_N < 0).any():
        raise ValueError(f"scores hold rows of examples that they call unusable: {sorted(unusable)[:5]}")
    order = np.lexsort((columns["position"], example_N))
    columns = {name: column[order] for name, column in columns.items()} | {"example": example_N[order]}
    for index, text in enumerate(texts):
        first, last = np.searchsorted(columns["example"], [index, index + 1])
        expected = [text.input_ids[position] for position in text.position]
        same = columns["position"][first:last].tolist() == list(text.position)
        if not same or columns["token_id"][first:last].tolist() != expected:
            raise ValueError(f"scores of example {text.id!r} are not at its completion tokens")
    return columns


def _check_measures(columns: Mapping[str, np.ndarray], texts: Sequence[ExampleText], names: Sequence[str]) -> None:
    """NaN stands for "no prediction" or "too few members": elsewhere it would be an error turned into a null."""
    predicted_N = columns["label_rank"] >= 0
    for name in names:
        due_N = predicted_N & (columns["n_passes"] >= ALL_COLUMNS[name].members)
        wrong_N = np.isnan(columns[name]) & due_N
        if ALL_COLUMNS[name].may_be_unknown and wrong_N.sum() == due_N.sum():
            wrong_N[:] = False
        wrong_N |= ~np.isnan(columns[name]) & ~predicted_N
        if wrong_N.any():
            row = int(np.flatnonzero(wrong_N)[0])
            where = f"position {columns['position'][row]} of example {texts[columns['example'][row]].id!r}"
            raise ValueError(f"{name} is {columns[name][row]} but label_rank {columns['label_rank'][row]} at {where}")


def _tokens_table(columns: Mapping[str, np.ndarray], texts: Sequence[ExampleText], names: Sequence[str]) -> pa.Table:
    lengths = [len(text.position) for text in texts]
    per_token: dict[str, list[Any]] = {
        name: [value for text in texts for value in getattr(text, name)]
        for name in ("turn", "tokens", "char_start", "char_end", "is_special")
    }
    values: dict[str, Any] = {
        "example_id": [text.id for text, length in zip(texts, lengths, strict=True) for _ in range(length)],
        "turn": per_token["turn"],
        "position": columns["position"].astype(np.int32),
        "index_in_completion": [index for length in lengths for index in range(length)],
        "token_id": columns["token_id"].astype(np.int32),
        "token": per_token["tokens"],
        "char_start": per_token["char_start"],
        "char_end": per_token["char_end"],
        "is_special": per_token["is_special"],
        "label_rank": pa.array(columns["label_rank"].astype(np.int32), mask=columns["label_rank"] < 0),
        "n_passes": columns["n_passes"].astype(np.int32),
    }
    for name in names:
        values[name] = pa.array(columns[name].astype(np.float32), mask=np.isnan(columns[name]))
    schema = token_schema(names)
    return pa.table([_array(values[item.name], item.type) for item in schema], schema=schema)


def _examples_table(
    columns: Mapping[str, np.ndarray],
    texts: Sequence[ExampleText],
    kept: Mapping[str, pa.DataType],
    names: Sequence[str],
) -> pa.Table:
    schema = example_schema(kept, names)
    values: dict[str, list[Any]] = {
        "id": [text.id for text in texts],
        "prompt": [text.prompt for text in texts],
        "completion": [text.completion for text in texts],
        "messages": [json.dumps(text.messages, ensure_ascii=False) for text in texts],
        "input_ids": [text.input_ids for text in texts],
        "n_prompt_tokens": [text.n_prompt_tokens for text in texts],
        "n_completion_tokens": [len(text.position) for text in texts],
        "truncated": [text.truncated for text in texts],
    }
    bounds = np.searchsorted(columns["example"], np.arange(len(texts) + 1))
    for name in names:
        for statistic in STATISTICS:
            values[f"{statistic}_{name}"] = []
        for first, last in pairwise(bounds):
            found = columns[name][first:last]
            found = found[~np.isnan(found)]
            for statistic in STATISTICS:
                result = float(getattr(found, statistic)()) if found.size else None
                values[f"{statistic}_{name}"].append(result)
    for name, kind in kept.items():
        values[name] = [_kept_value(text.kept.get(name), kind) for text in texts]
    return pa.table([_array(values[item.name], item.type) for item in schema], schema=schema)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=kind) for part in parts] or [np.empty(0, kind)])


def _kept_value(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    # NaN is how a data frame says that there is no value.
    if value is None or (isinstance(value, float) and value != value):
        return None
    if kind == pa.string() and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)
    return float(value) if kind == pa.float64() else value


def _hash_values(digest: Any, column: pa.Array) -> None:
    """Validity, lengths and values of a column as little-endian bytes; what stands under a null does not count."""
    digest.update(np.packbits(column.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_string(column.type):
        texts = [text.encode() for text in column.drop_null().to_pylist()]
        digest.update(np.array([len(text) for text in texts], "<i8").tobytes() + b"".join(texts))
    elif pa.types.is_list(column.type):
        digest.update(pc.list_value_length(column).drop_null().to_numpy().astype("<i8").tobytes())
        _hash_values(digest, pc.list_flatten(column))
    else:
        values = column.drop_null().to_numpy(zero_copy_only=False)
        digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
