"""Chunk after chunk of tokens read out over the vocabulary: each token's losses and their gradients at the projection.

The step of ``token_losses.py`` that holds logits. Two things set its memory: the blocks of a chunk's logits, which are
used again for every chunk and in the end hold gradients, and the temporaries of a tile, which on a CPU are small enough
to stay in its cache.

Dimension key: N tokens of the pass, C tokens of a chunk, c tokens of a tile, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from uncertainty.head import Head, logits_of, slope_of
from uncertainty.terms import Predictions, Term, distillation, tempered

# Elements that a CPU works on between two projections: what stays in its cache is done three times faster.
TILE = 2**18


class TokenLosses(NamedTuple):
    """Values of each token, nats, in the dtype of the logits. The first two can carry gradients, the others none.

    Attributes:
        nll_N: ``-log p(y)``.
        rest_N: the term of the rest, by default ``-sum_v q_v log p_v`` at the temperature asked for; None without one.
        entropy_N: of the student.
        ref_nll_N: ``-log q(y)``; None without a reference, as are those that follow.
        ref_entropy_N: of the reference.
        kl_N: ``KL(q || p)`` at temperature 1, ``>= 0``; exactly 0 where both agree to the last bit.
    """

    nll_N: Tensor
    rest_N: Tensor | None
    entropy_N: Tensor
    ref_nll_N: Tensor | None
    ref_entropy_N: Tensor | None
    kl_N: Tensor | None


@dataclass(frozen=True)
class Job:
    """What is asked of one pass.

    Attributes:
        head: the student's. Its weights are finite, and so are its logits.
        label_N: what is predicted.
        reference: the head of the reference and the hidden states it reads.
        term: what the rest learns, None for nothing.
        temperature: at which ``term`` sees both predictions.
        selected_N: tokens that take the label's loss, where that is known already.
        chunk: tokens of a chunk.
    """

    head: Head
    label_N: Tensor
    reference: tuple[Head, Tensor] | None
    term: Term | None
    temperature: float
    selected_N: Tensor | None
    chunk: int


class Chunk(NamedTuple):
    """One chunk done. The gradients are of each loss with respect to what the projection gave, bias included.

    Attributes:
        rows: which tokens.
        values: their losses.
        nll_CV: gradient of the label's loss, up to ``slope``; valid until the next chunk.
        rest_CV: gradient of the rest's term likewise, None without one.
        slope: a constant factor that is still to be multiplied to both.
    """

    rows: slice
    values: TokenLosses
    nll_CV: Tensor
    rest_CV: Tensor | None
    slope: float


def chunks(hidden_ND: Tensor, job: Job, *, with_gradients: bool) -> Iterator[Chunk]:
    """Read out and measure chunk after chunk; without gradients the blocks of a chunk hold nothing of use."""
    n_tokens, n_vocabulary = len(hidden_ND), len(job.head.weight_VD)
    height = min(job.chunk, max(1, n_tokens))
    rest_alone = with_gradients and job.term is not None and job.reference is None
    count = 2 if job.reference is not None or rest_alone else 1
    blocks = hidden_ND.new_empty((count, height, n_vocabulary), dtype=job.head.dtype)
    for start in range(0, max(1, n_tokens), height):  # one empty chunk where there is no token
        rows = slice(start, min(start + height, n_tokens))
        size = rows.stop - rows.start
        logits_CV = logits_of(job.head, hidden_ND[rows], blocks[0, :size])
        ref_CV = None
        if job.reference is not None:
            ref_head, ref_ND = job.reference
            ref_CV = logits_of(ref_head, ref_ND[rows], blocks[1, :size])
        second_CV = blocks[1, :size] if count == 2 else None
        values, slope = _measure(logits_CV, ref_CV, second_CV, rows, job, with_gradients)
        yield Chunk(rows, values, logits_CV, None if job.term is None else second_CV, slope)


def join(parts: list[TokenLosses]) -> TokenLosses:
    """The values of all tokens from those of some, in order."""
    return TokenLosses._make(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))


def _measure(
    logits_CV: Tensor, ref_CV: Tensor | None, second_CV: Tensor | None, rows: slice, job: Job, with_gradients: bool
) -> tuple[TokenLosses, float]:
    """Values of a chunk; where asked for, gradients take the place of the logits, tile after tile."""
    size, n_vocabulary = logits_CV.shape
    height = max(1, TILE // n_vocabulary) if logits_CV.device.type == "cpu" else max(1, size)
    parts, slope = [], 1.0
    for start in range(0, max(1, size), height):
        tile = slice(start, min(start + height, size))
        token_c = torch.arange(rows.start + tile.start, rows.start + tile.stop, device=logits_CV.device)
        bend_cV = None
        if with_gradients:
            slope, bend_cV = slope_of(job.head, logits_CV[tile])
        log_p = logits_CV[tile].log_softmax(-1)
        log_q = None if ref_CV is None else ref_CV[tile].log_softmax(-1)
        predictions = Predictions(log_p, job.label_N[rows][tile], log_q, token_c, len(job.label_N))
        values, p, q = _values(predictions)
        if job.term is not None:
            rest_c, gradient_cV = _rest(predictions, p, q, job, with_gradients)
            values = values._replace(rest_N=rest_c)
            if gradient_cV is not None and second_CV is not None:
                _write(gradient_cV, bend_cV, second_CV[tile])
        if with_gradients:
            p.scatter_add_(-1, predictions.label_N[:, None], p.new_full((len(p), 1), -1.0))
            _write(p, bend_cV, logits_CV[tile])
        parts.append(values)
    return join(parts), slope


def _values(predictions: Predictions) -> tuple[TokenLosses, Tensor, Tensor | None]:
    """Everything but the rest's term, with the probabilities of student and reference."""
    log_p, log_q = predictions.log_probs_NV, predictions.ref_log_probs_NV
    label_c1 = predictions.label_N[:, None]
    p = log_p.exp()
    nll_c, entropy_c = -log_p.gather(-1, label_c1)[:, 0], -(p * log_p).sum(-1)
    if log_q is None:
        return TokenLosses(nll_c, None, entropy_c, None, None, None), p, None
    q = log_q.exp()
    # p - q adds up to nothing, and with it the rounding of the two normalisations cancels to first order. What is left
    # below zero is rounding of the sum.
    kl_c = (log_q - log_p).mul_(q).add_(p).sub_(q).sum(-1).clamp_(min=0)
    ref_nll_c, ref_entropy_c = -log_q.gather(-1, label_c1)[:, 0], -(q * log_q).sum(-1)
    return TokenLosses(nll_c, None, entropy_c, ref_nll_c, ref_entropy_c, kl_c), p, q


def _rest(
    predictions: Predictions, p: Tensor, q: Tensor | None, job: Job, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The rest's term of a tile and its gradient with respect to the logits (only then is it asked for)."""
    at_temperature = tempered(predictions, job.temperature)
    if job.term is not distillation:
        return _by_autograd(at_temperature, job, with_gradient)
    if job.temperature != 1:
        p, q = at_temperature.log_probs_NV.exp(), at_temperature.reference.exp()
    assert q is not None, "distillation has a reference"
    rest_c = -(q * at_temperature.log_probs_NV).sum(-1)
    return rest_c, (p - q).div_(job.temperature) if with_gradient else None


def _by_autograd(predictions: Predictions, job: Job, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Any term: its gradient with respect to the log-probabilities, taken back through the softmax."""
    assert job.term is not None, "there is a term"
    if not with_gradient:
        return job.term(predictions), None
    with torch.enable_grad():
        leaf_cV = predictions.log_probs_NV.detach().requires_grad_()
        rest_c = job.term(replace(predictions, log_probs_NV=leaf_cV))
        (gradient_cV,) = torch.autograd.grad(rest_c.sum(), leaf_cV)
    total_c1 = gradient_cV.sum(-1, keepdim=True)
    return rest_c.detach(), (gradient_cV - leaf_cV.detach().exp() * total_c1).div_(job.temperature)


def _write(gradient_cV: Tensor, bend_cV: Tensor | None, out: Tensor) -> None:
    if bend_cV is None:
        out.copy_(gradient_cV)
    else:
        torch.mul(gradient_cV, bend_cV, out=out)
