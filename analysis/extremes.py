"""The tokens to look at: the most and the least uncertain, and those on which loss and epistemic disagree.

First ``extreme_rows`` chooses them from the measures alone; then ``in_context`` adds the text around each, for which
only their own examples' texts are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.by_example import example_column
from analysis.ranks import rank

EXTREMES = {
    "most": "Most uncertain: the highest epistemic uncertainty",
    "least": "Least uncertain: the lowest epistemic uncertainty",
    "loss_only": "Loss says train, epistemic says known: high loss, low epistemic uncertainty",
    "epistemic_only": "Loss says known, epistemic says unsure: low loss, high epistemic uncertainty",
}
CHARACTERS_BEFORE, CHARACTERS_AFTER = 60, 30


@dataclass(frozen=True)
class Limits:
    """How many tokens to choose.

    Attributes:
        n_tokens: of each kind.
        per_example: at most so many of one example, so that one odd example does not fill a list.
        per_token: at most so many occurrences of one token.
    """

    n_tokens: int = 12
    per_example: int = 2
    per_token: int = 2


def extreme_rows(tokens: pd.DataFrame, limits: Limits = Limits()) -> pd.DataFrame:
    """Which rows of a token table to look at.

    Args:
        tokens: ``example_id, token_id, loss, epistemic``; rows without a prediction are never chosen.
        limits: how many.

    Returns:
        ``kind`` (a key of ``EXTREMES``), ``row`` (position in ``tokens``) and the percentiles of its loss and
        epistemic among the predicted tokens (0 to 100, ties counted half), kinds in the order of ``EXTREMES``, the
        most extreme first. Equal values keep the order of the table.
    """
    columns = ["kind", "row", "loss_percentile", "epistemic_percentile"]
    predicted = np.flatnonzero(tokens["loss"].notna().to_numpy() & tokens["epistemic"].notna().to_numpy())
    if not len(predicted):
        return pd.DataFrame(columns=columns)
    loss = tokens["loss"].to_numpy(dtype=np.float64)[predicted]
    epistemic = tokens["epistemic"].to_numpy(dtype=np.float64)[predicted]
    loss_rank, epistemic_rank = 100 * rank(loss).share_N, 100 * rank(epistemic).share_N
    keys = {
        "most": -epistemic,
        "least": epistemic,
        "loss_only": epistemic_rank - loss_rank,
        "epistemic_only": loss_rank - epistemic_rank,
    }
    # Where the two agree there is nothing to show.
    disagrees = {"loss_only": loss_rank > epistemic_rank, "epistemic_only": epistemic_rank > loss_rank}
    parts = []
    for kind in EXTREMES:
        order = np.argsort(keys[kind], kind="stable")
        order = order[disagrees[kind][order]] if kind in disagrees else order
        rows = _limited(tokens, predicted, order, limits)
        found = np.searchsorted(predicted, rows)
        values = (kind, rows, loss_rank[found], epistemic_rank[found])
        parts.append(pd.DataFrame(dict(zip(columns, values, strict=True))))
    return pd.concat(parts, ignore_index=True)


def in_context(tokens: pd.DataFrame, chosen: pd.DataFrame, examples: pd.DataFrame) -> pd.DataFrame:
    """The chosen tokens with their values and the text around them.

    Args:
        tokens: the token table, with ``char_start`` and ``char_end``.
        chosen: from ``extreme_rows``.
        examples: ``id`` and ``completion`` of at least the chosen tokens' examples.

    Returns:
        ``chosen`` with ``example_id, index_in_completion, token, before, after`` (at most ``CHARACTERS_BEFORE`` and
        ``CHARACTERS_AFTER`` characters of the completion, ``…`` where it goes on) and the measures.
    """
    completion = dict(zip(examples["id"], examples["completion"], strict=True))
    rows = tokens.iloc[chosen["row"].to_numpy()].reset_index(drop=True)
    before, after = [], []
    for example, start, end in zip(rows["example_id"], rows["char_start"], rows["char_end"], strict=True):
        text = completion[example]
        cut = max(0, start - CHARACTERS_BEFORE)
        before.append(("…" if cut else "") + text[cut:start])
        after.append(text[end : end + CHARACTERS_AFTER] + ("…" if end + CHARACTERS_AFTER < len(text) else ""))
    shown = ["example_id", "index_in_completion", "token"]
    values = ["loss", "entropy", "aleatoric", "epistemic", "epistemic_se", "label_prob"]
    head = rows[shown].astype({"example_id": str, "token": str}).assign(before=before, after=after)
    return pd.concat([chosen.reset_index(drop=True), head, rows[values]], axis=1)


def _limited(tokens: pd.DataFrame, predicted: np.ndarray, order: np.ndarray, limits: Limits) -> np.ndarray:
    """The first rows of an order that keep to the limits."""
    rows: list[int] = []
    from_example: dict[int, int] = {}
    from_token: dict[int, int] = {}
    rows_in_order = predicted[order]
    examples = pd.factorize(tokens[example_column(tokens)])[0][rows_in_order].tolist()
    ids = tokens["token_id"].to_numpy()[rows_in_order].tolist()
    for row, example, token in zip(rows_in_order, examples, ids, strict=True):
        if from_example.get(example, 0) >= limits.per_example or from_token.get(token, 0) >= limits.per_token:
            continue
        from_example[example] = from_example.get(example, 0) + 1
        from_token[token] = from_token.get(token, 0) + 1
        rows.append(int(row))
        if len(rows) == limits.n_tokens:
            break
    return np.array(rows, dtype=np.int64)
