"""One reader per kind of local file: JSON, CSV, text, parquet, and the arrow files of a saved data set.

Nothing here opens a socket or writes a cache; the `datasets` library is not needed.
"""

from __future__ import annotations

import csv
import difflib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from uncertainty.data.jsonlines import read_json, read_json_lines
from uncertainty.data.text_file import Place, Record, read_lines
from uncertainty.errors import InputError

END_OF_TEXT: Final = "<|endoftext|>"
UNITS: Final = ("paragraph", "line", "document")
BATCH_ROWS: Final = 1024  # rows of a parquet file that are Python objects and arrow at the same time


def read_file(path: Path, *, limit: int | None = None, sample_by: str = "paragraph") -> list[Record]:
    """Read the rows of one file by the reader of its suffix.

    Args:
        path: a file.
        limit: read only the first rows.
        sample_by: what is one row of a ``.txt`` file: ``paragraph``, ``line`` or ``document``.

    Raises:
        InputError: the suffix is unknown, or the reader's own.
    """
    reader = READERS[known_suffix(path)]
    if reader is read_csv:
        return read_csv(path, limit)
    rows = read_units(path, sample_by) if reader is read_units else reader(path)
    return list(itertools.islice(rows, limit))


def known_suffix(path: Path) -> str:
    """Return the suffix that decides how a file is read.

    Raises:
        InputError: no reader has it; the nearest that has one is named.
    """
    name = path.name.lower()
    for suffix in sorted(READERS, key=len, reverse=True):
        if name.endswith(suffix):
            return suffix
    found = "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:])
    near = difflib.get_close_matches(found, READERS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(
        f"{path}: the suffix {found or '(none)'} is unknown; a data set file ends in {', '.join(READERS)}{hint}"
    )


def read_csv(path: Path, limit: int | None = None) -> list[Record]:
    """Read a comma-separated file with a header line; every value stays the string that it is.

    Raises:
        InputError: not UTF-8, a row with more or fewer fields than the header, a quote that is not closed.
    """
    before = csv.field_size_limit(2**31 - 1)  # the module's own limit of 131,072 characters refuses long documents
    try:
        return list(itertools.islice(_csv_rows(path), limit))
    finally:
        csv.field_size_limit(before)


def read_units(path: Path, sample_by: str = "paragraph") -> Iterator[Record]:
    """Yield the paragraphs, lines or documents of a text file as rows with the one column ``text``.

    A paragraph ends at a blank line, a document only at a line ``<|endoftext|>``, which also ends every other unit
    and belongs to none. Inner line ends are kept, blank lines around a unit are not.

    Raises:
        InputError: not UTF-8.
    """
    unit: list[str] = []
    start = 0
    for line in read_lines(path):
        blank, mark = not line.text.strip(), line.text.strip() == END_OF_TEXT
        ends = mark or (blank and sample_by == "paragraph")
        if not ends and not (blank and not unit):
            start = start if unit else line.number
            unit.append(line.text)
        if unit and (ends or sample_by == "line"):
            yield _unit(unit, path, start)
            unit = []
    if unit:
        yield _unit(unit, path, start)


def read_parquet(path: Path) -> Iterator[Record]:
    """Yield the rows of a parquet file.

    Raises:
        InputError: the file is no parquet or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for fields in batch.to_pylist():
                    yield Record(fields, f"{path.name} row {number}")
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a sound parquet file ({_one_line(error)}); write it again") from error


def read_arrow(path: Path) -> Iterator[Record]:
    """Yield the rows of one arrow stream file of a saved data set; raises as `read_parquet` does."""
    import pyarrow as pa

    number = 0
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                for fields in batch.to_pylist():
                    yield Record(fields, f"{path.name} row {number}")
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a sound arrow file ({_one_line(error)}); save it again") from error


def saved_splits(folder: Path) -> dict[str, Path]:
    """Return the splits of a folder that `datasets` saved to disk: name -> folder; none where it is no such folder.

    Raises:
        InputError: the folder's own list of its splits cannot be read.
    """
    if (folder / "dataset_dict.json").is_file():
        names = _json_file(folder / "dataset_dict.json").get("splits", [])
        return {name: folder / name for name in names}
    if (folder / "state.json").is_file():
        return {str(_json_file(folder / "state.json").get("_split") or "train"): folder}
    return {}


def saved_files(folder: Path) -> list[Path]:
    """Return the arrow files of one saved split, in order.

    Raises:
        InputError: ``state.json`` is missing or damaged, or names a file that is not there.
    """
    state = _json_file(folder / "state.json")
    files = [folder / part["filename"] for part in state.get("_data_files", [])]
    for file in files:
        if not file.is_file():
            raise InputError(f"{folder}: state.json names {file.name}, which is not there; save the data set again")
    return files


def _csv_rows(path: Path) -> Iterator[Record]:
    rows = csv.reader((line.text + "\n" for line in read_lines(path)), strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for values in rows:
            if values and header is None:
                header = _checked_header(values, path, line)
            elif values and header is not None:
                if len(values) != len(header):
                    raise InputError(
                        f"{path} line {line}: {len(values)} fields where the header has {len(header)}; put text "
                        'that contains commas, quotes or line ends in double quotes ("...")'
                    )
                yield Record(dict(zip(header, values, strict=True)), f"{path.name} line {line}")
            line = rows.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path} line {line}: {error} in the row that begins here; mend its quotes") from error


def _checked_header(names: list[str], path: Path, line: int) -> list[str]:
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise InputError(f"{path} line {line}: the header names {twice[0]!r} twice; rename one of the columns")
    return names


def _unit(lines: list[str], path: Path, start: int) -> Record:
    while not lines[-1].strip():
        lines = lines[:-1]
    return Record({"text": "\n".join(lines)}, f"{path.name} line {start}", Place(path, start))


def _json_file(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_one_line(error)}); save the data set again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not the file that saving a data set writes; save the data set again")
    return value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


READERS: Final[dict[str, Callable[..., Any]]] = {
    ".jsonl": read_json_lines,
    ".jsonl.gz": read_json_lines,
    ".json": read_json,
    ".json.gz": read_json,
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".txt": read_units,
    ".txt.gz": read_units,
}
