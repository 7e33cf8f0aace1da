"""When an example has had enough passes: the target of ``--target-se``, and after which passes one looks.

Pure Python: options are read without torch, and the rule is the same on tensors, arrays and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from uncertainty.errors import InputError

SHARE = 95  # percent of an example's tokens
LEAST = 20  # passes before the first look
LEAST_GROUPS = 5  # of passes that were drawn together: fewer tell too little of their spread
STEP = 10  # passes of each look are a multiple of this, so that the error is that of ten groups
GROWTH = 1.4  # from look to look; each look reads all passes so far out again
NEGLIGIBLE = 1e-3  # nats: below, a relative target is relative to this

_MEND = "give nats, as in 0.01, or a share of the value, as in 5%"


@dataclass(frozen=True)
class TargetError:
    """How small the Monte Carlo standard error of epistemic must be before an example stops.

    A token has reached the target where ``epistemic_se`` is at most ``value`` nats, or at most ``value`` times
    epistemic. An example stops when 95 % of its predicted tokens have (all of them where it has fewer than 20). Not all
    of them in any case: a token whose prediction a rare mask turns over has an error that falls slowly and that no
    estimate knows well, and one such token would cost a long example all of its passes. A relative target counts
    tokens below 0.001 nats as if they had 0.001: hundreds of passes for the second digit of nothing serve nobody.

    Attributes:
        value: nats, or a fraction of epistemic.
        relative: which of them.
    """

    value: float
    relative: bool = False

    @property
    def text(self) -> str:
        """As a person writes it.

        >>> TargetError(0.05, relative=True).text, TargetError(0.01).text
        ('5 %', '0.01 nats')
        """
        return f"{100 * self.value:g} %" if self.relative else f"{self.value:g} nats"

    def reached(self, epistemic_N: Any, error_N: Any) -> Any:
        """Whether each token's error is small enough; tensors, arrays or columns; a missing error is not."""
        limit = self.value * epistemic_N.clip(NEGLIGIBLE) if self.relative else self.value
        return error_N <= limit

    def record(self) -> dict[str, Any]:
        """Everything that decides after how many passes an example stops."""
        rule = {"share": SHARE, "least": LEAST, "groups": LEAST_GROUPS, "step": STEP, "growth": GROWTH}
        return {"value": self.value, "relative": self.relative, "negligible": NEGLIGIBLE, **rule}


def parse_target(text: str | float) -> TargetError:
    """Read a target.

    Args:
        text: nats, such as ``0.01``, or a share of the value, such as ``5%``.

    Raises:
        InputError: it is neither, or not above zero.

    >>> parse_target("5%"), parse_target(0.01)
    (TargetError(value=0.05, relative=True), TargetError(value=0.01, relative=False))
    """
    stripped = str(text).strip()
    relative = stripped.endswith("%")
    try:
        number = float(stripped.removesuffix("%"))
    except ValueError as error:
        raise InputError(f"--target-se {text!r} is no number; {_MEND}") from error
    if not 0 < number < math.inf:
        raise InputError(f"--target-se {text} is not above 0; {_MEND}")
    return TargetError(number / 100 if relative else number, relative)


def is_enough(n_reached: int, n_tokens: int) -> bool:
    """Whether so many of an example's tokens let it stop.

    >>> is_enough(18, 19), is_enough(19, 20), is_enough(0, 0)
    (False, True, True)
    """
    return 100 * n_reached >= SHARE * n_tokens


def round_ends(passes: int, sizes: Sequence[int] | None = None) -> tuple[int, ...]:
    """The numbers of passes after which one looks; the last is ``passes``.

    From 20 passes on, each 1.4 times the one before or more: few looks keep their cost below 3.5 readings of the last
    one, and leave an unlucky small error fewer chances. Passes drawn together stay together.

    Args:
        passes: the most that an example gets, at least 1.
        sizes: of the groups of consecutive passes drawn together; None where every pass is drawn by itself.

    >>> round_ends(100), round_ends(15), round_ends(100, (10,) * 10)
    ((20, 30, 50, 70, 100), (15,), (50, 70, 100))
    """
    may_end = list(range(STEP, passes, STEP)) if sizes is None else list(accumulate(sizes))[LEAST_GROUPS - 1 :]
    ends: list[int] = []
    for end in may_end:
        if LEAST <= end < passes and (not ends or end >= GROWTH * ends[-1]):
            ends.append(end)
    return (*ends, passes)
