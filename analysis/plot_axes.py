"""Logarithmic axes for measures that span many decades: where they begin and end, and how their ticks read."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# float32 loses everything below: 1 - p(token) of a sure token is a multiple of 6e-8.
_SMALLEST = 1e-8


def log_limits(values: np.ndarray) -> tuple[float, float]:
    """Where a logarithmic axis of these values begins and ends: half a percent is left to its first bin."""
    positive = values[values > 0]
    if not len(positive):
        return 1e-3, 1.0
    low = max(float(np.quantile(positive, 0.005)), min(_SMALLEST, float(positive.max()) / 10))
    high = float(positive.max())
    low, high = 10 ** np.floor(np.log10(low)), high * 1.1
    return float(low), float(max(high, low * 10))


def log_axis(ax: Axes, which: str, low: float, high: float) -> None:
    """Make the ``x`` or ``y`` axis logarithmic from ``low`` to ``high``, its ticks powers of ten without TeX."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(numticks=5 if decades > 3 else 4))
    axis.set_major_formatter(FuncFormatter(power_of_ten))
    axis.set_minor_formatter(NullFormatter())


def power_of_ten(value: float, _: object) -> str:
    """A power of ten as a person writes it, without TeX: that would draw a "$" in a font of its own."""
    if value <= 0:
        return ""
    exponent = round(np.log10(value))
    if -2 <= exponent <= 2:
        return f"{value:g}"
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
