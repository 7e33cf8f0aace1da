"""One loss per token: the terms that objectives are made of, each on full log-probabilities.

Every term of the paper's form is ``-sum_x w(x) log p(x | context)`` with a weight ``w`` that no gradient flows through,
and its docstring states ``w`` (y is the label, q the reference). They are the definitions: readable, differentiable in
``log_probs_NV``, and what the chunked pass of ``token_losses.py`` is held against. Nats throughout.

Log-probabilities of ``-inf`` are allowed. ``0 log 0`` is 0 with gradient 0; where a token has weight and no probability
the loss is ``inf``. A term with options is bound to them: ``partial(truncated_distillation, k=64)`` is a ``Term``.

Dimensions: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from uncertainty.errors import InputError
from uncertainty.measures import token_loss

Tail = Literal["unnormalised", "renormalised", "bucket"]
TAILS: tuple[Tail, ...] = ("unnormalised", "renormalised", "bucket")


@dataclass(frozen=True)
class Predictions:
    """What a term may look at.

    Attributes:
        log_probs_NV: the model's, float32 or float64; gradients flow into these alone.
        label_N: token ids in [0, V), int64.
        ref_log_probs_NV: the reference's, None where there is no reference.
        token_N: the places of these tokens among all of the pass, where they are a chunk of it; None: they are all.
        n_tokens: how many tokens the pass has; None: these.
    """

    log_probs_NV: Tensor
    label_N: Tensor
    ref_log_probs_NV: Tensor | None = None
    token_N: Tensor | None = None
    n_tokens: int | None = None

    @property
    def reference(self) -> Tensor:
        """The reference's log-probabilities, without gradient.

        Raises:
            InputError: there is none, or of another vocabulary.
        """
        if self.ref_log_probs_NV is None:
            raise InputError("this term compares with a reference and none was given; pass one, or choose another term")
        if self.ref_log_probs_NV.shape != self.log_probs_NV.shape:
            raise InputError(
                f"log-probabilities of the reference are {list(self.ref_log_probs_NV.shape)}, those of the model "
                f"{list(self.log_probs_NV.shape)}; both must predict the same tokens of one vocabulary"
            )
        return self.ref_log_probs_NV.detach()

    def these(self, values: Tensor) -> Tensor:
        """The rows of ``values`` (one per token of the whole pass) that belong to these tokens.

        Raises:
            InputError: there are not as many rows as tokens.
        """
        n_tokens = len(self.label_N) if self.n_tokens is None else self.n_tokens
        if len(values) != n_tokens:
            raise InputError(f"{len(values)} values were given for {n_tokens} tokens; give one for each")
        values = values.to(self.log_probs_NV.device)
        return values if self.token_N is None else values[self.token_N]


Term = Callable[[Predictions], Tensor]  # [N], nats, one loss per token


def tempered(p: Predictions, temperature: float) -> Predictions:
    """Both predictions at a temperature: ``log_softmax(log p / temperature)``; labels stay as they are.

    The paper's equation has no temperature; 1 is the default everywhere and changes nothing. No loss is multiplied
    by the temperature squared.

    Args:
        p: predictions.
        temperature: above 0; above 1 flattens.

    Raises:
        InputError: the temperature is not above 0.

    >>> p = Predictions(torch.tensor([[0.8, 0.2]]).log(), torch.tensor([0]))
    >>> tempered(p, 2.0).log_probs_NV.exp()
    tensor([[0.6667, 0.3333]])
    """
    if not temperature > 0:
        raise InputError(f"temperature must be above 0, got {temperature}")
    if temperature == 1:
        return p
    reference = p.ref_log_probs_NV
    return replace(
        p,
        log_probs_NV=(p.log_probs_NV / temperature).log_softmax(-1),
        ref_log_probs_NV=None if reference is None else (reference / temperature).log_softmax(-1),
    )


def label_loss(p: Predictions) -> Tensor:
    """Maximum likelihood: ``-log p(y)``. Weight ``w(x) = 1[x = y]``.

    >>> label_loss(Predictions(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([1])))
    tensor([1.3863])
    """
    return token_loss(p.log_probs_NV, p.label_N)


def distillation(p: Predictions) -> Tensor:
    """Cross-entropy to the reference: ``-sum_x q(x) log p(x)``. Weight ``w(x) = q(x)``.

    Its gradient is that of the forward divergence ``KL(q || p)``; its value at agreement is the entropy of q, not 0.

    Source: arXiv:2503.16511, the distillation part of the final objective.

    >>> q = torch.tensor([[0.5, 0.5, 0.0]]).log()
    >>> distillation(Predictions(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([1]), q))
    tensor([1.0397])
    """
    return -_expectation(p.reference.exp(), p.log_probs_NV)


def oracle(p: Predictions, target_NV: Tensor) -> Tensor:
    """Soft labels from annotators or a known distribution: ``-sum_x t(x) log p(x)``. Weight ``w(x) = t(x)``.

    Args:
        p: predictions.
        target_NV: probabilities of every token, rows that sum to 1; of the whole pass where ``p`` is a chunk of it.

    Raises:
        InputError: the shape does not fit, or a target is negative.

    >>> p = Predictions(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([1]))
    >>> oracle(p, torch.tensor([[0.0, 0.5, 0.5]]))
    tensor([1.3863])
    """
    target = p.these(target_NV).detach().to(p.log_probs_NV.dtype)
    if target.shape != p.log_probs_NV.shape:
        raise InputError(f"targets are {list(target.shape)}, log-probabilities {list(p.log_probs_NV.shape)}")
    if bool((target < 0).any()):
        raise InputError("a target distribution holds a negative probability")
    return -_expectation(target, p.log_probs_NV)


def policy_gradient(
    p: Predictions, advantage_N: Tensor, old_log_prob_N: Tensor | None = None, clip: float | None = None
) -> Tensor:
    """Policy gradient, sampled form: ``-A log p(y)``. Weight ``w(x) = A 1[x = y]``.

    With the log-probabilities under which the labels were sampled it is ``-A r``, ``r = p(y) / p_old(y)``, of weight
    ``A r 1[x = y]``; with ``clip`` it is ``-min(A r, A clamp(r, 1 - clip, 1 + clip))``, whose weight is 0 where the
    clamp decides.

    Args:
        p: predictions; labels are what was sampled.
        advantage_N: one per token, any sign; of the whole pass where ``p`` is a chunk of it.
        old_log_prob_N: log-probability of each label when it was sampled, nats.
        clip: how far the ratio may leave 1 before its gradient is cut, above 0.

    Raises:
        InputError: as many values as tokens are not given, or ``clip`` without ``old_log_prob_N`` or not above 0.

    Source: Williams 1992; Schulman et al. 2017 (arXiv:1707.06347), the clip.

    >>> p = Predictions(torch.tensor([[0.5, 0.5], [0.8, 0.2]]).log(), torch.tensor([1, 0]))
    >>> policy_gradient(p, torch.tensor([2.0, -1.0]))
    tensor([ 1.3863, -0.2231])
    >>> policy_gradient(p, torch.tensor([2.0, -1.0]), torch.tensor([0.25, 0.8]).log(), clip=0.2)
    tensor([-2.4000,  1.0000])
    """
    advantage = p.these(advantage_N).detach().to(p.log_probs_NV.dtype)
    loss = label_loss(p)
    if old_log_prob_N is None:
        if clip is not None:
            raise InputError("clip needs old_log_prob_N, the log-probabilities under which the labels were sampled")
        return torch.where(advantage != 0, advantage * torch.where(advantage != 0, loss, 0), 0)
    ratio = (-loss - p.these(old_log_prob_N).detach().to(loss.dtype)).exp()
    if clip is None:
        return -advantage * ratio
    if not clip > 0:
        raise InputError(f"clip must be above 0, got {clip}")
    return -torch.minimum(advantage * ratio, advantage * ratio.clamp(1 - clip, 1 + clip))


def truncated_distillation(p: Predictions, k: int = 64, tail: Tail = "unnormalised") -> Tensor:
    """Distillation from the reference's k most probable tokens, the set S.

    The weight depends on ``tail``; with ``Q = sum_S q`` and ``P = sum_S p``:

    - ``unnormalised``, as in the paper: ``w(x) = q(x) 1[x in S]``. The best p is proportional to q on S, 0 elsewhere,
      so there is a bias that stays when p approaches q;
    - ``renormalised``: ``w(x) = q(x) 1[x in S] / Q``; the same best p, the same bias;
    - ``bucket``: the other tokens count as one, ``-(1 - Q) log(1 - P)`` is added. ``w(x) = q(x)`` on S and
      ``(1 - Q) p(x) / (1 - P)`` outside, held constant: the best p has the reference's mass in the tail.

    Args:
        p: predictions with a reference.
        k: tokens kept, at least 1; at V or above it is :func:`distillation`.
        tail: what becomes of the others.

    Raises:
        InputError: no reference, ``k < 1``, or an unknown ``tail``.

    Source: arXiv:2503.16511, appendix B (top-k of the reference).

    >>> p = torch.tensor([[0.5, 0.25, 0.25]]).log()
    >>> q = torch.tensor([[0.6, 0.3, 0.1]]).log()
    >>> [round(float(truncated_distillation(Predictions(p, torch.tensor([0]), q), 1, tail)), 4) for tail in TAILS]
    [0.4159, 0.6931, 0.6931]
    """
    if k < 1:
        raise InputError(f"k must be at least 1 token, got {k}")
    if tail not in TAILS:
        raise InputError(f"tail {tail!r} is not known; choose one of {', '.join(TAILS)}")
    ref_log_probs_NV = p.reference
    if k >= ref_log_probs_NV.shape[-1]:
        return distillation(p)
    top_Nk, place_Nk = ref_log_probs_NV.topk(k, dim=-1)
    q_Nk = top_Nk.exp()
    mass_N = q_Nk.sum(-1)
    if tail == "renormalised":
        q_Nk = q_Nk / mass_N[:, None]
    kept_N = -_expectation(q_Nk, p.log_probs_NV.gather(-1, place_Nk))
    if tail != "bucket":
        return kept_N
    # The tails are sums of their own tokens: 1 - Q would be rounding noise for a confident reference.
    outside_NV = torch.ones_like(ref_log_probs_NV, dtype=torch.bool).scatter_(-1, place_Nk, False)
    rest_mass_N = torch.where(outside_NV, ref_log_probs_NV.exp(), 0).sum(-1)
    return kept_N - _expectation(rest_mass_N[:, None], _log_sum(p.log_probs_NV, outside_NV)[:, None])


def reverse_kl(p: Predictions) -> Tensor:
    """Reverse divergence: ``KL(p || q) = sum_x p(x) (log p(x) - log q(x))``.

    Outside the paper's form: the weight would have to depend on p with gradient. ``inf`` where q lacks a token of p.
    Source: Gu et al. 2023 (arXiv:2306.08543).

    >>> q = torch.tensor([[0.5, 0.5]]).log()
    >>> reverse_kl(Predictions(torch.tensor([[0.75, 0.25]]).log(), torch.tensor([0]), q))
    tensor([0.1308])
    """
    return _divergence(p.log_probs_NV, p.reference)


def jsd(p: Predictions, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon divergence ``beta KL(q || m) + (1 - beta) KL(p || m)``, ``m = beta q + (1 - beta) p``.

    Outside the paper's form: the weight would have to depend on p with gradient.

    Args:
        p: predictions with a reference.
        beta: in (0, 1); divided by ``beta`` it tends to ``KL(q || p)`` as beta goes to 0.

    Returns:
        ``[N]``, nats, in [0, log 2].

    Raises:
        InputError: no reference, or ``beta`` outside (0, 1).

    Source: Agarwal et al. 2023 (arXiv:2306.13649), equation 1.

    >>> q = torch.tensor([[0.5, 0.5]]).log()
    >>> jsd(Predictions(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([0]), q))
    tensor([0.2158])
    """
    if not 0 < beta < 1:
        raise InputError(f"beta must be between 0 and 1, both left out, got {beta}")
    mixed_NV = beta * p.reference.exp() + (1 - beta) * p.log_probs_NV.exp()
    log_mixed_NV = torch.where(mixed_NV > 0, mixed_NV, 1).log()
    return beta * _divergence(p.reference, log_mixed_NV) + (1 - beta) * _divergence(p.log_probs_NV, log_mixed_NV)


def _expectation(weight_NV: Tensor, values_NV: Tensor) -> Tensor:
    """``sum_v weight * value`` with ``0 * inf = 0``, in the gradient too."""
    return (weight_NV * torch.where(weight_NV != 0, values_NV, 0)).sum(-1)


def _divergence(log_a_NV: Tensor, log_b_NV: Tensor) -> Tensor:
    """``KL(a || b)``."""
    a_NV = log_a_NV.exp()
    there_NV = a_NV != 0
    # Out of the way before the difference is formed: inf - inf is NaN, and so is its gradient.
    difference_NV = torch.where(there_NV, log_a_NV, 0) - torch.where(there_NV, log_b_NV, 0)
    return _expectation(a_NV, difference_NV)


def _log_sum(log_probs_NV: Tensor, where_NV: Tensor) -> Tensor:
    """``log sum_v exp`` over the places of ``where_NV``; ``-inf``, with gradient 0, where they hold nothing."""
    kept_NV = torch.where(where_NV, log_probs_NV, -torch.inf)
    empty_N1 = (kept_NV == -torch.inf).all(-1, keepdim=True)
    return torch.where(empty_N1, 0, kept_NV).logsumexp(-1).masked_fill(empty_N1[:, 0], -torch.inf)
