"""All settings of a report and their defaults (they stand nowhere else). Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from uncertainty.errors import InputError


@dataclass(frozen=True)
class ReportSettings:
    """What decides a report beside the runs.

    Attributes:
        confidence: coverage asked of all intervals, between 0 and 1.
        replicates: resamplings of the examples for the bootstrap intervals; 0 leaves them out.
        kendall_tokens: above so many tokens Kendall's tau is computed on a random subset of this size.
        drawn_tokens: above so many tokens a cloud of points is drawn from a random subset of this size.
        seed: of every random choice.
    """

    confidence: float = 0.95
    replicates: int = 1000
    kendall_tokens: int = 50_000
    drawn_tokens: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence {self.confidence:g} is not between 0 and 1; 0.95 is usual")
        if self.replicates < 0:
            raise InputError(f"{self.replicates} replicates are too few; give 0 for no bootstrap")
        for name, value in (("kendall tokens", self.kendall_tokens), ("drawn tokens", self.drawn_tokens)):
            if value < 100:
                raise InputError(f"{value} {name} are too few; give at least 100")
