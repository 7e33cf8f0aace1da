"""One measure of one example: its values, their place on a scale, and the words that a drawing puts beside them.

Suffix N: completion tokens of the example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from analysis.colours import Colours, Scale, make_scale
from analysis.look import Look
from analysis.measure_names import NAMES, Name, unit

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Panel:
    """One measure of one example.

    Attributes:
        measure: Column of the score table.
        title: What it is, for a reader.
        unit: "nats", "probability" (from 0 to 1), or another as ``measure_names.unit`` writes it.
        values_N: The measure at each completion token; NaN where there is no prediction.
        scale: What turns it into positions of the colour map.
        source: Of two runs compared, whose values these are: a run's name, or "difference".
        colours: The panel's own colour map; None: the heatmap's.
    """

    measure: str
    title: str
    unit: str
    values_N: np.ndarray
    scale: Scale
    source: str = ""
    colours: Colours | None = None

    @property
    def heading(self) -> str:
        """Title and source, as they stand over the panel."""
        return f"{self.title} · {self.source}" if self.source else self.title

    @property
    def name(self) -> str:
        """Measure and source, as they stand in a sentence."""
        return f"{self.measure} ({self.source})" if self.source else self.measure

    @cached_property
    def positions(self) -> np.ndarray:
        """Positions in the colour map, 0 to 1; NaN where there is no prediction."""
        return self.scale.positions(self.values_N)

    def shown_position(self, tokens: Sequence[int]) -> float:
        """The one position of a character that these tokens spell: the highest; of differences, the largest.

        NaN where none of them has a value.
        """
        known = [position for position in self.positions[list(tokens)] if not np.isnan(position)]
        if self.scale.centred:
            return float(max(known, key=lambda position: abs(position - 0.5), default=np.nan))
        return float(max(known, default=np.nan))

    def legend(self) -> tuple[str, list[str]]:
        """What stands at the pale end of the colour bar, and at its dark end: the fullest wording first."""
        unit = "" if self.unit in ("", "probability") else f" {self.unit}"
        if self.scale.kind == "percentile":
            middle, high = (f"{self.scale.value_at(position):.3g}" for position in (0.5, 0.99))
            short = f"100th percentile of {self.scale.reference_name}"
            return "0", [f"{short} (50th: {middle}, 99th: {high}{unit})", short, "100 %"]
        if self.unit == "probability" and not self.scale.centred:
            return "0", ["1"]
        if self.scale.centred and self.scale.upper <= 0:
            return "0", [f"0{unit} (no difference)", "0"]
        sign = "+" if self.scale.centred else ""
        low = f"−{self.scale.upper:.3g}" if self.scale.centred else "0"
        end = f"{sign}{self.scale.upper:.3g}{unit}"
        of = "maximum" if self.scale.clip_percentile == 100 else f"{_ordinal(self.scale.clip_percentile)} percentile"
        return low, [f"{end} ({of} of {self.scale.reference_name})", f"{end} ({of})", end]


def make_panel(
    measure: str,
    tokens: pd.DataFrame,
    reference: pd.DataFrame,
    look: Look,
    reference_name: str,
    names: Mapping[str, Name] = NAMES,
) -> Panel:
    """One measure of an example on the scale of reference rows.

    Args:
        measure: Column of both frames.
        tokens: The example's rows of the token table, in order.
        reference: Rows whose values set the scale.
        look: How.
        reference_name: What the reference is, for the legend.
        names: Of the measures, in the words of the run's family.
    """
    is_share = names[measure].is_share
    scale = make_scale(
        look.scale,
        reference[measure].to_numpy(dtype=np.float64),
        reference_name,
        clip_percentile=look.clip_percentile,
        fixed_upper=1.0 if is_share and look.scale == "value" else None,
    )
    values_N = tokens[measure].to_numpy(dtype=np.float64)
    return Panel(measure, names[measure].title, "probability" if is_share else unit(measure), values_N, scale)


def panel_notes(panels: Sequence[Panel], look: Look, reference_name: str, truncated: bool) -> tuple[str, ...]:
    """What a reader must know to read the colours, one sentence each."""
    notes = []
    n_tokens = len(panels[0].values_N)
    if look.scale == "percentile":
        whose = f"all tokens of {reference_name}" if look.reference == "run" else f"the tokens of {reference_name}"
        notes.append(f"Colour is the percentile of a value among {whose}.")
    clipped = [(panel.name, panel.scale.n_clipped(panel.values_N)) for panel in panels]
    if any(count for _, count in clipped):
        counts = ", ".join(f"{name} {count}" for name, count in clipped if count)
        notes.append(f"Tokens beyond the end of the scale have the colour of its end ({counts} of {n_tokens:,}).")
    missing_N = [np.isnan(panel.values_N) for panel in panels]
    unpredicted = int(np.sum(np.all(missing_N, axis=0)))
    if unpredicted:
        plural = "token is" if unpredicted == 1 else "tokens are"
        notes.append(f"{unpredicted} {plural} not predicted (nothing stands before) and left uncoloured.")
    for panel, missing in zip(panels, missing_N, strict=True):
        if np.sum(missing) > unpredicted:
            notes.append(f"{int(np.sum(missing))} of {n_tokens:,} tokens have no value of {panel.name}.")
    if truncated:
        notes.append("The completion was cut at the maximum length.")
    return tuple(notes)


def _ordinal(percentile: float) -> str:
    text = f"{percentile:g}"
    if "." in text or text[-2:] in ("11", "12", "13"):
        return text + "th"
    return text + {"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th")
