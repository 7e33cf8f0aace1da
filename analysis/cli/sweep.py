"""``unc-sweep``: how uncertainty depends on the dropout rate and on where dropout acts."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from uncertainty.cli.console import about_data, duration, interrupt, progress_meter, quiet_libraries
from uncertainty.cli.options import command, option, same_option
from uncertainty.cli.score import ScoreOptions
from uncertainty.errors import InputError

if TYPE_CHECKING:  # torch, pandas and matplotlib are imported when they are needed: --help must stay quick
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.sweep_runs import SweepRun
    from uncertainty.scoring import Job

PROG = "unc-sweep"
DESCRIPTION = """Score the same examples at several dropout rates, and at several sets of dropout sites, one run folder
each; then say how epistemic uncertainty (BALD) depends on the rate: its distribution, whether it rises for every
token, in which range its mean rises, and which sites it is most sensitive to. Writes tables (CSV) and a figure."""
EPILOG = """examples:
  unc-sweep --limit 40 --passes 50                            the embedded demo at seven rates
  unc-sweep --model ./my-model --dataset gsm8k.jsonl --limit 40 --sites native,residual,attention+residual
  unc-sweep --out out/sweep-demo --report-only                the tables and the figure again, from what is scored
  unc-sweep --out out/sweep-a --report-only --beside out/sweep-b    two models in one figure

An interrupted sweep goes on when the same command is given again; given with other rates or sites it adds to them."""
SITES = ("native", "attention", "residual", "embedding", "mlp")
SWEEP, REPORT = "sweep", "output"


@dataclass(frozen=True)
class SweepOptions:
    """The options of ``unc-sweep``: its own, and those of ``unc-score`` but for the rate and the sites of one run."""

    rates: tuple[float, ...] = option(
        (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5), "dropout rates, comma separated, between 0 and 1", group=SWEEP
    )
    sites: tuple[str, ...] = option(
        ("native",),
        "sets of sites, comma separated; each is native (all the architecture has) or kinds joined by +, as in "
        "attention,mlp,attention+mlp (kinds: attention, residual, embedding, mlp)",
        group=SWEEP,
    )

    model: str | None = same_option(ScoreOptions, "model")
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
    limit: int | None = same_option(ScoreOptions, "limit")
    max_length: int | None = same_option(ScoreOptions, "max_length")
    keep_columns: tuple[str, ...] = same_option(ScoreOptions, "keep_columns")

    family: str = option("dropout", "dropout: a sweep is of its rates", group=SWEEP)
    passes: int = same_option(ScoreOptions, "passes")
    rng: str = same_option(ScoreOptions, "rng")
    masks: str = same_option(ScoreOptions, "masks")
    seed: int = same_option(ScoreOptions, "seed")
    measures: tuple[str, ...] = same_option(ScoreOptions, "measures")
    vocabulary: str = same_option(ScoreOptions, "vocabulary")

    tokens_per_batch: int | Literal["auto"] = same_option(ScoreOptions, "tokens_per_batch")
    shard_examples: int = same_option(ScoreOptions, "shard_examples")
    overwrite: bool = same_option(ScoreOptions, "overwrite")

    out: Path | None = option(
        None, "folder of the sweep: one run folder for each rate and set of sites (default: out/sweep-MODEL-DATASET)",
        group=REPORT,
    )  # fmt: skip
    beside: tuple[Path, ...] = option(
        (), "folder of another sweep to put into the same tables and figure", group=REPORT, repeat=True
    )
    report_only: bool = option(False, "score nothing: tables and figure from the runs in --out", group=REPORT)

    def __post_init__(self) -> None:
        if self.family != "dropout":
            raise InputError(
                f"--family {self.family}: a sweep is of dropout rates and dropout sites; leave it out, or run "
                f"unc-score --family {self.family} once for each setting and compare the runs with unc-report"
            )
        if not self.rates or not self.sites:
            raise InputError(f"--{'sites' if self.rates else 'rates'} names nothing; leave it out for the default")
        wrong = [rate for rate in self.rates if not 0 < rate < 1]
        if wrong:
            raise InputError(f"--rates: {wrong[0]:g} is not between 0 and 1 (at 0 all passes are equal)")
        for site_set in self.sites:
            unknown = [name for name in site_set.split("+") if name not in SITES]
            if unknown:
                raise InputError(
                    f"--sites: {unknown[0]!r} is not one of {', '.join(SITES)} (join with +, as in {_JOINED})"
                )

    def points(self) -> dict[str, ScoreOptions]:
        """The runs of the sweep: name of the folder -> what ``unc-score`` would be asked."""
        own = {field.name for field in fields(self)}
        shared = {one.name: getattr(self, one.name) for one in fields(ScoreOptions) if one.name in own}
        shared |= {"out": None}
        return {
            f"{site_set}-{rate!r}": ScoreOptions(**(shared | {"sites": site_set.replace("+", ","), "rate": rate}))
            for site_set in dict.fromkeys(self.sites)
            for rate in sorted(set(self.rates))
        }

    def folder(self) -> Path:
        """The folder of the sweep."""
        first = next(iter(self.points().values()))
        return self.out if self.out is not None else Path("out") / f"sweep-{first.folder().name}"


def main(argv: list[str] | None = None) -> int:
    """Run ``unc-sweep``; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    body = partial(run, arguments=arguments)
    return command(body, SweepOptions, arguments, prog=PROG, description=DESCRIPTION, epilog=EPILOG)


def run(options: SweepOptions, arguments: Sequence[str]) -> int:
    """Score what is missing, then write the tables and the figure."""
    if not options.report_only:
        previous = signal.signal(signal.SIGTERM, interrupt)
        try:
            _score(options, arguments)
        except KeyboardInterrupt:
            _say(f"interrupted; finished shards are safe in {options.folder()}. The same command goes on from there.")
            return 130
        finally:
            signal.signal(signal.SIGTERM, previous)
    _report(options, [PROG, *arguments])
    return 0


def _score(options: SweepOptions, arguments: Sequence[str]) -> None:
    from uncertainty.scoring import run_job

    jobs = _jobs(options, [PROG, *arguments])
    seconds = sum(job.estimate()["seconds"] for job in jobs.values())
    _say(f"sweep: {len(jobs)} runs in {options.folder()}, {duration(seconds)} in all for those that are not scored yet")
    for number, (name, job) in enumerate(jobs.items(), 1):
        meter = progress_meter(job)
        try:
            finished = run_job(job, options.folder() / name, overwrite=options.overwrite, on_progress=meter)
        finally:
            meter.close()
        took = finished.info.timings.get("seconds")
        _say(f"{name} ({number} of {len(jobs)}): {'scored' if took is None else f'scored in {duration(took)}'}")


def _jobs(options: SweepOptions, arguments: Sequence[str]) -> dict[str, Job]:
    """All runs, checked before the first is scored: one reading of the data, one model."""
    points = options.points()
    settings = {name: point.settings() for name, point in points.items()}
    first = next(iter(settings.values()))
    from uncertainty.prepare import go_offline, prepare

    go_offline(first)
    quiet_libraries()
    prepared = prepare(first)
    _say(*about_data(prepared))
    from uncertainty.scoring import open_job

    jobs: dict[str, Job] = {}
    loaded = None
    for name, one in settings.items():
        jobs[name] = open_job(replace(prepared, settings=one), loaded, command=arguments)
        loaded = jobs[name].loaded
    return jobs


def _report(options: SweepOptions, arguments: Sequence[str]) -> None:
    from analysis.sweep import distribution_table, step_table, trend_table
    from analysis.sweep_plots import sweep_figure
    from analysis.sweep_runs import find_runs, read_series
    from analysis.sweep_sites import site_table
    from analysis.sweep_text import sweep_text

    runs = []
    for folder in (options.folder(), *options.beside):
        finished, unfinished = find_runs(folder)
        runs += finished
        _say(*(f"note: {path} is not finished and is left out" for path in unfinished))
    series = read_series(runs)
    for one in series:
        if one.n_left_out:
            _say(f"note: {one.model}, {one.sites}: {one.n_left_out} tokens are not in every run and are left out")
    tables = {
        "distribution": distribution_table(series),
        "steps": step_table(series),
        "trend": trend_table(series),
        "sites": site_table(series),
    }
    written = _write(options.folder(), tables, sweep_figure(series), runs, arguments)
    print(sweep_text(*tables.values()))
    print()
    for what, files in written.items():
        print(f"{what}: {', '.join(str(file) for file in files)}")


def _write(
    folder: Path, tables: dict[str, pd.DataFrame], figure: Figure, runs: Sequence[SweepRun], arguments: Sequence[str]
) -> dict[str, list[Path]]:
    """Tables as CSV, the figure as PNG and PDF, and ``sweep.json``: from which runs and by which command."""
    from analysis.heatmap_figure import save_figure

    told = [
        {"run": str(run.path), "fingerprint": run.info.fingerprint, "rate": run.rate, "sites": run.sites}
        for run in runs
    ]
    facts = "runs " + " ".join(run.info.fingerprint[:12] for run in runs)
    files = {name: folder / f"{name}.csv" for name, table in tables.items() if len(table)}
    try:
        for name, file in files.items():
            tables[name].to_csv(file, index=False)
        (folder / "sweep.json").write_text(json.dumps({"command": list(arguments), "runs": told}, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}); copy the sweep elsewhere") from error
    pictures = [folder / f"sweep.{format}" for format in ("png", "pdf")]
    for picture in pictures:
        save_figure(figure, picture, picture.suffix[1:], title="Epistemic uncertainty by dropout rate", facts=facts)
    return {"tables": list(files.values()), "figure": pictures, "runs": [folder / "sweep.json"]}


def _say(*lines: str) -> None:
    """Notices go to stderr; results to stdout."""
    for line in lines:
        print(line, file=sys.stderr)


_JOINED = "attention+mlp"

if __name__ == "__main__":
    sys.exit(main())
