"""The values that tokens are ranked by, from what one pass of the model (and of the reference) leaves per token.

Dimensions: N completion tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from uncertainty.errors import InputError
from uncertainty.families.keyed import name_key, row_keys, site_keys
from uncertainty.selection_rules import SIGNALS, Rule


class TokenSignals(NamedTuple):
    """What is known of each completion token, floating point ``[N]``, nats; None where it was not computed.

    Attributes:
        nll_N: ``-log p(label)`` of the model in training.
        entropy_N: entropy of its prediction.
        ref_nll_N: ``-log p_ref(label)``; for RHO as it was first meant, put the loss of a holdout model here.
        kl_N: ``KL(p_ref || p)``.
        column_N: a column of a score table, joined on (example, position).
    """

    nll_N: Tensor | None = None
    entropy_N: Tensor | None = None
    ref_nll_N: Tensor | None = None
    kl_N: Tensor | None = None
    column_N: Tensor | None = None


def ranking_values(
    rule: Rule, signals: TokenSignals, example_N: Tensor, position_N: Tensor, *, seed: int, step: int
) -> Tensor:
    """The value of each token that ``selection.select`` ranks.

    Args:
        rule: its ``by``; its ``level`` counts for random numbers, of which a document has one and not the mean of
            many (that would seldom choose a long one).
        signals: what the passes left.
        example_N: number of the token's example in the data set, int64.
        position_N: position of the token in the rendered example, int64.
        seed: of the run.
        step: optimizer steps done before this one.

    Returns:
        ``[N]``, floating point, unit as ``SIGNALS`` says, no gradient. Random values are the same for the same (seed,
        step, example, position), wherever the token stands.

    Raises:
        InputError: the signal asks for something that was not computed.
    """
    signal = SIGNALS[rule.by]
    if rule.by == "random":
        within_N = torch.zeros_like(position_N) if rule.level == "document" else position_N
        return keyed_uniform(example_N, within_N, seed=seed, step=step, purpose="random")
    value_N = _field(rule, signals, signal.field).detach()
    return value_N - _field(rule, signals, signal.minus).detach() if signal.minus else value_N


def keyed_uniform(example_N: Tensor, position_N: Tensor, *, seed: int, step: int, purpose: str) -> Tensor:
    """Uniform numbers that depend on nothing but (seed, step, example, position) and what they are for.

    They come from the counter-based generator of the dropout masks, so that the order of the tokens, padding, packing,
    the device and the number of processes do not change them.

    Returns:
        ``[N]``, float64, multiples of 2^-53 strictly between 0 and 1.
    """
    keys = row_keys(seed, example_N.tolist(), position_N.tolist(), example_N.device)
    bits_N = site_keys(keys, name_key(f"{purpose} step {step}")).first_R
    # 52 bits and a half: exact in float64, never 0 and never 1. The mask makes the shift a logical one.
    return (((bits_N >> 12) & ((1 << 52) - 1)).to(torch.float64) + 0.5) * 2.0**-52


def _field(rule: Rule, signals: TokenSignals, name: str) -> Tensor:
    value_N: Tensor | None = getattr(signals, name)
    if value_N is None:
        mend = "give a reference" if name in ("ref_nll_N", "kl_N") else f"compute {name}"
        raise InputError(
            f"selection by {rule.by} needs {name}, which was not computed; {mend}, or choose another signal"
        )
    return value_N
