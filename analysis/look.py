"""How a heatmap is to look: all its settings and their defaults (they stand nowhere else). Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from uncertainty.errors import InputError

ScaleKind = Literal["value", "percentile"]
Reference = Literal["run", "example"]

MONOSPACED = ("DejaVu Sans Mono", "DejaVu Sans")


@dataclass(frozen=True)
class Look:
    """What is shown of an example, and on which scale.

    Attributes:
        measures: One panel each, in this order; ``bald`` means ``epistemic``.
        scale: ``value``: colour by value; ``percentile``: by rank among the reference's tokens.
        reference: Whose tokens set the scale: the run's, so that heatmaps of different examples can be compared,
            or this example's alone.
        clip_percentile: Percentile of the reference at the dark end of a value scale, in (0, 100].
        colour_map: Name of a matplotlib map that is ordered by lightness; it is turned so that high is dark.
        prompt_characters: Longest prompt shown whole; of a longer one the middle is left out. 0 shows none.
    """

    measures: tuple[str, ...] = ("loss", "entropy", "aleatoric", "epistemic")
    scale: ScaleKind = "value"
    reference: Reference = "run"
    clip_percentile: float = 99.0
    colour_map: str = "magma"
    prompt_characters: int = 600

    def __post_init__(self) -> None:
        if not self.measures:
            raise InputError("no measure to show; name at least one, such as epistemic")
        if not 0 < self.clip_percentile <= 100:
            raise InputError(f"clip percentile {self.clip_percentile:g} is not above 0 and at most 100; 99 is usual")
        if self.prompt_characters < 0:
            raise InputError(f"{self.prompt_characters} prompt characters cannot be shown; give 0 for none")


@dataclass(frozen=True)
class Page:
    """Measures of a figure.

    Attributes:
        width: Of the whole figure, in inches; 3.25 and 6.75 are the columns of common paper styles.
        type_size: Of the completion's text, in points.
        families: Font families to prefer; characters that they lack are taken from other installed fonts.
        dpi: Pixels per inch of a PNG.
    """

    width: float = 6.75
    type_size: float = 7.5
    families: tuple[str, ...] = MONOSPACED
    dpi: int = 200

    def __post_init__(self) -> None:
        if not 2 <= self.width <= 40:
            raise InputError(f"a figure cannot be {self.width:g} inches wide; give 2 to 40, such as {Page.width}")
        if not 3 <= self.type_size <= 40:
            raise InputError(
                f"type of {self.type_size:g} points is not readable; give 3 to 40 ({Page.type_size} is usual)"
            )
        if not 20 <= self.dpi <= 1200:
            raise InputError(f"{self.dpi} dots per inch is not between 20 and 1200; {Page.dpi} is usual")
