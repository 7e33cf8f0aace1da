"""Kendall's tau-b in O(n log n) with the influence of every token, so that it too has an interval by example.

Dimension key: N tokens.
"""

from __future__ import annotations

import numpy as np

from analysis.ranks import Ranks


def kendall(first: Ranks, second: Ranks) -> tuple[float, np.ndarray]:
    """Tau-b of two columns and the influence of each token on it.

    tau_b = A / sqrt(B_x B_y), where A is the mean over pairs of tokens of sign(x_i - x_j) sign(y_i - y_j), and B the
    share of pairs not tied. With a_i, b_i the same means over the pairs of token i, its influence is
    2 [(a_i - A) / sqrt(B_x B_y) - tau_b / 2 ((bx_i - B_x) / B_x + (by_i - B_y) / B_y)].

    Returns:
        tau_b from -1 to 1, NaN if a column is constant, and the influences N in the order of the columns.

    Source: Kendall (1945); the projection of U-statistics, Hoeffding (1948).
    """
    n_tokens = len(first.share_N)
    untied_x_N, untied_y_N = _untied(first), _untied(second)
    agree_N = _agreement(first, second) / (n_tokens - 1)
    mean_x, mean_y = untied_x_N.mean(), untied_y_N.mean()
    if mean_x == 0 or mean_y == 0:
        return float("nan"), np.zeros(n_tokens)
    scale = np.sqrt(mean_x * mean_y)
    tau = float(agree_N.mean() / scale)
    ties_N = (untied_x_N - mean_x) / mean_x + (untied_y_N - mean_y) / mean_y
    return tau, 2 * ((agree_N - agree_N.mean()) / scale - tau / 2 * ties_N)


def _untied(ranks: Ranks) -> np.ndarray:
    """Of each token, the share of other tokens with another value."""
    n_tokens = len(ranks.order_N)
    untied_N = np.empty(n_tokens)
    untied_N[ranks.order_N] = (n_tokens - (ranks.stop_N - ranks.start_N)) / (n_tokens - 1)
    return untied_N


def _agreement(first: Ranks, second: Ranks) -> np.ndarray:
    """Of each token, the sum over all others of sign(x_i - x_j) sign(y_i - y_j).

    With L(i) the tokens strictly below i in a column and E(i) those below or equal, the sum is
    #(Lx Ly) + #(Lx Ey) + #(Ex Ly) + #(Ex Ey) + n - #Lx - #Ex - #Ly - #Ey: the four counts of dominated tokens.
    """
    n_tokens = len(first.order_N)
    low_x_N, high_x_N = _edges(first)
    low_y_N, high_y_N = _edges(second)
    sum_N = (n_tokens - low_x_N - high_x_N - low_y_N - high_y_N).astype(np.float64)
    for at_x_N in (low_x_N, high_x_N):
        for at_y_N in (low_y_N, high_y_N):
            sum_N += _dominated(low_x_N, low_y_N, at_x_N, at_y_N)
    return sum_N


def _edges(ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
    """Of each token, how many lie strictly below it, and how many below it or equal."""
    low_N, high_N = np.empty((2, len(ranks.order_N)), dtype=np.int64)
    low_N[ranks.order_N], high_N[ranks.order_N] = ranks.start_N, ranks.stop_N
    return low_N, high_N


def _dominated(x_N: np.ndarray, y_N: np.ndarray, at_x_N: np.ndarray, at_y_N: np.ndarray) -> np.ndarray:
    """Of each query (at_x, at_y), the number of tokens with x < at_x and y < at_y. All are integers in 0..n.

    Tokens and queries are sorted together by x and held in order of y; then, level by level of a wavelet tree, each
    block of places in x is split in two halves, and a query of the right half counts the tokens of the left half
    that come before it in y: log2(2 n) passes over the array, no loop over tokens.
    """
    n_items = 2 * len(x_N)
    # A token counts iff x < at_x, so at equal x the query goes first; likewise in y.
    by_x = np.argsort(np.concatenate([2 * x_N + 1, 2 * at_x_N]), kind="stable")
    by_y = np.argsort(np.concatenate([2 * y_N + 1, 2 * at_y_N]), kind="stable")
    is_token = by_x < len(x_N)
    place_in_x = np.empty(n_items, dtype=np.int64)
    place_in_x[by_x] = np.arange(n_items)
    items = place_in_x[by_y]
    count = np.zeros(n_items, dtype=np.int64)
    for level in reversed(range((n_items - 1).bit_length())):
        block = items >> (level + 1)
        is_left = (items >> level) & 1 == 0
        seen = np.concatenate([[0], np.cumsum(is_left & is_token[items])])
        from_block = seen[:-1] - seen[block << (level + 1)]
        count[items[~is_left]] += from_block[~is_left]
        lefts = np.cumsum(is_left) - is_left - (block << level)  # left items before this one in its own block
        start = block << (level + 1)
        rights = np.arange(n_items) - start - lefts
        place = start + np.where(is_left, lefts, (1 << level) + rights)
        items = _moved(items, place)
    result = np.empty(len(x_N), dtype=np.int64)
    result[by_x[~is_token] - len(x_N)] = count[~is_token]
    return result


def _moved(items: np.ndarray, place: np.ndarray) -> np.ndarray:
    moved = np.empty_like(items)
    moved[place] = items
    return moved
