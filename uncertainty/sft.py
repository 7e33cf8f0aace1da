"""Token-selecting objectives inside TRL's ``SFTTrainer``, as a mixin: the loss is ours, all else is TRL's.

Dimension key: B sequences, T positions, N completion tokens, M micro-batches of a process, R processes.

    class TokenSFTTrainer(TokenObjective, SFTTrainer):
        '''SFTTrainer by a Recipe.'''

    TokenSFTTrainer(model, SFTConfig(...), train_dataset=data, recipe=recipe_of("masked-mle")).train()

Nothing of TRL is imported here. What is touched are hooks of ``transformers.Trainer``: ``get_batch_samples``,
``compute_loss``, ``log`` and the attribute ``loss_is_scaled_for_ga``. Evaluation is TRL's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from uncertainty.data.batches import Batch
from uncertainty.errors import InputError
from uncertainty.objectives import objective, rest_term
from uncertainty.reference import Reference
from uncertainty.running_quantile import RunningQuantile
from uncertainty.selection_rules import Rule
from uncertainty.token_losses import TokenLosses
from uncertainty.training.step import Recipe, StepHooks
from uncertainty.training.step_record import StepRecord
from uncertainty.training.student import answering, has_dropout
from uncertainty.training.windows import MicroBatch, micro_batch

# What TRL's collator makes. The last five repeat what the positions say, for kernels that ask for it.
KNOWN = {"input_ids", "labels", "attention_mask", "position_ids"}
KNOWN |= {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}


def recipe_of(
    name: str = "masked-mle+distill",
    rule: Rule | None = None,
    reference: Reference | None = None,
    *,
    distill_weight: float = 1.0,
    temperature: float = 1.0,
    seed: int = 0,
    **term: Any,
) -> Recipe:
    """The recipe of an objective, checked to be whole.

    Args:
        name: of ``objectives.OBJECTIVES``.
        rule: which tokens are selected; by default the paper's, the top quarter by loss. Of no use, and not taken,
            where the objective selects none.
        reference: where the objective or the rule needs one.
        distill_weight: lambda.
        temperature: of the rest's term.
        seed: of random selection.
        **term: options of ``objectives.rest_term``: ``top_k``, ``tail``, ``beta``.

    Raises:
        InputError: an unknown objective, a missing reference, or a rule that nothing reads.
    """
    goal = objective(name)
    if rule is not None and not goal.needs_selection:
        raise InputError(f"objective {name} takes all tokens alike; give no rule, or another objective")
    rule = (rule or Rule()) if goal.needs_selection else None
    if reference is None and (goal.needs_reference or (rule is not None and rule.needs_reference)):
        what = f"objective {name}" if goal.needs_reference else f"selection by {rule.by}"  # type: ignore[union-attr]
        raise InputError(f"{what} needs a reference; give one, such as uncertainty.reference.AdapterReference")
    return Recipe(goal, rule, reference, rest_term(goal, **term), distill_weight, temperature, seed)


class TokenObjective(StepHooks):
    """Put before ``SFTTrainer`` among the bases of a class: it is trained by a ``Recipe``.

    Ties in a ranking and random selection hang on the place of an example in its optimizer step, since TRL's batches do
    not say which example of the data set they hold; that place does not depend on micro-batches or processes.

    Args:
        *args: of the trainer beside it.
        recipe: what is trained (``recipe_of``).
        **kwargs: of the trainer beside it.

    Raises:
        InputError: the recipe asks for what TRL's batches do not carry, or the trainer for another loss.
    """

    def __init__(self, *args: Any, recipe: Recipe, **kwargs: Any) -> None:
        if recipe.objective.needs_weights or (recipe.rule is not None and recipe.rule.by == "column"):
            raise InputError("TRL's batches carry no column of a score table; train with unc-train --scores instead")
        if kwargs.get("compute_loss_func") is not None:
            raise InputError("compute_loss_func would not be called: the recipe says what the loss is; leave it out")
        super().__init__(*args, **kwargs)
        _check_loop(self)
        # Releases before 5.19 learn from these two that the loss is divided already, not from the attribute above; TRL
        # puts a word for a function there, which its own evaluation would call.
        self.model_accepts_loss_kwargs, self.compute_loss_func = True, None
        self.recipe, self.running = recipe, RunningQuantile()
        self.tally = Tally()
        self.steps = self.tally
        self.drops, self.world = has_dropout(self.model), self.accelerator.num_processes

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of one optimizer step, their selection made, and what their loss is divided by."""
        step = self.state.global_step + 1
        batches = [batch_of(inputs, f"step {step}") for inputs in islice(epoch_iterator, num_batches)]
        samples = [
            {"input_ids": batch.input_ids_BT, "labels": batch.labels_BT, "micro": micro_batch(batch, numbers)}
            for batch, numbers in zip(batches, self._numbers(batches), strict=True)
        ]
        with answering(self.model), self.accelerator.autocast():
            return super().get_batch_samples(iter(samples), len(samples), device)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The share of one micro-batch in the loss of its optimizer step; in evaluation the trainer's own loss."""
        if "micro" not in inputs:  # not from get_batch_samples
            theirs: Any = super(StepHooks, self)
            return theirs.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with answering(self.model), self.accelerator.autocast():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the trainer's; a line with the training loss says what this process selected since the last one."""
        if "loss" in logs:
            logs |= self.tally.take_out()
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _numbers(self, batches: list[Batch]) -> list[range]:
        """Places of each micro-batch's examples in the optimizer step, all processes together."""
        counts_M = torch.tensor([len(batch.ids) for batch in batches], device=self.args.device)
        counts_MR = self._gather(counts_M).view(self.world, len(batches)).T
        ends_MR = counts_MR.flatten().cumsum(0).view_as(counts_MR)
        rank = self.accelerator.process_index if self.world > 1 else 0
        pairs = zip(ends_MR[:, rank].tolist(), counts_MR[:, rank].tolist(), strict=True)
        return [range(end - count, end) for end, count in pairs]


class Tally(StepRecord):
    """Sums of what was selected since they were last taken out, in place of a curriculum record."""

    def __init__(self) -> None:
        super().__init__(None)
        self._sums: dict[str, float] = {}

    def take(self, micro: MicroBatch, losses: TokenLosses, selected_N: Tensor | None, value_N: Tensor | None) -> None:
        """Take in one micro-batch; without a selection all its tokens count as selected."""
        nll_N = losses.nll_N.detach().double()
        chosen_N = torch.ones_like(nll_N, dtype=torch.bool) if selected_N is None else selected_N
        for name, part_N in (("selected", chosen_N), ("rest", ~chosen_N)):
            for key, value in ((f"n_{name}", part_N.sum()), (f"nll_{name}", nll_N[part_N].sum())):
                self._sums[key] = self._sums.get(key, 0.0) + float(value)

    def take_out(self) -> dict[str, float]:
        """``fraction_kept``, ``nll_selected`` and ``nll_rest`` (nats per token), where there were such tokens."""
        sums, self._sums = self._sums, {}
        counts = {name: sums.get(f"n_{name}", 0.0) for name in ("selected", "rest")}
        found = {f"nll_{name}": sums[f"nll_{name}"] / count for name, count in counts.items() if count}
        return found | ({"fraction_kept": counts["selected"] / sum(counts.values())} if found else {})


def batch_of(inputs: Mapping[str, Any], name: str = "batch") -> Batch:
    """What TRL's collator made, padded or padding-free, as a ``Batch``.

    Args:
        inputs: ``input_ids``, ``labels`` (unshifted, -100 outside what is trained) and ``attention_mask``, or
            ``position_ids`` where examples are laid end to end.
        name: what messages call it; its examples are called after it.

    Raises:
        InputError: it carries what the loss would not pass on to the model, or its padding is not at the end.
    """
    if strange := sorted(set(inputs) - KNOWN):
        raise InputError(f"a batch carries {', '.join(strange)}, which this loss does not pass on; train on text alone")
    ids_BT, labels_BT = inputs["input_ids"].cpu(), inputs["labels"].cpu()
    mask_BT, positions_BT = inputs.get("attention_mask"), inputs.get("position_ids")
    if positions_BT is not None:
        if mask_BT is not None:
            raise InputError("a batch carries positions and a padding mask (sequence parallelism): not supported here")
        positions_BT = positions_BT.cpu()
        segment_BT = ((positions_BT == 0).flatten().cumsum(0) - 1).view_as(positions_BT)
        lengths = tuple(segment_BT.flatten().bincount().tolist())
        return Batch(ids_BT, None, labels_BT, _names(name, len(lengths)), lengths, "right", positions_BT, segment_BT)
    mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT.cpu().long()
    length_B = mask_BT.sum(1)
    if not torch.equal(mask_BT, (torch.arange(mask_BT.shape[1]) < length_B[:, None]).long()):
        raise InputError("the padding of a batch is not at the end of its rows; set padding_side to right")
    padded = None if bool(mask_BT.all()) else mask_BT
    return Batch(ids_BT, padded, labels_BT, _names(name, len(ids_BT)), tuple(length_B.tolist()))


def _names(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name} row {number}" for number in range(count))


def _check_loop(trainer: Any) -> None:
    """Refuse a trainer whose settings ask for a loss that ours would silently replace."""
    args, model = trainer.args, trainer.model
    peft_config = getattr(model, "active_peft_config", None) if hasattr(model, "peft_config") else None
    wrong = {
        "label_smoothing_factor": args.label_smoothing_factor > 0,
        f"loss_type {getattr(args, 'loss_type', None)}": getattr(args, "loss_type", "nll") != "nll",
        "a loss for balancing experts (set router_aux_loss_coef=0.0)": getattr(trainer, "aux_loss_enabled", False),
        "prompt learning": peft_config is not None and peft_config.is_prompt_learning,
    }
    if found := [name for name, is_set in wrong.items() if is_set]:
        raise InputError(f"{found[0]} is not part of the token objectives and would be left out silently; leave it out")
