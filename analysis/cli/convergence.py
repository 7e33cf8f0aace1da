"""``unc-convergence``: how many passes a model and its data need, from the passes of one run."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from uncertainty.cli.console import about_data, duration, interrupt, progress_meter, quiet_libraries
from uncertainty.cli.options import command, option, positional, same_option
from uncertainty.cli.score import ScoreOptions
from uncertainty.errors import InputError
from uncertainty.settings import ScoreSettings

if TYPE_CHECKING:  # torch, pandas and matplotlib are imported when they are needed: --help must stay quick
    import pandas as pd

    from analysis.convergence import PassCurve
    from analysis.convergence_needs import Need, Purpose
    from uncertainty.prepare import Prepared
    from uncertainty.scores import RunInfo
    from uncertainty.scoring import Job

PROG = "unc-convergence"
DESCRIPTION = """Say how many passes are enough. Draws the passes of some examples once and reads epistemic uncertainty
(plug-in and corrected) out after the first 5, 10, 20, ... of them and from every other block of as many: how its mean
settles, how well two independent runs agree in the ranking of tokens, and which share of the top tokens they have in
common. Writes the table (CSV), a figure (PNG, PDF) and convergence.json, and prints how many passes each purpose
takes."""
EPILOG = """examples:
  unc-convergence                                             the embedded demo
  unc-convergence out/gsm8k                                   30 examples of a scored run, with its settings
  unc-convergence out/gsm8k --passes 400                      the same, drawn more often: up to 200 is then measured
  unc-convergence ./my-model --dataset gsm8k.jsonl --masks balanced"""
CURVE, PURPOSES, OUTPUT = "curve", "purposes", "output"
OF_EITHER = ("seed", "device", "tokens_per_batch", "passes", "limit")  # options that a run folder leaves free


@dataclass(frozen=True)
class ConvergenceOptions:
    """The options of ``unc-convergence``: its own, and those of ``unc-score`` that say what is scored and how."""

    target: str | None = positional(
        "folder of a finished run (what unc-score wrote), or a model: a folder or a hub id; the embedded demo when not "
        "given",
        default=None,
    )

    passes: int | None = option(
        None, "passes of every example (default: those of the run, else 100); up to half of them is measured directly",
        unit="passes", group=CURVE,
    )  # fmt: skip
    counts: tuple[int, ...] = option(
        (5, 10, 20, 50, 100, 200, 500, 1000), "numbers of passes to show, comma separated", unit="passes", group=CURVE
    )
    limit: int = option(30, "examples, spread evenly over the run or the data set", unit="examples", group=CURVE)
    confidence: float = option(0.95, "coverage of the intervals by example, between 0 and 1", group=CURVE)

    agreement: float = option(0.95, "ranking: Spearman's correlation of two independent runs, at least", group=PURPOSES)
    overlap: float = option(0.9, "selection: share of the top tokens that two runs have in common, at least",
                            group=PURPOSES)  # fmt: skip
    top: float = option(0.25, "selection: fraction of the tokens that is taken", group=PURPOSES)
    level: float = option(0.02, "mean level: relative error of a run's mean, at most", group=PURPOSES)

    revision: str | None = same_option(ScoreOptions, "revision")
    dtype: str = same_option(ScoreOptions, "dtype")
    device: str = same_option(ScoreOptions, "device")
    trust_remote_code: bool = same_option(ScoreOptions, "trust_remote_code")
    allow_pickle: bool = same_option(ScoreOptions, "allow_pickle")

    dataset: str | None = same_option(ScoreOptions, "dataset")
    split: str | None = same_option(ScoreOptions, "split")
    format: str | None = same_option(ScoreOptions, "format")
    template: str = same_option(ScoreOptions, "template")
    sample_by: str = same_option(ScoreOptions, "sample_by")
    id_column: str | None = same_option(ScoreOptions, "id_column")
    max_length: int | None = same_option(ScoreOptions, "max_length")

    family: str = same_option(ScoreOptions, "family")
    rate: float = same_option(ScoreOptions, "rate")
    sites: str = same_option(ScoreOptions, "sites")
    noise: str = same_option(ScoreOptions, "noise")
    rng: str = same_option(ScoreOptions, "rng")
    masks: str = same_option(ScoreOptions, "masks")
    seed: int = same_option(ScoreOptions, "seed")
    vocabulary: str = same_option(ScoreOptions, "vocabulary")
    tokens_per_batch: int | Literal["auto"] = same_option(ScoreOptions, "tokens_per_batch")

    out: Path | None = option(
        None, "folder to write (default: RUN-convergence beside the run, or out/MODEL-DATASET-convergence)",
        group=OUTPUT, metavar="DIR",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("confidence", "agreement", "overlap", "top", "level"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name):g} is not between 0 and 1")
        if self.limit < 1:
            raise InputError(f"--limit {self.limit} is too small; give at least 1 (10 for intervals)")
        if self.passes is not None and self.passes < 4:
            raise InputError(f"--passes {self.passes} is too few to cut; give at least 4")
        if any(count < 2 for count in self.counts):
            raise InputError(f"--counts: {min(self.counts)} is too small; two passes are the fewest that can differ")

    @property
    def run(self) -> Path | None:
        """The run folder, where one is given."""
        return Path(self.target) if self.target and (Path(self.target) / "run.json").is_file() else None

    def folder(self) -> Path:
        """Where the files go."""
        if self.out is not None:
            return self.out
        if self.run is not None:
            return self.run.resolve().with_name(f"{self.run.resolve().name}-convergence")
        scored = ScoreOptions(model=self.target, dataset=self.dataset).folder()
        return scored.with_name(f"{scored.name}-convergence")


def main(argv: list[str] | None = None) -> int:
    """Run ``unc-convergence``; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    body = partial(run, arguments=arguments)
    return command(body, ConvergenceOptions, arguments, prog=PROG, description=DESCRIPTION, epilog=EPILOG)


def run(options: ConvergenceOptions, arguments: Sequence[str]) -> int:
    """Draw, compute, write, and print what is needed."""
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        return _run(options, [PROG, *arguments])
    except KeyboardInterrupt:
        _say("interrupted; nothing was written. The same command starts again.")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(options: ConvergenceOptions, arguments: list[str]) -> int:
    settings, info = _settings(options)
    from uncertainty.prepare import go_offline, prepare

    go_offline(settings)
    quiet_libraries()
    prepared = prepare(settings)
    _say(*about_data(prepared))
    from uncertainty.scoring import open_job

    job = open_job(_some(prepared, options.limit), command=arguments)
    if info is not None:
        _require_same(options, info, job)
    curve = _draw(job, options.counts)

    from analysis.convergence import convergence_table
    from analysis.convergence_needs import needs, purposes
    from analysis.convergence_text import needs_text, table_text

    what = purposes(agreement=options.agreement, overlap=options.overlap, level=options.level)
    table = convergence_table(curve, top=options.top, confidence=options.confidence)
    found = needs(table, what)
    files = _write(options, job, table, what, found, arguments)
    owner = curve.owner
    print(f"{owner.n_examples} examples, {owner.n_tokens:,} tokens, {curve.passes} passes of each\n")
    print(table_text(table, options.top), needs_text(table, found, options.top), sep="\n\n")
    print(f"\n{', '.join(str(file) for file in files)}")
    return 0


def _settings(options: ConvergenceOptions) -> tuple[ScoreSettings, RunInfo | None]:
    """What to score and how: the run's settings, or those that are given."""
    given = {one.name: getattr(options, one.name) for one in fields(ScoreSettings) if hasattr(options, one.name)}
    given["tokens_per_batch"] = None if options.tokens_per_batch == "auto" else options.tokens_per_batch
    del given["limit"]  # ours is a number of examples spread over the data
    if options.passes is None:
        del given["passes"]
    if options.run is None:
        return ScoreSettings(**given | {"model": options.target or "", "dataset": options.dataset or ""}), None
    from uncertainty.scores import read_run

    info = read_run(options.run)
    for one in fields(ConvergenceOptions):
        if one.name in given and one.name not in OF_EITHER and getattr(options, one.name) != one.default:
            raise InputError(
                f"--{one.name.replace('_', '-')} is the run's own; leave it out, or give the model and --dataset "
                f"instead of {options.run}"
            )
    changed = {name: given[name] for name in OF_EITHER if name in given and given[name] != _default(name)}
    return ScoreSettings(**_resolved(options.run, info) | changed), info


def _default(name: str) -> Any:
    return next(one.default for one in fields(ScoreSettings) if one.name == name)


def _resolved(path: Path, info: RunInfo) -> dict[str, Any]:
    """The settings of a run as they were asked for, with every pass for every example."""
    resolved = info.record.get("resolved")
    names = {one.name for one in fields(ScoreSettings)}
    if not isinstance(resolved, dict) or (unknown := sorted(set(resolved) - names)):
        what = f"has settings that this program does not know ({unknown[0]})" if resolved else "says no settings"
        raise InputError(f"{path} {what}; give its model and --dataset instead")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in resolved.items()}
    return values | {"target_se": None, "measures": (), "keep_columns": ()}


def _some(prepared: Prepared, limit: int) -> Prepared:
    """Examples at equal distances; all of them where there are no more."""
    count = len(prepared.examples)
    at = range(count) if count <= limit else [count * place // limit for place in range(limit)]
    return replace(prepared, examples=[prepared.examples[i] for i in at], rows=[prepared.rows[i] for i in at])


def _require_same(options: ConvergenceOptions, info: RunInfo, job: Job) -> None:
    """Refuse a model or data set that is not what the run scored: its number of passes would be another's."""
    for name in ("model", "data"):
        old, new = dict(info.settings[name]), dict(job.info.settings[name])
        old.pop("device", None), new.pop("device", None)
        if old != new:
            wrong = ", ".join(sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)))
            raise InputError(
                f"the {name} of {options.run} has changed since it was scored ({wrong}); score it again, or give the "
                "model and --dataset"
            )


def _draw(job: Job, counts: Sequence[int]) -> PassCurve:
    """All passes of all examples, as the curve."""
    import numpy as np

    from analysis.by_example import number_examples
    from analysis.convergence import ESTIMATES, PassCurve
    from uncertainty.data.batches import collate
    from uncertainty.pass_curve import drawn_in, pass_curve, usable_counts
    from uncertainty.scoring import Progress

    settings, model = job.prepared.settings, job.loaded.model
    usable = usable_counts(counts, settings.passes, drawn_in(model, job.family, settings.passes))
    expected = job.estimate()["seconds"]
    _say(f"{len(job.prepared.examples)} examples, {settings.passes} passes each: about {duration(expected)}")
    batches = (collate([job.prepared.examples[i] for i in group]) for shard in job.shards for group in job.plan(shard))
    options: dict[str, Any] = {"seed": settings.seed, "budget": job.budget, "vocabulary": job.vocabulary}
    owners: list[str] = []
    blocks: list[dict[str, dict[int, Any]]] = []
    meter, done, started = progress_meter(job), 0, _now()
    try:
        for block in pass_curve(model, batches, job.family, usable, **options):
            owners += [block.ids[n] for n in block.example_N]
            blocks.append(dict(zip(ESTIMATES, (block.epistemic, block.corrected), strict=True)))
            done += len(block.ids)
            meter(Progress(done, len(job.prepared.examples), 0, len(owners), _now() - started))
    finally:
        meter.close()
    values = {
        estimate: {count: np.concatenate([block[estimate][count] for block in blocks], axis=1) for count in usable}
        for estimate in ESTIMATES
    }
    import pandas as pd

    finite_N = np.isfinite(values[ESTIMATES[0]][settings.passes]).all(0)
    if not finite_N.any():
        raise InputError("no token has a finite epistemic uncertainty; try --dtype bfloat16 or float32")
    kept = {name: {k: table_SN[:, finite_N] for k, table_SN in by.items()} for name, by in values.items()}
    return PassCurve(number_examples(pd.Series(owners, name="example_id")[finite_N]), kept)


def _now() -> float:
    import time

    return time.monotonic()


def _write(
    options: ConvergenceOptions,
    job: Job,
    table: pd.DataFrame,
    what: tuple[Purpose, ...],
    found: list[Need],
    arguments: list[str],
) -> list[Path]:
    """The table as CSV, the figure as PNG and PDF, and what they rest on as JSON."""
    from analysis.convergence_needs import needs_record
    from analysis.convergence_plots import convergence_figure
    from analysis.family_words import family_words, masks_of
    from analysis.heatmap_figure import save_figure
    from analysis.run_title import run_title

    folder, title = options.folder(), run_title(job.info)
    told = {
        "command": arguments,
        "run": None if options.run is None else str(options.run),
        "needs": [needs_record(need) for need in found],
        "settings": job.info.settings,
        "record": job.info.record,
    }
    files = [folder / f"convergence.{ending}" for ending in ("csv", "json", "png", "pdf")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.to_csv(files[0], index=False)
        files[1].write_text(json.dumps(told, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}); choose another --out") from error
    words, masks = family_words(job.info), masks_of(job.info)
    drawn = f"{masks} masks" if masks else words.members
    figure = convergence_figure(table, what, top=options.top, title=f"{title}, {drawn}")
    for picture in files[2:]:
        facts = f"{job.prepared.settings.passes} {words.members}, settings {job.info.fingerprint[:12]}"
        save_figure(figure, picture, picture.suffix[1:], title=f"Convergence: {title}", facts=facts)
    return files


def _say(*lines: str) -> None:
    """Notices go to stderr; results to stdout."""
    for line in lines:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
