"""From the settings of a training run to what a trainer is made of: recipe, arguments, micro-batch size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
import transformers

from uncertainty.batch_hidden import predicting_hidden
from uncertainty.data.batches import collate, targets
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.lora import ALL_LINEAR, LoraSettings
from uncertainty.objectives import Objective, objective, rest_term
from uncertainty.selection_rules import Rule
from uncertainty.terms import Tail, Term
from uncertainty.token_losses import token_losses
from uncertainty.training.settings import TrainSettings
from uncertainty.training.windows import Windows

TOKENS_PER_MICRO_BATCH = {"cpu": 4096, "cuda": 32768}
IMAGE_OF_SCHEDULE = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def rule_of(settings: TrainSettings, goal: Objective) -> Rule | None:
    """Which tokens the run selects; None where its objective takes all alike.

    Raises:
        InputError: options of the selection that do not go together, or not with the objective.
    """
    if not goal.needs_selection:
        return None
    rule = Rule(
        by=settings.select_by,
        keep=settings.keep,
        fraction=settings.fraction,
        band=tuple(settings.band) or None,  # type: ignore[arg-type]
        threshold=settings.threshold,
        column=settings.column if settings.select_by == "column" else None,
        level=settings.level,
        scope=settings.scope,
    )
    if rule.scope != "step" and goal.denominator == "selected" and rule.keep == "threshold":
        raise InputError(
            f"--scope {rule.scope} with --keep threshold cannot know what {settings.objective} divides by; "
            "use --scope step"
        )
    return rule


def goal_of(settings: TrainSettings) -> tuple[Objective, Term | None]:
    """The objective of a run, and what its unselected tokens learn.

    Raises:
        InputError: an unknown objective, or an option that it cannot take.
    """
    goal = objective(settings.objective)
    reads_column = goal.needs_weights or settings.select_by == "column"
    if reads_column and not (settings.scores and settings.column):
        what = f"--objective {goal.name}" if goal.needs_weights else "--select-by column"
        raise InputError(f"{what} reads a column of a score table; give --scores RUN and --column, such as epistemic")
    if settings.scores and not reads_column:
        raise InputError("--scores is given but nothing reads it; add --select-by column or --objective weighted")
    return goal, rest_term(goal, top_k=settings.top_k, tail=cast(Tail, settings.tail), beta=settings.beta)


def lora_of(settings: TrainSettings) -> LoraSettings:
    """The adapter of a run.

    Raises:
        InputError: a rank, alpha or dropout out of range.
    """
    names = tuple(name.strip() for name in settings.lora_targets.split(",") if name.strip())
    chosen = ALL_LINEAR if names == (ALL_LINEAR,) else names
    return LoraSettings(settings.lora_rank, settings.lora_alpha, settings.lora_dropout, chosen)


def precision_of(settings: TrainSettings, device: torch.device) -> str:
    """``float32`` or ``bfloat16``: what the forward pass computes in.

    Raises:
        InputError: bfloat16 on a GPU that has none.
    """
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if settings.precision == "auto":
        return "bfloat16" if able else "float32"
    if settings.precision == "bfloat16" and device.type == "cuda" and not able:
        raise InputError("--precision bfloat16: this GPU has none; use --precision float32")
    return settings.precision


def weights_dtype(settings: TrainSettings, precision: str) -> str:
    """What the base is loaded in: 16 bit only where it stays frozen under an adapter."""
    return "bfloat16" if precision == "bfloat16" and settings.tuning != "full" else "float32"


def longest_first(examples: Sequence[Example], count: int) -> list[Example]:
    """The ``count`` longest examples: the dearest micro-batch there can be."""
    return sorted(examples, key=lambda example: -len(example.input_ids))[:count]


def fit_micro_batch(
    model: Any, examples: Sequence[Example], settings: TrainSettings, *, processes: int, with_reference: bool
) -> int:
    """Examples of one forward and backward pass: as many as a token budget, and the memory of a GPU, allow.

    On a GPU the longest examples are tried, half as many each time memory runs out; on a CPU, whose memory does not
    refuse but swap, the budget alone decides. Gradients are cleared afterwards.

    Raises:
        InputError: a single example does not fit.
    """
    device = next(model.parameters()).device
    longest = len(longest_first(examples, 1)[0].input_ids)
    budget = TOKENS_PER_MICRO_BATCH["cpu" if device.type == "cpu" else "cuda"]
    size = max(1, min(settings.batch // processes, budget // longest))
    size = 1 << (size.bit_length() - 1)
    if device.type == "cpu":
        return size
    while not _fits(model, longest_first(examples, size), with_reference):
        if size == 1:
            raise InputError(
                f"one example of {longest} tokens does not fit into the memory of {device}; use "
                "--gradient-checkpointing, a smaller --max-length or --tuning lora"
            )
        size //= 2
    return size


def _fits(model: Any, examples: Sequence[Example], with_reference: bool) -> bool:
    try:
        batch = collate(examples)
        hidden_ND = predicting_hidden(model, batch)
        reference = (model, hidden_ND.detach().clone()) if with_reference else None
        label_N = targets(batch).label_N.to(hidden_ND.device)
        losses = token_losses(model, hidden_ND, label_N, reference=reference)
        (losses.nll_N.sum() + (0.0 if losses.rest_N is None else losses.rest_N.sum())).backward()
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def total_steps(settings: TrainSettings, windows: Windows) -> int:
    """Optimizer steps of the run."""
    steps = max(1, math.ceil(settings.epochs * windows.steps - 1e-9))
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def arguments_of(
    settings: TrainSettings,
    windows: Windows,
    folder: Path,
    *,
    device: torch.device,
    precision: str,
    evaluates: bool,
    evaluates_first: bool,
) -> transformers.TrainingArguments:
    """What ``transformers.Trainer`` is told; everything that it would decide by itself is stated."""
    steps = total_steps(settings, windows)
    return transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=windows.micro,
        per_device_eval_batch_size=windows.micro,
        gradient_accumulation_steps=windows.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=IMAGE_OF_SCHEDULE[settings.schedule],
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        optim="adamw_torch",
        bf16=precision == "bfloat16",
        seed=settings.seed,
        data_seed=settings.seed,
        logging_strategy="steps",
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,  # a loss that is not finite is refused, not averaged over
        save_strategy="steps",
        save_steps=settings.save_every,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=min(settings.eval_every or steps, steps) if evaluates else None,
        eval_on_start=evaluates_first,
        report_to=list(settings.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type == "cuda",
        ddp_find_unused_parameters=False,
        use_cpu=device.type == "cpu",
        log_level="error",
        **_checkpointing(settings.gradient_checkpointing),
    )


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """Activations computed twice, by the name that this release of transformers has for it."""
    if not wanted:
        return {}
    names = {field.name for field in fields(transformers.TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}


def check_loggers(names: Sequence[str]) -> None:
    """Refuse a logger that the Trainer does not have here.

    Raises:
        InputError: an unknown name, or one whose package is not installed.
    """
    from transformers.integrations import get_reporting_integration_callbacks

    for name in names:
        try:
            get_reporting_integration_callbacks([name])
        except ValueError as error:
            raise InputError(f"--report-to {name}: {' '.join(str(error).split())}") from error
        package: Callable[[], bool] | None = getattr(transformers.integrations, f"is_{name}_available", None)
        if package is not None and not package():
            raise InputError(f"--report-to {name}: it is not installed; run pip install {name}")
