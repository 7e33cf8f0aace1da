"""What is known of each completion token, in words, for tooltips and tables; of two runs both values and the change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.measure_names import NAMES, unit
from analysis.number_text import number
from analysis.token_text import context_clusters

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Reading:
    """One thing that is known of a token: its name, its value in words, its unit ("" where it has none)."""

    name: str
    value: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.value} {self.unit}".rstrip()


def token_readings(tokens: pd.DataFrame, before: pd.DataFrame | None = None) -> tuple[tuple[Reading, ...], ...]:
    """The readings of each token: what it is, and every measure that the table has.

    Args:
        tokens: Rows of the token table.
        before: The same tokens' rows of another run; each value is then written as ``before → after (change)``.
    """
    rows = tokens.to_dict("records")
    others = [None] * len(rows) if before is None else before.to_dict("records")
    return tuple(_readings(row, other) for row, other in zip(rows, others, strict=True))


def visible(text: str) -> str:
    """A text in one line, with a mark for everything in it that cannot be seen, direction overrides included."""
    return "".join(cluster.text for cluster in context_clusters(text))


def _readings(row: Mapping[Any, Any], before: Mapping[Any, Any] | None) -> tuple[Reading, ...]:
    known = [Reading("token", visible(str(row["token"])) or "∅")]
    known += [Reading(name, str(int(row[column]))) for column, name in _PLACES.items() if column in row]
    for measure in NAMES:
        if measure in row and measure not in _BESIDE:
            known.append(Reading(measure, _value(measure, row, before), unit(measure)))
    for column, name in _COUNTS.items():
        if column in row:
            values = [_count(one[column]) for one in (before, row) if one is not None]
            known.append(Reading(name, " → ".join(dict.fromkeys(values))))
    return tuple(known)


def _value(measure: str, row: Mapping[Any, Any], before: Mapping[Any, Any] | None) -> str:
    here = _with_error(measure, row)
    if before is None:
        return here
    change = float(row[measure]) - float(before[measure])
    sign = "+" if change > 0 else ""
    return f"{_with_error(measure, before)} → {here} ({sign}{number(change)})"


def _with_error(measure: str, row: Mapping[Any, Any]) -> str:
    """A value, with its Monte Carlo standard error where the table has one."""
    error = row.get("epistemic_se") if measure == "epistemic" else None
    known = error is not None and error == error  # NaN is not itself
    return f"{number(row[measure])} ± {number(error, 2)}" if known else number(row[measure])


def _count(value: Any) -> str:
    return str(int(value)) if value == value and value is not None and str(value) != "<NA>" else "–"


_PLACES = {"token_id": "id", "position": "position"}
_COUNTS = {"label_rank": "rank", "n_passes": "passes"}
_BESIDE = ("epistemic_se",)  # stands beside epistemic
