"""The folder of a run while it is written: shards are committed one by one, and a killed run resumes.

A shard is its two parquet files, then its receipt with their hashes, each put in place by ``durable.replace_file``:
**the receipt is the commit**. A shard whose receipt does not prove both files is scored again, so that whatever point
the process dies at, the same command ends with the same bytes. Only the process that holds the folder's lock writes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from uncertainty.durable import lock_folder, make_folder, replace_file, sync_folder
from uncertainty.errors import InputError
from uncertainty.run_info import SCHEMA_VERSION, RunInfo, canonical_json, differences, plain, read_run
from uncertainty.score_tables import parquet_bytes, rows_sha256
from uncertainty.scores import load_receipt, part_name, read_part, seal

_OWN_BEFORE_RUN_JSON = {".lock", ".tmp"}
_TABLES = {"tokens": re.compile(r"part-\d{5}\.parquet"), "examples": re.compile(r"part-\d{5}\.parquet")}
_FOLDERS = _TABLES | {"receipts": re.compile(r"part-\d{5}\.json")}
_KEPT = "what is finished is kept: run the same command again"


class RunFolderError(InputError, OSError):
    """The disk refused a write: full, read-only, failing. ``errno`` says which.

    An ``InputError``, because the message is one line with a mend and no traceback helps the user; an ``OSError``
    for callers that look at ``errno``.
    """


class RunFolder:
    """The folder of a run, locked by this process; make one with ``RunFolder.open``. A context manager.

    Attributes:
        path: the folder, as it was given.
        info: what ``run.json`` says; of the first start if this one resumes. ``info.status`` is "complete" if the
            run was finished and every shard is still whole: there is nothing to do, ``finish`` included.
        todo: shards that were not committed when the folder was opened, ascending.
        resumed: the folder held this run already.
        record_changes: what the record says otherwise than at the first start, as ``name: old -> new``: settings
            are equal but, say, a library is of another version. The caller shows it; receipts keep it.
    """

    def __init__(self, path: Path, lock: int, info: RunInfo, footer: bytes, record_changes: Sequence[str]) -> None:
        self.path = path
        self.info = info
        self.record_changes = tuple(record_changes)
        self.resumed = False
        self.todo: tuple[int, ...] = tuple(range(info.n_shards))
        self._lock: int | None = lock
        self._footer = footer

    @classmethod
    def open(cls, path: str | Path, info: RunInfo, n_shards: int, *, overwrite: bool = False) -> RunFolder:
        """Start a run in a new or empty folder, or resume the run with the same settings.

        Args:
            path: the folder; made if it is not there.
            info: settings, record and timings of this start.
            n_shards: shards the run is cut into, at least 1.
            overwrite: remove what an earlier run wrote there and start anew. Other files stay.

        Raises:
            InputError: the path is a file, holds other files and no run, a run with other settings (all are
                listed), or is being written by another process; it cannot be written to or locked.
        """
        if n_shards < 1:
            raise ValueError(f"n_shards is {n_shards}; a run has at least one shard")
        path = Path(path)
        info = dataclasses.replace(info, status="running", totals={}, n_shards=n_shards)
        refuse_foreign(path)
        try:
            make_folder(path)
            lock = lock_folder(path)
        except OSError as error:
            raise InputError(f"{path} cannot be written to ({error.strerror}); choose another --out") from error
        try:
            # Looked at again: another process may have written here before this one got the lock.
            refuse_foreign(path)
            old = read_run(path) if (path / "run.json").exists() else None
            if old is not None and not overwrite:
                _refuse_other_settings(path, old, info)
            changes = differences(old.record, info.record) if old is not None and not overwrite else []
            folder = cls(path, lock, info, info.footer(), changes)
            folder._sweep()
            if old is None or overwrite:
                folder._start(clear=old is not None)
            else:
                folder._resume(old)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError) and not isinstance(error, InputError):
                raise _refusal(path, "preparing the folder", error) from error
            raise
        return folder

    def is_committed(self, shard: int) -> bool:
        """Whether the receipt of a shard proves both of its files: size and sha256, under the run's fingerprint."""
        receipt = load_receipt(self.path, shard, self.info.fingerprint)
        if receipt is None:
            return False
        try:
            for table in _TABLES:
                read_part(self.path, receipt[table])
        except InputError:
            return False
        return True

    def commit(
        self,
        shard: int,
        tokens: pa.Table,
        examples: pa.Table,
        skipped: Iterable[Mapping[str, Any]] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write both tables of a shard, then its receipt; when this returns, the shard survives a power failure.

        Args:
            shard: 0 to n_shards - 1.
            tokens: from ``score_tables.shard_tables``.
            examples: likewise.
            skipped: rows of this shard that have no scores, plain values, for ``skipped.jsonl``.
            facts: what is worth keeping of this execution (seconds, peak memory): in the receipt only.

        Raises:
            RunFolderError: the disk refused. The shard is not committed and no temporary file is left.
        """
        self._require_lock()
        if not 0 <= shard < self.info.n_shards:
            raise ValueError(f"shard {shard} of a run of {self.info.n_shards}")
        receipt: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": self.info.fingerprint,
            "shard": shard,
            "ids": examples["id"].to_pylist(),
            "skipped": plain([dict(row) for row in skipped], "skipped"),
            "record_changes": list(self.record_changes),
            "facts": plain(dict(facts or {}), "facts"),
        }
        for table, rows in zip(_TABLES, (tokens, examples), strict=True):
            content = parquet_bytes(rows, self._footer)
            name = part_name(table, shard)
            receipt[table] = {
                "file": name,
                "rows": rows.num_rows,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "rows_sha256": rows_sha256(rows),
            }
            self._write(name, content)
        self._write(part_name("receipts", shard), seal(receipt))

    def receipts(self) -> list[dict[str, Any]]:
        """The receipts of all committed shards in order; each holds ``facts``, ``skipped``, rows and bytes."""
        found = (load_receipt(self.path, shard, self.info.fingerprint) for shard in range(self.info.n_shards))
        return [receipt for receipt in found if receipt is not None]

    def finish(
        self,
        *,
        skipped: Iterable[Mapping[str, Any]] = (),
        timings: Mapping[str, Any] | None = None,
        totals: Mapping[str, Any] | None = None,
    ) -> RunInfo:
        """Write ``skipped.jsonl`` and the final ``run.json``; the run is then complete.

        Args:
            skipped: rows that never came to a shard. Those of the receipts are added; all are sorted by ``row``
                (number in the data set) where they have one, then by ``id``.
            timings: added to those of the start.
            totals: added to the totals of the receipts: ``shards, examples, tokens, bytes, skipped`` (by reason)
                and ``rows_sha256`` (of all rows of both tables, in order).

        Raises:
            RunFolderError: the disk refused.
            ValueError: a shard is not committed, or an example stands in two shards.
        """
        self._require_lock()
        missing = [shard for shard in range(self.info.n_shards) if not self.is_committed(shard)]
        if missing:
            raise ValueError(f"{self.path} cannot be finished: shards {missing[:5]} are not committed")
        receipts = self.receipts()
        count = Counter(name for receipt in receipts for name in receipt["ids"])
        if twice := [name for name, times in count.items() if times > 1]:
            raise ValueError(f"examples stand in two shards: {twice[:5]}")
        rows = plain([dict(row) for row in skipped], "skipped") + [
            row for receipt in receipts for row in receipt["skipped"]
        ]
        rows.sort(key=lambda row: (row.get("row", -1), str(row.get("id", ""))))
        self._write("skipped.jsonl", b"".join(canonical_json(row) + b"\n" for row in rows))
        changes = sorted({change for receipt in receipts for change in receipt["record_changes"]})
        volatile = {**self.info.timings, **(timings or {})} | ({"record_changes": changes} if changes else {})
        summed = _totals(receipts, rows) | dict(totals or {})
        self.info = dataclasses.replace(self.info, status="complete", timings=volatile, totals=summed)
        self._write("run.json", self.info.to_json())
        return self.info

    def close(self) -> None:
        """Give the lock back; the folder can be resumed. Nothing else to do, and a second call does nothing."""
        if self._lock is None:
            return
        with suppress(OSError):
            (self.path / ".tmp").rmdir()
        os.close(self._lock)
        self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, *, clear: bool) -> None:
        if clear:
            # Receipts first: from then on nothing counts as committed, whatever is killed in between.
            for name in ("receipts", *_TABLES):
                _remove_parts(self.path / name, _FOLDERS[name])
            (self.path / "skipped.jsonl").unlink(missing_ok=True)
        self._write("run.json", self.info.to_json())
        self._make_folders()

    def _resume(self, old: RunInfo) -> None:
        self.resumed = True
        self.info = old
        self._make_folders()
        self.todo = tuple(shard for shard in range(old.n_shards) if not self.is_committed(shard))
        if old.status == "complete" and (self.todo or not (self.path / "skipped.jsonl").exists()):
            self.info = dataclasses.replace(old, status="running", totals={})
            self._write("run.json", self.info.to_json())

    def _make_folders(self) -> None:
        for name in _FOLDERS:
            (self.path / name).mkdir(exist_ok=True)
        sync_folder(self.path)

    def _sweep(self) -> None:
        """Remove what a killed process left half-written; nobody else can be writing, for this one has the lock."""
        shutil.rmtree(self.path / ".tmp", ignore_errors=True)
        (self.path / ".tmp").mkdir(exist_ok=True)

    def _require_lock(self) -> None:
        if self._lock is None:
            raise ValueError(f"{self.path} was closed")

    def _write(self, name: str, content: bytes) -> None:
        try:
            replace_file(self.path / name, content, self.path / ".tmp")
        except OSError as error:
            raise _refusal(self.path, f"writing {name} ({len(content)} bytes)", error) from error


def refuse_foreign(path: Path) -> None:
    """Stop where the folder is not ours to write in; touches nothing."""
    try:
        names = {entry.name for entry in path.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise InputError(f"{path} is, or lies under, a file; choose a folder with --out") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); choose another --out") from error
    if "run.json" not in names and (foreign := sorted(names - _OWN_BEFORE_RUN_JSON)):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(f"{path} holds other files ({foreign[0]!r}{more}) and no run; choose another --out")


def _refuse_other_settings(path: Path, old: RunInfo, new: RunInfo) -> None:
    found = differences(old.settings, new.settings)
    # The cut into shards does not change a score, but it changes which file a row is in.
    found += differences({"n_shards": old.n_shards}, {"n_shards": new.n_shards})
    if found:
        mend = "add --overwrite to replace it or choose another --out"
        raise InputError(f"{path} holds a run with other settings: {'; '.join(found)}; {mend}")


def _remove_parts(folder: Path, pattern: re.Pattern[str]) -> None:
    if folder.is_dir():
        for entry in folder.iterdir():
            if pattern.fullmatch(entry.name):
                entry.unlink()
        sync_folder(folder)


def _totals(receipts: Sequence[dict[str, Any]], skipped: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    parts = [receipt[table] for receipt in receipts for table in _TABLES]
    return {
        "shards": len(receipts),
        "examples": sum(receipt["examples"]["rows"] for receipt in receipts),
        "tokens": sum(receipt["tokens"]["rows"] for receipt in receipts),
        "bytes": sum(part["bytes"] for part in parts),
        "skipped": dict(sorted(Counter(str(row.get("reason", "unknown")) for row in skipped).items())),
        "rows_sha256": hashlib.sha256("".join(part["rows_sha256"] for part in parts).encode()).hexdigest(),
    }


def _refusal(path: Path, doing: str, error: OSError) -> RunFolderError:
    free = ""
    with suppress(OSError):
        free = f", {shutil.disk_usage(path).free} bytes free"
    refusal = RunFolderError(f"{path}: {error.strerror} while {doing}{free}; {_KEPT}")
    refusal.errno = error.errno
    return refusal
