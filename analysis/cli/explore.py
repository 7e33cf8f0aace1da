"""``unc-explore``: a run as one self-contained page to read examples in, token by token."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from uncertainty.cli.options import command, option, positional
from uncertainty.errors import InputError

PROG = "unc-explore"
DESCRIPTION = """Write a run as one page for the browser: every example's text coloured token by token, with search,
sorting, histograms, all values of a token, and the tokens that training on the top share would select. The page loads
nothing and opens from disk."""
EPILOG = """examples:
  unc-explore out/gsm8k --out explorer.html
  unc-explore out/alpaca --limit 500                 the first 500 examples
  unc-explore out/alpaca --top epistemic             as many of the most uncertain examples as a page holds"""


@dataclass(frozen=True)
class ExploreOptions:
    """The options of ``unc-explore``."""

    run: Path = positional("folder of a finished run: what unc-score wrote (its --out)")
    out: Path = option(Path("explorer.html"), "page to write", metavar="FILE.html")
    limit: int | None = option(None, "the most examples to show (default: all of them)", unit="examples")
    top: str | None = option(
        None,
        "show the examples with the highest mean of this measure over their tokens instead of the first, as many as "
        "--limit says or a page holds (200,000 tokens); scales and selections are those of the whole run either way",
        metavar="MEASURE",
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command(run, ExploreOptions, argv, prog=PROG, description=DESCRIPTION, epilog=EPILOG)


def run(options: ExploreOptions) -> int:
    """Read the run, write the page, and say what it shows."""
    from analysis.explorer import explorer_html, load_page  # numpy, pandas and matplotlib: --help must stay quick

    page = load_page(options.run, limit=options.limit, top=options.top)
    html = explorer_html(page).encode("utf-8", "backslashreplace")
    try:
        options.out.write_bytes(html)
    except OSError as error:
        raise InputError(f"--out {options.out} cannot be written ({error.strerror}); choose another file") from error
    about = page["about"]
    part = f" ({about['part']})" if about["part"] else ""
    examples = len(page["examples"]["id"])
    sys.stdout.write(
        f"{options.out}: {examples:,} examples, {about['shown']:,} tokens{part}, {len(html) / 1e6:.1f} MB\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
