"""Rows of a score table as the heatmap's tests want them: exactly the columns of a run, the values chosen by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.heatmap import Heatmap, make_heatmap
from analysis.look import Look
from uncertainty.scores import MEASURE_COLUMNS

FACTS = "model toy · 100 dropout passes · rate 0.1 · seed 0 · run 0123456789ab"


def tokens(pieces: Sequence[str], loss: Sequence[float] | None = None, **columns: Any) -> pd.DataFrame:
    """One row per piece; the other measures are a tenth of the loss."""
    values = np.linspace(0, 2, len(pieces)) if loss is None else np.array(loss, dtype=float)
    ends = np.cumsum([len(piece) for piece in pieces])
    frame = pd.DataFrame(
        {
            "example_id": "one",
            "turn": 1,
            "position": np.arange(len(pieces)) + 5,
            "index_in_completion": np.arange(len(pieces)),
            "token_id": 7,
            "token": list(pieces),
            "char_start": ends - [len(piece) for piece in pieces],
            "char_end": ends,
            "is_special": [piece.startswith("<|") for piece in pieces],
        }
    )
    for name in MEASURE_COLUMNS:
        frame[name] = (values if name == "loss" else values / 10).astype(np.float32)
    frame["label_prob"] = np.exp(-values).astype(np.float32)
    frame["margin"] = np.exp(-2 * values).astype(np.float32)
    frame["label_rank"] = 0
    frame["n_passes"] = 100
    return frame.assign(**columns)


def example(completion: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": completion}]
    row = {"id": "one", "prompt": "Why?\n", "completion": completion, "messages": json.dumps(messages)}
    return {**row, "truncated": False, **fields}


def heatmap(pieces: Sequence[str], loss: Sequence[float] | None = None, **look: Any) -> Heatmap:
    frame = tokens(pieces, loss)
    look.setdefault("measures", ("loss",))
    look.setdefault("clip_percentile", 100.0)
    return make_heatmap(frame, example("".join(pieces)), frame, Look(**look), FACTS)
