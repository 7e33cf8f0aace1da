"""The start-up self-test of a training run: one optimizer step must not depend on how it is cut into micro-batches.

A wrong divisor under gradient accumulation is silent: the loss looks right and the gradient is a few times too large
or too small. So the gradient of one small step is computed twice, whole and split, before anything is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from uncertainty.batch_hidden import evaluation
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.trainer import TokenTrainer

EXAMPLES = 4
# Relative difference (Euclidean norms) of two gradients that differ by the order of sums alone, by the forward's dtype.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


def check_accumulation(trainer: TokenTrainer) -> float:
    """Compare the gradient of one step in a single micro-batch with that of one example at a time.

    Selection included: both must select the same tokens. Model, gradients and the trainer's state are left as they
    were. Scopes other than ``step`` are approximations that do depend on the split: they are not compared.

    Returns:
        relative difference of the two gradients, Euclidean norms; 0 where nothing is compared.

    Raises:
        InputError: they differ by more than rounding.
    """
    rule = trainer.recipe.rule
    examples = [example for example in trainer.examples if any(example.completion[1:])]
    examples = sorted(examples, key=lambda example: len(example.input_ids))[:: max(1, len(examples) // EXAMPLES)]
    numbered = list(enumerate(examples[:EXAMPLES]))
    if len(numbered) < 2 or (rule is not None and rule.scope != "step"):
        return 0.0
    whole = _gradient(trainer, [numbered])
    split = _gradient(trainer, [[row] for row in numbered])
    norm = max(float(whole.norm()), 1e-30)
    difference = float((whole - split).norm()) / norm
    model: Any = trainer.model
    dtype = torch.bfloat16 if trainer.args.bf16 else next(model.parameters()).dtype
    if not difference <= TOLERANCE[dtype]:
        raise InputError(
            f"the gradient of one step changes by {difference:.2g} of its norm when it is cut into micro-batches; "
            "this model cannot be trained exactly here: use --micro-batch equal to --batch, or --precision float32"
        )
    return difference


def _gradient(trainer: TokenTrainer, parts: Sequence[Sequence[tuple[int, Example]]]) -> Tensor:
    """The gradient of one optimizer step that is cut into ``parts``, as one vector; in eval mode, without dropout."""
    model: Any = trainer.model
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        with trainer.alone(), evaluation(model), torch.enable_grad():
            window = iter([trainer.collator(part) for part in parts])
            samples, count = trainer.get_batch_samples(window, len(parts), trainer.args.device)
            for sample in samples:
                inputs: Any = trainer._prepare_inputs(sample)
                trainer.compute_loss(model, inputs, num_items_in_batch=count).backward()
        return torch.cat([_flat(parameter) for parameter in trained])
    finally:
        model.zero_grad(set_to_none=True)


def _flat(parameter: Tensor) -> Tensor:
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return gradient.detach().flatten().double()
