"""A trainer around a tiny model, the gradient of one of its steps, and the same step written out without any of it.

The oracle shares nothing with the trainer but the model: full logits of one example at a time, float64, plain torch,
sorting by Python's own sort.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.trainer_utils import SaveStrategy

from uncertainty.data.batches import collate
from uncertainty.data.packing import pack
from uncertainty.data.render import Example
from uncertainty.objectives import objective, rest_term
from uncertainty.reference import Reference
from uncertainty.selection_rules import Rule
from uncertainty.trainer import TokenTrainer
from uncertainty.training.curriculum import Window
from uncertainty.training.settings import TrainSettings
from uncertainty.training.setup import arguments_of
from uncertainty.training.step import Recipe
from uncertainty.training.student import answering
from uncertainty.training.windows import Collator, Windows, micro_batch

Numbered = list[tuple[int, Example]]


class Kept:
    """A curriculum record that keeps every window as it is."""

    def __init__(self) -> None:
        self.windows: list[Window] = []

    def add(self, window: Window) -> None:
        self.windows.append(window)

    def row(self) -> dict[str, Any] | None:
        return None


def example(name: str, ids: Sequence[int], first: int) -> Example:
    """An example whose completion begins at position ``first``."""
    return Example(name, list(ids), [p >= first for p in range(len(ids))], [0] * len(ids), False, [])


def recipe_of(name: str, rule: Rule | None = None, reference: Reference | None = None, **options: Any) -> Recipe:
    """The recipe of an objective; its rule only where it selects."""
    goal = objective(name)
    return Recipe(goal, (rule or Rule()) if goal.needs_selection else None, reference, rest_term(goal), **options)


def trainer_of(
    model: Any,
    recipe: Recipe,
    examples: Sequence[Example],
    folder: Path,
    *,
    packing: bool = False,
    columns: Mapping[str, np.ndarray] | None = None,
    held_out: Mapping[str, Sequence[Example]] | None = None,
    held_out_kl: bool = False,
    record: Any = None,
    callbacks: Sequence[Any] = (),
    evaluates: bool = False,
    **settings: Any,
) -> TokenTrainer:
    """A trainer by settings of ``TrainSettings``; saves nothing unless told."""
    chosen = TrainSettings(**({"micro_batch": 2, "batch": 4, "save_every": 10**6, "log_every": 1} | settings))
    windows = Windows(len(examples), batch=chosen.batch, micro=chosen.micro_batch or 1, seed=chosen.seed)
    arguments = arguments_of(
        chosen,
        windows,
        folder,
        device=torch.device("cpu"),
        precision="float32",
        evaluates=evaluates,
        evaluates_first=evaluates,
    )
    if chosen.save_every == 10**6:
        arguments.save_strategy = SaveStrategy.NO  # else the last step is saved whatever the setting says
    width = max(len(one.input_ids) for one in examples)
    collator = Collator(examples[0], packing=packing, width=2 * width, columns=columns)
    return TokenTrainer(
        model,
        arguments,
        recipe,
        examples=examples,
        windows=windows,
        collator=collator,
        held_out=held_out,
        held_out_kl=held_out_kl,
        record=record,
        callbacks=callbacks,
    )


def gradients(model: Any) -> dict[str, Tensor]:
    """The gradients that stand in a model, copied; a parameter without one counts as 0."""
    return {
        name: (torch.zeros_like(p) if p.grad is None else p.grad).detach().double().clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def step_gradient(trainer: TokenTrainer, samples: Sequence[dict[str, Any]]) -> tuple[dict[str, Tensor], float, set]:
    """One optimizer step cut into ``samples``: its gradients, its loss, and the (example, position) it selected."""
    model: Any = trainer.model
    model.zero_grad(set_to_none=True)
    kept = Kept()
    trainer.steps.record, total = kept, 0.0  # type: ignore[assignment]
    with answering(model):
        made, count = trainer.get_batch_samples(iter(samples), len(samples), trainer.args.device)
        for one in made:
            loss = trainer.compute_loss(model, one, num_items_in_batch=count)
            loss.backward()
            total += float(loss.detach())
    trainer.steps.end(lambda rows: rows, 0.0)
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    (window,) = kept.windows
    places = zip(window.example_N.tolist(), window.position_N.tolist(), window.selected_N.tolist(), strict=True)
    return found, total, {(number, position) for number, position, chosen in places if chosen}


def layouts(trainer: TokenTrainer, numbered: Numbered, *, packs: bool = True) -> dict[str, list[dict[str, Any]]]:
    """One optimizer step in all the ways it may be laid out; packed only where the model can."""

    def sample(part: Numbered, make: Callable[[list[Example]], Any]) -> dict[str, Any]:
        examples = [one for _, one in part]
        micro = micro_batch(make(examples), [number for number, _ in part])
        return {"micro": replace(micro, column_N=trainer.collator._column(examples, micro.at))}

    longest = max(len(one.input_ids) for _, one in numbered)
    wide = example("wide", [5] * (longest + 7), longest + 8)
    packed = {"packed": [sample(part, lambda e: pack(e, width=2 * longest)) for part in (numbered[:3], numbered[3:])]}
    return {
        **(packed if packs else {}),
        "whole": [trainer.collator(numbered)],
        "uneven, other order, one empty": [
            trainer.collator(numbered[:0:-1]),
            trainer.collator([]),
            trainer.collator(numbered[:1]),
        ],
        "padded on the left, and more than needed": [
            sample(part, lambda e: collate(e, pad_id=9, side="left"))
            for part in ([*numbered[:2], (-1, wide)], numbered[2:])
        ],
    }


def relative(ours: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """Euclidean distance of two gradients, by the norm of the second."""
    assert ours.keys() == exact.keys()
    distance = math.sqrt(sum(float((ours[name] - exact[name]).square().sum()) for name in exact))
    return distance / math.sqrt(sum(float(value.square().sum()) for value in exact.values()))


class Token:
    """One completion token in the oracle: where it stands, and what the model says of it."""

    def __init__(self, number: int, position: int, label: int, log_p_V: Tensor, log_q_V: Tensor | None) -> None:
        self.number, self.position, self.label, self.log_p_V, self.log_q_V = number, position, label, log_p_V, log_q_V

    @property
    def nll(self) -> Tensor:
        return -self.log_p_V[self.label]

    def cross_entropy(self, temperature: float = 1.0) -> Tensor:
        assert self.log_q_V is not None
        q_V = (self.log_q_V / temperature).softmax(-1)
        return -(q_V * (self.log_p_V / temperature).log_softmax(-1)).sum()

    def signal(self, by: str) -> float:
        with torch.no_grad():
            if by == "loss":
                return float(self.nll)
            if by == "entropy":
                return float(-(self.log_p_V.exp() * self.log_p_V).sum())
            assert self.log_q_V is not None
            if by == "rho":
                return float(self.nll + self.log_q_V[self.label])
            return float(self.cross_entropy() + (self.log_q_V.exp() * self.log_q_V).sum())


def plain_tokens(model: Any, numbered: Numbered, reference: Any = None) -> list[Token]:
    """The completion tokens of examples, each run alone through the whole model, its logits and all."""
    found = []
    for number, one in numbered:
        ids = torch.tensor([one.input_ids])
        log_p_TV = model(input_ids=ids).logits[0].double().log_softmax(-1)
        log_q_TV = None
        if reference is not None:
            with torch.no_grad():
                log_q_TV = reference(input_ids=ids).logits[0].double().log_softmax(-1)
        for position in range(1, len(one.input_ids)):
            if one.completion[position]:
                q = None if log_q_TV is None else log_q_TV[position - 1]
                found.append(Token(number, position, one.input_ids[position], log_p_TV[position - 1], q))
    return found


def plain_selection(values: Mapping[tuple[int, int], float], fraction: float, level: str) -> set[tuple[int, int]]:
    """The top fraction of (example, position) -> value, by Python's own sort."""
    units: dict[Any, float] = dict(values)
    if level == "document":
        of: dict[int, list[float]] = {}
        for (number, _), value in values.items():
            of.setdefault(number, []).append(value)
        units = {number: sum(some) / len(some) for number, some in of.items()}
    count = max(1, math.floor(fraction * len(units) + 0.5))
    chosen = set(sorted(units, key=lambda place: (-units[place], place))[:count])
    return {place for place in values if (place if level == "token" else place[0]) in chosen}


def plain_step(
    model: Any,
    tokens: list[Token],
    name: str,
    selected: set[tuple[int, int]],
    weight: Mapping[Any, float] | None = None,
    *,
    lambda_: float = 1.0,
    temperature: float = 1.0,
) -> tuple[dict[str, Tensor], float]:
    """Gradients and loss of one step by the equation of its objective."""
    model.zero_grad(set_to_none=True)
    total, count = torch.zeros((), dtype=torch.float64), len(tokens)
    for token in tokens:
        chosen = (token.number, token.position) in selected
        if name == "mle" or (name.startswith("masked-mle") and chosen):
            total = total + token.nll
        elif name == "masked-mle+distill":
            total = total + lambda_ * token.cross_entropy(temperature)
        elif name == "weighted":
            assert weight is not None
            total = total + weight[token.number, token.position] * token.nll
    if name == "masked-mle":
        count = len(selected)
    loss = total / count
    loss.backward()
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    return found, float(loss.detach())
