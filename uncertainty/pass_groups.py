"""Passes counted in plain integers: the rate that a unit is dropped at, and the groups that passes fall into.

Groups are of two kinds: those within which masks are balanced (``families/balanced.py``), and those that the standard
error leaves out one at a time (``measures.bald_standard_error``). No torch here: a report reads both from a run's
settings.
"""

from __future__ import annotations

from collections.abc import Sequence

RESOLUTION = 1 << 16  # a rate is a multiple of 1/65536
GROUPS = range(10, 4, -1)  # fewer than five tell too little of their spread
LEFT_OVER = 0.05
MAX_GROUP = 1000  # passes; its table takes 8 MB and half a second


def threshold(rate: float) -> int:
    """How many of the 65,536 values of a lane drop the element."""
    return round(rate * RESOLUTION)


def exact_rate(rate: float) -> float:
    """The rate that is used: ``rate`` rounded to a multiple of 1/65536 (0.1 becomes 0.100006)."""
    return threshold(rate) / RESOLUTION


def group_sizes(passes: int, rate: float, groups: int | None = None) -> list[int]:
    """How many passes each independent group has: as equal as may be, the larger ones first.

    The passes of a group are balanced among themselves, groups are independent: so the spread between groups gives an
    honest standard error, which nothing within a group can. Groups cost no accuracy where ``rate`` times their size is
    a whole number. We take as many from 10 down to 5 as leave the number of drops of a unit at most 5 % of the variance
    that iid masks give it, and one group where no such number does, as with few passes or a low rate.

    Args:
        passes: K, at least 1.
        rate: dropout rate.
        groups: how many groups, at most ``passes``, instead of that rule.

    >>> group_sizes(100, 0.1), group_sizes(100, 0.05)
    ([10, 10, 10, 10, 10, 10, 10, 10, 10, 10], [20, 20, 20, 20, 20])
    >>> group_sizes(20, 0.1), group_sizes(7, 0.1, groups=2)
    ([20], [4, 3])
    """
    if groups is None:
        fair = (n for n in GROUPS if n <= passes and _left_over(_split(passes, n), rate) <= LEFT_OVER)
        groups = next(fair, 1)
    return _split(passes, min(max(groups, -(-passes // MAX_GROUP)), passes))


def most_groups(passes: int, rate: float) -> int:
    """Into how many groups passes can be cut at nearly no cost, by the rule of ``group_sizes``: the most there are.

    >>> most_groups(1000, 0.1), most_groups(200, 0.05), most_groups(20, 0.01)
    (100, 10, 1)
    """
    smallest = next((size for size in range(2, passes) if _left_over([size], rate) <= LEFT_OVER), passes)
    fair = (n for n in range(passes // smallest, 1, -1) if _left_over(_split(passes, n), rate) <= LEFT_OVER)
    return next(fair, 1)


def jackknife_sizes(n_members: int) -> tuple[int, ...]:
    """The groups of independent members for a standard error: ten where ten divides K, else one for each member.

    Ten groups covered best of the estimators compared (docs/estimators.md), and cost a tenth of leaving out each.
    """
    groups = 10 if n_members % 10 == 0 else n_members
    return (n_members // groups,) * groups


def _split(passes: int, groups: int) -> list[int]:
    return [passes // groups + (g < passes % groups) for g in range(groups)]


def _left_over(sizes: Sequence[int], rate: float) -> float:
    """Variance of the number of drops of a unit, as a share of what it is under iid masks."""
    rate = exact_rate(rate)
    if rate == 0.0:
        return 0.0
    return sum((rate * n % 1) * (1 - rate * n % 1) for n in sizes) / (sum(sizes) * rate * (1 - rate))
