"""``unc-train``: fine-tune by a token-selecting objective."""

from __future__ import annotations

import atexit
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from uncertainty.cli.console import about_data, duration, interrupt, quiet_libraries, say
from uncertainty.cli.options import command, option, same_option
from uncertainty.cli.score import ScoreOptions
from uncertainty.selection_rules import KEEPS, LEVELS, SCOPES, SIGNALS
from uncertainty.training.settings import DEMO, OBJECTIVE_NAMES, PRECISIONS, SCHEDULES, TAILS, TUNINGS
from uncertainty.training.settings import TrainSettings as Defaults

if TYPE_CHECKING:  # torch and transformers are imported when they are needed: --help must stay quick
    from uncertainty.training.run import TrainedRun

PROG = "unc-train"
DESCRIPTION = """Fine-tune a causal language model: maximum likelihood on the tokens of highest loss, distillation
from a reference (the same model fine-tuned on all tokens, made first if none is given) on the rest. Every other
objective and selection of the comparison is an option. With no options it fine-tunes the embedded demo model."""
EPILOG = """examples:
  unc-train
  unc-train --model meta-llama/Llama-3.2-1B --dataset alpaca.json --eval-data gsm8k=gsm8k/test.jsonl
  unc-train --model ./my-model --dataset chats.jsonl --objective masked-mle --select-by rho --out out/rho
  unc-train --model ./my-model --dataset chats.jsonl --reference out/first/reference/adapter --level document
  accelerate launch --num_processes 8 -m uncertainty.cli.train --model ./my-model --dataset chats.jsonl

An interrupted run goes on when the same command is given again."""
GOAL, SELECTION, REFERENCE, TUNING = "objective", "selection", "reference", "what is trained"
STEPS, WATCHING, RUNNING, OUTPUT = "optimisation", "watching", "running", "output"


def _listed(table: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {getattr(line, 'meaning', line)}" for name, line in table.items())


@dataclass(frozen=True)
class TrainOptions:
    """The options of ``unc-train``; defaults come from ``TrainSettings``."""

    model: str | None = same_option(ScoreOptions, "model")
    revision: str | None = same_option(ScoreOptions, "revision")
    device: str = same_option(ScoreOptions, "device")
    trust_remote_code: bool = same_option(ScoreOptions, "trust_remote_code")
    allow_pickle: bool = same_option(ScoreOptions, "allow_pickle")

    dataset: str | None = same_option(ScoreOptions, "dataset")
    split: str | None = same_option(ScoreOptions, "split")
    format: str | None = same_option(ScoreOptions, "format")
    template: str = same_option(ScoreOptions, "template")
    sample_by: str = same_option(ScoreOptions, "sample_by")
    id_column: str | None = same_option(ScoreOptions, "id_column")
    limit: int | None = same_option(ScoreOptions, "limit")
    max_length: int | None = same_option(ScoreOptions, "max_length")

    objective: str = option(
        Defaults.objective, "what selected tokens and the rest learn", choices=OBJECTIVE_NAMES, group=GOAL
    )
    distill_weight: float = option(
        Defaults.distill_weight, "lambda: weight of the rest's term against likelihood", group=GOAL
    )
    temperature: float = option(Defaults.temperature, "of student and reference in the rest's term", group=GOAL)
    top_k: int = option(Defaults.top_k, "tokens of the reference kept by the -topk objectives", group=GOAL)
    tail: str = option(
        Defaults.tail,
        "what becomes of the reference's other tokens there: left out, as in the paper; left out and the kept ones "
        "made to sum to 1; or counted as one token",
        choices=TAILS,
        group=GOAL,
    )
    beta: float = option(
        Defaults.beta,
        "place of the mixture in the jsd objectives: near 0 as forward KL, near 1 as reverse",
        group=GOAL,
    )

    select_by: str = option(
        Defaults.select_by, f"what tokens are ranked by. {_listed(SIGNALS)}", choices=tuple(SIGNALS), group=SELECTION
    )
    fraction: str = option(
        Defaults.fraction,
        "share of the completion tokens to select, above 0 and at most 1, or its schedule: linear:FROM:TO, "
        "cosine:FROM:TO, warmup:PART_OF_STEPS:TO",
        group=SELECTION,
    )
    keep: str = option(
        Defaults.keep,
        f"which of the ranked tokens are selected. {_listed(KEEPS)}",
        choices=tuple(KEEPS),
        group=SELECTION,
    )
    band: tuple[float, ...] = option(
        Defaults.band, "two quantiles for --keep band, comma separated, as in 0.5,0.75", group=SELECTION
    )
    threshold: float | None = option(
        Defaults.threshold, "for --keep threshold, in the unit of the signal (nats for loss)", group=SELECTION
    )
    level: str = option(Defaults.level, f"what is selected. {_listed(LEVELS)}", choices=tuple(LEVELS), group=SELECTION)
    scope: str = option(
        Defaults.scope, f"what the share is a share of. {_listed(SCOPES)}", choices=tuple(SCOPES), group=SELECTION
    )
    scores: str | None = option(
        Defaults.scores, "run folder of unc-score over the same data, for --select-by column", group=SELECTION
    )
    column: str | None = option(
        Defaults.column,
        "its column (such as epistemic), for --select-by column or --objective weighted",
        group=SELECTION,
    )

    reference: str = option(
        Defaults.reference,
        "auto (made first: the same model, data and settings with plain maximum likelihood), base (the model as it is "
        "loaded), or a folder: of an adapter, of a model, or of a cache",
        group=REFERENCE,
    )
    reference_cache: str | None = option(
        Defaults.reference_cache,
        "keep the reference's hidden states in this folder: later runs with --reference THAT_FOLDER need no reference",
        group=REFERENCE,
    )

    tuning: str = option(
        Defaults.tuning,
        "an adapter, all weights, or an adapter on a 4-bit base (needs bitsandbytes)",
        choices=TUNINGS,
        group=TUNING,
    )
    lora_rank: int = option(Defaults.lora_rank, "rank of the adapter", group=TUNING)
    lora_alpha: float = option(Defaults.lora_alpha, "its output is scaled by alpha / rank", group=TUNING)
    lora_dropout: float = option(Defaults.lora_dropout, "dropout on its input, 0 to 1", group=TUNING)
    lora_targets: str = option(
        Defaults.lora_targets, "all-linear, or the names of modules, comma separated", group=TUNING
    )

    learning_rate: float | None = option(
        None,
        f"peak learning rate of AdamW (default: {Defaults.learning_rate:g}; the demo: {DEMO['learning_rate']:g})",
        group=STEPS,
    )
    schedule: str = option(Defaults.schedule, "of the learning rate", choices=SCHEDULES, group=STEPS)
    warmup: float = option(Defaults.warmup, "share of the steps in which it rises to its peak, 0 to 1", group=STEPS)
    weight_decay: float = option(Defaults.weight_decay, "of AdamW", group=STEPS)
    clip: float = option(Defaults.clip, "largest norm of the gradient; 0 does not clip", group=STEPS)
    epochs: float | None = option(
        None, f"passes over the data (default: {Defaults.epochs:g}; the demo: {DEMO['epochs']:g})", group=STEPS
    )
    max_steps: int | None = option(Defaults.max_steps, "stop after so many steps", unit="steps", group=STEPS)
    batch: int = option(
        Defaults.batch, "examples of one optimizer step, all processes together", unit="examples", group=STEPS
    )
    seed: int = option(Defaults.seed, "of data order, adapter, dropout and random selection", group=STEPS)

    eval_data: tuple[str, ...] = option(
        Defaults.eval_data,
        "data to evaluate on before, while and after training: PATH or NAME=PATH; may be given several times",
        group=WATCHING,
        repeat=True,
    )
    eval_limit: int | None = option(
        Defaults.eval_limit, "only the first so many rows of each", unit="rows", group=WATCHING
    )
    eval_every: int | None = option(
        Defaults.eval_every, "steps between evaluations; before and after when not given", unit="steps", group=WATCHING
    )
    log_every: int = option(
        Defaults.log_every, "steps of one line of the log and of the curriculum record", unit="steps", group=WATCHING
    )
    probe: int = option(Defaults.probe, "training examples to score as a table while training; 0: none", group=WATCHING)
    probe_every: int | None = option(
        Defaults.probe_every, "steps between probes; start, middle and end when not given", unit="steps", group=WATCHING
    )
    probe_passes: int = option(Defaults.probe_passes, "stochastic passes of a probe", unit="passes", group=WATCHING)
    report_to: tuple[str, ...] = option(
        Defaults.report_to, "loggers of the Trainer, comma separated, such as tensorboard or wandb", group=WATCHING
    )

    micro_batch: int | Literal["auto"] = option(
        "auto", "examples of one forward pass; decides speed and memory, not the result", unit="examples", group=RUNNING
    )
    packing: bool = option(
        Defaults.packing, "lay examples end to end instead of padding them; none sees another", group=RUNNING
    )
    gradient_checkpointing: bool = option(
        Defaults.gradient_checkpointing, "compute activations twice instead of keeping them", group=RUNNING
    )
    precision: str = option(
        Defaults.precision,
        "of the forward pass; auto is bfloat16 on a GPU that can, float32 elsewhere",
        choices=PRECISIONS,
        group=RUNNING,
    )
    save_every: int = option(Defaults.save_every, "steps between checkpoints", unit="steps", group=RUNNING)
    keep_checkpoints: int = option(Defaults.keep_checkpoints, "how many of them stay", group=RUNNING)

    out: Path | None = option(None, "folder of the run (default: out/MODEL-DATASET-OBJECTIVE)", group=OUTPUT)
    overwrite: bool = option(False, "start anew in a folder that holds another training run", group=OUTPUT)

    def settings(self) -> Defaults:
        """The options that are settings of the run."""
        given = {field.name: getattr(self, field.name) for field in fields(Defaults)}
        given |= {"model": self.model or "", "dataset": self.dataset or ""}
        given["micro_batch"] = None if self.micro_batch == "auto" else self.micro_batch
        is_demo = not self.model and not self.dataset
        for name in DEMO:
            if given[name] is None:
                given[name] = DEMO[name] if is_demo else getattr(Defaults, name)
        return Defaults(**given)

    def folder(self) -> Path:
        """The run folder."""
        if self.out is not None:
            return self.out
        if self.settings().is_demo:
            return Path("out/demo-train")
        name = f"{Path(self.model or '').name}-{Path(self.dataset or '').name.split('.')[0]}-{self.objective}"
        return Path("out") / re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")


def main(argv: list[str] | None = None) -> int:
    """Run ``unc-train``; returns its exit code, unless it is one of several processes of its own, which it ends."""
    arguments = sys.argv[1:] if argv is None else argv
    body = partial(run, arguments=arguments)
    code = command(body, TrainOptions, arguments, prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    if argv is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        leave(code)
    return code


def leave(code: int) -> NoReturn:
    """End a process that is one of several, without the interpreter's own teardown.

    There the threads of their exchange are now and then aborted when all work is done (gloo: "terminate called without
    an active exception").
    """
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(options: TrainOptions, arguments: Sequence[str]) -> int:
    """Prepare, train and sum up; Ctrl-C and SIGTERM end it in one line."""
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        return _run(options, arguments)
    except KeyboardInterrupt:
        folder = options.folder()
        safe = f"checkpoints up to now are safe in {folder}. The same command goes on from the last one."
        _say(f"interrupted; {safe if folder.is_dir() else 'nothing was written'}")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(options: TrainOptions, arguments: Sequence[str]) -> int:
    settings = options.settings()
    from uncertainty.training.settings import check_train_settings

    check_train_settings(settings)
    from uncertainty.training.folder import refuse_foreign

    refuse_foreign(options.folder())
    from uncertainty.prepare import go_offline, prepare

    if notice := go_offline(settings.data_settings):
        _say(f"note: {notice}")
    quiet_libraries()
    from uncertainty.training.progress import progress_callback
    from uncertainty.training.run import check_recipe, run_training

    check_recipe(settings)
    prepared = prepare(settings.data_settings)
    for line in about_data(prepared):
        _say(line)
    with progress_callback(_say) as progress:
        trained = run_training(
            settings,
            options.folder(),
            overwrite=options.overwrite,
            command=[PROG, *arguments],
            callbacks=[progress] if _is_first() else [],
            say=_say,
            prepared=prepared,
        )
    if _is_first():
        print(_summary(trained, settings))
    return 0


def _is_first() -> bool:
    """Whether this is the process that speaks, where a launcher started several."""
    return int(os.environ.get("RANK", "0")) == 0


def _say(*lines: str) -> None:
    """As ``say``, once for all processes."""
    if _is_first():
        say(*lines)


def _summary(trained: TrainedRun, settings: Defaults) -> str:
    from uncertainty.training.folder import read_evaluations

    totals = trained.info.totals
    lines = [f"{totals['steps']:,} steps on {totals['examples']:,} examples by {settings.objective}"]
    table = read_evaluations(trained.path)
    if table:
        lines += ["", f"{'held-out loss, nats per token':<32}{'before':>10}{'after':>10}{'KL to reference':>18}"]
        for name, (before, after, kl) in table.items():
            shown = "" if kl is None else f"{kl:.4f}"
            lines.append(f"  {name:<30}{before:>10.4f}{after:>10.4f}{shown:>18}")
    model, path = shlex.quote(str(trained.model)), trained.path
    data = "" if settings.is_demo else f" --dataset {shlex.quote(settings.dataset)}"
    if settings.is_demo:
        from uncertainty.demo import demo_new_facts_path

        data = f" --dataset {shlex.quote(str(demo_new_facts_path()))}"
    lines += [
        "",
        f"took {duration(trained.info.timings['seconds'])}",
        f"{totals['result'] + ':':<12}{trained.model}",
        *([f"{'reference:':<12}{totals['reference']['name']}"] if (totals["reference"] or {}).get("name") else []),
        f"{'selected:':<12}{path}/curriculum.jsonl",
        f"{'run card:':<12}{path}/train.json",
    ]
    if settings.probe:
        lines.append(
            f"{'probes:':<12}unc-report {shlex.quote(str(path))}/probe/step-* --out {shlex.quote(str(path))}/report"
        )
    lines.append(f"{'next:':<12}unc-score --model {model}{data} --out {shlex.quote(str(path))}/scores")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
