"""Every number of ``oracle_validation``: means, correlations with the truth, captured shares, and their intervals.

One tidy table: a row per stage of training, group of tokens and statistic. Intervals are by example.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.by_example import t_interval, usable_tokens
from analysis.captured import captured_shares
from analysis.correlation import CorrelationSettings, correlate
from figures.oracle_checkpoints import Stage
from uncertainty.demo.facts import NEVER_TOLD
from uncertainty.demo.language import TOKEN_CLASSES

SIGNALS = ("loss", "entropy", "epistemic", "rho")
ERROR, TRUE_ENTROPY = "oracle_kl", "true_entropy"
PAIRS = (*((signal, ERROR) for signal in SIGNALS), ("aleatoric", ERROR), ("aleatoric", TRUE_ENTROPY))
DIFFERENCES = tuple(((signal, ERROR), ("loss", ERROR)) for signal in SIGNALS if signal != "loss")
MEANS = (ERROR, "loss", "true_loss", "entropy", TRUE_ENTROPY, "aleatoric", "epistemic")
SETTINGS = CorrelationSettings(methods=("spearman", "pearson"), replicates=0)
FEWEST_TOKENS = 10  # of a group, for it to have rows
# Where one label alone is possible, its loss is the error: only elsewhere can a label mislead the loss.
ALL, SPREAD, LEARNABLE = "all", "true entropy above 0", "all but facts never told"
COLUMNS = (
    "step",  # optimizer steps
    "group",  # ALL, SPREAD, LEARNABLE, a token class, or facts by how often they were told so far
    "statistic",  # "mean" (nats), "spearman", "pearson" or "captured"
    "x",  # the measure or signal; of "captured" also "ideal" and "random"
    "y",  # what a correlation is with, and what is captured; of a mean ""
    "minus",  # a difference to the same statistic of this signal; else ""
    "corrected",  # bool: epistemic's Monte Carlo noise is taken out (correlations only)
    "estimate",
    "low",  # 95 % t interval by example; NaN where there is none
    "high",
    "n_tokens",
    "n_examples",
    "n_effective",
    "warning",  # "" or why there is no value, no interval, or one not to be leaned on
)


def validation_table(done: Sequence[Stage], fraction: float) -> pd.DataFrame:
    """Every statistic of every stage and group of tokens.

    Args:
        done: the stages of training.
        fraction: share of the tokens that a signal selects.

    Returns:
        columns ``COLUMNS``.
    """
    blank = {"y": "", "minus": "", "corrected": False}
    rows = [
        blank | {"step": stage.step, "group": name} | row
        for stage in done
        for name, tokens in groups(stage.tokens).items()
        for row in (*_means(tokens), *_correlations(tokens), *_captured(tokens, fraction))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def groups(tokens: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All tokens, parts of them, token classes, and facts by tellings; each if it has ``FEWEST_TOKENS``."""
    found = {ALL: tokens, SPREAD: tokens[tokens[TRUE_ENTROPY] > 0]}
    found[LEARNABLE] = tokens[~tokens["fact"].isin(NEVER_TOLD)]
    found |= {name: tokens[tokens["token_class"] == name] for name in TOKEN_CLASSES}
    told = tokens.loc[tokens["fact_group"].notna(), "fact_group"].unique()
    by_tellings = sorted(told, key=lambda name: int(name.split()[2].split("-")[0].rstrip("+")))
    found |= {name: tokens[tokens["fact_group"] == name] for name in by_tellings}
    return {name: part for name, part in found.items() if len(part) >= FEWEST_TOKENS}


def rows_of(table: pd.DataFrame, group: str, statistic: str, y: str = ERROR) -> pd.DataFrame:
    """The plain values of one statistic over stages and signals: no differences, nothing corrected or undefined."""
    asked = (table["group"] == group) & (table["statistic"] == statistic) & (table["y"] == y)
    is_plain = (table["minus"] == "") & ~table["corrected"] & ~table["warning"].str.contains("is constant")
    return table[asked & is_plain & table["estimate"].notna()]


def summary(table: pd.DataFrame, fraction: float) -> str:
    """The heart of the table as text: each statistic by stage, with its intervals."""
    lines = []
    for group in (ALL, SPREAD, LEARNABLE):
        for statistic in ("spearman", "pearson", "captured"):
            share = f"share of KL(oracle || model) in the top {fraction:.0%} by"
            title = share if statistic == "captured" else f"{statistic} with KL(oracle || model)"
            lines += [f"{group}: {title}", *_by_stage(rows_of(table, group, statistic))]
    for group in (ALL, SPREAD):
        for statistic in ("spearman", "pearson"):
            rows = rows_of(table, group, statistic, TRUE_ENTROPY)
            lines += [f"{group}: {statistic} with the true entropy", *_by_stage(rows)]
    return "\n".join([*lines, "all: means, nats", *_by_stage(rows_of(table, ALL, "mean", ""), digits=4)])


def _by_stage(rows: pd.DataFrame, digits: int = 2) -> list[str]:
    def text(row: pd.Series) -> str:
        limits = "" if np.isnan(row["low"]) else f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
        return f"{row['x']} {row['estimate']:.{digits}f}{limits}"

    return [f"  step {step}: {', '.join(text(row) for _, row in at.iterrows())}" for step, at in rows.groupby("step")]


def _means(tokens: pd.DataFrame) -> list[dict[str, object]]:
    columns, examples, _ = usable_tokens(tokens, MEANS)
    rows: list[dict[str, object]] = []
    for name, values_N in columns.items():
        mean = float(values_N.mean(dtype=np.float64))
        interval = t_interval(mean, examples.sums(values_N - mean), examples, SETTINGS.confidence, "plain")
        row = {"statistic": "mean", "x": name, "estimate": mean, "low": interval.low, "high": interval.high}
        rows.append(row | examples.counts() | {"warning": interval.warning})
    return rows


def _correlations(tokens: pd.DataFrame) -> list[dict[str, object]]:
    table = correlate(tokens, pairs=PAIRS, partials=(), differences=DIFFERENCES, settings=SETTINGS).table
    return _records(table.assign(statistic=table["method"], minus=table["minus_x"]))


def _captured(tokens: pd.DataFrame, fraction: float) -> list[dict[str, object]]:
    table = captured_shares(tokens, ERROR, SIGNALS, fraction=fraction, minus="loss")
    return _records(table.rename(columns={"signal": "x"}).assign(statistic="captured", y=ERROR))


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = table[[name for name in COLUMNS if name in table]].to_dict("records")
    return rows
