"""From a measure's value to a colour: the scale, the colour map, and black or white text that can be read on it.

A ``Scale`` turns values into positions from 0 (pale) to 1 (dark); a ``Colours`` turns positions into colours. Both
outputs, figure and terminal, use the same two.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

import numpy as np

from analysis.look import ScaleKind
from uncertainty.errors import InputError

Rgb = tuple[float, float, float]

BLACK: Rgb = (0.0, 0.0, 0.0)
WHITE: Rgb = (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Scale:
    """How values of one measure become positions between 0 and 1.

    Attributes:
        kind: ``value``: the value over ``upper``, larger ones clipped to 1. ``percentile``: the share of the
            reference that is below the value, ties counted half, so 0.5 is the median.
        upper: Value at position 1 of a value scale, in the measure's unit.
        clip_percentile: Percentile of the reference that ``upper`` is; 100 where nothing of it is clipped.
        reference: The values that the scale was taken from, sorted, without NaN.
        reference_name: What these are, for the legend: "the run" or "this example".
        centred: A value scale of differences: from ``-upper`` at position 0 to ``upper`` at 1, no difference at 0.5.
    """

    kind: ScaleKind
    upper: float
    clip_percentile: float
    reference: np.ndarray
    reference_name: str
    centred: bool = False

    @property
    def lower(self) -> float:
        """Value at position 0 of a value scale."""
        return -self.upper if self.centred else 0.0

    def positions(self, values: np.ndarray) -> np.ndarray:
        """Positions of values, 0 to 1; NaN stays NaN."""
        values = np.asarray(values, dtype=np.float64)
        if self.kind == "percentile":
            below = np.searchsorted(self.reference, values, side="left")
            not_above = np.searchsorted(self.reference, values, side="right")
            ranks = (below + not_above) / 2 / max(len(self.reference), 1)
            return np.where(np.isnan(values), np.nan, ranks)
        if self.upper <= 0:
            return np.where(np.isnan(values), np.nan, 0.5 if self.centred else 0.0)
        return np.clip((values - self.lower) / (self.upper - self.lower), 0.0, 1.0)

    def n_clipped(self, values: np.ndarray) -> int:
        """How many values lie above the upper end of a value scale; of differences, beyond either end."""
        values = np.abs(values) if self.centred else np.asarray(values)
        return int(np.sum(values > self.upper)) if self.kind == "value" else 0

    def value_at(self, position: float) -> float:
        """The value that has this position: the inverse of ``positions`` for the legend."""
        if self.kind == "value":
            return self.lower + position * (self.upper - self.lower)
        return float(np.quantile(self.reference, position)) if len(self.reference) else 0.0


def make_scale(
    kind: ScaleKind,
    reference: np.ndarray,
    reference_name: str,
    *,
    clip_percentile: float = 99.0,
    fixed_upper: float | None = None,
) -> Scale:
    """A scale taken from reference values.

    Args:
        kind: ``value`` or ``percentile``.
        reference: Values of the measure in the run or the example; NaN are left out.
        reference_name: What they are, for the legend.
        clip_percentile: Percentile of the reference at the dark end of a value scale, in (0, 100].
        fixed_upper: The dark end itself, for a measure that has a natural one (a probability: 1).
    """
    known = np.sort(np.asarray(reference, dtype=np.float64))
    known = known[~np.isnan(known)]
    if fixed_upper is not None:
        return Scale(kind, fixed_upper, 100.0, known, reference_name)
    # "higher" names a value that occurs; in a tiny example the 99th percentile is then the largest one.
    upper = float(np.percentile(known, clip_percentile, method="higher")) if len(known) else 0.0
    if upper <= 0.0 and len(known):
        upper, clip_percentile = float(known[-1]), 100.0
    return Scale(kind, upper, clip_percentile, known, reference_name)


def difference_scale(differences: np.ndarray, reference_name: str, *, clip_percentile: float = 99.0) -> Scale:
    """A value scale centred at no difference, as far to both sides as this percentile of the absolute differences.

    Args:
        differences: Differences of a measure, in its unit; NaN are left out.
        reference_name: What they are, for the legend.
        clip_percentile: Percentile of the absolute differences at both ends, in (0, 100].
    """
    scale = make_scale("value", np.abs(differences), reference_name, clip_percentile=clip_percentile)
    return replace(scale, centred=True)


@dataclass(frozen=True, eq=False)
class Colours:
    """A colour map as a table: light (position 0) to dark (position 1), or away from white to both sides.

    Attributes:
        name: The name the user gave.
        table_C3: 256 colours, sRGB, each component 0 to 1.
    """

    name: str
    table_C3: np.ndarray

    def __call__(self, position: float) -> Rgb:
        """The colour at a position; white where it is NaN (no prediction)."""
        if np.isnan(position):
            return WHITE
        red, green, blue = self.table_C3[min(int(position * 256), 255)]
        return float(red), float(green), float(blue)

    @property
    def for_dark_page(self) -> Colours:
        """The same map on a dark page: still away from the page, the higher (of differences, the larger)."""
        table_C3 = _diverging(_DIVERGING_ON_DARK) if self.name == _DIVERGING else self.table_C3[::-1]
        return Colours(self.name, table_C3)


def colours(name: str) -> Colours:
    """The colour map of a name, turned so that high is dark.

    Any matplotlib map whose luminance only rises or only falls is allowed: an order that can still be seen in
    greyscale and by colour-blind readers.

    Raises:
        InputError: no such map, or one whose luminance goes up and down.
    """
    import matplotlib

    base = name.removesuffix("_r")
    if base not in matplotlib.colormaps:
        names = [known for known in matplotlib.colormaps if not known.endswith("_r")]
        near = difflib.get_close_matches(base, names, n=1, cutoff=0.4)
        mend = f"did you mean {near[0]!r}?" if near else "try 'magma', 'viridis' or 'cividis'"
        raise InputError(f"colour map {name!r} is not one of matplotlib's; {mend}")
    table_C3 = matplotlib.colormaps[base](np.linspace(0, 1, 256))[:, :3]
    luminance_C = np.array([luminance((red, green, blue)) for red, green, blue in table_C3])
    if luminance_C[0] < luminance_C[-1]:
        table_C3, luminance_C = table_C3[::-1], luminance_C[::-1]
    if np.max(np.diff(luminance_C)) > _LUMINANCE_TOLERANCE:
        raise InputError(
            f"colour map {name!r} is not ordered by lightness; try 'magma', 'viridis', 'cividis' or 'Blues'"
        )
    start, end = _USED_RANGE.get(base, (0.0, 1.0))
    chosen = np.linspace(start * 255, end * 255, 256).round().astype(int)
    return Colours(name, table_C3[chosen])


def diverging_colours() -> Colours:
    """The map of differences: blue below, white at no difference, red above; told apart by colour-blind readers."""
    return Colours(_DIVERGING, _diverging(_DIVERGING))


def luminance(colour: Rgb) -> float:
    """Relative luminance of an sRGB colour, 0 (black) to 1 (white).

    Source: WCAG 2.2, definition of relative luminance, with the threshold 0.04045 of IEC 61966-2-1.
    """
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


def contrast(first: Rgb, second: Rgb) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2); 4.5 is what level AA asks of text.

    >>> round(contrast((0, 0, 0), (1, 1, 1)), 6)
    21.0
    """
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def text_colour(background: Rgb) -> Rgb:
    """Black or white, whichever contrasts more; never below 4.58:1, the square root of 21."""
    return BLACK if contrast(background, BLACK) >= contrast(background, WHITE) else WHITE


def _diverging(name: str) -> np.ndarray:
    import matplotlib

    return np.asarray(matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3])


# Blue and red differ to every common kind of colour blindness; "berlin" has their hues around black.
_DIVERGING, _DIVERGING_ON_DARK = "RdBu_r", "berlin"
_LUMINANCE_TOLERANCE = 0.002  # "Blues" and its like wobble by less than this
# magma's last third from black is hard to tell apart in small boxes; its lightest end is already nearly white.
_USED_RANGE: dict[str, tuple[float, float]] = {"magma": (0.0, 0.85)}
