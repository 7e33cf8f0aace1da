"""The embedded trainer: ``transformers.Trainer`` with token-selecting objectives, exact whatever the batch split.

Dimension key: N completion tokens, D hidden size, F columns, R ranks.

Three things differ from its parent. The order of the data is ours (``training_data.Windows``). The whole window of an
optimizer step is in hand before its first forward pass, so that tokens are selected over all of it, whatever the
micro-batches and processes. And a loss is divided by the count of the whole window, on all processes, so that
accumulation and data parallelism change nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from uncertainty import checkpoints
from uncertainty.batch_hidden import evaluation
from uncertainty.curriculum import CurriculumRecord
from uncertainty.data.batches import collate
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.lora import STUDENT, check_student
from uncertainty.objectives import Objective, per_token
from uncertainty.reference import Reference
from uncertainty.running_quantile import RunningQuantile
from uncertainty.selection import select, select_part
from uncertainty.selection_rules import Rule, scheduled_fraction
from uncertainty.selection_signals import TokenSignals, ranking_values
from uncertainty.step_record import StepRecord
from uncertainty.student import Ask, answering, has_dropout
from uncertainty.terms import Term
from uncertainty.token_losses import TokenLosses, token_losses, token_signals
from uncertainty.training_data import Collator, MicroBatch, NumberedExamples, Windows, micro_batch, training_loader

LOGGED = ("fraction_kept", "threshold", "nll_selected", "nll_rest", "kl_rest", "jaccard")  # beside the training loss
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
        n_tokens = self._total(sum(len(sample["micro"].at.label_N) for sample in samples))
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
        losses = model(ask=Ask(micro.batch, partial(self._read, label_N, reference, selected_N)))
        check_student(self.model)
        value_N, count = None, num_items_in_batch
        if rule is not None and selected_N is None:
            value_N = self._values(micro, losses)
            selected_N = self._select_micro(micro, value_N)
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
            return token_signals(model, hidden_ND, label_N, reference, vocabulary=self.recipe.vocabulary)

        model: Any = self.model
        with evaluation(model):
            return model(ask=Ask(micro.batch, read))

    def _read(self, label_N: Tensor, reference: Any, selected_N: Tensor | None, model: Any, hidden_ND: Tensor) -> Any:
        # Where the selection is known, the rest's term is wanted at the rest alone and one vector does for both.
        known = selected_N if self.recipe.objective.on_selected and self.recipe.objective.on_rest else None
        return token_losses(
            model,
            hidden_ND,
            label_N,
            reference=reference,
            term=self.recipe.term,
            temperature=self.recipe.temperature,
            selected_N=known,
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
        number_N, position_N = (index.to(value_N.device) for index in (micro.number_N, micro.at.position_N))
        if rule.scope == "running":
            return self.running.select(value_N, number_N, position_N, fraction=self.fraction)
        step = self.state.global_step
        return select(value_N, number_N, position_N, rule, fraction=self.fraction, seed=self.recipe.seed, step=step)

    def _values(self, micro: MicroBatch, losses: TokenLosses | None) -> Tensor:
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


class TokenTrainer(StepHooks, transformers.Trainer):
    """Trains a model by a ``Recipe``; everything else is its parent's.

    Args:
        model: a causal language model, bare or a PeftModel whose active adapter is trained.
        args: of the parent; its batch size, accumulation and seed must be those of ``windows``.
        recipe: what is trained.
        examples: the data.
        windows: order and split of the data.
        collator: of its micro-batches.
        held_out: name -> examples to evaluate on.
        held_out_kl: measure their KL to the reference as well.
        record: takes what each step selected; None keeps none.
        tokenizer: saved with the model.
        callbacks: further ones.
        fingerprint: of the run, in the receipts of its checkpoints.
        keep_checkpoints: whole checkpoints that stay.
        on_row: takes each row of the curriculum record, in every process.
    """

    def __init__(
        self,
        model: Any,
        args: transformers.TrainingArguments,
        recipe: Recipe,
        *,
        examples: Sequence[Example],
        windows: Windows,
        collator: Collator,
        held_out: Mapping[str, Sequence[Example]] | None = None,
        held_out_kl: bool = False,
        record: CurriculumRecord | None = None,
        tokenizer: Any = None,
        callbacks: Sequence[transformers.TrainerCallback] = (),
        fingerprint: str = "",
        keep_checkpoints: int = 2,
        on_row: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.examples = examples
        self.recipe, self.windows, self.collator, self.held_out = recipe, windows, collator, dict(held_out or {})
        self.steps = StepRecord(record)
        self.running = RunningQuantile()
        self.fingerprint, self.keep_checkpoints, self.on_row = fingerprint, keep_checkpoints, on_row
        self.held_out_kl, self.last_evaluated = held_out_kl, -1
        super().__init__(
            model=model,
            args=args,
            train_dataset=NumberedExamples(examples),
            eval_dataset=NumberedExamples(()) if self.held_out else None,  # only so that the parent agrees to evaluate
            processing_class=tokenizer,
            callbacks=[_Epochs(windows), *callbacks],
        )
        self.remove_callback(transformers.PrinterCallback)  # the caller shows, if anybody
        self.model_accepts_loss_kwargs = True  # how releases before 5.19 are told the same
        self.drops = has_dropout(model)
        self.world = self.accelerator.num_processes

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the parent; inside, the model answers ``ask``."""
        if isinstance(resume_from_checkpoint, str):
            self._load_own_state(Path(resume_from_checkpoint))
        with answering(self.model):
            done = super().train(resume_from_checkpoint, *args, **kwargs)
        self._close_record()
        return done

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the parent; a line with the training loss carries what the window selected, and closes it."""
        if "loss" in logs:
            row = self._close_record()
            logs |= {name: row[name] for name in LOGGED if row.get(name) is not None}
        super().log(logs, *args, **kwargs)

    def get_train_dataloader(self) -> Any:
        """The micro-batches of this process; not prepared by accelerate, which would deal them out its own way."""
        return training_loader(self.examples, self.windows, self.collator)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the parent; the last micro-batch of a step closes its record."""
        loss = super().training_step(*args, **kwargs)
        self._micro_left -= 1
        if self._micro_left == 0:
            epoch = (self.state.global_step + 1) / self.windows.steps
            self.steps.end(self._all_rows, epoch)
        return loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean loss per completion token of every held-out set, in nats, its perplexity, and the KL to the reference.

        Returns:
            ``eval_NAME_loss``, ``eval_NAME_perplexity`` and, with a reference, ``eval_NAME_kl``.
        """
        metrics: dict[str, float] = {}
        with answering(self.model), evaluation(self.model):
            for name, examples in self.held_out.items():
                n_tokens, nll, kl = self._sums(examples)
                metrics[f"{metric_key_prefix}_{name}_loss"] = nll / max(1.0, n_tokens)
                metrics[f"{metric_key_prefix}_{name}_perplexity"] = float(torch.tensor(nll / max(1.0, n_tokens)).exp())
                if self.held_out_kl:
                    metrics[f"{metric_key_prefix}_{name}_kl"] = kl / max(1.0, n_tokens)
        self.last_evaluated = self.state.global_step
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, a step is this process's own, without dropout and without record: for checks before training."""
        kept = self.world, self.drops, self.steps.record
        self.world, self.drops, self.steps.record = 1, False, None
        try:
            with answering(self.model):
                yield
        finally:
            self.world, self.drops, self.steps.record = kept

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As the parent, which would do one step more when it goes on from the checkpoint of the last step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _close_record(self) -> dict[str, Any]:
        row = None if self.steps.record is None else self.steps.record.row()
        if row is not None and self.on_row is not None:
            self.on_row(row)
        return row or {}

    def _sums(self, examples: Sequence[Example]) -> tuple[float, float, float]:
        sums = torch.zeros(3, dtype=torch.float64)
        size = self.windows.micro
        for start in range(self.accelerator.process_index * size, len(examples), size * self.world):
            batch = collate(examples[start : start + size], pad_id=self.collator.pad_id)
            micro = micro_batch(batch, range(len(batch.ids)))
            hidden_ND = self._reference(micro, None)[1] if self.held_out_kl else None
            found = self.signals(micro, hidden_ND)
            kl = 0.0 if found.kl_N is None else float(found.kl_N.double().sum())
            sums += torch.tensor([len(found.nll_N), float(found.nll_N.double().sum()), kl], dtype=torch.float64)
        if self.world > 1:
            sums = self.accelerator.reduce(sums.to(self.args.device)).cpu()
        return float(sums[0]), float(sums[1]), float(sums[2])

    def _all_rows(self, rows_NF: Tensor) -> Tensor:
        """The rows of all processes, in the order of the processes."""
        rows_NF = rows_NF.to(self.args.device)
        counts_R = self._gather(torch.tensor([len(rows_NF)], device=self.args.device)).tolist()
        longest = max(counts_R)
        padded = self._gather(torch.nn.functional.pad(rows_NF, (0, 0, 0, longest - len(rows_NF))))
        parts = [padded[rank * longest : rank * longest + count] for rank, count in enumerate(counts_R)]
        return torch.cat(parts).cpu()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As the parent, without the reference's adapter: it has a folder of its own."""
        with _saving_only(self.model, STUDENT):
            super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the parent; then what is ours, and the receipt that makes it count."""
        if self.state.global_step >= self.state.max_steps:
            self._close_record()  # a run that goes on from the last checkpoint must not write the last row again
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(str(self.args.output_dir))
            checkpoint = folder / f"checkpoint-{self.state.global_step}"
            state = {} if self.steps.record is None else self.steps.record.state_dict()
            threshold = self.running.state_dict()["threshold"]
            state["running.threshold"] = np.array(np.nan if threshold is None else threshold)
            np.savez(checkpoint / checkpoints.STATE, **state)  # type: ignore[arg-type]
            checkpoints.commit(checkpoint, self.fingerprint)
            checkpoints.remove_older(folder, self.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _load_own_state(self, checkpoint: Path) -> None:
        with np.load(checkpoint / checkpoints.STATE) as stored:
            state = dict(stored)
        threshold = float(state.pop("running.threshold"))
        self.running.load_state_dict({"threshold": None if math.isnan(threshold) else threshold})
        if self.steps.record is not None:
            self.steps.record.load_state_dict(state)


@contextmanager
def _saving_only(model: Any, adapter_name: str) -> Iterator[None]:
    """Inside, ``save_pretrained`` of a PeftModel saves one adapter."""
    if not hasattr(model, "peft_config"):
        yield
        return
    model.save_pretrained = partial(model.save_pretrained, selected_adapters=[adapter_name])
    try:
        yield
    finally:
        del model.save_pretrained


class _Epochs(transformers.TrainerCallback):
    """Chooses the permutation of each epoch, after a resume too."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.windows.set_epoch(state.global_step // self.windows.steps)
