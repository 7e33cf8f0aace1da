"""Random numbers that belong to a row's contents, not to its place: the same whatever the order or the shards.

Rows that agree in every column and in their example get the same number; they are interchangeable.

Dimension key: N rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import special


def row_uniforms(columns: Iterable[np.ndarray], example_N: np.ndarray, seed: int) -> np.ndarray:
    """A number in (0, 1) per row, keyed by seed, example and the row's values.

    Args:
        columns: numeric columns of N values each; their order matters.
        example_N: integer code of the row's example.
        seed: another seed, other numbers.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), chained over the columns.
    """
    state_N = _mix(example_N.astype(np.uint64) + _mix(np.array([seed % 2**64], dtype=np.uint64)))
    for column in columns:
        # Adding 0 turns -0.0, which equals 0.0, into it.
        bits_N = (column.astype(np.float64) + 0.0).view(np.uint64)
        state_N = _mix(state_N ^ _mix(bits_N + _GOLDEN))
    return ((state_N >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def row_normals(columns: Iterable[np.ndarray], example_N: np.ndarray, seed: int) -> np.ndarray:
    """A standard normal number per row, keyed as ``row_uniforms``."""
    return special.ndtri(row_uniforms(columns, example_N, seed))


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
