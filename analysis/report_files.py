"""A report's files: ``report.html``, ``.md`` and ``.json``, ``tables/NAME.csv``, ``figures/NAME.png`` and ``.pdf``.

The same report gives the same bytes: no clock, no host name, sorted keys.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from analysis.plot_style import STYLE
from analysis.report_html import report_html
from analysis.report_markdown import report_markdown
from analysis.report_parts import Picture, Report
from uncertainty.errors import InputError

FORMAT = "token-uncertainty report"
SCHEMA_VERSION = 1
_OURS = re.compile(r"(?:tables/[a-z0-9_-]+\.csv|figures/[a-z0-9-]+\.(?:png|pdf))")
_FORMULA = re.compile(r"[=+\-@\t\r]")


def check_folder(out: Path) -> None:
    """Refuse a folder that a report cannot be written to, before anything is computed.

    Nothing is made yet: a report that fails leaves no empty folders.

    Raises:
        InputError: a file, a run folder, or not writable.
    """
    if (out / "run.json").exists():
        raise InputError(f"{out} is the folder of a run; choose another --out for the report")
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"{out} is, or lies under, a file; choose a folder with --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{out} cannot be written to ({there} is read-only); choose another --out")


def write_report(report: Report, out: Path, tell: Callable[[str], None]) -> list[str]:
    """Write every file of a report; what an earlier report left there and this one does not have is removed.

    Args:
        report: the report.
        out: folder, made if it is not there.
        tell: called with a few words before each step.

    Returns:
        The files, relative to ``out``, sorted.

    Raises:
        InputError: the folder or a file cannot be written.
    """
    check_folder(out)
    old = _earlier_files(out)
    tables = merged_tables(report)
    files: dict[str, bytes] = {f"tables/{name}.csv": table_csv(frame) for name, frame in tables.items()}
    for picture in report.pictures:
        tell(f"figure {picture.name}")
        files[f"figures/{picture.name}.png"] = _drawn(picture, "png")
        files[f"figures/{picture.name}.pdf"] = _drawn(picture, "pdf")
    tell("pages")
    files["report.html"] = report_html(report).encode("utf-8", "backslashreplace")
    files["report.md"] = report_markdown(report).encode("utf-8", "backslashreplace")
    names = sorted([*files, "report.json"])
    files["report.json"] = report_json(report, tables, names)
    try:
        for folder in ("tables", "figures"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
        for name in old - set(names):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be written ({error.strerror}); choose another --out") from error
    return names


def merged_tables(report: Report) -> dict[str, pd.DataFrame]:
    """Each table once: those of one name one below the other, the run's name first where a table is of one run."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for table in report.tables:
        if not table.name:
            continue  # a part of another table, shown on its own
        frame = table.frame
        if table.run and "run" not in frame:
            frame = frame.copy()
            frame.insert(0, "run", table.run)
        parts.setdefault(table.name, []).append(frame)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def table_csv(frame: pd.DataFrame) -> bytes:
    """A table as CSV. A text that a spreadsheet would take for a formula has an apostrophe in front.

    Source: OWASP, CSV injection: cells that begin with = + - @, a tab or a carriage return.
    """
    guarded = frame.copy()
    for column in guarded.columns:
        if guarded[column].dtype == object or isinstance(guarded[column].dtype, (pd.StringDtype, pd.CategoricalDtype)):
            guarded[column] = guarded[column].map(_guarded)
    text = guarded.to_csv(index=False, lineterminator="\n")
    return text.encode("utf-8", "backslashreplace")


def report_json(report: Report, tables: dict[str, pd.DataFrame], files: list[str]) -> bytes:
    """Everything as JSON: what was run, the answers, every table as a list of records; NaN is null."""
    content = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "answers": [
            {"question": card.question, "answer": card.answer, "tone": card.tone, "lines": list(card.lines)}
            for card in report.cards
        ],
        **_plain(report.data),
        "tables": {name: [_plain(row) for row in frame.to_dict("records")] for name, frame in tables.items()},
        "files": files,
    }
    return json.dumps(content, indent=1, allow_nan=False).encode("ascii") + b"\n"


def _drawn(picture: Picture, kind: str) -> bytes:
    content = io.BytesIO()
    metadata: dict[str, Any] = {"Title": picture.caption[:200]}
    metadata |= {"CreationDate": None, "Producer": None} if kind == "pdf" else {"Software": None}
    with matplotlib.rc_context(STYLE):
        picture.figure.savefig(content, format=kind, metadata=metadata)
    return content.getvalue()


def _earlier_files(out: Path) -> set[str]:
    """The tables and figures of the report that is there; nothing else is ever removed."""
    try:
        content = json.loads((out / "report.json").read_bytes())
    except (OSError, ValueError):
        return set()
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("files"), list):
        return set()
    return {name for name in content["files"] if isinstance(name, str) and _OURS.fullmatch(name)}


def _guarded(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
