"""How the columns of a report's tables are written: from a row of a table of numbers to the text of a cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from analysis.number_text import count, fixed, number, with_interval
from analysis.report_parts import Column, visible, visible_token

METRICS = {"auroc": "AUROC", "average_precision": "average precision", "precision": "precision", "jaccard": "Jaccard"}


def text_column(head: str, name: str) -> Column:
    """A column of words."""
    return Column(head, lambda row: row[name], is_number=False)


def count_column(head: str, name: str) -> Column:
    """A column of counts."""
    return Column(head, lambda row: count(row[name]))


def number_column(head: str, name: str) -> Column:
    """A column of nats."""
    return Column(head, lambda row: number(row[name]))


def mean_column(measure: str) -> Column:
    """The mean of a measure in a stratum, with its interval."""
    names = (f"mean_{measure}", f"low_{measure}", f"high_{measure}")
    return Column(f"mean {measure}", lambda row: with_interval(row, number, names))


def three_decimals(value: Any) -> str:
    """A difference of correlations: small, and its sign matters."""
    return fixed(value, 3)


def context(row: pd.Series) -> tuple[str, str, str]:
    """A token between what stands before and after it, everything invisible made visible."""
    return visible(row["before"]), visible_token(row["token"]), visible(row["after"])


def short_id(example_id: str) -> str:
    """An id of bearable length."""
    return example_id if len(example_id) <= 32 else f"{example_id[:31]}…"


def statistic(row: pd.Series) -> str:
    """A row of the correlation table in words: ``epistemic, loss``, with what is held fixed or subtracted."""
    pair = f"{row['x']}, {row['y']}"
    if row["kind"] == "partial":
        return f"{pair} given {row['given']}"
    return f"({pair}) − ({row['minus_x']}, {row['minus_y']})" if row["kind"] == "difference" else pair


def _same_statistic(table: pd.DataFrame, row: pd.Series) -> pd.Series:
    same = ~table["corrected"].astype(bool)
    for name in ("kind", "x", "y", "given", "minus_x", "minus_y"):
        same &= table[name] == row[name]
    return same


def of_method(table: pd.DataFrame, method: str) -> Callable[[pd.Series], str]:
    """The same statistic as a row's under one method, as measured."""

    def show(row: pd.Series) -> str:
        found = table[_same_statistic(table, row) & (table["method"] == method)]
        how = three_decimals if row["kind"] == "difference" else fixed
        return with_interval(found.iloc[0], how) if len(found) else "–"

    return show


def as_measured(table: pd.DataFrame, row: pd.Series) -> str:
    """The same statistic as a corrected row's, as measured."""
    found = table[_same_statistic(table, row) & (table["method"] == row["method"])]
    return with_interval(found.iloc[0]) if len(found) else "–"


def of_metric(table: pd.DataFrame, metric: str) -> Callable[[pd.Series], str]:
    """One metric of a row's signal and fraction."""

    def show(row: pd.Series) -> str:
        same = (table["signal"] == row["signal"]) & (table["fraction"] == row["fraction"])
        found = table[same & (table["metric"] == metric)]
        return with_interval(found.iloc[0]) if len(found) else "–"

    return show
