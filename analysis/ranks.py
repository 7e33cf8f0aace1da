"""Ranks of one column, ties averaged, and how the ranks of all tokens move when one token is added.

A column is ranked once; correlations, their influences and the top sets of the proxy audit all start from it.

Dimension key: N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ranks:
    """The order of one column.

    Attributes:
        order_N: token at each place, smallest value first.
        start_N: by place, the first place of its group of equal values.
        stop_N: by place, one past the last place of its group.
        share_N: by token, the share of tokens below it, ties (itself included) counted half: mid-rank / N, in (0, 1).
    """

    order_N: np.ndarray
    start_N: np.ndarray
    stop_N: np.ndarray
    share_N: np.ndarray

    @property
    def n_distinct(self) -> int:
        """Number of different values."""
        return int(np.count_nonzero(self.start_N == np.arange(len(self.start_N))))

    def above(self, values_N: np.ndarray, *, ties: float = 0.5) -> np.ndarray:
        """By place, the mean over all tokens of ``values`` where the column is above this place's.

        (1/N) sum_j values_j [1(x_j > x_i) + ties * 1(x_j = x_i)], the tie of a token with itself included.
        """
        return self._mean_from(values_N[self.order_N], ties)

    def below(self, values_N: np.ndarray, *, ties: float = 0.5) -> np.ndarray:
        """By place, the mean over all tokens of ``values`` where the column is below this place's; see ``above``."""
        in_order_N = values_N[self.order_N]
        return in_order_N.mean() - self._mean_from(in_order_N, 1 - ties)

    def to_tokens(self, by_place_N: np.ndarray) -> np.ndarray:
        """Values by place as values by token."""
        by_token_N = np.empty_like(by_place_N)
        by_token_N[self.order_N] = by_place_N
        return by_token_N

    def _mean_from(self, in_order_N: np.ndarray, ties: float) -> np.ndarray:
        total = np.zeros(len(in_order_N) + 1)
        np.cumsum(in_order_N[::-1], out=total[1:])
        strictly_N = total[len(in_order_N) - self.stop_N]
        if ties == 0:
            return strictly_N / len(in_order_N)
        with_ties_N = total[len(in_order_N) - self.start_N]
        return (ties * with_ties_N + (1 - ties) * strictly_N) / len(in_order_N)


def rank(values_N: np.ndarray) -> Ranks:
    """Rank a column without NaN; infinite values are ranked as such."""
    order_N = np.argsort(values_N)
    in_order_N = values_N[order_N]
    new_N = np.empty(len(values_N), dtype=bool)
    new_N[0] = True
    np.not_equal(in_order_N[1:], in_order_N[:-1], out=new_N[1:])
    starts = np.flatnonzero(new_N)
    sizes = np.diff(np.append(starts, len(values_N)))
    start_N = np.repeat(starts, sizes).astype(np.int32)
    stop_N = start_N + np.repeat(sizes, sizes).astype(np.int32)
    share_N = np.empty(len(values_N))
    share_N[order_N] = (start_N + stop_N) / (2 * len(values_N))
    return Ranks(order_N.astype(np.int32), start_N, stop_N, share_N)
