"""From the name of a data set to its rows: a local file or folder, a saved data set, or the Hugging Face hub."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from uncertainty.data.files import (
    READERS,
    UNITS,
    known_suffix,
    read_arrow,
    read_file,
    saved_files,
    saved_splits,
)
from uncertainty.data.formats import (
    FORMATS,
    Message,
    Row,
    UnusableRow,
    check_format,
    choose_format,
    conversation,
    settle_format,
)
from uncertainty.data.jsonlines import kind_of
from uncertainty.data.text_file import Record, sha256_of
from uncertainty.errors import InputError

__all__ = ["FORMATS", "ROW_NUMBER", "Message", "Row", "Source", "UnusableRow", "conversation", "read_source"]

ROW_NUMBER: Final = "row-number"  # as `id_column`: number the rows, also where there is a column `id`
HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?")
OFFLINE: Final = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass(frozen=True)
class Source:
    """A data set that was read.

    Attributes:
        origin: as the user named it.
        kind: "file", "folder", "saved" or "hub".
        format: a name in ``FORMATS``.
        columns: all names, in the order in which they were first seen.
        files: relative path -> sha256 of each file that was read; empty for the hub.
        revision: commit of a hub data set, where it is known.
        rows: in order.
    """

    origin: str
    kind: str
    format: str
    columns: list[str]
    files: dict[str, str]
    revision: str | None
    rows: list[Row]


@dataclass
class _Read:
    """What a kind of source gives before columns, format and ids are settled."""

    kind: str
    records: list[Record] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    revision: str | None = None


def read_source(
    dataset: str,
    *,
    split: str | None = None,
    format: str | None = None,
    id_column: str | None = None,
    limit: int | None = None,
    sample_by: str = "paragraph",
) -> Source:
    """Read a data set.

    Args:
        dataset: a ``.jsonl``, ``.json``, ``.txt``, ``.csv`` (each also ``.gz``) or ``.parquet`` file; a folder of such
            files, read in the order of their names; a folder that `datasets` saved to disk; or a hub id, with
            ``:config`` after it where the data set has several.
        split: of a hub or saved data set; of a folder, the files named ``split`` or ``split-...``.
        format: a name in ``FORMATS``; None decides from the column names.
        id_column: the column with the ids; None takes ``id`` where there is one, else the row number, which
            ``ROW_NUMBER`` asks for by name.
        limit: read only the first rows.
        sample_by: what is one row of a text file: ``paragraph``, ``line`` or ``document``.

    Raises:
        InputError: one line: what is wrong, where, and the mend.
    """
    _check_options(format, limit, sample_by)
    path = Path(dataset).expanduser()
    splits = saved_splits(path) if path.is_dir() else {}
    if splits:
        read = _read_saved(dataset, splits, split, limit)
    elif path.is_dir():
        read = _read_folder(path, split, limit, sample_by)
    elif path.exists():
        read = _read_one(path, split, limit, sample_by)
    elif _looks_like_path(dataset, path):
        _no_such_path(dataset, path)
    else:
        read = _read_hub(dataset, split, limit)
    if not read.records:
        raise InputError(f"{dataset} has no rows; give a data set with at least one")
    columns = list(dict.fromkeys(name for record in read.records for name in record.fields))
    chosen = choose_format(columns, format, dataset)
    rows = _with_ids(read.records, columns, id_column, dataset)
    return Source(dataset, read.kind, settle_format(rows, chosen), columns, read.files, read.revision, rows)


def _check_options(format: str | None, limit: int | None, sample_by: str) -> None:
    if format is not None:
        check_format(format)
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: at least one row is needed; give 1 or more")
    if sample_by not in UNITS:
        _nearest("--sample-by", sample_by, UNITS)


def _read_one(path: Path, split: str | None, limit: int | None, sample_by: str) -> _Read:
    if split is not None:
        raise InputError(f"--split {split}: {path} is one file, which has no splits; leave --split out")
    records = read_file(path, limit=limit, sample_by=sample_by)
    return _Read("file", records, {path.name: sha256_of(path)})


def _read_folder(folder: Path, split: str | None, limit: int | None, sample_by: str) -> _Read:
    read = _Read("folder")
    first: tuple[str, set[str]] | None = None
    for path in _files_of(folder, split):
        if limit is not None and len(read.records) >= limit:
            break
        records = read_file(path, limit=None if limit is None else limit - len(read.records), sample_by=sample_by)
        columns = {name for record in records for name in record.fields}
        if first is None and records:
            first = path.name, columns
        elif first is not None and records and columns != first[1]:
            raise InputError(
                f"{folder}: {path.name} has the columns {', '.join(sorted(columns))} and {first[0]} has "
                f"{', '.join(sorted(first[1]))}; name one file, or a folder whose files have the same columns"
            )
        read.records.extend(records)
        read.files[path.name] = sha256_of(path)
    return read


def _files_of(folder: Path, split: str | None) -> list[Path]:
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    files = [folder / name for name in names if any(name.lower().endswith(suffix) for suffix in READERS)]
    if not files:
        inside = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        hint = f"; it has the folders {', '.join(inside[:5])}: name one of them" if inside else ""
        raise InputError(f"{folder}: no file here ends in {', '.join(READERS)}{hint}")
    if split is None:
        return files
    stems = {path: path.name[: -len(known_suffix(path))] for path in files}
    chosen = [path for path, stem in stems.items() if re.fullmatch(rf"{re.escape(split)}([-_.].*)?", stem)]
    if not chosen:
        _nearest(f"{folder}: --split", split, sorted(set(stems.values())))
    return chosen


def _read_saved(origin: str, splits: dict[str, Path], split: str | None, limit: int | None) -> _Read:
    name = _choose_split(origin, split, list(splits))
    folder = splits[name]
    read = _Read("saved")
    for path in saved_files(folder):
        for record in read_arrow(path):
            if limit is not None and len(read.records) >= limit:
                break
            read.records.append(record)
        read.files[path.relative_to(Path(origin).expanduser()).as_posix()] = sha256_of(path)
        if limit is not None and len(read.records) >= limit:
            break
    return read


def _read_hub(origin: str, split: str | None, limit: int | None) -> _Read:
    """Load from the hub or its cache, with the `datasets` library, which is imported here only."""
    if not HUB_ID.fullmatch(origin):
        raise InputError(f"{origin!r} is neither a file, a folder nor a hub id (owner/name); check --dataset")
    try:
        import datasets
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ImportError as error:
        raise InputError(
            f"{origin}: a hub data set needs the package {error.name}; install it, or give a local file"
        ) from error
    name, _, config = origin.partition(":")
    try:
        builder = datasets.load_dataset_builder(name, config or None)
        builder.download_and_prepare()
        chosen = _choose_split(origin, split, [str(known) for known in (builder.info.splits or {})])
        table: Any = builder.as_dataset(chosen)
    except (OSError, ValueError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(_hub_failure(origin, error)) from error
    if limit is not None:
        table = table.select(range(min(limit, len(table))))
    records = [Record(dict(fields), f"{origin} row {number}") for number, fields in enumerate(table)]
    revision = builder.hash if re.fullmatch(r"[0-9a-f]{40}", builder.hash or "") else None
    return _Read("hub", records, {}, revision)


def _hub_failure(origin: str, error: Exception) -> str:
    offline = [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    what = " ".join(str(error).split())[:300]
    if offline:
        return f"{origin} is not in the cache and {offline[0]} is set; give a local file or unset it ({what})"
    return f"{origin} cannot be loaded from the hub ({what}); check its name, or give a local file"


def _choose_split(origin: str, split: str | None, splits: Sequence[str]) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split is None:
        raise InputError(f"{origin} has the splits {', '.join(splits) or '(none)'}; choose one with --split")
    if split not in splits:
        _nearest(f"{origin}: --split", split, splits)
    return split


def _with_ids(records: list[Record], columns: list[str], id_column: str | None, origin: str) -> list[Row]:
    if id_column is not None and id_column not in (*columns, ROW_NUMBER):
        _nearest(f"{origin}: --id-column", id_column, [*columns, ROW_NUMBER])
    column = id_column or ("id" if "id" in columns else ROW_NUMBER)
    rows = []
    for number, record in enumerate(records):
        name = str(number) if column == ROW_NUMBER else _id_of(record, column)
        rows.append(Row(number, name, record.fields, record.where, record.place))
    _refuse_duplicates(rows, column, origin)
    return rows


def _id_of(record: Record, column: str) -> str:
    value = record.fields.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        found = "missing" if value in (None, "") else kind_of(value)
        raise InputError(
            f"{record.where}: the id in column {column!r} is {found} where a string or whole number is needed; "
            f"mend it, or number the rows with --id-column {ROW_NUMBER}"
        )
    return str(value)


def _refuse_duplicates(rows: Iterable[Row], column: str, origin: str) -> None:
    seen: dict[str, Row] = {}
    twice: list[str] = []
    count = 0
    for row in rows:
        if row.id in seen:
            count += 1
            if len(twice) < 3:
                twice.append(f"{row.id!r} ({seen[row.id].where} and {row.where})")
        seen.setdefault(row.id, row)
    if count:
        raise InputError(
            f"{origin}: {count} rows repeat an id of column {column!r}: {', '.join(twice)}"
            f"{' ...' if count > len(twice) else ''}; make them unique, or use --id-column {ROW_NUMBER}"
        )


def _looks_like_path(dataset: str, path: Path) -> bool:
    """Whether a name that is no file is meant as one, so that a slip of the pen does not go out to the hub."""
    shaped = dataset.startswith((".", "/", "~")) or dataset.endswith(("/", ".gz")) or "\\" in dataset
    deep = dataset.count("/") > 1
    suffixed = any(dataset.lower().endswith(suffix) for suffix in READERS)
    return shaped or deep or suffixed or ("/" in dataset and path.parent.is_dir())


def _no_such_path(dataset: str, path: Path) -> NoReturn:
    if not path.parent.is_dir():
        raise InputError(f"{dataset}: no such file, and no folder {path.parent} either; check --dataset")
    names = sorted(p.name for p in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = (
        f"did you mean {path.parent / near[0]}?" if near else f"{path.parent} has {', '.join(names[:5]) or 'nothing'}"
    )
    raise InputError(f"{dataset}: no such file or folder; {hint}")


def _nearest(option: str, given: str, valid: Sequence[str]) -> NoReturn:
    near = difflib.get_close_matches(given, valid, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(f"{option} {given} is unknown; choose one of {', '.join(valid)}{hint}")
