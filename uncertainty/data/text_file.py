"""Local files as strict UTF-8 text: lines, whole texts, and the place of whatever is wrong in them."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from uncertainty.errors import InputError

BOM: Final = b"\xef\xbb\xbf"
OTHER_ENCODINGS: Final = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


@dataclass(frozen=True)
class Place:
    """Where a row begins in a text file: line and column count characters from 1, a byte order mark is not counted."""

    path: Path
    line: int
    column: int = 1


class Record(NamedTuple):
    """A row as a reader finds it: its fields, where it stands in words, and its place where the file is text."""

    fields: dict[str, Any]
    where: str
    place: Place | None = None


class Line(NamedTuple):
    """One line without its newline; ``ended`` is False on a last line that no newline closes."""

    number: int
    text: str
    ended: bool


def read_lines(path: Path) -> Iterator[Line]:
    r"""Yield the lines of a UTF-8 file, plain or ``.gz``; only ``\n`` and ``\r\n`` end a line.

    Raises:
        InputError: the file cannot be opened, is not UTF-8 (the line and column of the first bad byte), or its
            compressed stream is damaged.
    """
    number = 0
    try:
        with open_bytes(path) as stream:
            for number, raw in enumerate(stream, start=1):
                if number == 1:
                    raw = _without_mark(raw, path)
                ended = raw.endswith(b"\n")
                yield Line(number, decode_line(raw.removesuffix(b"\n").removesuffix(b"\r"), path, number), ended)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} line {number + 1} column 1: the gzip stream is damaged or cut off here; fetch the file again"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_text(path: Path) -> str:
    r"""Return the whole of a UTF-8 file with ``\n`` as its only line end; raises as `read_lines` does."""
    lines = list(read_lines(path))
    return "\n".join(line.text for line in lines) + ("\n" if lines and lines[-1].ended else "")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacking it where its name ends in ``.gz``."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")


def decode_line(raw: bytes, path: Path, number: int) -> str:
    """Decode one line, or say at which column it stops being UTF-8 text."""
    if b"\0" in raw:
        column = len(raw[: raw.index(b"\0")].decode("utf-8", "replace")) + 1
        raise InputError(
            f"{path} line {number} column {column}: a NUL byte, so this is UTF-16 or binary; save the file as UTF-8"
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        column = len(raw[: error.start].decode("utf-8")) + 1
        byte = raw[error.start]
        surrogate = byte == 0xED and raw[error.start + 1 : error.start + 2] >= b"\xa0"
        what = "a lone surrogate" if surrogate else f"the byte 0x{byte:02X}"
        raise InputError(
            f"{path} line {number} column {column}: {what} is not UTF-8; save the file as UTF-8"
        ) from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes as they lie on disk, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _without_mark(raw: bytes, path: Path) -> bytes:
    for mark, encoding in OTHER_ENCODINGS.items():
        if raw.startswith(mark):
            raise InputError(f"{path} line 1 column 1: the file is {encoding}; save it as UTF-8")
    return raw.removeprefix(BOM)
