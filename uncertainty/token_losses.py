"""The losses of every token in one chunked pass over the vocabulary, with their gradients.

The naive way makes logits ``[N, V]`` of student and reference, their softmaxes and their gradients: several gigabytes.
Here a chunk of tokens at a time is read out, and what a backward pass needs of it is one vector per token and loss,

    g_nll = J (p - onehot y) W        g_rest = J (p - q) W        (J: the slope of soft cap and scales)

so that ``[N, V]`` never exists, backward costs nothing, and which token takes which loss is ordinary torch code after
the pass. Where that is known before, or a function of the values (``choose``), one of the two vectors is enough: each
chunk guesses from what was read so far, and the few tokens guessed wrong are done again. Student and reference are
close; their difference is formed before the projection back, because bfloat16 products of p and q by themselves would
lose most of it. A trainable head needs each chunk again in the backward pass.

Logits and all arithmetic on them are float32 (float64 for a float64 model), under autocast too.

Dimension key: N tokens of the pass, C tokens of a chunk, c tokens of a tile, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from uncertainty.errors import InputError
from uncertainty.head import Head, head_of, project_back
from uncertainty.terms import Term, distillation
from uncertainty.vocabulary_chunks import Job, TokenLosses, chunks, join

# Bytes of one chunk's logits, student and reference together. Larger chunks read the head less often.
CHUNK_BYTES = {"cpu": 2**27, "cuda": 2**29}

Choose = Callable[[TokenLosses], Tensor]  # the values of the first n tokens of a pass -> bool [n]


def token_losses(
    model: Any,
    hidden_ND: Tensor,
    label_N: Tensor,
    *,
    reference: tuple[Any, Tensor] | None = None,
    term: Term | None = distillation,
    temperature: float = 1.0,
    selected_N: Tensor | None = None,
    choose: Choose | None = None,
    entropy: bool = True,
    vocabulary: int | None = None,
    chunk_bytes: int | None = None,
) -> TokenLosses:
    """Per-token losses of final hidden states, differentiable in these and in a trainable head.

    Args:
        model: the causal language model whose head reads ``hidden_ND`` (unwrapped; inside PEFT is fine).
        hidden_ND: after the final norm, at the positions that predict. N may be 0.
        label_N: what they predict, int64 in [0, V).
        reference: another model (or the same) with its hidden states of the same tokens; nothing flows into it.
        term: what the rest learns: :func:`distillation` is done in closed form, any other by autograd inside the
            chunk, at several times the memory of one. None, or no reference and a term that asks for one: none.
        temperature: at which ``term`` sees both predictions; the other values are at 1.
        selected_N: bool, if it is known already which tokens take the label's loss. Then ``nll_N`` carries a gradient
            at these tokens alone and ``rest_N`` at the others alone, for one vector and one product less.
        choose: the same where it hangs on the values: a function of the values of the first n tokens, without
            gradient, to bool ``[n]``. Its answer for all tokens counts and is returned as ``selected_N``; those for
            fewer are guesses, which change nothing but the time.
        entropy: whether the student's entropy is wanted.
        vocabulary: number of tokens the softmax runs over (those of the tokenizer, as scoring does it); default all
            rows of the head.
        chunk_bytes: memory of a chunk's logits, those of the reference included; default 128 MiB on a CPU, 512 MiB on
            a GPU.

    Raises:
        InputError: shapes, labels or vocabularies do not fit, both ``selected_N`` and ``choose`` are given, or
            ``head_of`` refuses the model.
    """
    job = _job(model, hidden_ND, label_N, reference, term, temperature, entropy, vocabulary, chunk_bytes)
    if selected_N is not None:
        if choose is not None:
            raise InputError("a selection is given and a function that chooses one; leave one of them out")
        if selected_N.dtype != torch.bool or selected_N.shape != label_N.shape:
            raise InputError(
                f"a selection is bool of shape [{len(label_N)}], got {selected_N.dtype} {list(selected_N.shape)}"
            )
    if torch.is_grad_enabled():
        return TokenLosses(*_Losses.apply(hidden_ND, job.head.weight_VD, job.head.bias_V, job, selected_N, choose))
    values = _read(hidden_ND, job)
    return values if choose is None else values._replace(selected_N=choose(values))


@torch.no_grad()
def token_signals(
    model: Any,
    hidden_ND: Tensor,
    label_N: Tensor,
    reference: tuple[Any, Tensor] | None = None,
    *,
    entropy: bool = True,
    vocabulary: int | None = None,
    chunk_bytes: int | None = None,
) -> TokenLosses:
    """The values of :func:`token_losses` without any gradient: what tokens are selected by before a step."""
    return _read(
        hidden_ND, _job(model, hidden_ND, label_N, reference, distillation, 1.0, entropy, vocabulary, chunk_bytes)
    )


class _Losses(torch.autograd.Function):
    """The pass as one node of the graph. It is differentiable once: its gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        job: Job,
        selected_N: Tensor | None,
        choose: Choose | None,
    ) -> tuple[Tensor | None, ...]:
        ctx.job, ctx.dtype = job, hidden_ND.dtype
        ctx.head_trains = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        if ctx.needs_input_grad[0] and not ctx.head_trains:
            values, gradients = _sweep(hidden_ND, job, selected_N, choose)
            ctx.save_for_backward(*gradients)
        else:
            values = _read(hidden_ND, job)
            if choose is not None:
                values = values._replace(selected_N=choose(values))
            # The head and the hidden states are saved so that torch refuses a backward pass after they changed.
            ctx.save_for_backward(hidden_ND, weight_VD, bias_V)
        ctx.selected_N = selected_N if choose is None else values.selected_N
        ctx.mark_non_differentiable(*[value for value in values[2:] if value is not None])
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, nll_N: Tensor | None, rest_N: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        nll_N, rest_N = _at_their_tokens(nll_N, rest_N, ctx.selected_N)
        if ctx.head_trains:
            return (*_backward_with_head(saved[0], ctx.job, nll_N, rest_N, ctx.needs_input_grad), None, None, None)
        both = saved if len(saved) == 2 else (saved[0], saved[0])
        terms = [scale_N[:, None] * g for scale_N, g in zip((nll_N, rest_N), both, strict=True) if scale_N is not None]
        return (sum(terms[1:], terms[0]).to(ctx.dtype) if terms else None), None, None, None, None, None


def _job(
    model: Any,
    hidden_ND: Tensor,
    label_N: Tensor,
    reference: tuple[Any, Tensor] | None,
    term: Term | None,
    temperature: float,
    entropy: bool,
    vocabulary: int | None,
    chunk_bytes: int | None,
) -> Job:
    head = head_of(model, vocabulary)
    ref = None if reference is None else (head_of(reference[0], vocabulary), reference[1].detach())
    _check(head, hidden_ND, label_N, ref, temperature)
    if ref is None and term is distillation:
        term = None
    budget = chunk_bytes or CHUNK_BYTES["cpu" if hidden_ND.device.type == "cpu" else "cuda"]
    blocks = 1 if ref is None and term is None else 2
    chunk = max(1, budget // (blocks * len(head.weight_VD) * head.dtype.itemsize))
    token_N = torch.arange(len(label_N), device=label_N.device)
    return Job(head, label_N, token_N, len(label_N), ref, term, temperature, entropy, chunk)


def _check(
    head: Head,
    hidden_ND: Tensor,
    label_N: Tensor,
    reference: tuple[Head, Tensor] | None,
    temperature: float,
) -> None:
    n_vocabulary, width = head.weight_VD.shape
    n_tokens = len(label_N)
    if hidden_ND.shape != (n_tokens, width) or label_N.dtype != torch.int64:
        raise InputError(
            f"hidden states are {list(hidden_ND.shape)} and labels {label_N.dtype} of shape {list(label_N.shape)}; "
            f"the head reads [N, {width}] and int64 [N]"
        )
    if n_tokens and not (int(label_N.min()) >= 0 and int(label_N.max()) < n_vocabulary):
        raise InputError(f"a label lies outside the vocabulary of {n_vocabulary} tokens; the tokenizer does not fit")
    if not temperature > 0:
        raise InputError(f"temperature must be above 0, got {temperature}")
    if reference is None:
        return
    ref_head, ref_ND = reference
    if len(ref_head.weight_VD) != n_vocabulary:
        raise InputError(
            f"the reference predicts {len(ref_head.weight_VD)} tokens and the model {n_vocabulary}; "
            "both must share one vocabulary"
        )
    if ref_ND.shape != (n_tokens, ref_head.weight_VD.shape[1]):
        raise InputError(
            f"hidden states of the reference are {list(ref_ND.shape)}, expected "
            f"[{n_tokens}, {ref_head.weight_VD.shape[1]}]"
        )


def _read(hidden_ND: Tensor, job: Job) -> TokenLosses:
    """Values of all tokens, no gradients."""
    with torch.autocast(hidden_ND.device.type, enabled=False):  # it would take 16-bit products of float32 matrices
        return join([chunk.values for chunk in chunks(hidden_ND.detach(), job, with_gradients=False)])


def _sweep(
    hidden_ND: Tensor, job: Job, selected_N: Tensor | None, choose: Choose | None
) -> tuple[TokenLosses, list[Tensor]]:
    """Values of all tokens; gradients with respect to hidden states: one vector of each token per loss, or for both."""
    parts: list[TokenLosses] = []
    gradients: list[list[Tensor]] = []
    guesses: list[Tensor] = []
    hidden_ND, known_N = hidden_ND.detach(), selected_N
    with torch.autocast(hidden_ND.device.type, enabled=False):
        for chunk in chunks(hidden_ND, job, with_gradients=True):
            parts.append(chunk.values)
            blocks = [chunk.nll_CV] if chunk.rest_CV is None else [chunk.nll_CV, chunk.rest_CV]
            if choose is not None:
                known_N = choose(join(parts))  # the last of these is of all tokens
            if chunk.rest_CV is not None and known_N is not None:
                guesses.append(known_N[chunk.rows])
                place_M = guesses[-1].nonzero()[:, 0]
                blocks = [chunk.rest_CV.index_copy_(0, place_M, chunk.nll_CV[place_M])]
            gradients.append([project_back(block, job.head.weight_VD).mul_(chunk.slope) for block in blocks])
    values, vectors = join(parts), [torch.cat(column) for column in zip(*gradients, strict=True)]
    if choose is None or known_N is None:
        return values, vectors
    if guesses and len(wrong_M := (known_N != torch.cat(guesses)).nonzero()[:, 0]):
        _, (mended_MD,) = _sweep(hidden_ND[wrong_M], job.only(wrong_M), known_N[wrong_M], None)
        vectors[0].index_copy_(0, wrong_M, mended_MD)
    return values._replace(selected_N=known_N), vectors


def _backward_with_head(
    hidden_ND: Tensor, job: Job, nll_N: Tensor | None, rest_N: Tensor | None, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden states, weight and bias, from a second reading of every chunk."""
    weight_VD, bias_V, dtype = job.head.weight_VD, job.head.bias_V, job.head.dtype
    hidden_grad_ND = torch.empty_like(hidden_ND) if needs[0] else None
    weight_grad_VD = torch.zeros_like(weight_VD, dtype=dtype) if needs[1] else None
    bias_grad_V = torch.zeros_like(bias_V, dtype=dtype) if bias_V is not None and needs[2] else None
    with torch.autocast(hidden_ND.device.type, enabled=False):
        for chunk in chunks(hidden_ND, job, with_gradients=True):
            total_CV = chunk.nll_CV.mul_(0.0 if nll_N is None else nll_N[chunk.rows, None] * chunk.slope)
            if rest_N is not None and chunk.rest_CV is not None:
                total_CV.add_(chunk.rest_CV.mul_(rest_N[chunk.rows, None] * chunk.slope))
            if hidden_grad_ND is not None:
                hidden_grad_ND[chunk.rows] = project_back(total_CV, weight_VD).to(hidden_ND.dtype)
            if weight_grad_VD is not None:
                weight_grad_VD.addmm_(total_CV.T, hidden_ND[chunk.rows].to(dtype))
            if bias_grad_V is not None:
                bias_grad_V.add_(total_CV.sum(0))
    return (
        hidden_grad_ND,
        None if weight_grad_VD is None else weight_grad_VD.to(weight_VD.dtype),
        None if bias_grad_V is None or bias_V is None else bias_grad_V.to(bias_V.dtype),
    )


def _at_their_tokens(
    nll_N: Tensor | None, rest_N: Tensor | None, selected_N: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What arrives at the two losses, 0 at tokens that do not take that loss."""
    if selected_N is None:
        return nll_N, rest_N
    return (
        None if nll_N is None else torch.where(selected_N, nll_N, 0.0),
        None if rest_N is None else torch.where(selected_N, 0.0, rest_N),
    )
