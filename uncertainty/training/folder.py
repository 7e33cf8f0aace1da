"""The folder of a training run while it is written: its card, its logs, and which run it belongs to.

::

    train.json          the run card: settings, record, what came of it; status "running" until the result is in place
    adapter/ or model/  the result with its tokenizer: what unc-score --model takes
    reference/          the run folder of the reference, where it was made first
    checkpoints/        checkpoint-N, see checkpoints.py
    curriculum.jsonl    one line per logging window: what was selected, see curriculum.py
    metrics.jsonl       one line per thing logged: training loss, learning rate, evaluations
    probe/step-N/       score run folders of the probe

A run folder is resumed only by a run with the same settings: those that decide the numbers.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from uncertainty.durable import lock_folder, make_folder, replace_file, sync_folder
from uncertainty.errors import InputError
from uncertainty.run_info import RunInfo, differences, one_line, plain

SCHEMA_VERSION = 1
FORMAT = "token-uncertainty training"
CARD = "train.json"
METRICS = "metrics.jsonl"
_OWN = {CARD, "adapter", "model", "reference", "checkpoints", "probe", "curriculum.jsonl", METRICS}
_LEFTOVERS = {".lock", ".tmp"}
_STATUSES = ("running", "complete")


class TrainFolder:
    """The folder of a training run, locked by this process; make one with ``TrainFolder.open``. A context manager.

    Attributes:
        path: the folder.
        info: what the card says; ``info.status`` is "complete" if there is nothing left to do.
        resumed: the folder held this run already.
    """

    def __init__(self, path: Path, lock: int | None, info: RunInfo, *, resumed: bool) -> None:
        self.path, self.info, self.resumed = path, info, resumed
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, info: RunInfo, *, overwrite: bool = False) -> TrainFolder:
        """Start a run in a new or empty folder, or go on with the run of the same settings.

        Args:
            path: the folder; made if it is not there.
            info: settings and record of this start.
            overwrite: remove what an earlier training run wrote there and start anew. Other files stay.

        Raises:
            InputError: the path is a file, holds other files and no training run, or a run with other settings (all
                are listed), or is in use by another process; it cannot be written to.
        """
        path = Path(path)
        refuse_foreign(path)
        try:
            make_folder(path)
            lock = lock_folder(path)
        except OSError as error:
            raise InputError(f"{path} cannot be written to ({error.strerror}); choose another --out") from error
        try:
            refuse_foreign(path)
            old = read_card(path) if (path / CARD).exists() else None
            if old is not None and not overwrite and old.fingerprint != info.fingerprint:
                changed = "; ".join(differences(old.settings, info.settings))
                raise InputError(
                    f"{path} holds a training run with other settings ({changed}); choose another --out, or start anew "
                    "with --overwrite"
                )
            make_folder(path / ".tmp")
            if old is not None and overwrite:
                _clear(path, old)
                old = None
            folder = cls(path, lock, info if old is None else old, resumed=old is not None)
            if old is None:
                folder._write_card()
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError) and not isinstance(error, InputError):
                mend = "free space or choose another --out"
                raise InputError(f"{path} cannot be written to ({error.strerror}); {mend}") from error
            raise
        return folder

    def finish(self, totals: Mapping[str, Any], timings: Mapping[str, Any]) -> RunInfo:
        """Put the card that says the run is complete; call it once the result is in place."""
        self.info = dataclasses.replace(self.info, status="complete", totals=dict(totals), timings=dict(timings))
        self._write_card()
        shutil.rmtree(self.path / ".tmp", ignore_errors=True)
        return self.info

    def put(self, name: str, folder: Path) -> Path:
        """Move a finished folder (made under ``staging``) to its name, durably; replaces what was there."""
        sync_tree(folder)
        target = self.path / name
        if target.exists():
            shutil.rmtree(target)
        os.replace(folder, target)
        sync_folder(self.path)
        return target

    def staging(self, name: str) -> Path:
        """A new empty folder on the same file system, for ``put``."""
        folder = self.path / ".tmp" / name
        if folder.exists():
            shutil.rmtree(folder)
        make_folder(folder)
        return folder

    def abandon(self) -> None:
        """Take back a run that was refused before it began, unless there is more than its card already.

        Else the mended command would be refused for its other settings.
        """
        left = {entry.name for entry in self.path.iterdir()} - _LEFTOVERS if self._lock is not None else set()
        if self.resumed or left != {CARD}:
            return
        (self.path / CARD).unlink()
        shutil.rmtree(self.path / ".tmp", ignore_errors=True)
        (self.path / ".lock").unlink()
        with suppress(OSError):  # somebody else wrote into it
            self.path.rmdir()

    def log(self, row: Mapping[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``; JSON has no NaN and no infinity, they become null."""
        finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
        text = json.dumps(plain(finite, METRICS), allow_nan=False) + "\n"
        with (self.path / METRICS).open("a", encoding="ascii") as stream:
            stream.write(text)

    def cut(self, step: int) -> None:
        """Drop the lines of ``metrics.jsonl`` after ``step``, and one that a crash cut in two."""
        path = self.path / METRICS
        if path.exists():
            kept = [line for line in path.read_text(encoding="ascii").splitlines() if _step_of(line) <= step]
            replace_file(path, "".join(f"{line}\n" for line in kept).encode("ascii"), self.path / ".tmp")

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> TrainFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_card(self) -> None:
        replace_file(self.path / CARD, card_json(self.info), self.path / ".tmp")


def card_json(info: RunInfo) -> bytes:
    """The content of ``train.json``."""
    head = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "fingerprint": info.fingerprint}
    fields = {name: value for name, value in dataclasses.asdict(info).items() if name != "n_shards"}
    return json.dumps(head | fields, indent=2).encode("ascii") + b"\n"


def read_card(run: str | Path) -> RunInfo:
    """What ``train.json`` of a training run folder says.

    Raises:
        InputError: no training run there, or a damaged card.
    """
    path = Path(run) / CARD
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{run} holds no {CARD}; name the folder that unc-train wrote (its --out)") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); train again with --overwrite") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise InputError(f"{path} was not written by unc-train; choose another folder")
    if fields.get("schema_version") != SCHEMA_VERSION:
        found = fields.get("schema_version")
        raise InputError(f"{path} has schema version {found}, this program reads {SCHEMA_VERSION}; update it")
    kinds = {"settings": dict, "record": dict, "timings": dict, "status": str, "totals": dict}
    if not all(isinstance(fields.get(name), kind) for name, kind in kinds.items()):
        raise InputError(f"{path} is damaged (a field is missing); train again with --overwrite")
    info = RunInfo(**{name: fields[name] for name in kinds})
    if info.fingerprint != fields.get("fingerprint") or info.status not in _STATUSES:
        raise InputError(f"{path} is damaged (settings and fingerprint differ); train again with --overwrite")
    return info


def read_evaluations(run: str | Path) -> dict[str, tuple[float, float, float | None]]:
    """Held-out set -> (loss before training, loss after it, KL to the reference after it or None), nats per token."""
    found: dict[str, tuple[float, float, float | None]] = {}
    path = Path(run) / METRICS
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    for row in (json.loads(line) for line in lines if _step_of(line) < float("inf")):
        for key, value in row.items():
            if key.startswith("eval_") and key.endswith("_loss") and value is not None:
                name = key.removeprefix("eval_").removesuffix("_loss")
                first = found[name][0] if name in found else value
                found[name] = (first, value, row.get(f"eval_{name}_kl"))
    return found


def refuse_foreign(path: Path) -> None:
    """Refuse a path that is a file, or a folder with other files and no training run; looks, and writes nothing.

    Raises:
        InputError: see above.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; choose a folder for --out")
    if not path.is_dir() or (path / CARD).exists():
        return
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in _LEFTOVERS)
    if foreign:
        raise InputError(f"{path} holds other files ({foreign[0]}) and no training run; choose another --out")


def sync_tree(folder: Path) -> None:
    """Make every file and name under a folder durable."""
    for root, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(root) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(root))


def _clear(path: Path, old: RunInfo) -> None:
    """Remove what a run wrote but for its card, which the next one replaces.

    Killed at any point this leaves the old run, interrupted: its checkpoints go first, so it would start from its
    beginning.
    """
    interrupted = dataclasses.replace(old, status="running", totals={}, timings={})
    replace_file(path / CARD, card_json(interrupted), path / ".tmp")
    for name in ("checkpoints", *sorted(_OWN - {CARD, "checkpoints"})):
        gone = path / ".tmp" / f"{name}-gone"
        if gone.is_dir():
            shutil.rmtree(gone)
        with suppress(FileNotFoundError):
            os.replace(path / name, gone)  # in one piece: half a reference would look like a whole one
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # torn: it is not kept
