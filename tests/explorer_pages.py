"""Pages of made-up runs for the explorer's tests: every script and trap in the texts, many equal values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.explorer import explorer_html, page_data
from uncertainty.scores import MEASURE_COLUMNS

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
ABOUT = {"title": "made up", "facts": "model toy · run 0123", "fingerprint": "0123", "command": "unc-score", "part": ""}

ENGLISH = ["The", " answer", " is", " 12", ".", "\n", "    ", "x", " = ", "\t", "1", "<|end|>"]
ARABIC = ["مر", "حب", "ا", " بال", "عا", "لم", "!", " ok", "<|end|>"]
TRAPS = [
    "<b>",
    "bold",
    "</b>",
    HOSTILE,
    "$x_1$",
    "{{data}}",
    "&amp;",
    "\\n",
    "\u202e",
    "a\u200bb",
    " ",
    "<|end|>",
]

SMILE = ["sm", "ile", " ", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", " done", "e", "\u0301", "<|end|>"]
TEXTS = [
    (f"row-{index}", pieces * (1 + index % 3), {"truncated": index % 5 == 3, "topic": "sums" if index % 2 else None})
    for index, pieces in enumerate([ENGLISH, ARABIC, TRAPS, SMILE] * 4)
]


def example_rows(name: str, pieces: Sequence[str], **fields: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    """One example and its tokens; a piece such as ``<0xF0>`` is a byte of the character that the last of them ends."""
    completion, starts, ends = "", [], []
    for at, piece in enumerate(pieces):
        starts.append(len(completion))
        if piece.startswith("<0x"):
            following = pieces[at + 1] if at + 1 < len(pieces) else ""
            completion += "" if following.startswith("<0x") else "😀"
        else:
            completion += piece
        ends.append(len(completion))
    said = [{"role": "user", "content": f"Question of {name}?"}, {"role": "assistant", "content": completion}]
    example = {
        "id": name,
        "prompt": f"<|user|> Question of {name}?\n<|assistant|>",
        "completion": completion,
        "messages": json.dumps(said),
        "n_completion_tokens": len(pieces),
        "truncated": False,
        **fields,
    }
    tokens = pd.DataFrame(
        {
            "example_id": name,
            "turn": 1,
            "position": np.arange(len(pieces)) + 6,
            "token_id": [sum(piece.encode()) % 1000 for piece in pieces],
            "token": list(pieces),
            "char_start": starts,
            "char_end": ends,
            "is_special": [piece.startswith("<|") for piece in pieces],
        }
    )
    return example, tokens


def made_run(
    texts: Sequence[tuple[str, Sequence[str], dict[str, Any]]], seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of tokens and of examples; the values have few digits, so that many are equal, and some are missing."""
    made = [example_rows(name, pieces, **fields) for name, pieces, fields in texts]
    tokens = pd.concat([frame for _, frame in made], ignore_index=True)
    random = np.random.default_rng(seed)
    for name in MEASURE_COLUMNS:
        tokens[name] = np.round(random.exponential(0.7, len(tokens)) ** 2, 1).astype(np.float32)
    tokens["label_prob"] = np.exp(-tokens["loss"]).astype(np.float32)
    tokens["margin"] = np.exp(-2 * tokens["entropy"]).astype(np.float32)
    tokens["epistemic_se"] = (tokens["epistemic"] / 10).astype(np.float32)
    tokens["label_rank"] = pd.array(random.integers(0, 9, len(tokens)), dtype="Int32")
    tokens["n_passes"] = 100
    unpredicted = random.random(len(tokens)) < 0.03
    tokens.loc[unpredicted, [*MEASURE_COLUMNS, "label_rank"]] = None
    rows = []
    groups = tokens.groupby("example_id", sort=False)[list(MEASURE_COLUMNS)]
    for example, _ in made:
        values = groups.get_group(example["id"]).astype(np.float64)
        for how in ("mean", "sum", "max"):
            example |= {f"{how}_{name}": getattr(values[name], how)() for name in MEASURE_COLUMNS}
        rows.append(example)
    return tokens, pd.DataFrame(rows)


def made_page(tokens: pd.DataFrame, examples: pd.DataFrame) -> dict[str, Any]:
    run = {name: tokens[name].to_numpy(dtype=np.float32) for name in MEASURE_COLUMNS}
    return page_data(tokens, examples, run, np.ones(len(tokens), dtype=bool), ABOUT)


def write_page(data: dict[str, Any], folder: Path) -> Path:
    path = folder / "explorer.html"
    path.write_text(explorer_html(data), encoding="utf-8")
    return path
