"""The scores of one run: the types that carry them, and the reader of a run folder.

A run folder holds::

    run.json                        RunInfo; status "running" until every shard is committed, then "complete"
    tokens/part-00000.parquet ...   one row per completion token (columns: uncertainty/score_tables.py)
    examples/part-00000.parquet ... one row per example
    receipts/part-00000.json ...    sha256, bytes and rows of a shard's two files: the receipt is the commit
    skipped.jsonl                   the rows that were not scored, with the reason

``tokens/`` and ``examples/`` hold nothing but parquet, so pandas, polars, duckdb and datasets open them without
this package. ``read_scores`` and ``read_examples`` add what those cannot know: whether the run is complete, and
whether every file is the one that was written. For that each file is hashed before it is parsed, which costs well
under a second a gigabyte and finds what page checksums cannot: damage in page headers and in the footer.

No torch here. Source of the receipt protocol: see uncertainty/run_folder.py.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from uncertainty.errors import InputError
from uncertainty.measure_columns import ADDED_COLUMNS, ALL_COLUMNS, MEASURE_COLUMNS, measures_among
from uncertainty.run_info import SCHEMA_VERSION, RunInfo, canonical_json, one_line, read_run

__all__ = [
    "ADDED_COLUMNS", "ALL_COLUMNS", "MEASURE_COLUMNS", "ExampleText", "RunInfo", "TokenScores", "measures_among",
    "read_examples", "read_run", "read_scores", "run_measures",
]  # fmt: skip

RunPath = str | Path
Columns = Sequence[str] | None
Ids = str | Iterable[str] | None


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What the engine yields: one row per completion token.

    Attributes:
        ids: the examples of this block.
        example_N: int64, index into ``ids``.
        position_N: int64, index of the predicted token in the rendered sequence.
        token_id_N: int64, the label.
        n_passes_N: int64, members that went into the row.
        label_rank_N: int64, 0 = the label is the most probable token; -1 = no prediction (position 0).
        measures: name -> float64 N for every name of ``MEASURE_COLUMNS`` and the measures that the run adds, in the
            units of ``ALL_COLUMNS``; NaN where there is no prediction.
        unusable: example id -> why it has no rows (non-finite logits).
    """

    ids: tuple[str, ...]
    example_N: np.ndarray
    position_N: np.ndarray
    token_id_N: np.ndarray
    n_passes_N: np.ndarray
    label_rank_N: np.ndarray
    measures: dict[str, np.ndarray]
    unusable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExampleText:
    """What the data road knows of one example.

    Attributes:
        id: unique in the run.
        prompt: text of what stands before the first completion token.
        completion: what all completion tokens spell, turns one after the other, special tokens as literal text.
        messages: the conversation as read.
        input_ids: the rendered sequence.
        truncated: the sequence was cut at the maximum length.
        n_prompt_tokens: tokens that are not completion.
        turn: message index of each completion token.
        position: index in ``input_ids`` of each completion token, ascending.
        tokens: each completion token as a person reads it.
        char_start: first character of each completion token in ``completion``.
        char_end: one past its last character.
        is_special: whether it is a special token of the tokenizer.
        kept: the input columns to keep.
    """

    id: str
    prompt: str
    completion: str
    messages: list[dict[str, Any]]
    input_ids: list[int]
    truncated: bool
    n_prompt_tokens: int
    turn: list[int]
    position: list[int]
    tokens: list[str]
    char_start: list[int]
    char_end: list[int]
    is_special: list[bool]
    kept: dict[str, Any] = field(default_factory=dict)


@overload
def read_scores(
    run: RunPath, *, columns: Columns = ..., as_: Literal["pandas"] = ..., example: Ids = ..., partial: bool = ...
) -> pd.DataFrame: ...
@overload
def read_scores(run: RunPath, *, columns: Columns = ..., as_: str, example: Ids = ..., partial: bool = ...) -> Any: ...
def read_scores(
    run: RunPath, *, columns: Columns = None, as_: str = "pandas", example: Ids = None, partial: bool = False
) -> Any:
    """The token table of a run, one row per completion token, in the order of the data set.

    Args:
        run: the run folder.
        columns: the columns wanted, in that order; all if None. ``bald`` means, and comes back as, ``epistemic``.
        as_: "pandas", "arrow" or "polars". In pandas a null measure is NaN and ``label_rank`` is ``Int32``.
        example: only the rows of this example id, or of these.
        partial: read what an unfinished run has committed so far instead of refusing it.

    Returns:
        The table. A pandas frame carries path, fingerprint and settings of the run in ``attrs["run"]``.

    Raises:
        InputError: no run, an unfinished one, a damaged file (named), an unknown column or example id.
    """
    return _read(Path(run), "tokens", columns, as_, example, partial)


@overload
def read_examples(
    run: RunPath, *, columns: Columns = ..., as_: Literal["pandas"] = ..., example: Ids = ..., partial: bool = ...
) -> pd.DataFrame: ...
@overload
def read_examples(
    run: RunPath, *, columns: Columns = ..., as_: str, example: Ids = ..., partial: bool = ...
) -> Any: ...
def read_examples(
    run: RunPath, *, columns: Columns = None, as_: str = "pandas", example: Ids = None, partial: bool = False
) -> Any:
    """The examples table of a run, one row per scored example; arguments and errors as ``read_scores``.

    ``mean_bald``, ``sum_bald`` and ``max_bald`` mean the ``_epistemic`` columns.
    """
    return _read(Path(run), "examples", columns, as_, example, partial)


def run_measures(run: RunPath, *, partial: bool = False) -> tuple[str, ...]:
    """The measures that a run's token table has, in the order of ``ALL_COLUMNS``.

    Those of ``MEASURE_COLUMNS`` (a run of an older version may lack some) and what its ``--measures`` added.

    Raises:
        InputError: no run, an unfinished one, or a damaged file.
    """
    return measures_among(read_scores(run, example=(), as_="arrow", partial=partial).column_names)


def part_name(table: str, shard: int) -> str:
    """File of a shard inside the run folder; ``table`` is "tokens", "examples" or "receipts"."""
    return f"{table}/part-{shard:05d}.{'json' if table == 'receipts' else 'parquet'}"


def seal(receipt: dict[str, Any]) -> bytes:
    """A receipt as file content, with the hash over itself that ``load_receipt`` asks for."""
    return canonical_json(receipt | {"receipt_sha256": hashlib.sha256(canonical_json(receipt)).hexdigest()})


def load_receipt(run: Path, shard: int, fingerprint: str) -> dict[str, Any] | None:
    """The receipt of a shard, or None if it is missing, damaged, or of a run with other settings."""
    try:
        content = (run / part_name("receipts", shard)).read_bytes()
        receipt = json.loads(content)
        whole = seal({name: value for name, value in receipt.items() if name != "receipt_sha256"})
    except (OSError, ValueError, AttributeError):
        # What cannot be read, is not JSON or not an object proves nothing: the shard is not committed.
        return None
    mine = (SCHEMA_VERSION, fingerprint, shard)
    found = (receipt.get("schema_version"), receipt.get("fingerprint"), receipt.get("shard"))
    return receipt if content == whole and found == mine else None


def read_part(run: Path, part: dict[str, Any]) -> bytes:
    """The content of a committed file, once it is proven to be what the receipt says.

    Raises:
        InputError: missing, or other bytes than those written.
    """
    path = run / part["file"]
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; {_RECOMPUTE}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {_RECOMPUTE}") from error
    if len(content) != part["bytes"]:
        raise InputError(f"{path} is damaged ({len(content)} bytes, {part['bytes']} were written); {_RECOMPUTE}")
    if hashlib.sha256(content).hexdigest() != part["sha256"]:
        raise InputError(f"{path} is damaged (its sha256 is not its receipt's); {_RECOMPUTE}")
    return content


def _read(run: Path, table: str, columns: Columns, as_: str, example: Ids, partial: bool) -> Any:
    if as_ not in _CONVERSIONS:
        raise InputError(f"as_ is {as_!r}; it must be one of {', '.join(_CONVERSIONS)}")
    info = read_run(run)
    receipts = _committed(run, info, partial)
    wanted = None if example is None else [example] if isinstance(example, str) else list(example)
    if wanted is not None:
        receipts = _holding(run, receipts, wanted)
    parts = [_load(run, receipt[table], columns, wanted) for receipt in receipts]
    return _CONVERSIONS[as_](pa.concat_tables(parts), run, info)


def _committed(run: Path, info: RunInfo, partial: bool) -> list[dict[str, Any]]:
    found = [load_receipt(run, shard, info.fingerprint) for shard in range(info.n_shards)]
    receipts = [receipt for receipt in found if receipt is not None]
    if info.status != "complete" and not (partial and receipts):
        command = info.record.get("command") or ""
        again = one_line(command if isinstance(command, str) else shlex.join(command))
        mend = f"run its command again to finish it{f' ({again})' if again else ''}"
        reading = ", or read what is there with partial=True" if receipts else ""
        there = f"{len(receipts)} of {info.n_shards} shards are there"
        raise InputError(f"{run} is an unfinished run: {there}; {mend}{reading}")
    if len(receipts) < info.n_shards and not (partial and receipts):
        name = run / part_name("receipts", found.index(None))
        raise InputError(f"{name} is missing or damaged; {_RECOMPUTE}")
    return receipts


def _holding(run: Path, receipts: list[dict[str, Any]], wanted: list[str]) -> list[dict[str, Any]]:
    """The receipts of the shards in which the wanted examples are."""
    known = {name for receipt in receipts for name in receipt["ids"]}
    for name in wanted:
        if name not in known:
            raise InputError(f"{run} has no scored example {name!r}{_nearest(str(name), known)}")
    holding = [receipt for receipt in receipts if not set(wanted).isdisjoint(receipt["ids"])]
    # No id at all asks for an empty table with the right columns.
    return holding or receipts[:1]


def _load(run: Path, part: dict[str, Any], columns: Columns, wanted: list[str] | None) -> pa.Table:
    file = pq.ParquetFile(pa.BufferReader(read_part(run, part)))
    names = file.schema_arrow.names
    chosen = names if columns is None else _resolve(columns, names, str(run / part["file"]))
    if wanted is None:
        return file.read(columns=chosen).select(chosen)
    id_name = names[0]
    table = file.read(columns=list(dict.fromkeys([*chosen, id_name])))
    return table.filter(pc.is_in(table[id_name], value_set=pa.array(wanted, pa.string()))).select(chosen)


def _resolve(columns: Sequence[str], names: list[str], where: str) -> list[str]:
    """The asked columns under the table's own names, each once."""
    chosen: dict[str, None] = {}
    for column in [columns] if isinstance(columns, str) else columns:
        alias = column == "bald" or str(column).endswith("_bald")
        name = str(column).removesuffix("bald") + "epistemic" if alias and column not in names else column
        if name not in names:
            raise InputError(f"{where} has no column {column!r}{_nearest(str(column), [*names, 'bald'])}")
        chosen[name] = None
    return list(chosen)


def _nearest(word: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""


def _to_pandas(table: pa.Table, run: Path, info: RunInfo) -> pd.DataFrame:
    frame = table.to_pandas()
    if "label_rank" in table.column_names:
        # Left to itself the column is int32 or float64, depending on whether this selection holds a null.
        frame["label_rank"] = table["label_rank"].to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
    # Plain JSON, and not the whole record: pandas copies attrs with every operation and writes them to parquet.
    frame.attrs["run"] = {"path": str(run), "fingerprint": info.fingerprint, "settings": info.settings}
    return frame


def _to_polars(table: pa.Table, run: Path, info: RunInfo) -> Any:
    try:
        import polars  # optional: only who asks for it needs it
    except ImportError as error:
        raise InputError("as_='polars' needs the package polars; install it or use as_='arrow'") from error
    return polars.from_arrow(table)


_RECOMPUTE = "run the scoring command again: it recomputes this shard only"
_CONVERSIONS = {"pandas": _to_pandas, "arrow": lambda table, run, info: table, "polars": _to_polars}
