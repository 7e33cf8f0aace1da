"""The rows of ``curriculum.jsonl``: what is in them, how a training run writes them, and their reader. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from uncertainty.errors import InputError
from uncertainty.token_classes import CLASSES

FILE = "curriculum.jsonl"

# One row is one logging window; null where a number is undefined. ``{class}`` is each of ``token_classes.CLASSES``,
# with ``_`` for spaces.
COLUMNS = {
    "step": "last optimizer step of the window, counted from 1 as the trainer does",
    "first_step": "its first one",
    "n_steps": "optimizer steps in it",
    "epoch": "passes over the data at its end",
    "n_tokens": "completion tokens seen",
    "n_selected": "of these selected",
    "fraction_asked": "share of the tokens to select, mean over the steps; 0 to 1",
    "fraction_kept": "n_selected / n_tokens",
    "threshold": "smallest selected value, mean over the steps that selected any. It is the edge of the selection only "
    "where the largest values of single tokens are kept (keep top or threshold, level token); else just that minimum",
    "threshold_low": "smallest of them over the steps",
    "threshold_high": "largest of them over the steps",
    "nll": "mean loss of all tokens, nats, as of the step's own forward pass",
    "nll_selected": "of the selected, nats",
    "nll_rest": "of the others, nats",
    "kl": "mean KL(reference || student) of all tokens, nats; null without a reference",
    "kl_selected": "of the selected, nats",
    "kl_rest": "of the others, nats",
    "share_of_tokens/{class}": "share of all tokens that are of the class; 0 to 1",
    "share_of_selected/{class}": "share of the selected tokens that are of the class; 0 to 1",
    "enrichment/{class}": "share_of_selected over share_of_tokens; 1 is what a random selection has",
    "jaccard": "tokens selected now and the last time they were seen, over those selected either time; 0 to 1. Null "
    "where no token of the window was seen before: in the first epoch",
    "jaccard_chance": "the same for two random selections of these sizes, 0 to 1",
    "n_seen_before": "tokens of the window that were seen before",
    "entering": "token types whose rate of selection grew most against the previous window: list of token_id, token, "
    "rate and rate_before (0 to 1), n and n_before (tokens); null in the first window",
    "leaving": "those whose rate fell most, likewise",
}


def append_row(run: str | Path, row: Mapping[str, Any]) -> None:
    """Append one row to ``curriculum.jsonl`` of a run folder, durably."""
    line = json.dumps(row, allow_nan=False).encode("ascii") + b"\n"
    with (Path(run) / FILE).open("ab") as stream:
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())


def drop_rows_after(run: str | Path, step: int) -> None:
    """Cut the rows of later steps, and a torn last line, off the file: before going on from the checkpoint of ``step``.

    Raises:
        InputError: a damaged line that is not the last.
    """
    path = Path(run) / FILE
    if path.exists():
        end = max((end for row, end in _rows(path) if row["step"] <= step), default=0)
        with path.open("r+b") as stream:
            stream.truncate(end)
            os.fsync(stream.fileno())


def read_curriculum(run: str | Path) -> pd.DataFrame:
    """The curriculum of a training run, one row per logging window; columns and units as ``COLUMNS`` says.

    A last line that is still being written is left out. Undefined numbers are NaN, undefined lists None.

    Raises:
        InputError: no training run there, or a damaged file.
    """
    path = Path(run) / FILE
    if not path.is_file():
        raise InputError(f"{run} holds no {FILE}; name the folder that unc-train wrote (its --out)")
    frame = pd.DataFrame([row for row, _ in _rows(path)], columns=column_names())
    numbers = [name for name in frame.columns if name not in ("entering", "leaving")]
    whole = ("step", "first_step", "n_steps", "n_tokens", "n_selected", "n_seen_before")
    return frame.astype({name: "int64" if name in whole else "float64" for name in numbers})


def column_names() -> list[str]:
    """The keys of a row, in order."""
    names = []
    for column in COLUMNS:
        filled = [column.replace("{class}", name.replace(" ", "_")) for name in CLASSES]
        names += list(dict.fromkeys(filled))
    return names


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole row and the byte where its line ends."""
    end = 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        end += len(line)
        if not line.endswith(b"\n"):
            return
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise InputError(f"line {number} of {path} is damaged; resume the training from an older checkpoint")
        yield row, end
