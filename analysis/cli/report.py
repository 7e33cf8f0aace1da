"""``unc-report``: whether loss is a valid proxy for epistemic uncertainty here, and what to select tokens by."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from analysis.report_settings import ReportSettings
from uncertainty.cli.options import command, option, positional
from uncertainty.errors import InputError

PROG = "unc-report"
DESCRIPTION = """Report on scored runs: whether the cheap single-pass loss is a valid proxy for epistemic uncertainty on
this model and these data, how sure that is, and what to select tokens by. Writes report.html (one self-contained page),
report.md, report.json, every table as CSV and every figure as PNG and PDF."""
EPILOG = """examples:
  unc-report out/demo                                   writes out/demo-report
  unc-report out/gsm8k --out report/gsm8k
  unc-report out/step-0 out/step-500 out/step-2000      checkpoints, side by side and token by token
  unc-report out/tuned --reference out/base             audits RHO (loss minus the reference's loss) as well"""
NUMBERS, OUTPUT = "numbers", "output"


@dataclass(frozen=True)
class ReportOptions:
    """The options of ``unc-report``; defaults come from ``ReportSettings``."""

    run: tuple[Path, ...] = positional("folders of finished runs: what unc-score wrote (its --out)", many=True)

    reference: Path | None = option(
        None,
        "run of the same tokens by a reference model; audits RHO, loss minus the reference's loss, as a signal too",
        group=NUMBERS,
        metavar="RUN",
    )
    same_tokens: bool = option(
        False,
        "refuse runs of different tokens; without it they stand side by side and only the comparison token by token is "
        "left out",
        group=NUMBERS,
    )
    confidence: float = option(ReportSettings.confidence, "coverage of the intervals, between 0 and 1", group=NUMBERS)
    replicates: int = option(
        ReportSettings.replicates,
        "resamplings of the examples behind the bootstrap intervals; 0 for none",
        group=NUMBERS,
    )
    kendall_tokens: int = option(
        ReportSettings.kendall_tokens,
        "above so many, Kendall's tau is taken on a random subset",
        unit="tokens",
        group=NUMBERS,
    )
    seed: int = option(ReportSettings.seed, "of everything random; the same seed gives the same bytes", group=NUMBERS)

    drawn_tokens: int = option(
        ReportSettings.drawn_tokens,
        "above so many, clouds of points are drawn from a random subset",
        unit="tokens",
        group=OUTPUT,
    )
    out: Path | None = option(
        None, "folder to write (default: RUN-report beside the run, or report for several)", group=OUTPUT, metavar="DIR"
    )

    def __post_init__(self) -> None:
        self.settings()

    def settings(self) -> ReportSettings:
        """What decides the numbers, checked."""
        if self.seed < 0:
            raise InputError(f"--seed {self.seed} is negative; give 0 or more")
        return ReportSettings(
            confidence=self.confidence,
            replicates=self.replicates,
            kendall_tokens=self.kendall_tokens,
            drawn_tokens=self.drawn_tokens,
            seed=self.seed,
        )

    def folder(self) -> Path:
        """Where the report goes."""
        if self.out is not None:
            return self.out
        if len(self.run) > 1:
            return Path("report")
        run = self.run[0].resolve()
        return run.with_name(f"{run.name}-report")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command(run, ReportOptions, argv, prog=PROG, description=DESCRIPTION, epilog=EPILOG)


def run(options: ReportOptions) -> int:
    """Read, compute, write, and print the answers."""
    # Deferred: --help must not load numpy, pandas and matplotlib.
    from analysis.report import make_report
    from analysis.report_files import check_folder, write_report

    out = options.folder()
    check_folder(out)
    report = make_report(
        options.run, options.settings(), reference=options.reference, same_tokens=options.same_tokens, tell=_tell
    )
    files = write_report(report, out, _tell)
    for card in report.cards:
        print(f"{card.question} {card.answer}.")
        for line in card.lines:
            print(f"  {line}")
    print(f"\n{out / 'report.html'}  (and report.md, report.json, {len(files) - 3} tables and figures)")
    return 0


def _tell(step: str) -> None:
    """Progress, on stderr."""
    print(f"{PROG}: {step}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
