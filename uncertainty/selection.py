"""Which tokens are trained on: from one value per token to a boolean selection.

A selection is by exact count and not by threshold, so that the number of selected tokens, the denominator of a loss
over them, is known before the first of them is seen.

Dimensions: N tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def top_fraction(values_N: Tensor, fraction: float) -> Tensor:
    """Select the tokens with the highest values: exactly ``k = max(1, floor(fraction * N + 1/2))`` of them.

    Of tokens with equal values the earlier one is taken first, so the selection is the same in every run and on every
    device. The paper speaks of the top quarter and does not say what becomes of fractions of a token; we round to the
    nearest count, halves up, and select at least one, because a batch without any selected token has no loss.

    Args:
        values_N: one value per token, floating point, any unit; ``inf`` and ``-inf`` allowed, NaN not: leave out the
            tokens that have no prediction.
        fraction: share of the tokens to select, 0 to 1; 0 selects none.

    Returns:
        ``[N]``, bool, ``k`` of them true (none if ``fraction`` or ``N`` is 0); no gradient.

    Raises:
        ValueError: wrong shape or dtype, a NaN, or a fraction outside 0 to 1.

    Source: arXiv:2503.16511, maximum likelihood on the tokens of highest loss.

    >>> top_fraction(torch.tensor([0.5, 2.0, 0.5, 0.1]), 0.5)
    tensor([ True,  True, False, False])
    """
    if values_N.dim() != 1 or not values_N.is_floating_point():
        raise ValueError(
            f"values must be floating point of shape [N], got {values_N.dtype} of shape {list(values_N.shape)}"
        )
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    n_missing = int(values_N.isnan().sum())
    if n_missing:
        raise ValueError(f"{n_missing} of {len(values_N)} values are NaN; leave out the tokens without a prediction")
    selected_N = torch.zeros_like(values_N, dtype=torch.bool)
    # + 0.0 turns -0.0 into 0.0: a sort by bits, as some devices do it, would tell the two apart.
    order_N = (values_N.detach() + 0.0).argsort(descending=True, stable=True)
    selected_N[order_N[: _count(len(values_N), fraction)]] = True
    return selected_N


def _count(n_tokens: int, fraction: float) -> int:
    if fraction == 0 or n_tokens == 0:
        return 0
    return max(1, math.floor(fraction * n_tokens + 0.5))
