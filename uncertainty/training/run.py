"""One training run: data, model, reference, trainer and run folder joined together.

``train_model`` is the whole of it in one call; ``run_training`` the same from settings, as the command uses it.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState

from uncertainty.batch_hidden import check_packing
from uncertainty.data.batches import collate
from uncertainty.data.pieces import spell_vocabulary
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.four_bit import check_four_bit
from uncertainty.loading import load_model
from uncertainty.lora import attach_lora
from uncertainty.model import LoadedModel, resolve_device
from uncertainty.objectives import Objective
from uncertainty.prepare import Prepared
from uncertainty.reference import check_reference
from uncertainty.run_info import RunInfo
from uncertainty.scores import read_scores
from uncertainty.selection_rules import Rule
from uncertainty.terms import Term
from uncertainty.token_classes import vocabulary_classes
from uncertainty.trainer import TokenTrainer
from uncertainty.training import checkpoints
from uncertainty.training.callbacks import folder_callbacks
from uncertainty.training.checks import check_accumulation
from uncertainty.training.curriculum import CurriculumRecord
from uncertainty.training.curriculum_rows import append_row, drop_rows_after
from uncertainty.training.folder import TrainFolder, read_evaluations, refuse_foreign
from uncertainty.training.inputs import Inputs, info_of, read_inputs
from uncertainty.training.processes import on_main, smallest
from uncertainty.training.reference import measures_kl, needs_reference, open_reference, refuse_void
from uncertainty.training.result import put_result
from uncertainty.training.settings import DEMO, TrainSettings, check_train_settings
from uncertainty.training.setup import (
    arguments_of,
    check_loggers,
    fit_micro_batch,
    goal_of,
    longest_first,
    lora_of,
    precision_of,
    rule_of,
    total_steps,
    weights_dtype,
)
from uncertainty.training.sharding import check_launch, check_reached
from uncertainty.training.step import Recipe
from uncertainty.training.windows import Collator, Windows, score_column

# Settings that plain maximum likelihood, and so the reference, does not have.
SELECTION = ("select_by", "keep", "fraction", "band", "threshold", "level", "scope")
DISTILLATION = ("distill_weight", "temperature", "top_k", "tail", "beta")
Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run.

    Attributes:
        path: its folder.
        info: what ``train.json`` says.
    """

    path: Path
    info: RunInfo

    @property
    def model(self) -> Path:
        """The folder of the result: an adapter, or a whole model; ``unc-score --model`` takes both."""
        return self.path / str(self.info.totals["result"])


def train_model(
    model: str | Path = "",
    dataset: str | Path = "",
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    callbacks: Sequence[transformers.TrainerCallback] = (),
    **settings: Any,
) -> TrainedRun:
    """Fine-tune a causal language model by a token-selecting objective, into a run folder.

    Args:
        model: a folder or hub id; with no ``dataset`` either, the embedded demo.
        dataset: a file, a folder or a hub id.
        out: the run folder (out/demo-train for the demo; else it must be given); called again with the same settings,
            an interrupted run goes on from its last whole checkpoint and a finished one is returned at once.
        overwrite: start anew.
        callbacks: of ``transformers.Trainer``.
        **settings: fields of ``TrainSettings``, such as ``objective="masked-mle", fraction="0.25"``.

    Raises:
        InputError: anything the caller gave that cannot be used.
        TypeError: a setting that does not exist.
    """
    defaults = {} if model or dataset else DEMO
    resolved = TrainSettings(**{"model": str(model), "dataset": str(dataset)} | defaults | settings)
    if out is None and not resolved.is_demo:
        raise InputError("train_model needs out=, the folder to write the run to")
    return run_training(resolved, out or "out/demo-train", overwrite=overwrite, callbacks=callbacks)


def run_training(
    settings: TrainSettings,
    out: str | Path,
    *,
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    callbacks: Sequence[transformers.TrainerCallback] = (),
    say: Say = lambda line: None,
    prepared: Prepared | None = None,
) -> TrainedRun:
    """Prepare, make the reference if none is given, train, evaluate, and put the result in place.

    Under ``accelerate launch`` every process calls it; the first one writes.

    Args:
        settings: of the run.
        out: its folder.
        overwrite: start anew in a folder that holds another training run.
        command: the command line, for the record.
        callbacks: of ``transformers.Trainer``.
        say: takes one line at a time of what a person may want to know.
        prepared: the data, if it is rendered already.

    Raises:
        InputError: anything in the settings, the data or the folder that cannot be used.
    """
    check_recipe(settings)
    out = Path(out)
    refuse_foreign(out)
    state = PartialState(cpu=resolve_device(settings.device).type == "cpu")
    say = say if state.is_main_process else lambda line: None
    inputs = read_inputs(settings, prepared)
    if prepared is None:
        for line in inputs.prepared.notices:
            say(f"note: {line}")
    return _train(settings, inputs, out, overwrite=overwrite, command=command, callbacks=callbacks, say=say)


def _train(
    settings: TrainSettings,
    inputs: Inputs,
    out: Path,
    *,
    overwrite: bool,
    command: Sequence[str] | None,
    callbacks: Sequence[transformers.TrainerCallback],
    say: Say,
) -> TrainedRun:
    """``run_training`` on data that is read."""
    goal, rule, term = check_recipe(settings)
    state = PartialState()
    with _opened(state, out, info_of(settings, inputs, state, command), overwrite) as folder:
        if folder.info.status == "complete":
            say(f"{out} holds this run, finished: nothing was left to do")
            return TrainedRun(out, folder.info)
        started = time.monotonic()
        try:
            if needs_reference(goal, rule) and settings.reference == "auto":
                say("reference: the same model trained by vanilla maximum likelihood on the same data, made first")
                made = _make_reference(settings, inputs, out, command, callbacks, say)
                settings = replace(settings, reference=str(made))
            trainer, checks = _trainer(settings, inputs, goal, rule, term, folder, state, callbacks, say)
        except InputError:
            folder.abandon()
            raise
        _run(trainer, settings, folder, state, say)
        totals = put_result(trainer, settings, folder, state) | {"checks": checks}
        timings = {"seconds": time.monotonic() - started, "threads": torch.get_num_threads(), "host": platform.node()}
        return TrainedRun(out, on_main(state, lambda: folder.finish(totals, timings)))


def check_recipe(settings: TrainSettings) -> tuple[Objective, Rule | None, Term | None]:
    """Objective, selection, and what the rest learns; all that can be refused before any data is read.

    Raises:
        InputError: a setting that is wrong, or does not go with another.
    """
    check_train_settings(settings)
    goal, term = goal_of(settings)
    rule = rule_of(settings, goal)
    lora_of(settings)
    if settings.tuning == "qlora":
        check_four_bit(resolve_device(settings.device))
    check_loggers(settings.report_to)
    check_launch(settings.tuning, settings.probe)
    return goal, rule, term


@contextmanager
def _opened(state: PartialState, out: Path, info: RunInfo, overwrite: bool) -> Iterator[TrainFolder]:
    """The run folder; only the first process holds its lock and writes."""
    held: list[TrainFolder] = []

    def open_it() -> tuple[RunInfo, bool]:
        held.append(TrainFolder.open(out, info, overwrite=overwrite))
        return held[0].info, held[0].resumed

    known, resumed = on_main(state, open_it)
    folder = held[0] if held else TrainFolder(out, None, known, resumed=resumed)
    with folder:
        yield folder


def _make_reference(
    settings: TrainSettings,
    inputs: Inputs,
    out: Path,
    command: Sequence[str] | None,
    callbacks: Sequence[transformers.TrainerCallback],
    say: Say,
) -> Path:
    """Train the reference as a run of its own inside the run folder; what is there of it is gone on with."""
    nothing = {name: getattr(TrainSettings, name) for name in SELECTION + DISTILLATION}
    plain = replace(settings, objective="mle", reference="auto", reference_cache=None, **nothing)
    # Loggers get one run: the steps of two would mix.
    plain = replace(plain, probe=0, scores=None, column=None, report_to=())
    place = out / "reference"
    return _train(plain, inputs, place, overwrite=False, command=command, callbacks=callbacks, say=say).model


def _trainer(
    settings: TrainSettings,
    inputs: Inputs,
    goal: Objective,
    rule: Rule | None,
    term: Term | None,
    folder: TrainFolder,
    state: PartialState,
    callbacks: Sequence[transformers.TrainerCallback],
    say: Say,
) -> tuple[TokenTrainer, dict[str, Any]]:
    """Everything that a run is made of, proved to fit together before the first step."""
    prepared, precision = inputs.prepared, precision_of(settings, state.device)
    loaded = _load(settings, prepared, weights_dtype(settings, precision), state.device)
    model = _student(loaded, settings)
    if settings.packing:
        check_packing(loaded.model)
    examples = prepared.examples
    check = collate(longest_first(examples, 2), pad_id=_pad_id(prepared))
    checks: dict[str, Any] = {}
    reference = None
    if needs_reference(goal, rule):
        reference = open_reference(settings, model, loaded, examples, inputs.every_held_out, state, say)
        checks["reference_self_kl"] = check_reference(reference, check)
        refuse_void(goal, rule, reference, model, check)
    columns = _columns(settings, examples)
    micro = settings.micro_batch or smallest(
        state,
        fit_micro_batch(model, examples, settings, processes=state.num_processes, with_reference=goal.needs_reference),
    )
    windows = Windows(
        len(examples),
        batch=settings.batch,
        micro=micro,
        seed=settings.seed,
        world=state.num_processes,
        rank=state.process_index,
    )
    collator = Collator(
        examples[0], pad_id=_pad_id(prepared), packing=settings.packing, width=prepared.max_length, columns=columns
    )
    recipe = Recipe(goal, rule, reference, term, settings.distill_weight, settings.temperature, settings.seed)
    entries = spell_vocabulary(prepared.tokenizer)
    record = CurriculumRecord(vocabulary_classes(entries.tokens, entries.is_special), entries.tokens.__getitem__)
    arguments = arguments_of(
        settings,
        windows,
        folder.path / "checkpoints",
        device=state.device,
        precision=precision,
        evaluates=bool(inputs.held_out),
        evaluates_first=bool(inputs.held_out) and not read_evaluations(folder.path),
    )
    trainer = TokenTrainer(
        model,
        arguments,
        recipe,
        examples=examples,
        windows=windows,
        collator=collator,
        held_out=inputs.held_out,
        held_out_kl=measures_kl(reference, inputs.every_held_out, say),
        record=record,
        tokenizer=prepared.tokenizer,
        callbacks=[*callbacks, *folder_callbacks(settings, prepared, model, folder, state)],
        fingerprint=folder.info.fingerprint,
        keep_checkpoints=settings.keep_checkpoints,
        on_row=lambda row: append_row(folder.path, row) if state.is_main_process else None,
    )
    check_reached(trainer.accelerator)
    checks["accumulation_relative_difference"] = check_accumulation(trainer)
    say(
        f"training: {len(examples):,} examples, {prepared.completion_tokens:,} completion tokens, "
        f"{total_steps(settings, windows):,} steps of {settings.batch}, micro-batches of {micro}, {precision}, "
        f"objective {goal.name}"
    )
    return trainer, checks


def _run(trainer: TokenTrainer, settings: TrainSettings, folder: TrainFolder, state: PartialState, say: Say) -> None:
    """Train from the last whole checkpoint, or from the beginning."""
    place = folder.path / "checkpoints"
    found = on_main(state, lambda: checkpoints.last_good(place, folder.info.fingerprint))
    for line in found.damaged:
        say(f"note: a checkpoint is not whole and is not used: {line}")
    if folder.resumed:
        where = f"after step {found.step}" if found.path else "from the beginning: there is no whole checkpoint"
        say(f"going on {where}")

    def forget_later() -> None:
        checkpoints.remove_newer(place, found.step)
        folder.cut(found.step)
        drop_rows_after(folder.path, found.step)

    on_main(state, forget_later)
    trainer.train(resume_from_checkpoint=str(found.path) if found.path else None)
    if trainer.held_out and (settings.eval_every or 1) > 1 and trainer.last_evaluated != trainer.state.global_step:
        trainer.evaluate()


def _load(settings: TrainSettings, prepared: Prepared, dtype: str, device: torch.device) -> LoadedModel:
    return load_model(
        settings.data_settings.model_source,
        prepared.tokenizer,
        dtype=dtype,
        device=str(device),
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        four_bit=settings.tuning == "qlora",
    )


def _student(loaded: LoadedModel, settings: TrainSettings) -> Any:
    if settings.tuning == "full":
        return loaded.model.requires_grad_(True)
    return attach_lora(loaded.model, lora_of(settings), seed=settings.seed)


def _columns(settings: TrainSettings, examples: Sequence[Example]) -> Mapping[str, np.ndarray] | None:
    if not settings.scores or not settings.column:
        return None
    name = settings.column
    table = read_scores(settings.scores, columns=["example_id", "position", "token_id", name])
    return score_column(examples, table, table.columns[-1], settings.scores)


def _pad_id(prepared: Prepared) -> int:
    pad = prepared.tokenizer.pad_token_id
    return 0 if pad is None else int(pad)
