"""What the engine says of the rows of a forward pass, as families read it."""

from __future__ import annotations

from typing import Protocol


class Rows(Protocol):
    """The rows of the next forward (``engine.Rows``): one pass of one example each."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The example of each row."""

    @property
    def passes(self) -> tuple[int, ...]:
        """The pass of each row."""

    @property
    def starts(self) -> tuple[int, ...] | None:
        """The first real position of each row where rows are padded on the left, else None."""

    @property
    def total(self) -> int | None:
        """How many passes the run has (K), where that is known."""


def only_pass(rows: Rows) -> int:
    """The one pass that all rows are of.

    Raises:
        ValueError: there are several, which a family whose members do not share a forward cannot draw.
    """
    found = sorted(set(rows.passes))
    if len(found) != 1:
        raise ValueError(f"the rows are of passes {found}; members of this family run one at a time")
    return found[0]
