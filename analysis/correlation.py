"""How the kinds of uncertainty go together with the cheap single-pass signals, with intervals by example.

Every statistic is computed once from a frame with one row per token. Intervals treat the *examples* as independent,
never the tokens: see ``analysis/by_example.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.by_example import check_confidence, usable_tokens
from analysis.correlation_methods import METHODS, CorrelationSettings, Tokens
from analysis.correlation_statistics import Pair, Partial, asked
from analysis.reliability import Reliability
from uncertainty.errors import InputError

# The three kinds of uncertainty with the two single-pass signals, and the two signals with each other.
PAIRS: tuple[Pair, ...] = (
    *((kind, signal) for kind in ("epistemic", "aleatoric", "total") for signal in ("loss", "entropy")),
    ("loss", "entropy"),
    ("epistemic", "aleatoric"),
)
# (x, y, given): the correlation of x with y among tokens that are alike in ``given``.
PARTIALS: tuple[Partial, ...] = (
    ("epistemic", "loss", ("entropy",)),
    ("epistemic", "entropy", ("loss",)),
    ("epistemic", "loss", ("aleatoric",)),
    ("aleatoric", "loss", ("entropy",)),
    ("aleatoric", "entropy", ("loss",)),
    ("aleatoric", "loss", ("epistemic",)),
)
# (first, second): the correlation of the first pair minus that of the second.
DIFFERENCES: tuple[tuple[Pair, Pair], ...] = (
    (("epistemic", "loss"), ("epistemic", "entropy")),
    (("epistemic", "loss"), ("aleatoric", "loss")),
    (("epistemic", "entropy"), ("aleatoric", "entropy")),
    (("aleatoric", "loss"), ("aleatoric", "entropy")),
)

CORRELATION_COLUMNS = (
    "kind",  # "correlation", "partial" or "difference"
    "method",  # "spearman", "pearson" or "kendall"
    "corrected",  # bool: epistemic's Monte Carlo noise is taken out (spearman and pearson only)
    "x",
    "y",
    "given",  # partial: the measures held fixed, joined by " + "; else ""
    "minus_x",  # difference: the pair that is subtracted; else ""
    "minus_y",
    "estimate",  # -1 to 1 (difference: -2 to 2); NaN where undefined, with the reason in ``warning``
    "low",  # cluster influence-function t interval (Fisher's z; difference: plain); NaN below 10 examples
    "high",
    "bootstrap_low",  # percentiles over resampled examples; NaN for kendall, below 10 examples, without replicates
    "bootstrap_high",
    "n_tokens",
    "n_examples",
    "n_effective",  # how many examples of equal length would weigh as much: (sum n)^2 / sum n^2
    "warning",  # "" or why the row is undefined, has no interval, or one not to be leaned on
)
RELIABILITY_COLUMNS = (
    "measure",  # "epistemic"
    "method",  # "spearman" or "pearson": on the scale of ranks or of nats
    "reliability",  # correlation expected between two independent scorings with the same passes, 0 to 1
    "attenuation",  # factor by which the noise shrinks a correlation: sqrt(reliability)
    "median_relative_se",  # median of epistemic_se / epistemic over tokens with epistemic > 0
    "n_tokens",
    "warning",
)


@dataclass(frozen=True, eq=False)
class Correlations:
    """What ``correlate`` finds.

    Attributes:
        table: one row per statistic, columns ``CORRELATION_COLUMNS``.
        reliability: one row per method, columns ``RELIABILITY_COLUMNS``; no row without ``epistemic_se``.
        notes: sentences for the reader: tokens left out, the subset behind Kendall, the reliability.
        settings: what was asked.
    """

    table: pd.DataFrame
    reliability: pd.DataFrame
    notes: tuple[str, ...]
    settings: CorrelationSettings


def correlate(
    frame: pd.DataFrame,
    *,
    pairs: tuple[Pair, ...] = PAIRS,
    partials: tuple[Partial, ...] = PARTIALS,
    differences: tuple[tuple[Pair, Pair], ...] = DIFFERENCES,
    settings: CorrelationSettings | None = None,
) -> Correlations:
    """Correlations, partial correlations and differences of correlations over all predicted tokens.

    Args:
        frame: one row per token: the measures asked for (float32 is enough), an integer column ``example`` (or the
            run's ``example_id``), and ``epistemic_se`` for the correction. Any order of rows. Rows with a NaN in a
            measure asked for (no prediction) are left out and counted in ``notes``.
        pairs: which correlations.
        partials: which partial correlations (not for Kendall).
        differences: which differences of two correlations.
        settings: methods, confidence, replicates, size of the subset, seed.

    Returns:
        the tables; a statistic that involves ``epistemic`` and otherwise only ``loss`` and ``entropy`` has a second
        row with ``corrected`` true where ``epistemic_se`` is there.

    Raises:
        InputError: a column is missing, no token is left, or a setting is out of range.
    """
    settings = settings or CorrelationSettings()
    _check(settings)
    statistics = asked(pairs, partials, differences)
    names = tuple(dict.fromkeys(name for statistic in statistics for name in statistic.measures))
    columns, examples, n_dropped = usable_tokens(frame, names, optional=("epistemic_se",))
    se_N = columns.pop("epistemic_se", None) if "epistemic" in names else None
    notes = [f"{n_dropped:,} tokens without a prediction are left out."] if n_dropped else []
    if se_N is not None and np.isnan(se_N).any():
        notes.append("Some tokens have no epistemic_se: nothing is corrected for Monte Carlo noise.")
        se_N = None
    tokens = Tokens({name: columns[name] for name in names}, examples, se_N)
    rows: list[dict[str, object]] = []
    reliabilities: list[dict[str, object]] = []
    for method in settings.methods:
        found = METHODS[method](tokens, statistics, settings)
        rows += found.rows
        notes += found.notes
        reliabilities += [_reliability_row(found.reliability, tokens)] if found.reliability else []
    return Correlations(
        pd.DataFrame(rows, columns=list(CORRELATION_COLUMNS)),
        pd.DataFrame(reliabilities, columns=list(RELIABILITY_COLUMNS)),
        tuple(notes),
        settings,
    )


def correlation_matrix(table: pd.DataFrame, method: str = "spearman", *, corrected: bool = False) -> pd.DataFrame:
    """The correlations of one method as a matrix for printing and plotting: rows x, columns y, NaN where not asked."""
    wanted = (table["kind"] == "correlation") & (table["method"] == method) & (table["corrected"] == corrected)
    chosen = table[wanted]
    matrix = pd.DataFrame(np.nan, index=list(chosen["x"].unique()), columns=list(chosen["y"].unique()))
    for x, y, estimate in zip(chosen["x"], chosen["y"], chosen["estimate"], strict=True):
        matrix.loc[x, y] = estimate
    return matrix


def _check(settings: CorrelationSettings) -> None:
    check_confidence(settings.confidence)
    for method in settings.methods:
        if method not in METHODS:
            raise InputError(f"there is no correlation method {method!r}; it must be one of {', '.join(METHODS)}")
    if settings.replicates < 0 or settings.kendall_tokens < 2:
        raise InputError(
            f"replicates is {settings.replicates} and kendall_tokens {settings.kendall_tokens}; "
            "they must be at least 0 and 2"
        )


def _reliability_row(reliability: Reliability, tokens: Tokens) -> dict[str, object]:
    value_N, se_N = tokens.columns["epistemic"].astype(np.float64), tokens.se_N
    positive_N = value_N > 0
    relative = np.median(se_N[positive_N] / value_N[positive_N]) if se_N is not None and positive_N.any() else np.nan
    return {
        "measure": "epistemic",
        "method": reliability.method,
        "reliability": reliability.value,
        "attenuation": reliability.attenuation,
        "median_relative_se": float(relative),
        "n_tokens": len(value_N),
        "warning": reliability.warning,
    }
