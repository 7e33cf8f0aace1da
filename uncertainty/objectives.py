"""What is trained: every objective is one weighted classification, ``max sum_{i,t} sum_x w_{i,t}(x) log p(x | x_<t)``.

An objective decides the weight w of every token of the vocabulary at every place (i, t), and that is all that tells
them apart (appendix B of arXiv:2503.16511; reverse KL and JSD are outside this form and say so). The scalar functions
here are the equations on full log-probabilities; ``OBJECTIVES`` is the same as data, by the name users type, and
:func:`per_token` puts an objective together from per-token losses, as the trainer does with those of the chunked pass.

Losses are to be minimised and in nats per token. The paper does not say what the sums are divided by: we divide by all
tokens where every token has a part in the objective, and by the selected tokens where the others have none. A batch
without any token gives 0, with gradient 0.

Dimensions: N tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from uncertainty.errors import InputError
from uncertainty.terms import (
    Predictions,
    Tail,
    Term,
    distillation,
    jsd,
    label_loss,
    policy_gradient,
    reverse_kl,
    tempered,
    truncated_distillation,
)

Denominator = Literal["all", "selected"]


@dataclass(frozen=True)
class Objective:
    """What the trainer does by one name.

    With a selection the selected tokens take ``on_selected`` and all others ``on_rest``; without one every token takes
    both. None is no term: weight 0.

    Attributes:
        name: what users type.
        on_selected: ``"label"`` (maximum likelihood) or None.
        on_rest: a name of ``REST_TERMS`` or None.
        denominator: the tokens whose number the sum is divided by.
        needs_selection: tokens must be selected.
        needs_reference: a reference must be there.
        needs_weights: a weight per token must be there; it multiplies the token's loss.
        meaning: one line for a help text.
    """

    name: str
    on_selected: str | None
    on_rest: str | None
    denominator: Denominator
    needs_selection: bool
    needs_reference: bool
    needs_weights: bool
    meaning: str


def mle(p: Predictions) -> Tensor:
    """Maximum likelihood on every token. ``w_{i,t}(x) = 1[x = y]``.

    >>> mle(Predictions(torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log(), torch.tensor([0, 1])))
    tensor(1.0397)
    """
    return _mean(label_loss(p))


def masked_mle(p: Predictions, selected_N: Tensor) -> Tensor:
    """Maximum likelihood on the selected tokens. ``w_{i,t}(x) = 1[x = y] 1[selected]``, mean over the selected.

    >>> p = Predictions(torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log(), torch.tensor([0, 1]))
    >>> masked_mle(p, torch.tensor([False, True]))
    tensor(1.3863)
    """
    _check_selection(selected_N, len(p.label_N))
    return _mean(label_loss(p)[selected_N])


def masked_mle_distill(
    p: Predictions, selected_N: Tensor, lambda_: float = 1.0, temperature: float = 1.0, term: Term = distillation
) -> Tensor:
    """The paper's final objective: likelihood on the selected tokens, distillation from the reference on the rest.

    ``w_{i,t}(x) = 1[x = y]`` if selected, else ``lambda q(x)``; mean over all tokens.

    Args:
        p: predictions with a reference.
        selected_N: bool, the tokens that learn their label.
        lambda_: weight of the rest, 0 or above.
        temperature: of both predictions in the rest's term.
        term: what the rest learns from the reference; another one has its own weight in place of q.

    >>> q = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    >>> p = Predictions(torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log(), torch.tensor([0, 1]), q)
    >>> masked_mle_distill(p, torch.tensor([True, False]))
    tensor(0.7651)
    """
    _check_selection(selected_N, len(p.label_N))
    return _mean(torch.where(selected_N, label_loss(p), lambda_ * term(tempered(p, temperature))))


def distill(p: Predictions, temperature: float = 1.0, term: Term = distillation) -> Tensor:
    """Distillation on every token. ``w_{i,t}(x) = q(x)`` (forward divergence), or that of another ``term``.

    >>> q = torch.tensor([[0.5, 0.5]]).log()
    >>> distill(Predictions(torch.tensor([[0.75, 0.25]]).log(), torch.tensor([0]), q))
    tensor(0.8370)
    """
    return _mean(term(tempered(p, temperature)))


def weighted(p: Predictions, weight_N: Tensor) -> Tensor:
    """Likelihood with a weight per token, such as a column of a score table. ``w_{i,t}(x) = weight 1[x = y]``.

    The weights are taken as they are: the mean is over all tokens, not over the sum of the weights. With advantages as
    weights this is the policy gradient in its sampled form.

    >>> p = Predictions(torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log(), torch.tensor([0, 1]))
    >>> weighted(p, torch.tensor([1.0, 0.5]))
    tensor(0.6931)
    """
    return _mean(policy_gradient(p, weight_N))


def objective(name: str) -> Objective:
    """The objective of a name.

    Raises:
        InputError: there is none of this name.

    >>> objective("masked-mle").denominator
    'selected'
    """
    if name not in OBJECTIVES:
        raise InputError(f"objective {name!r} is not known; choose one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def rest_term(objective: Objective, *, top_k: int = 64, tail: Tail = "unnormalised", beta: float = 0.5) -> Term | None:
    """The term of the rest, bound to its options; None where the rest has none.

    Args:
        objective: what is trained.
        top_k: tokens of the reference that a truncated distillation keeps.
        tail: what becomes of the others: ``unnormalised`` (the paper's), ``renormalised`` or ``bucket``.
        beta: place of the mixture in the Jensen-Shannon divergence, in (0, 1).

    Raises:
        InputError: an option of the term is outside its range.

    >>> rest_term(objective("distill")).__name__
    'distillation'
    """
    if objective.on_rest is None:
        return None
    term = REST_TERMS[objective.on_rest]
    if term is truncated_distillation:
        term = partial(truncated_distillation, k=top_k, tail=tail)
    elif term is jsd:
        term = partial(jsd, beta=beta)
    term(_SMALLEST)  # a wrong option is refused here, before any model runs
    return term


def per_token(
    objective: Objective,
    nll_N: Tensor,
    rest_N: Tensor | None = None,
    selected_N: Tensor | None = None,
    *,
    lambda_: float = 1.0,
    weight_N: Tensor | None = None,
) -> Tensor:
    """The loss of each token under an objective; the objective is their sum over its denominator.

    Args:
        objective: what is trained.
        nll_N: ``-log p(y)``, differentiable.
        rest_N: the rest's term, differentiable, where the objective has one.
        selected_N: bool, where the objective needs a selection.
        lambda_: weight of the rest's term, 0 or above.
        weight_N: a weight per token, where the objective needs them.

    Returns:
        ``[N]``, nats, differentiable.

    Raises:
        InputError: something that the objective needs is missing, or does not fit, or lambda is negative.

    >>> one, other = torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2])
    >>> per_token(OBJECTIVES["masked-mle+distill"], one, other, torch.tensor([True, False]))
    tensor([1.0000, 0.2000])
    """
    _check_needs(objective, len(nll_N), rest_N, selected_N, weight_N, lambda_)
    on_selected_N = nll_N if objective.on_selected is not None else torch.zeros_like(nll_N)
    on_rest_N = torch.zeros_like(nll_N) if objective.on_rest is None or rest_N is None else lambda_ * rest_N
    if objective.needs_selection and selected_N is not None:
        loss_N = torch.where(selected_N, on_selected_N, on_rest_N)
    else:
        loss_N = on_selected_N + on_rest_N
    return loss_N if weight_N is None else weight_N.detach() * loss_N


def _check_needs(
    objective: Objective,
    n_tokens: int,
    rest_N: Tensor | None,
    selected_N: Tensor | None,
    weight_N: Tensor | None,
    lambda_: float,
) -> None:
    if not lambda_ >= 0:
        raise InputError(f"lambda must be 0 or above, got {lambda_}")
    if objective.on_rest is not None and rest_N is None:
        raise InputError(f"objective {objective.name} needs the term {objective.on_rest} of each token")
    if objective.needs_selection:
        if selected_N is None:
            raise InputError(f"objective {objective.name} needs a selection of tokens")
        _check_selection(selected_N, n_tokens)
    if objective.needs_weights != (weight_N is not None):
        raise InputError(f"objective {objective.name} {'needs' if weight_N is None else 'takes no'} weights per token")
    if weight_N is not None and weight_N.shape != (n_tokens,):
        raise InputError(f"weights are {list(weight_N.shape)} for {n_tokens} tokens; give one for each")


def _check_selection(selected_N: Tensor, n_tokens: int) -> None:
    if selected_N.dtype != torch.bool or selected_N.shape != (n_tokens,):
        raise InputError(
            f"a selection is bool of shape [{n_tokens}], got {selected_N.dtype} of shape {list(selected_N.shape)}"
        )


def _mean(loss_N: Tensor) -> Tensor:
    return loss_N.sum() / max(1, len(loss_N))


_SMALLEST = Predictions(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2))

# What tokens learn from the reference.
REST_TERMS: dict[str, Term] = {
    **{"distillation": distillation, "distillation-topk": truncated_distillation},
    **{"reverse-kl": reverse_kl, "jsd": jsd},
}

_LABEL = "label"

# The names users type. The three flags: needs a selection, a reference, weights.
OBJECTIVES: dict[str, Objective] = {
    line.name: line
    for line in (
        Objective("mle", _LABEL, None, "all", False, False, False, "maximum likelihood on every completion token"),
        Objective("masked-mle", _LABEL, None, "selected", True, False, False, "likelihood on selected tokens only"),
        Objective(
            "masked-mle+distill", _LABEL, "distillation", "all", True, True, False,
            "likelihood on selected tokens, distillation from the reference on the rest: the paper's final objective",
        ),
        Objective(
            "masked-mle+distill-topk", _LABEL, "distillation-topk", "all", True, True, False,
            "the same from the reference's most probable tokens only",
        ),
        Objective(
            "masked-mle+reverse-kl", _LABEL, "reverse-kl", "all", True, True, False,
            "likelihood on selected tokens, reverse divergence to the reference on the rest",
        ),
        Objective(
            "masked-mle+jsd", _LABEL, "jsd", "all", True, True, False,
            "likelihood on selected tokens, Jensen-Shannon divergence to the reference on the rest",
        ),
        Objective(
            "masked-distill", None, "distillation", "all", True, True, False,
            "distillation on the tokens that are not selected, nothing on the selected: a control",
        ),
        Objective(
            "mle+distill", _LABEL, "distillation", "all", False, True, False,
            "likelihood and distillation both on every token: the usual mixture, a control",
        ),
        Objective("distill", None, "distillation", "all", False, True, False, "distillation (forward KL) everywhere"),
        Objective(
            "distill-topk", None, "distillation-topk", "all", False, True, False,
            "distillation from the reference's most probable tokens everywhere",
        ),
        Objective("reverse-kl", None, "reverse-kl", "all", False, True, False, "reverse divergence everywhere"),
        Objective("jsd", None, "jsd", "all", False, True, False, "Jensen-Shannon divergence everywhere"),
        Objective(
            "weighted", _LABEL, None, "all", False, False, True,
            "likelihood with a weight per token from a column (epistemic, advantages, ...)",
        ),
    )
}  # fmt: skip
