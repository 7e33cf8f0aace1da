"""``unc-score``: from a data set to per-token uncertainty."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from uncertainty.cli.console import about_data, duration, interrupt, progress_meter, quiet_libraries, say, size_text
from uncertainty.cli.options import command, option
from uncertainty.errors import InputError
from uncertainty.settings import FAMILY_NAMES
from uncertainty.settings import ScoreSettings as Defaults

if TYPE_CHECKING:  # torch and transformers are imported when they are needed: --help must stay quick
    from uncertainty.prepare import Prepared
    from uncertainty.scoring import Job, ScoredRun

PROG = "unc-score"
DESCRIPTION = """Score every completion token of a data set: loss and entropy of a deterministic pass, and total,
aleatoric and epistemic (BALD) uncertainty from Monte Carlo dropout (or an ensemble, or noise on the weights), in nats.
Writes one row per token as parquet.
With no options at all it scores the embedded data set with the embedded model."""
EPILOG = """examples:
  unc-score
  unc-score --model meta-llama/Llama-3.2-1B --dataset gsm8k.jsonl --limit 100 --out out/gsm8k
  unc-score --model ./my-model --dataset chats.parquet --show 3     look at the completion mask, then stop
  unc-score --family adapter-ensemble --members out/a,out/b,out/c   runs of unc-train on the demo, other seeds
  unc-score --config run.yaml --passes 20                           a file of options, one changed

An interrupted run goes on when the same command is given again."""
MODEL, DATA, MEMBERS, RUNNING, OUTPUT = "model", "data set", "uncertainty", "running", "output"


@dataclass(frozen=True)
class ScoreOptions:
    """The options of ``unc-score``; defaults come from ``ScoreSettings``."""

    model: str | None = option(
        None, "folder or hub id of a causal language model (the embedded demo when not given)", group=MODEL
    )
    revision: str | None = option(Defaults.revision, "revision of a model on the hub", group=MODEL)
    dtype: str = option(
        Defaults.dtype,
        "data type of the weights; auto is the checkpoint's own",
        choices=("auto", "float32", "bfloat16", "float16"),
        group=MODEL,
    )
    device: str = option(Defaults.device, "auto (a GPU where there is one), cpu, cuda, cuda:1, ...", group=MODEL)
    trust_remote_code: bool = option(Defaults.trust_remote_code, "run code that comes with the model", group=MODEL)
    allow_pickle: bool = option(
        Defaults.allow_pickle, "read .bin weights, which can run code, besides safetensors", group=MODEL
    )

    dataset: str | None = option(
        None,
        "a .jsonl, .json, .parquet, .csv or .txt file, a folder of them, a saved data set, or a hub id "
        "(the embedded demo when not given)",
        group=DATA,
    )
    split: str | None = option(Defaults.split, "split of a data set that has several", group=DATA)
    format: str | None = option(
        Defaults.format,
        "what the columns mean; decided from their names when not given",
        choices=("messages", "sharegpt", "alpaca", "gsm8k", "prompt-completion", "text"),
        group=DATA,
    )
    template: str = option(
        Defaults.template,
        "how a conversation becomes text: auto, chat (the tokenizer's own), plain, alpaca, raw, or a .jinja file",
        group=DATA,
    )
    sample_by: str = option(
        Defaults.sample_by, "how a .txt file is cut", choices=("paragraph", "line", "document"), group=DATA
    )
    id_column: str | None = option(Defaults.id_column, "column with the ids; else id, else row numbers", group=DATA)
    limit: int | None = option(Defaults.limit, "only the first so many rows", unit="rows", group=DATA)
    max_length: int | None = option(
        Defaults.max_length, "longest example; the model's context when not given", unit="tokens", group=DATA
    )
    keep_columns: tuple[str, ...] = option(
        Defaults.keep_columns, "columns to copy into the examples table, comma separated", group=DATA
    )

    family: str = option(
        Defaults.family,
        "how members are drawn: dropout masks, adapters on one base, whole models, or noise on the weights",
        choices=FAMILY_NAMES,
        group=MEMBERS,
    )
    members: tuple[str, ...] = option(
        Defaults.members,
        "of an ensemble, comma separated: folders of adapters (or of unc-train), or of models, or @REVISION of the "
        "model on the hub",
        group=MEMBERS,
    )
    passes: int = option(
        Defaults.passes,
        "stochastic passes of every example; an ensemble has one for each member",
        unit="passes",
        group=MEMBERS,
    )
    target_se: str | None = option(
        Defaults.target_se,
        "stop an example when the standard error of epistemic is so small at 95 % of its tokens: nats (0.01) or a "
        "share of the value (5%); --passes is then the most it gets",
        group=MEMBERS,
        metavar="X",
    )
    rate: float = option(
        Defaults.rate,
        "dropout rate of every site, 0 to 1; with weight-noise, its standard deviation as a share of each weight "
        "matrix's root mean square",
        group=MEMBERS,
    )
    sites: str = option(
        Defaults.sites,
        "where dropout acts: native (all the architecture has), or any of attention, residual, embedding, mlp, comma "
        "separated; what the architecture lacks is injected; with weight-noise, native (every linear layer but the "
        "vocabulary head), attention or mlp",
        group=MEMBERS,
    )
    rng: str = option(
        Defaults.rng,
        "keyed: a token's masks depend on seed, example, pass, site and position only; kernel: the stock kernels' own "
        "dropout, repeatable for a fixed batch plan only",
        choices=("keyed", "kernel"),
        group=MEMBERS,
    )
    masks: str = option(
        Defaults.masks,
        "iid: every pass draws masks of its own, as in the paper; balanced: every unit is dropped in rate * passes of "
        "the passes, which lowers the Monte Carlo error of as many passes",
        choices=("iid", "balanced"),
        group=MEMBERS,
    )
    noise: str = option(
        Defaults.noise,
        "of weight-noise: gaussian, or low-rank:RANK, which is cheaper to draw and holds no second set of weights",
        group=MEMBERS,
    )
    seed: int = option(Defaults.seed, "seed of the dropout masks, or of the noise", group=MEMBERS)
    measures: tuple[str, ...] = option(
        Defaults.measures,
        "columns to add, comma separated, or all: epistemic_corrected (without its bias), epistemic_low and _high "
        "(95 % interval), unresolved, expected_pairwise_kl, ... (docs/estimators.md lists them)",
        group=MEMBERS,
    )
    vocabulary: str = option(
        Defaults.vocabulary,
        "where the logits are wider than the tokenizer: keep all (model) or only the tokenizer's",
        choices=("model", "tokenizer"),
        group=MEMBERS,
    )

    tokens_per_batch: int | Literal["auto"] = option(
        "auto",
        "tokens of one forward pass, all rows together, or auto; decides speed and memory, not the scores",
        unit="tokens",
        group=RUNNING,
    )
    shard_examples: int = option(
        Defaults.shard_examples, "examples of one file; a killed run loses one shard at most", group=RUNNING
    )

    out: Path | None = option(None, "folder of the run (default: out/MODEL-DATASET)", group=OUTPUT)
    overwrite: bool = option(False, "start anew in a folder that holds another run", group=OUTPUT)
    show: int = option(
        0, "print so many examples with their completion marked, and stop before loading weights", group=OUTPUT
    )

    def __post_init__(self) -> None:
        if self.show < 0:
            raise InputError(f"--show {self.show} is too small; give at least 1, or leave it out")

    def settings(self) -> Defaults:
        """The options that are settings of the run."""
        given = {field.name: getattr(self, field.name) for field in fields(Defaults)}
        given |= {"model": self.model or "", "dataset": self.dataset or ""}
        given["tokens_per_batch"] = None if self.tokens_per_batch == "auto" else self.tokens_per_batch
        return Defaults(**given)

    def folder(self) -> Path:
        """The run folder."""
        if self.out is not None:
            return self.out
        if self.settings().is_demo:
            return Path("out/demo")
        name = f"{Path(self.model or '').name}-{Path(self.dataset or '').name.split('.')[0]}"
        return Path("out") / re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")


def main(argv: list[str] | None = None) -> int:
    """Run ``unc-score``; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    body = partial(run, arguments=arguments)
    return command(body, ScoreOptions, arguments, prog=PROG, description=DESCRIPTION, epilog=EPILOG)


def run(options: ScoreOptions, arguments: Sequence[str]) -> int:
    """Prepare, show what will happen, score, and sum up; Ctrl-C and SIGTERM end it in one line."""
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        return _run(options, arguments)
    except KeyboardInterrupt:
        say("interrupted before scoring began. The same command starts again.")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(options: ScoreOptions, arguments: Sequence[str]) -> int:
    settings = options.settings()
    from uncertainty.settings import check_settings

    check_settings(settings)
    from uncertainty.run_folder import refuse_foreign

    refuse_foreign(options.folder())
    from uncertainty.prepare import go_offline, prepare

    if notice := go_offline(settings):
        say(f"note: {notice}")
    quiet_libraries()
    from uncertainty.family_choice import family_of
    from uncertainty.scoring import open_job

    family_of(settings)
    prepared = prepare(settings)
    for line in about_data(prepared):
        say(line)
    if options.show:
        _show(prepared, options.show)
        return 0
    say("first example, completion marked:", *_first_example(prepared))
    job = open_job(prepared, command=[PROG, *arguments])
    say(*_about_job(job, options.folder()))
    return _score(job, options)


def _score(job: Job, options: ScoreOptions) -> int:
    from uncertainty.scoring import run_job

    folder = options.folder()
    meter = progress_meter(job)
    try:
        finished = run_job(job, folder, overwrite=options.overwrite, on_progress=meter)
    except KeyboardInterrupt:
        meter.close()
        again = "The same command without --overwrite" if options.overwrite else "The same command"
        say(f"interrupted; finished shards are safe in {folder}. {again} goes on from there.")
        return 130
    finally:
        meter.close()
    if not meter.called:
        say("all of it was scored before: nothing was left to do")
    for change in finished.info.timings.get("record_changes", []):
        say(f"note: a part of this run was made under other circumstances: {change}")
    print(_summary(finished, job.prepared.settings))
    return 0


def _show(prepared: Prepared, count: int) -> None:
    from uncertainty.data.show import show_mask

    for example in prepared.examples[:count]:
        print(show_mask(example, prepared.tokenizer, colour=_coloured(sys.stdout)), end="\n\n")


def _first_example(prepared: Prepared) -> list[str]:
    from uncertainty.data.show import show_mask

    lines = show_mask(prepared.examples[0], prepared.tokenizer, colour=_coloured(sys.stderr)).splitlines()
    shown = lines if len(lines) <= 24 else [*lines[:12], f"... {len(lines) - 22} lines ...", *lines[-10:]]
    return [f"  {line}" for line in shown]


def _coloured(stream: Any) -> bool:
    import os

    return bool(stream.isatty()) and "NO_COLOR" not in os.environ


def _about_job(job: Job, folder: Path) -> list[str]:
    from uncertainty.family_choice import about_family, way_of_drawing

    record, settings = job.loaded.record, job.prepared.settings
    lines = [
        f"model: {record['name']}, {record['architecture']}, {record['parameters']:,} parameters, {record['dtype']} "
        f"on {record['device']}"
    ]
    vocabulary = record["vocabulary"]
    if vocabulary["logits"] > vocabulary["tokenizer"]:
        lines.append(
            f"vocabulary: {vocabulary['logits']:,} logits for {vocabulary['tokenizer']:,} tokens; the "
            f"{vocabulary['logits'] - vocabulary['tokenizer']:,} padded ones are "
            f"{'kept, as the model has them' if settings.vocabulary == 'model' else 'left out'}"
        )
    lines += about_family(settings, job.report)
    expected = job.estimate()
    at_most = "" if settings.target is None else "at most "
    lines.append(
        f"plan: {_passes_planned(job)}, {way_of_drawing(settings)}, "
        f"{len(job.shards)} shards of {settings.shard_examples} examples, "
        f"{job.budget.tokens_per_batch:,} tokens per forward"
    )
    lines.append(
        f"estimate: {at_most}{duration(expected['seconds'])}, {size_text(expected['peak_bytes'])} of memory beside the "
        f"libraries, {size_text(expected['disk_bytes'])} on disk in {folder}"
    )
    return lines


def _passes_planned(job: Job) -> str:
    settings = job.prepared.settings
    if settings.target is None:
        return f"{settings.passes} passes"
    looks = ", ".join(str(end) for end in job.ends[:-1])
    return (
        f"at most {settings.passes} passes, until the error of epistemic is {settings.target.text} (looking after "
        f"{looks})"
    )


def _summary(finished: ScoredRun, settings: Defaults) -> str:
    from uncertainty.scores import run_measures
    from uncertainty.summary import passes_text, summary_text

    totals, timings = finished.info.totals, finished.info.timings
    scores = finished.scores(["example_id", "n_passes", *run_measures(finished.path)])
    path = shlex.quote(str(finished.path))
    lines = [summary_text(scores, totals.get("skipped", {})), ""]
    if settings.target is not None:
        lines += [passes_text(scores, settings.target, settings.passes), ""]
    if timings.get("tokens_per_second"):
        lines.append(
            f"took {duration(timings['seconds'])} ({timings['tokens_per_second']:,.0f} completion tokens/s with all "
            f"their passes), peak memory {size_text(timings['peak_resident_bytes'])}"
        )
    lines += [
        f"tokens:   {finished.path}/tokens/*.parquet",
        f"examples: {finished.path}/examples/*.parquet",
        f"run:      {finished.path}/run.json",
        f"next:     unc-heatmap {path} --top epistemic --format terminal",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
