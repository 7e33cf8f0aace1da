"""One optimizer step by a recipe: which tokens are selected over the whole of it, and what each of them learns.

Dimension key: N completion tokens, D hidden size.

The whole window of an optimizer step is in hand before its first forward pass, so that tokens are selected over all
of it, whatever the micro-batches and processes; and a loss is divided by the count of the whole window, on all
processes, so that accumulation and data parallelism change nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from uncertainty.batch_hidden import evaluation
from uncertainty.errors import InputError
from uncertainty.lora import check_student
from uncertainty.objectives import Objective, per_token
from uncertainty.reference import Reference
from uncertainty.running_quantile import RunningQuantile
from uncertainty.selection import select, select_part
from uncertainty.selection_rules import Rule, scheduled_fraction
from uncertainty.selection_signals import TokenSignals, ranking_values
from uncertainty.terms import Term
from uncertainty.token_losses import TokenLosses, token_losses, token_signals
from uncertainty.training.step_record import StepRecord
from uncertainty.training.student import Ask
from uncertainty.training.windows import MicroBatch, count_targets

FROM_PASSES = ("loss", "entropy", "rho", "kl")  # signals that a forward pass of the model in training must give


@dataclass(frozen=True)
class Recipe:
    """What is trained on the tokens: the objective, its options, and what it stands on.

    Attributes:
        objective: of ``OBJECTIVES``.
        rule: which tokens are selected, where the objective needs it.
        reference: where objective or rule need one.
        term: of the rest, bound to its options (``objectives.rest_term``).
        distill_weight: lambda.
        temperature: of the rest's term.
        seed: of random selection.
        vocabulary: the softmax runs over so many tokens; None takes all rows of the head.
    """

    objective: Objective
    rule: Rule | None = None
    reference: Reference | None = None
    term: Term | None = None
    distill_weight: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    vocabulary: int | None = None

    def loss(self, losses: TokenLosses, selected_N: Tensor | None, weight_N: Tensor | None) -> Tensor:
        """Sum of the tokens' losses, to be divided by the window's count."""
        weights = weight_N if self.objective.needs_weights else None
        loss_N = per_token(
            self.objective, losses.nll_N, losses.rest_N, selected_N, lambda_=self.distill_weight, weight_N=weights
        )
        return loss_N.sum()


class StepHooks:
    """What makes a loop of ``transformers.Trainer`` train by a ``Recipe``: two of its methods, and what they need.

    A class beside it brings the loop: ``TokenTrainer`` here, TRL's trainer in ``sft``. Each micro-batch that comes in
    carries a ``MicroBatch`` under ``micro``, and the model answers ``ask`` (``student.answering``).

    Attributes:
        recipe: what is trained.
        steps: takes what each micro-batch selected.
        running: the threshold of ``scope=running``.
        drops: whether the model in training differs from the one in eval mode.
        world: processes.
    """

    # Our loss is divided by the count of the whole window; the parent must not divide it again.
    loss_is_scaled_for_ga: bool | None = True

    recipe: Recipe
    steps: StepRecord
    running: RunningQuantile
    drops: bool
    world: int
    # of the loop
    model: Any
    args: Any
    state: Any
    accelerator: Any

    _single_pass = False
    _micro_left = 0

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of one optimizer step, their selection made, and what their loss is divided by."""
        samples = [next(epoch_iterator) for _ in range(num_batches)]
        self._micro_left = len(samples)
        self.steps.begin(self.state.global_step, self.fraction)
        n_tokens = self._total(count_targets([sample["micro"] for sample in samples]))
        if n_tokens == 0:
            ids = ", ".join([name for sample in samples for name in sample["micro"].batch.ids][:5])
            raise InputError(f"no example of an optimizer step has a completion token ({ids}); raise --batch")
        rule = self.recipe.rule
        if rule is None:
            return samples, n_tokens
        if rule.scope != "step":  # how many will be selected is not known yet: by what is expected
            share = self.fraction if self.recipe.objective.denominator == "selected" else 1.0
            return samples, max(1.0, share * n_tokens)
        self._single_pass = self.world == 1 and len(samples) == 1 and not self.drops and rule.by in FROM_PASSES
        if self._single_pass:
            return samples, n_tokens
        self._select_window(samples)
        if self.recipe.objective.denominator == "all":
            return samples, n_tokens
        return samples, max(1, self._total(sum(int(sample["selected"].sum()) for sample in samples)))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The share of one micro-batch in the loss of its optimizer step.

        Raises:
            InputError: a loss that is not finite; names the examples of the micro-batch.
        """
        micro: MicroBatch = inputs["micro"]
        rule, selected_N = self.recipe.rule, inputs.get("selected")
        ranks_here = rule is not None and selected_N is None and rule.needs_reference
        asks = self.recipe.objective.needs_reference or ranks_here
        reference = self._reference(micro, inputs.get("reference")) if asks else None
        label_N = micro.at.label_N.to(self.args.device)
        losses = model(ask=Ask(micro.batch, partial(self._read, micro, label_N, reference, selected_N)))
        check_student(self.model)
        value_N, count = None, num_items_in_batch
        if rule is not None and selected_N is None:
            value_N = self._values(micro, losses)
            selected_N = self._select_micro(micro, value_N) if losses.selected_N is None else losses.selected_N
            if self._single_pass and self.recipe.objective.denominator == "selected":
                count = max(1, int(selected_N.sum()))
        column_N = None if micro.column_N is None else micro.column_N.to(self.args.device)
        loss = self.recipe.loss(losses, selected_N, column_N) / count
        if not bool(torch.isfinite(loss)):
            raise self._not_finite(micro)
        self.steps.take(micro, losses, selected_N, inputs.get("value", value_N))
        # DistributedDataParallel and FSDP average gradients over processes; the loss is divided by all their tokens.
        loss = loss * self.world
        return (loss, losses) if return_outputs else loss

    @property
    def fraction(self) -> float:
        """The share that this step selects; 1 without a selection."""
        if self.recipe.rule is None:
            return 1.0
        return scheduled_fraction(self.recipe.rule, self.state.global_step, max(1, self.state.max_steps))

    def signals(self, micro: MicroBatch, hidden_ref_ND: Tensor | None = None) -> TokenLosses:
        """What the deterministic model says of each token, without any gradient: the numbers of the score table."""
        reference = None
        if hidden_ref_ND is not None and self.recipe.reference is not None:
            reference = (self.recipe.reference.model, hidden_ref_ND)
        label_N = micro.at.label_N.to(self.args.device)

        def read(model: Any, hidden_ND: Tensor) -> TokenLosses:
            return token_signals(
                model, hidden_ND, label_N, reference, entropy=self._by_entropy, vocabulary=self.recipe.vocabulary
            )

        model: Any = self.model
        with evaluation(model):
            return model(ask=Ask(micro.batch, read))

    @property
    def _by_entropy(self) -> bool:
        return self.recipe.rule is not None and self.recipe.rule.by == "entropy"

    def _read(
        self,
        micro: MicroBatch,
        label_N: Tensor,
        reference: Any,
        selected_N: Tensor | None,
        model: Any,
        hidden_ND: Tensor,
    ) -> TokenLosses:
        # Where the selection is known or follows from the values, the rest's term is wanted at the rest alone and one
        # vector does for both. A running quantile must see each micro-batch once.
        rule, objective = self.recipe.rule, self.recipe.objective
        both = objective.on_selected is not None and objective.on_rest is not None
        chooses = both and rule is not None and selected_N is None and rule.scope != "running"
        return token_losses(
            model,
            hidden_ND,
            label_N,
            reference=reference,
            term=self.recipe.term,
            temperature=self.recipe.temperature,
            selected_N=selected_N if both else None,
            choose=partial(self._choose, micro) if chooses else None,
            entropy=self._by_entropy,
            vocabulary=self.recipe.vocabulary,
        )

    def _select_window(self, samples: Sequence[dict[str, Any]]) -> None:
        """Give every micro-batch its part of the selection over all completion tokens of the optimizer step."""
        rule = self.recipe.rule
        assert rule is not None, "called for objectives with a selection"
        values = []
        for sample in samples:
            micro: MicroBatch = sample["micro"]
            losses = None
            if rule.by in FROM_PASSES:
                if rule.needs_reference:
                    sample["reference"] = self._reference(micro, None)[1]
                losses = self.signals(micro, sample.get("reference"))
            values.append(self._values(micro, losses))
        device = self.args.device
        numbers, positions = zip(*((s["micro"].number_N, s["micro"].at.position_N) for s in samples), strict=True)
        selected_N = select_part(
            torch.cat(values),
            torch.cat(numbers).to(device),
            torch.cat(positions).to(device),
            rule,
            fraction=self.fraction,
            seed=self.recipe.seed,
            step=self.state.global_step,
            gather=self._gather,
            rank=self.accelerator.process_index if self.world > 1 else 0,
        )
        for sample, value_N, part_N in zip(samples, values, selected_N.split([len(v) for v in values]), strict=True):
            sample["selected"], sample["value"] = part_N, value_N

    def _select_micro(self, micro: MicroBatch, value_N: Tensor) -> Tensor:
        """The selection within one micro-batch: all of its step, or an approximation of it."""
        rule = self.recipe.rule
        assert rule is not None, "called for objectives with a selection"
        number_N, position_N = (
            index[: len(value_N)].to(value_N.device) for index in (micro.number_N, micro.at.position_N)
        )
        if rule.scope == "running":
            return self.running.select(value_N, number_N, position_N, fraction=self.fraction)
        step = self.state.global_step
        return select(value_N, number_N, position_N, rule, fraction=self.fraction, seed=self.recipe.seed, step=step)

    def _choose(self, micro: MicroBatch, losses: TokenLosses) -> Tensor:
        """The selection among the first tokens of a micro-batch."""
        return self._select_micro(micro, self._values(micro, losses))

    def _values(self, micro: MicroBatch, losses: TokenLosses | None) -> Tensor:
        """What the tokens of a micro-batch are ranked by, or its first tokens, as many as ``losses`` has."""
        rule = self.recipe.rule
        assert rule is not None, "called for objectives with a selection"
        known = TokenSignals(column_N=micro.column_N)
        if losses is not None:
            known = TokenSignals(losses.nll_N, losses.entropy_N, losses.ref_nll_N, losses.kl_N, micro.column_N)
        number_N, position_N = micro.number_N, micro.at.position_N
        value_N = ranking_values(rule, known, number_N, position_N, seed=self.recipe.seed, step=self.state.global_step)
        if losses is not None and bool(value_N.isnan().any()):
            raise self._not_finite(micro)
        return value_N.to(self.args.device)

    def _not_finite(self, micro: MicroBatch) -> InputError:
        return InputError(
            f"the loss of step {self.state.global_step + 1} is not finite (examples "
            f"{', '.join(micro.batch.ids[:8])}); lower --learning-rate, or look at these examples"
        )

    def _reference(self, micro: MicroBatch, hidden_ND: Tensor | None) -> tuple[Any, Tensor]:
        reference = self.recipe.reference
        assert reference is not None, "checked when the run is set up"
        if hidden_ND is None:
            with self.accelerator.autocast():
                hidden_ND = reference.hidden(micro.batch)
        return reference.model, hidden_ND

    def _total(self, count: int) -> int:
        return int(self._gather(torch.tensor([count], device=self.args.device)).sum())

    def _gather(self, values: Tensor) -> Tensor:
        """Every process's tensor of one shape, one after the other."""
        return self.accelerator.gather(values) if self.world > 1 else values
