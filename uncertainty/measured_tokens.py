"""Measured tokens of a batch -> ``TokenScores``: tokens without a prediction put in, broken examples set aside.

Dimension key: B sequences, T positions, N completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from uncertainty.data.batches import IGNORE, Batch
from uncertainty.measure_columns import ALL_COLUMNS, columns_of
from uncertainty.scores import TokenScores


def assemble(
    batch: Batch, passes: int | np.ndarray, values: dict[str, Tensor], added: Sequence[str] = ()
) -> TokenScores:
    """Put measured tokens and those without a prediction (position 0) in one table; set aside broken examples."""
    starts = np.array(batch.starts)
    labels_BT = batch.labels_BT.numpy()
    example_N, column_N = (labels_BT != IGNORE).nonzero()
    position_N = column_N - starts[example_N]
    predicted = position_N > 0
    table = {name: np.full(len(example_N), np.nan) for name in columns_of(added)}
    for name, column in table.items():
        if name in values:
            column[predicted] = values[name].double().numpy()
    rank_N = np.full(len(example_N), -1, dtype=np.int64)
    n_passes_N = np.zeros(len(example_N), dtype=np.int64)
    n_passes_N[predicted] = passes
    if values:
        rank_N[predicted] = values["label_rank"].numpy()
    unusable = _unusable(batch, example_N, position_N, predicted, table)
    keep = ~np.isin(example_N, [batch.ids.index(name) for name in unusable])
    return TokenScores(
        ids=batch.ids,
        example_N=example_N[keep],
        position_N=position_N[keep],
        token_id_N=labels_BT[example_N, column_N][keep],
        n_passes_N=n_passes_N[keep],
        label_rank_N=rank_N[keep],
        measures={name: column[keep] for name, column in table.items()},
        unusable=unusable,
    )


def _unusable(
    batch: Batch, example_N: np.ndarray, position_N: np.ndarray, predicted: np.ndarray, table: dict[str, Any]
) -> dict[str, str]:
    # A measure of their spread that few or dependent members leave without a value is NaN at every token: that is no
    # fault of the example's. Where the logits are broken, loss and total are not finite either.
    known = {n: v for n, v in table.items() if ALL_COLUMNS[n].members < 2 or not np.isnan(v[predicted]).all()}
    finite = np.all([np.isfinite(values) for values in known.values()], axis=0)
    found: dict[str, str] = {}
    for index in np.flatnonzero(predicted & ~finite):
        name = batch.ids[example_N[index]]
        bad = next(n for n, v in known.items() if not np.isfinite(v[index]))
        found.setdefault(name, f"{bad} is not finite at position {position_N[index]}")
    return found
