"""The plot of what an error costs: relative error against passes, a line per run. No pyplot state is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, PercentFormatter

from analysis.plot_style import MUTED, SERIES


def error_by_passes(ax: Axes, tables: Mapping[str, pd.DataFrame], passes: Sequence[float]) -> Axes:
    """How the relative error of a typical token falls with the passes; dots are what was scored, dashes foretold.

    Args:
        ax: where to draw.
        tables: name -> ``pass_costs.cost_table(...)``.
        passes: of each run.
    """
    ends = [float(value) for table in tables.values() for value in table["passes"]]
    low, high = min([*ends, *passes]) / 1.4, max([*ends, *passes]) * 1.4
    for (name, table), count, colour, marker in zip(tables.items(), passes, SERIES, "os^D", strict=False):
        row = table.iloc[0]
        one_pass = row["relative_error"] * np.sqrt(row[["passes", "low", "high"]].to_numpy(dtype=np.float64))
        ax.plot([low, high], one_pass[0] / np.sqrt([low, high]), "--", color=colour, linewidth=1.0)
        if np.isfinite(one_pass).all():
            ends_of_band = (one_pass[end] / np.sqrt([low, high]) for end in (1, 2))
            ax.fill_between([low, high], *ends_of_band, color=colour, alpha=0.2, linewidth=0)
        ax.plot([count], [one_pass[0] / np.sqrt(count)], marker, color=colour, markersize=5, label=name)
    targets = next(iter(tables.values()))["relative_error"].to_numpy(dtype=np.float64)
    for target in targets:
        ax.axhline(target, color=MUTED, linewidth=0.6, linestyle=(0, (1, 2)))
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(low, high)
    ticks = [count for count in _TICKS if low <= count <= high]
    ax.set_xticks(ticks, [f"{count:,}" for count in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(FixedLocator(list(targets)))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("passes")
    ax.set_ylabel("standard error / value")
    ax.legend(loc="upper right")
    return ax


_TICKS = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))
