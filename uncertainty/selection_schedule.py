"""How the share of the tokens that are selected changes in the course of training: a pure function of the step.

Nothing here imports torch, so that a command can read a schedule before it loads anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from uncertainty.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """The share of the tokens to select, step by step.

    Attributes:
        shape: a key of ``SHAPES``.
        start: share at the first step, in (0, 1].
        end: share at the last step, in (0, 1]; with ``warmup`` from the end of the warm-up on.
        over: the part of the steps, counted from the first, in which the share goes from start to end, in (0, 1].
    """

    shape: str = "constant"
    start: float = 0.25
    end: float = 0.25
    over: float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError(f"unknown schedule {self.shape!r}; choose one of {', '.join(SHAPES)}")
        for name, value in (("fraction", self.start), ("fraction", self.end), ("warm-up", self.over)):
            if not 0 < value <= 1:
                raise InputError(f"the {name} of a schedule must be above 0 and at most 1, got {value}; {FORMS}")
        if self.shape == "constant" and self.start != self.end:
            raise InputError(f"a constant schedule has one share, got {self.start} and {self.end}; {FORMS}")

    @property
    def is_constant(self) -> bool:
        """Whether every step has the same share."""
        return self.start == self.end

    def at(self, step: int, total_steps: int) -> float:
        """The share at one step.

        Args:
            step: optimizer steps done before it, 0 for the first; beyond the last step the share stays at ``end``.
            total_steps: optimizer steps of the whole run, at least 1. A run of one step is at ``end``.

        Returns:
            a fraction in (0, 1], between ``start`` and ``end``.

        Raises:
            ValueError: a negative step, or no step at all.

        >>> [round(parse_schedule("linear:1:0.25").at(step, 4), 3) for step in range(4)]
        [1.0, 0.75, 0.5, 0.25]
        >>> [round(parse_schedule("warmup:0.5:0.25").at(step, 5), 3) for step in range(5)]
        [1.0, 0.625, 0.25, 0.25, 0.25]
        """
        if step < 0 or total_steps < 1:
            raise ValueError(f"step must be 0 or more and total_steps 1 or more, got {step} of {total_steps}")
        length = self.over * (total_steps - 1)
        if step >= length:
            return self.end
        # the mix of both ends, not start + difference: it is exactly start at 0 and never leaves the interval
        way = SHAPES[self.shape](step / length)
        share = self.start * (1 - way) + self.end * way
        return min(max(share, min(self.start, self.end)), max(self.start, self.end))

    def __str__(self) -> str:
        if self.shape == "constant":
            return str(self.end)
        first = self.over if self.shape == "warmup" else self.start
        return f"{self.shape}:{first}:{self.end}"


def parse_schedule(text: str | float) -> Schedule:
    """Read a schedule as a command line, a settings file or a caller writes it.

    =====================  ==================================================================================
    ``0.25``               the same share at every step (a number is taken too)
    ``linear:1.0:0.25``    along a line from the first share, at the first step, to the second, at the last
    ``cosine:1.0:0.25``    the same ends along half a cosine: slow, fast, slow
    ``warmup:0.1:0.25``    from all tokens down to 0.25 along a line in the first 10 % of the steps, then 0.25
    =====================  ==================================================================================

    Raises:
        InputError: another form, or a share that is not in (0, 1].

    >>> parse_schedule("warmup:0.1:0.25")
    Schedule(shape='warmup', start=1.0, end=0.25, over=0.1)
    """
    shape, *numbers = str(text).strip().split(":")
    if not numbers:
        shape, numbers = "constant", [shape]
    if shape not in SHAPES or len(numbers) != (1 if shape == "constant" else 2):
        raise InputError(f"cannot read {str(text)!r} as a fraction; {FORMS}")
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        raise InputError(f"cannot read {str(text)!r} as a fraction; {FORMS}") from None
    if shape == "warmup":
        return Schedule(shape, 1.0, values[1], over=values[0])
    return Schedule(shape, values[0], values[-1])


FORMS = "write a share such as 0.25, or linear:FROM:TO, cosine:FROM:TO, warmup:PART_OF_STEPS:TO"

# How far the way from start to end is gone, for the part of the steps that is done; 0 at 0, 1 at 1.
SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: done,
    "linear": lambda done: done,
    "cosine": lambda done: (1 - math.cos(math.pi * done)) / 2,
    "warmup": lambda done: done,
}
