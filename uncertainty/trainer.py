"""The embedded trainer: ``transformers.Trainer`` with token-selecting objectives, exact whatever the batch split.

Dimension key: N completion tokens, D hidden size, F columns, R ranks.

Three things differ from its parent. The order of the data is ours (``windows.Windows``). The whole window of an
optimizer step is in hand before its first forward pass, so that tokens are selected over all of it, whatever the
micro-batches and processes. And a loss is divided by the count of the whole window, on all processes, so that
accumulation and data parallelism change nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from uncertainty.batch_hidden import evaluation
from uncertainty.data.batches import collate
from uncertainty.data.render import Example
from uncertainty.lora import STUDENT
from uncertainty.running_quantile import RunningQuantile
from uncertainty.training import checkpoints
from uncertainty.training.curriculum import CurriculumRecord
from uncertainty.training.sharding import gathered, keep_precision
from uncertainty.training.step import Recipe, StepHooks
from uncertainty.training.step_record import StepRecord
from uncertainty.training.student import answering, has_dropout
from uncertainty.training.windows import Collator, NumberedExamples, Windows, micro_batch, training_loader

LOGGED = ("fraction_kept", "threshold", "nll_selected", "nll_rest", "kl_rest", "jaccard")  # beside the training loss


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
        self._answers = False
        if self.is_fsdp_enabled:
            keep_precision(self.accelerator.state.fsdp_plugin)
        self.world = self.accelerator.num_processes

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the parent; inside, the model answers ``ask``."""
        if isinstance(resume_from_checkpoint, str):
            self._load_own_state(Path(resume_from_checkpoint))
        with self.answers():
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
        with self.answers(), evaluation(self.model):
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
    def answers(self) -> Iterator[None]:
        """Inside, the model answers ``ask``; entered once, so that what wraps the model later (autocast) stays."""
        if self._answers:
            yield
            return
        self._answers = True
        try:
            with answering(self.model):
                yield
        finally:
            self._answers = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, a step is this process's own, without dropout and without record: for checks before training."""
        kept = self.world, self.drops, self.steps.record
        self.world, self.drops, self.steps.record = 1, False, None
        try:
            with self.answers():
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
        # As many passes in every process, over nothing where there is nothing left: FSDP gathers weights in each.
        for first in range(0, len(examples), size * self.world):
            start = first + self.accelerator.process_index * size
            own = examples[start : start + size] or [self.collator.spare]
            batch = collate(own, pad_id=self.collator.pad_id)
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

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the parent, which under FSDP saves no adapter or model unless checkpoints too hold whole weights."""
        if self.is_fsdp_enabled and not _internal_call:
            weights = gathered(self.model, trained_alone=hasattr(self.model, "peft_config"))
            if self.args.should_save:  # in other processes there is nothing, which transformers 5.17 would save too
                self._save(output_dir, weights)
        else:
            super().save_model(output_dir, _internal_call)

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
