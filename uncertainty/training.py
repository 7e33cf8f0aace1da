"""One training run: data, model, reference, trainer and run folder joined together.

``train_model`` is the whole of it in one call; ``run_training`` the same from settings, as the command uses it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState

from uncertainty import checkpoints
from uncertainty.batch_hidden import check_packing
from uncertainty.curriculum import CurriculumRecord
from uncertainty.curriculum_rows import append_row, drop_rows_after
from uncertainty.data.batches import collate
from uncertainty.data.pieces import spell_vocabulary
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.loading import load_model
from uncertainty.lora import attach_lora
from uncertainty.model import LoadedModel, hidden_size, resolve_device
from uncertainty.objectives import Objective
from uncertainty.prepare import Prepared, prepare
from uncertainty.probe import Probe, open_probe, probe_folder, run_probe
from uncertainty.provenance import git_state, package_versions
from uncertainty.reference import Reference, check_reference, identical_to_student
from uncertainty.reference_cache import CachedReference, build_cache, is_cache, predicted_bytes
from uncertainty.reference_choice import choose_reference, vocabulary_sha256
from uncertainty.run_info import RunInfo
from uncertainty.scores import read_scores
from uncertainty.selection_rules import Rule
from uncertainty.terms import Term
from uncertainty.token_classes import vocabulary_classes
from uncertainty.train_folder import TrainFolder, refuse_foreign
from uncertainty.train_settings import TrainSettings, check_train_settings
from uncertainty.trainer import Recipe, TokenTrainer
from uncertainty.trainer_checks import check_accumulation
from uncertainty.training_data import Collator, Windows, check_trainable, score_column
from uncertainty.training_setup import (
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

# Settings that decide no number: they may differ when a run is resumed.
SELECTION = ("select_by", "keep", "fraction", "band", "threshold", "level", "scope")
DISTILLATION = ("distill_weight", "temperature", "top_k")
VOLATILE = ("device", "keep_checkpoints", "report_to", "reference_cache", "save_every")
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
    resolved = TrainSettings(model=str(model), dataset=str(dataset), **settings)
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
    goal, rule, term = check_recipe(settings)
    out = Path(out)
    refuse_foreign(out)
    state = PartialState(cpu=resolve_device(settings.device).type == "cpu")
    say = say if state.is_main_process else lambda line: None
    if prepared is None:
        prepared = prepare(settings.data_settings)
        for line in prepared.notices:
            say(f"note: {line}")
    check_trainable(prepared.examples, prepared.source.origin)
    info = RunInfo(_deciding(settings, prepared), _record(settings, prepared, state, command))
    with _opened(state, out, info, overwrite) as folder:
        if folder.info.status == "complete":
            say(f"{out} holds this run, finished: nothing was left to do")
            return TrainedRun(out, folder.info)
        started = time.monotonic()
        if needs_reference(goal, rule) and settings.reference == "auto":
            say("reference: the same model trained by vanilla maximum likelihood on the same data, made first")
            made = _make_reference(settings, out, callbacks, say, prepared)
            settings = replace(settings, reference=str(made))
        trainer, checks = _trainer(settings, prepared, goal, rule, term, folder, state, callbacks, say)
        _run(trainer, settings, folder, state, say)
        totals = _put_result(trainer, settings, folder, state) | {"checks": checks}
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
    check_loggers(settings.report_to)
    return goal, rule, term


def needs_reference(goal: Objective, rule: Rule | None) -> bool:
    """Whether the objective or its selection looks at the reference."""
    return goal.needs_reference or (rule is not None and rule.needs_reference)


def on_main(state: PartialState, work: Callable[[], Any]) -> Any:
    """What ``work`` gives in the first process, in all of them; its ``InputError`` is raised in all of them too."""
    if state.num_processes == 1:
        return work()
    from accelerate.utils import broadcast_object_list

    answer: list[Any] = [None, None]
    if state.is_main_process:
        try:
            answer = [work(), None]
        except InputError as error:
            answer = [None, str(error)]
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise InputError(answer[1])
    return answer[0]


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
    out: Path,
    callbacks: Sequence[transformers.TrainerCallback],
    say: Say,
    prepared: Prepared,
) -> Path:
    nothing = {name: getattr(TrainSettings, name) for name in SELECTION + DISTILLATION}
    plain = replace(settings, objective="mle", reference="auto", reference_cache=None, **nothing)
    plain = replace(plain, probe=0, scores=None, column=None)
    return run_training(plain, out / "reference", callbacks=callbacks, say=say, prepared=prepared).model


def _trainer(
    settings: TrainSettings,
    prepared: Prepared,
    goal: Objective,
    rule: Rule | None,
    term: Term | None,
    folder: TrainFolder,
    state: PartialState,
    callbacks: Sequence[transformers.TrainerCallback],
    say: Say,
) -> tuple[TokenTrainer, dict[str, Any]]:
    """Everything that a run is made of, proved to fit together before the first step."""
    precision = precision_of(settings, state.device)
    loaded = _load(settings, prepared, weights_dtype(settings, precision), state.device)
    model = _student(loaded, settings)
    if settings.packing:
        check_packing(loaded.model)
    examples = prepared.examples
    check = collate(longest_first(examples, 2), pad_id=_pad_id(prepared))
    checks: dict[str, Any] = {}
    held_out = {name: _held_out(settings, path, loaded) for name, path in settings.held_out.items()}
    every_held_out = [example for one in held_out.values() for example in one]
    reference = None
    if needs_reference(goal, rule):
        reference = _reference(settings, model, loaded, examples, every_held_out, state, say)
        checks["reference_self_kl"] = check_reference(reference, check)
        _refuse_void(goal, rule, reference, model, check)
    columns = _columns(settings, examples)
    micro = settings.micro_batch or _agreed(
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
        evaluates=bool(held_out),
        evaluates_first=bool(held_out) and not folder.resumed,
    )
    trainer = TokenTrainer(
        model,
        arguments,
        recipe,
        examples=examples,
        windows=windows,
        collator=collator,
        held_out=held_out,
        held_out_kl=_measures_kl(reference, every_held_out, say),
        record=record,
        tokenizer=prepared.tokenizer,
        callbacks=[*callbacks, *_own_callbacks(settings, prepared, model, folder, state)],
        fingerprint=folder.info.fingerprint,
        keep_checkpoints=settings.keep_checkpoints,
        on_row=lambda row: append_row(folder.path, row) if state.is_main_process else None,
    )
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


def _put_result(
    trainer: TokenTrainer, settings: TrainSettings, folder: TrainFolder, state: PartialState
) -> dict[str, Any]:
    """Save the trained adapter or model under its final name; a crash leaves the old one or the new one."""
    name = "model" if settings.tuning == "full" else "adapter"
    staged = folder.path / ".tmp" / name
    if state.is_main_process:
        folder.staging(name)
    state.wait_for_everyone()
    trainer.save_model(str(staged))
    state.wait_for_everyone()

    def put() -> None:
        (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle, with paths of this machine
        folder.put(name, staged)

    on_main(state, put)
    evaluated = [row for row in trainer.state.log_history if any(key.startswith("eval_") for key in row)]
    return {
        "result": name,
        "steps": trainer.state.global_step,
        "examples": len(trainer.examples),
        "final": {k: v for k, v in evaluated[-1].items() if k.startswith("eval_")} if evaluated else {},
        "reference": None if trainer.recipe.reference is None else trainer.recipe.reference.record,
    }


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


def _reference(
    settings: TrainSettings,
    model: Any,
    loaded: LoadedModel,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    state: PartialState,
    say: Say,
) -> Reference:
    """The reference that is named, or its hidden states on disk where a cache is asked for."""
    student = LoadedModel(model, loaded.tokenizer, loaded.record)
    reference = choose_reference(
        settings.reference,
        student,
        examples=examples,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
    )
    say(f"reference: {reference.record['kind']} {reference.record.get('name', '')}".rstrip())
    if settings.reference_cache is None or is_cache(settings.reference):
        return reference
    covered = [*examples, *held_out]
    size = predicted_bytes(covered, hidden_size(loaded.model), loaded.model.dtype)
    say(f"reference cache: {settings.reference_cache}, {size / 1e6:,.0f} MB of hidden states")
    sha256 = vocabulary_sha256(loaded.tokenizer)
    cache = settings.reference_cache
    on_main(state, lambda: asdict(build_cache(cache, reference, covered, vocabulary_sha256=sha256)))
    return choose_reference(cache, student, examples=examples)


def _measures_kl(reference: Reference | None, held_out: Sequence[Example], say: Say) -> bool:
    """Whether held-out sets can be compared with the reference: a cache may lack them."""
    if reference is None or not isinstance(reference, CachedReference):
        return reference is not None
    try:
        reference.check_covers(held_out)
    except InputError as error:
        say(f"note: no KL to the reference is measured on held-out data: {error}")
        return False
    return True


def _refuse_void(goal: Objective, rule: Rule | None, reference: Reference, model: Any, check: Any) -> None:
    """Refuse a student that starts as the reference where there is nothing else to learn from."""
    only_distils = goal.on_selected is None
    ranks_by_difference = rule is not None and rule.by in ("rho", "kl")
    if (only_distils or ranks_by_difference) and identical_to_student(reference, model, check):
        what = f"objective {goal.name}" if only_distils else f"selection by {rule.by}"  # type: ignore[union-attr]
        raise InputError(
            f"the reference equals the model that is to be trained, which leaves nothing for {what}: "
            "give another --reference (auto makes one by vanilla maximum likelihood)"
        )


def _columns(settings: TrainSettings, examples: Sequence[Example]) -> Mapping[str, np.ndarray] | None:
    if not settings.scores or not settings.column:
        return None
    name = settings.column
    table = read_scores(settings.scores, columns=["example_id", "position", "token_id", name])
    return score_column(examples, table, table.columns[-1], settings.scores)


def _held_out(settings: TrainSettings, path: str, loaded: LoadedModel) -> list[Example]:
    data = replace(settings.data_settings, dataset=path, limit=settings.eval_limit, format=None, split=None)
    return prepare(data, loaded).examples


def _own_callbacks(
    settings: TrainSettings, prepared: Prepared, model: Any, folder: TrainFolder, state: PartialState
) -> list[transformers.TrainerCallback]:
    own: list[transformers.TrainerCallback] = [_Metrics(folder)] if state.is_main_process else []
    if settings.probe:
        own.append(_Probes(settings, prepared, model, folder, state))
    return own


class _Metrics(transformers.TrainerCallback):
    """Everything that is logged, one line each, in ``metrics.jsonl``."""

    def __init__(self, folder: TrainFolder) -> None:
        self.folder = folder

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.folder.log({"step": state.global_step, **(logs or {})})


class _Probes(transformers.TrainerCallback):
    """Scores a fixed set of training examples as a table, before, while and after training."""

    def __init__(
        self, settings: TrainSettings, prepared: Prepared, model: Any, folder: TrainFolder, state: PartialState
    ) -> None:
        count = min(settings.probe, len(prepared.examples))
        chosen = np.linspace(0, len(prepared.examples) - 1, count).round().astype(int).tolist()
        self.prepared = replace(
            prepared,
            settings=replace(prepared.settings, passes=settings.probe_passes, seed=settings.seed),
            examples=[prepared.examples[i] for i in chosen],
            rows=[prepared.rows[i] for i in chosen],
            skipped=[],
        )
        self.every, self.model, self.folder, self.state = settings.probe_every, model, folder, state
        self.probe: Probe | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._score(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = self.every or max(1, state.max_steps // 2)
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            self._score(state.global_step)

    def _score(self, step: int) -> None:
        if self.state.is_main_process:
            if self.probe is None:
                run, name = self.folder.info.fingerprint, self.folder.path.name
                self.probe = open_probe(self.model, self.prepared, run=run, name=name)
            run_probe(self.probe, step, probe_folder(self.folder.path, step))
        self.state.wait_for_everyone()


def _agreed(state: PartialState, size: int) -> int:
    """The smallest of what the processes found."""
    if state.num_processes == 1:
        return size
    from accelerate.utils import gather_object

    return int(min(gather_object([size])))


def _pad_id(prepared: Prepared) -> int:
    pad = prepared.tokenizer.pad_token_id
    return 0 if pad is None else int(pad)


def _deciding(settings: TrainSettings, prepared: Prepared) -> dict[str, Any]:
    """The settings that decide the weights; a folder is resumed only where all of them agree."""
    source = prepared.source
    stated = {name: value for name, value in asdict(settings).items() if name not in VOLATILE}
    return stated | {
        "data": {
            **({"files": source.files} if source.files else {"name": source.origin, "revision": source.revision}),
            "format": source.format,
            "template": {"name": prepared.template.name, "sha256": prepared.template.sha256},
            "max_length": prepared.max_length,
        },
        "packages": package_versions(TRAINING_PACKAGES),
    }


TRAINING_PACKAGES = ("token-uncertainty", "torch", "transformers", "peft", "accelerate", "tokenizers")


def _record(
    settings: TrainSettings, prepared: Prepared, state: PartialState, command: Sequence[str] | None
) -> dict[str, Any]:
    return {
        "dataset": {"origin": prepared.source.origin, "kind": prepared.source.kind},
        "examples": len(prepared.examples),
        "completion_tokens": prepared.completion_tokens,
        "skipped": len(prepared.skipped),
        "processes": state.num_processes,
        "device": str(state.device),
        "resolved": asdict(settings),
        "command": None if command is None else list(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": git_state(),
        "working_folder": os.getcwd(),
    }
