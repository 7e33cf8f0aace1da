"""What is known of a run: its settings and their fingerprint, its record, and ``run.json``.

The fingerprint is the hash of the settings alone. It stands in ``run.json``, in every receipt and in the footer of
every parquet file, and decides whether a folder may be resumed. No torch here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from uncertainty.errors import InputError

SCHEMA_VERSION = 1
RUN_FORMAT = "token-uncertainty run"


@dataclass(frozen=True)
class RunInfo:
    """Everything needed to repeat a run, and what came of it.

    All values become plain JSON (paths as text, tuples as lists, sets sorted, NumPy scalars as numbers), so that an
    info read back from ``run.json`` equals the one that was written.

    Attributes:
        settings: what decides the numbers; its hash is the ``fingerprint`` that every shard carries.
        record: what describes the run without deciding its numbers (resolved sites, versions, git state); stable
            from start to resume. Settings and record stand in the footer of every parquet file.
        timings: what differs from one execution to the next (times, host, peak memory): in run.json only.
        status: "running" or "complete".
        totals: counts of the finished run (examples, tokens, bytes, skipped by reason) and the hash of all rows.
        n_shards: shards the run is cut into.

    Raises:
        TypeError: a value that JSON has no form for.
        ValueError: NaN or an infinity.
    """

    settings: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    status: str = "running"
    totals: dict[str, Any] = field(default_factory=dict)
    n_shards: int = 0

    def __post_init__(self) -> None:
        for name in ("settings", "record", "timings", "totals"):
            object.__setattr__(self, name, plain(getattr(self, name), name))

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the canonical JSON of ``settings``."""
        return hashlib.sha256(canonical_json(self.settings)).hexdigest()

    def footer(self) -> bytes:
        """Settings and record as JSON: what every parquet file of the run carries, equal in all of them."""
        stable = {"schema_version": SCHEMA_VERSION, "fingerprint": self.fingerprint}
        return canonical_json(stable | {"settings": self.settings, "record": self.record})

    def to_json(self) -> bytes:
        """The content of ``run.json``."""
        head = {"format": RUN_FORMAT, "schema_version": SCHEMA_VERSION, "fingerprint": self.fingerprint}
        # ASCII only: a lone surrogate in a path or option must not make the run unwritable.
        return json.dumps(head | dataclasses.asdict(self), indent=2).encode("ascii") + b"\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> RunInfo:
        """Read the content of a ``run.json``; ``where`` names it in messages.

        Raises:
            InputError: not JSON, not a run of this package, of another version, or altered settings.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise InputError(f"{where} is damaged ({one_line(error)}); score again into another folder") from error
        if not isinstance(fields, dict) or fields.get("format") != RUN_FORMAT:
            raise InputError(f"{where} was not written by unc-score; choose another folder")
        version = fields.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(f"{where} has schema version {version}, this program reads {SCHEMA_VERSION}; update it")
        kinds = {"settings": dict, "record": dict, "timings": dict, "status": str, "totals": dict, "n_shards": int}
        known: dict[str, Any] = {name: fields.get(name) for name in kinds}
        if not all(isinstance(known[name], kind) for name, kind in kinds.items()):
            raise InputError(f"{where} is damaged (a field is missing); score again into another folder")
        info = cls(**known)
        if info.fingerprint != fields.get("fingerprint"):
            raise InputError(f"{where} is damaged (settings and fingerprint differ); score again into another folder")
        return info


def read_run(run: str | Path) -> RunInfo:
    """What ``run.json`` of a run folder says.

    Raises:
        InputError: no such folder, no run in it, or a damaged ``run.json``.
    """
    path = Path(run) / "run.json"
    mend = "name the folder that unc-score wrote (its --out)"
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        what = "holds no run.json" if Path(run).is_dir() else "does not exist"
        raise InputError(f"{run} {what}; {mend}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {mend}") from error
    return RunInfo.from_json(content, str(path))


def canonical_json(value: Any) -> bytes:
    """One spelling per value: sorted keys, no spaces, ASCII, no NaN. What fingerprints are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """One ``name: old -> new`` for every value that differs, nested names joined by dots.

    >>> differences({"rate": 0.1, "model": {"id": "a"}}, {"rate": 0.2, "model": {"id": "a"}, "seed": 0})
    ['rate: 0.1 -> 0.2', 'seed: (not set) -> 0']
    """
    flat_old, flat_new = _flat(old), _flat(new)
    names = [*flat_old, *(name for name in flat_new if name not in flat_old)]
    return [
        f"{name}: {_short(flat_old, name)} -> {_short(flat_new, name)}"
        for name in names
        if name not in flat_old or name not in flat_new or flat_old[name] != flat_new[name]
    ]


def plain(value: Any, where: str) -> Any:
    """The value as JSON would give it back; ``where`` names it in the error.

    Raises:
        TypeError: a value that JSON has no form for.
        ValueError: NaN or an infinity.
    """
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}; run information must be finite")
        return float(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item, where) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value), where)
    raise TypeError(f"{where} is a {type(value).__name__}; run information must be plain data")


def one_line(value: object) -> str:
    """The text of ``value`` with every run of white space as one space: messages are one line."""
    return " ".join(str(value).split())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat


def _short(flat: dict[str, str], name: str) -> str:
    text = flat.get(name, "(not set)")
    if len(text) <= 60:
        return text
    # Two long values that differ late must still look different.
    return f"{text[:40]}... ({len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"
