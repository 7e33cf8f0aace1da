"""A measure on the explorer's page: its values, their colours' scale, and whom a selection by it takes.

Scales and percentiles are those of the heatmap. Selections are by rank in the whole run, whatever part of it the page
shows; they are the selections of ``uncertainty.selection.top_fraction`` on the float32 values of the tables.

Suffixes: M tokens of the whole run, N tokens on the page, S steps of the selection's slider.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.colours import make_scale
from analysis.heatmap import Panel
from analysis.measure_names import NAMES, Name, in_a_sentence
from analysis.measure_names import unit as measure_unit

STEPS = 1000  # of the selection's slider: tenths of a percent


def packed_measure(
    name: str, value_M: np.ndarray, on_page_M: np.ndarray, names: Mapping[str, Name] = NAMES
) -> dict[str, Any]:
    """One measure as the page reads it; arrays as text (``packed``).

    Args:
        name: Of the measure.
        value_M: Its values at all tokens of the run, float32; NaN where there is no prediction.
        on_page_M: Which of them the page shows.
        names: Of the measures, in the words of the run's family.

    Returns:
        Names and unit; ``upper``, the value of the last colour; ``values``; ``percentiles`` of the run, 0 to 65535; and
        of a measure that tokens are selected by ``ranks`` (-1: never selected), ``counts`` and ``thresholds`` by step.
    """
    shown, unit = names[name], measure_unit(name)
    finite_M = value_M[np.isfinite(value_M)]
    value_scale = make_scale("value", finite_M, "the run", fixed_upper=1.0 if shown.is_share else None)
    percentile = make_scale("percentile", value_M, "the run")
    value_N = value_M[on_page_M]
    position_N = np.nan_to_num(percentile.positions(value_N))
    # Percentiles in words are interpolated, which an infinite value does not allow.
    in_words = (
        percentile if len(finite_M) == np.sum(~np.isnan(value_M)) else make_scale("percentile", finite_M, "the run")
    )
    drawn_unit = "probability" if shown.is_share else unit
    ends = [Panel(name, shown.title, drawn_unit, value_N, scale).legend()[1][0] for scale in (value_scale, in_words)]
    measure = {
        "name": name,
        "title": shown.title,
        "short": shown.short,
        "inline": in_a_sentence(name, names),
        "meaning": shown.meaning,
        "unit": unit,
        "isShare": shown.is_share,
        "upper": value_scale.upper,
        "legend": dict(zip(("value", "percentile"), ends, strict=True)),
        "values": packed(value_N, "f4"),
        "percentiles": packed(np.minimum(position_N * 65536, 65535), "u2"),
    }
    return measure | (_selection(value_M, on_page_M) if shown.selects else {})


def selected_counts(n_tokens: int) -> np.ndarray:
    """How many of so many tokens each step of the slider selects: the count of ``selection.top_fraction``.

    >>> selected_counts(10)[[0, 1, 250, 1000]]
    array([ 0,  1,  3, 10])
    """
    counts_S = np.floor(np.arange(STEPS + 1) / STEPS * n_tokens + 0.5).astype(np.int64)
    return np.concatenate([[0], np.maximum(counts_S[1:], min(1, n_tokens))])


def _selection(value_M: np.ndarray, on_page_M: np.ndarray) -> dict[str, Any]:
    """Ranks in the whole run, highest value first and of equals the earlier, and what each step of the slider takes."""
    (predicted,) = np.nonzero(~np.isnan(value_M))
    order = predicted[np.argsort(-value_M[predicted], kind="stable")]
    rank_M = np.full(len(value_M), -1, dtype=np.int32)
    rank_M[order] = np.arange(len(order), dtype=np.int32)
    counts_S = selected_counts(len(order))
    thresholds_S = np.where(counts_S > 0, value_M[order][np.maximum(counts_S - 1, 0)], np.nan)
    return {
        "ranks": packed(rank_M[on_page_M], "i4"),
        "counts": packed(counts_S, "i4"),
        "thresholds": packed(thresholds_S, "f4"),
        "predicted": len(order),
    }


def packed(values: np.ndarray, kind: str) -> str:
    """An array as text: two letters for its type, then base64 of its little-endian bytes."""
    return kind + base64.b64encode(values.astype(f"<{kind}").tobytes()).decode("ascii")
