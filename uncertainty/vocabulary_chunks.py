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
        entropy_N: of the student; None where it was not asked for.
        ref_nll_N: ``-log q(y)``; None without a reference.
        kl_N: ``KL(q || p)`` at temperature 1, ``>= 0``; exactly 0 where both agree to the last bit; None likewise.
        selected_N: bool, the tokens at which ``nll_N`` carries the gradient, where ``choose`` chose them.
    """

    nll_N: Tensor
    rest_N: Tensor | None = None
    entropy_N: Tensor | None = None
    ref_nll_N: Tensor | None = None
    kl_N: Tensor | None = None
    selected_N: Tensor | None = None


@dataclass(frozen=True)
class Job:
    """What is asked of one pass.

    Attributes:
        head: the student's. Its weights are finite, and so are its logits.
        label_N: what is predicted.
        token_N: the places of these tokens among those that ``term`` knows.
        n_tokens: how many those are.
        reference: the head of the reference and the hidden states it reads.
        term: what the rest learns, None for nothing.
        temperature: at which ``term`` sees both predictions.
        entropy: whether the student's is wanted.
        chunk: tokens of a chunk.
    """

    head: Head
    label_N: Tensor
    token_N: Tensor
    n_tokens: int
    reference: tuple[Head, Tensor] | None
    term: Term | None
    temperature: float
    entropy: bool
    chunk: int

    def only(self, place_M: Tensor) -> Job:
        """The same of some tokens, by their places in the pass; their entropy is known by then."""
        label_M, token_M = self.label_N[place_M], self.token_N[place_M]
        reference = None if self.reference is None else (self.reference[0], self.reference[1][place_M])
        return replace(self, label_N=label_M, token_N=token_M, reference=reference, entropy=False)


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
        bend_cV = None
        if with_gradients:
            slope, bend_cV = slope_of(job.head, logits_CV[tile])
        log_p = logits_CV[tile].log_softmax(-1)
        log_q = None if ref_CV is None else ref_CV[tile].log_softmax(-1)
        # On a CPU a second softmax costs half of an exponential; the divergence needs what belongs to log_p to the bit.
        p = logits_CV[tile].softmax(-1) if log_q is None else log_p.exp()
        label_c = job.label_N[rows][tile]
        predictions = Predictions(log_p, label_c, log_q, job.token_N[rows][tile], job.n_tokens)
        values, rest_cV = _values(predictions, p, job, with_gradients)
        if with_gradients:
            if rest_cV is not None and second_CV is not None:
                _write(rest_cV, bend_cV, second_CV[tile])
            p.scatter_add_(-1, label_c[:, None], p.new_full((len(p), 1), -1.0))
            _write(p, bend_cV, logits_CV[tile])
        parts.append(values)
    return join(parts), slope


def _values(predictions: Predictions, p: Tensor, job: Job, with_gradient: bool) -> tuple[TokenLosses, Tensor | None]:
    """Values of a tile, and the gradient of the rest's term with respect to the logits (where it is asked for).

    The time of a pass outside its matrix products is spent here; every line with V reads and writes a whole tile.
    """
    log_p, log_q = predictions.log_probs_NV, predictions.ref_log_probs_NV
    label_c1 = predictions.label_N[:, None]
    nll_c = -log_p.gather(-1, label_c1)[:, 0]
    entropy_c = -(p * log_p).sum(-1) if job.entropy else None
    if log_q is None:
        rest_c, rest_cV = (None, None) if job.term is None else _by_autograd(predictions, job, with_gradient)
        return TokenLosses(nll_c, rest_c, entropy_c), rest_cV
    q = log_q.exp()
    difference_cV = p - q
    # p - q adds up to nothing, and with it the rounding of the two normalisations cancels to first order. What is left
    # below zero is rounding of the sum.
    kl_c = torch.addcmul(difference_cV, q, log_q - log_p).sum(-1).clamp_(min=0)
    values = TokenLosses(nll_c, None, entropy_c, -log_q.gather(-1, label_c1)[:, 0], kl_c)
    if job.term is None:
        return values, None
    if job.term is not distillation:
        rest_c, rest_cV = _by_autograd(predictions, job, with_gradient)
    elif job.temperature == 1:
        rest_c, rest_cV = -(q * log_p).sum(-1), difference_cV
    else:
        warm = tempered(predictions, job.temperature)
        warm_q = warm.reference.exp()
        rest_c = -(warm_q * warm.log_probs_NV).sum(-1)
        rest_cV = warm.log_probs_NV.exp().sub_(warm_q).div_(job.temperature)
    return values._replace(rest_N=rest_c), rest_cV


def _by_autograd(predictions: Predictions, job: Job, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Any term: its gradient with respect to the log-probabilities, taken back through the softmax."""
    assert job.term is not None, "there is a term"
    warm = tempered(predictions, job.temperature)
    if not with_gradient:
        return job.term(warm), None
    with torch.enable_grad():
        leaf_cV = warm.log_probs_NV.detach().requires_grad_()
        rest_c = job.term(replace(warm, log_probs_NV=leaf_cV))
        (gradient_cV,) = torch.autograd.grad(rest_c.sum(), leaf_cV)
    total_c1 = gradient_cV.sum(-1, keepdim=True)
    return rest_c.detach(), (gradient_cV - leaf_cV.detach().exp() * total_c1).div_(job.temperature)


def _write(gradient_cV: Tensor, bend_cV: Tensor | None, out: Tensor) -> None:
    if bend_cV is None:
        out.copy_(gradient_cV)
    else:
        torch.mul(gradient_cV, bend_cV, out=out)
