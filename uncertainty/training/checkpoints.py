"""Checkpoints that can be trusted: the receipt is the commit, and a damaged one gives way to the last good one.

``transformers.Trainer`` writes a checkpoint as some ten files, one after the other; a process that dies in between
leaves a folder that looks like a checkpoint. Here a folder counts only once ``receipt.json`` stands in it with the
size and SHA-256 of every other file, and older checkpoints are removed only after that.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncertainty.durable import replace_file
from uncertainty.run_info import canonical_json
from uncertainty.training.folder import sync_tree

RECEIPT = "receipt.json"
STATE = "token_state.npz"  # the curriculum record and the running quantile
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Found:
    """What ``last_good`` found.

    Attributes:
        path: the newest checkpoint that is whole; None to start from the beginning.
        step: its optimizer step, 0 without one.
        damaged: newer ones that are not whole: one line each, with the reason.
    """

    path: Path | None
    step: int
    damaged: tuple[str, ...]


def commit(checkpoint: Path, fingerprint: str) -> None:
    """Make every file of a checkpoint durable and put the receipt that proves them.

    Raises:
        OSError: the disk refused.
    """
    sync_tree(checkpoint)
    body: dict[str, Any] = {"fingerprint": fingerprint, "files": _contents(checkpoint)}
    replace_file(checkpoint / RECEIPT, canonical_json(body | {"sha256": _seal(body)}), checkpoint)


def last_good(folder: Path, fingerprint: str) -> Found:
    """The newest whole checkpoint of a run, and what is wrong with newer ones."""
    damaged: list[str] = []
    for step, path in sorted(_checkpoints(folder), reverse=True):
        reason = _damage(path, fingerprint)
        if reason is None:
            return Found(path, step, tuple(damaged))
        damaged.append(f"{path.name}: {reason}")
    return Found(None, 0, tuple(damaged))


def remove_older(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints that have a receipt, and those without one that are older."""
    whole = sorted((step, path) for step, path in _checkpoints(folder) if (path / RECEIPT).exists())
    if not whole:
        return
    oldest = whole[-keep:][0][0]
    for step, path in _checkpoints(folder):
        if step < oldest:
            shutil.rmtree(path)


def remove_newer(folder: Path, step: int) -> None:
    """Remove checkpoints after ``step``: they are damaged, or will be written again."""
    for at, path in _checkpoints(folder):
        if at > step:
            shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    found = [(_NAME.fullmatch(entry.name), entry) for entry in folder.iterdir()]
    return [(int(match.group(1)), entry) for match, entry in found if match]


def _damage(checkpoint: Path, fingerprint: str) -> str | None:
    try:
        text = json.loads((checkpoint / RECEIPT).read_bytes())
    except FileNotFoundError:
        return "it was not finished"
    except (OSError, ValueError):
        return "its receipt cannot be read"
    if not isinstance(text, dict):
        return "its receipt is damaged"
    body = {name: value for name, value in text.items() if name != "sha256"}
    if text.get("sha256") != _seal(body) or not isinstance(body.get("files"), dict):
        return "its receipt is damaged"
    if body.get("fingerprint") != fingerprint:
        return "it is of a run with other settings"
    try:
        found = _contents(checkpoint)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    for name, expected in body["files"].items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != expected:
            return f"{name} is damaged"
    return None


def _contents(checkpoint: Path) -> dict[str, list[Any]]:
    contents: dict[str, list[Any]] = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != checkpoint / RECEIPT:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            contents[path.relative_to(checkpoint).as_posix()] = [path.stat().st_size, digest]
    return contents


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()
