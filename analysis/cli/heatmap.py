"""``unc-heatmap``: one example's text, coloured token by token."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from analysis.look import MONOSPACED, Look, Page, Reference, ScaleKind
from uncertainty.cli.options import command, option, positional
from uncertainty.errors import InputError

if TYPE_CHECKING:  # numpy, pandas and matplotlib are imported when they are needed: --help must stay quick
    from analysis.heatmap import Heatmap

PROG = "unc-heatmap"
DESCRIPTION = """Show one scored example with each token of its completion coloured by a measure: loss, entropy,
total, aleatoric or epistemic (BALD) uncertainty. Draws in the terminal, a picture for a paper, or a page for the
browser; of one run, or of two runs with what changed between them."""
EPILOG = """examples:
  unc-heatmap out/gsm8k                                       the first example, in the terminal
  unc-heatmap out/gsm8k --top epistemic --out most.pdf        the example with the highest mean epistemic
  unc-heatmap out/gsm8k --example train-17 --measures loss,epistemic --width 3.25 --out column.png
  unc-heatmap out/gsm8k --example train-17 --out page.html    a page with all values of a token at the pointer
  unc-heatmap out/tuned --against out/base --index 3          both runs, and tuned minus base
  unc-heatmap out/gsm8k --index 3 --colour always | less -R"""
TERMINAL, HTML, FIGURE_FORMATS = "terminal", "html", ("png", "pdf", "svg")
ENDINGS = {"txt": TERMINAL, "ans": TERMINAL, "html": HTML, "htm": HTML, **{name: name for name in FIGURE_FORMATS}}
EXAMPLE, COLOUR, PICTURE = "which example", "colours", "output"
_TERMINAL_CELLS = 100


@dataclass(frozen=True)
class HeatmapOptions:
    """The options of ``unc-heatmap``; defaults of the look come from ``analysis.look``."""

    run: Path = positional("folder of a finished run: what unc-score wrote (its --out)")

    example: str | None = option(None, "id of the example", group=EXAMPLE, metavar="ID")
    index: int | None = option(None, "place of the example in the run, counted from 0 (default: 0)", group=EXAMPLE)
    top: str | None = option(
        None, "the example with the highest mean of this measure over its tokens", group=EXAMPLE, metavar="MEASURE"
    )
    against: Path | None = option(
        None,
        "folder of another run of the same examples, such as the model before training: shows both runs on one scale, "
        "and the difference RUN minus this one",
        group=EXAMPLE,
        metavar="OTHER_RUN",
    )

    measures: tuple[str, ...] = option(
        Look.measures,
        "one panel each: loss, entropy, total, aleatoric, epistemic (or bald), epistemic_se, mc_loss, label_prob, "
        "margin, and what the run was scored with by --measures",
        group=COLOUR,
    )
    scale: ScaleKind = option(Look.scale, "colour by value, or by its percentile in the reference", group=COLOUR)
    reference: Reference = option(
        Look.reference,
        "whose tokens set the scale: the run's (heatmaps of different examples can be compared) or the example's own",
        group=COLOUR,
    )
    clip: float = option(
        Look.clip_percentile,
        "percentile of the reference at the dark end of a value scale; higher values have the same colour",
        unit="percent",
        group=COLOUR,
    )
    colour_map: str = option(
        Look.colour_map, "a matplotlib colour map that is ordered by lightness, such as viridis or Blues", group=COLOUR
    )

    format: Literal["auto", "terminal", "html", "png", "pdf", "svg"] = option(
        "auto", "auto goes by the ending of --out, and is the terminal without --out", group=PICTURE
    )
    out: Path | None = option(
        None, "file to write (default: heatmap-ID.FORMAT here, or the terminal)", group=PICTURE, metavar="FILE"
    )
    width: float | None = option(
        None,
        f"width of the picture in inches (default: {Page.width}), or of the text in terminal cells (default: all)",
        group=PICTURE,
    )
    type_size: float = option(Page.type_size, "size of the text in a picture", unit="points", group=PICTURE)
    dpi: int = option(Page.dpi, "resolution of a png", unit="dots per inch", group=PICTURE)
    font: str | None = option(None, f"font family to prefer (default: {MONOSPACED[0]})", group=PICTURE, metavar="NAME")
    prompt_characters: int = option(
        Look.prompt_characters, "longest prompt shown whole; 0 shows none", unit="characters", group=PICTURE
    )
    colour: Literal["auto", "always", "never"] = option(
        "auto", "colours in the terminal; without them a line of shades stands below the text", group=PICTURE
    )

    def __post_init__(self) -> None:
        given = [f"--{name}" for name in ("example", "index", "top") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} each choose an example; give one of them")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command(run, HeatmapOptions, argv, prog=PROG, description=DESCRIPTION, epilog=EPILOG)


def run(options: HeatmapOptions) -> int:
    """Load the example, draw it, and say where it is."""
    from analysis.measure_names import measure_name

    look = Look(
        measures=tuple(measure_name(name) for name in options.measures),
        scale=options.scale,
        reference=options.reference,
        clip_percentile=options.clip,
        colour_map=options.colour_map,
        prompt_characters=options.prompt_characters,
    )
    kind = _format(options)
    page = _page(options) if kind in FIGURE_FORMATS else None
    heatmap = _load(options, look)
    out = options.out or Path(f"heatmap-{_file_stem(heatmap.example_id)}.{kind}")
    if page is not None:
        _draw(heatmap, page, out, kind)
    elif kind == HTML:
        _write_page(heatmap, out)
    else:
        _show(heatmap, options)
    return 0


def _load(options: HeatmapOptions, look: Look) -> Heatmap:
    from analysis.compare import load_comparison, run_labels
    from analysis.heatmap import example_named, load_heatmap

    if options.against is None:
        return load_heatmap(options.run, _example_id(options), look)
    run_labels(options.run, options.against)  # refuses a run held against itself before anything is read
    example_id = _example_id(options)
    return load_comparison(options.run, options.against, example_named(options.against, example_id), look)


def _format(options: HeatmapOptions) -> str:
    ending = options.out.suffix.lower().removeprefix(".") if options.out else ""
    kind: str = options.format
    if kind == "auto":
        if options.out is not None and ending not in ENDINGS:
            raise InputError(
                f"--out {options.out}: its ending is none of .png, .pdf, .svg, .html, .txt; give --format as well"
            )
        kind = ENDINGS.get(ending, TERMINAL)
    elif ENDINGS.get(ending, TERMINAL) not in (TERMINAL, kind):
        raise InputError(f"--out {options.out} ends in .{ending} but --format is {kind}; change one of them")
    if kind == HTML and options.width is not None:
        raise InputError("--width: an html page is as wide as the reader's window; leave --width out")
    return kind


def _page(options: HeatmapOptions) -> Page:
    families = (options.font, *MONOSPACED) if options.font else MONOSPACED
    width = Page.width if options.width is None else options.width
    return Page(width=width, type_size=options.type_size, families=families, dpi=options.dpi)


def _example_id(options: HeatmapOptions) -> str:
    from analysis.heatmap import example_at, example_named, top_example

    if options.example is not None:
        return example_named(options.run, options.example)
    if options.top is not None:
        return top_example(options.run, options.top)
    return example_at(options.run, options.index or 0)


def _draw(heatmap: Heatmap, page: Page, out: Path, kind: str) -> None:
    from analysis.heatmap_axes import n_undrawable
    from analysis.heatmap_figure import heatmap_figure, heatmap_typeface, save_figure

    figure = heatmap_figure(heatmap, page)
    save_figure(figure, out, kind, title=f"Token heatmap of example {heatmap.example_id}", facts=heatmap.facts)
    missing = n_undrawable(heatmap, heatmap_typeface(heatmap, page))
    if missing:
        sys.stderr.write(
            f"{PROG}: {missing} characters have no glyph in the installed fonts and are shown as code points; "
            "install a font that has them, such as Noto Sans CJK\n"
        )
    _say(heatmap, out)


def _write_page(heatmap: Heatmap, out: Path) -> None:
    from analysis.heatmap_html import heatmap_html

    _write(out, heatmap_html(heatmap))
    _say(heatmap, out)


def _say(heatmap: Heatmap, out: Path) -> None:
    shown = ", ".join(dict.fromkeys(panel.measure for panel in heatmap.panels))
    sources = list(dict.fromkeys(panel.source for panel in heatmap.panels if panel.source))
    where = f" in {sources[0]} and {sources[1]}, and the difference" if sources else ""
    sys.stdout.write(f"{out}: {shown} of example {heatmap.example_id!r}{where}\n")


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another file") from error


def _show(heatmap: Heatmap, options: HeatmapOptions) -> None:
    from analysis.heatmap_terminal import colour_depth, heatmap_text

    width = shutil.get_terminal_size((_TERMINAL_CELLS, 24)).columns if options.width is None else int(options.width)
    is_terminal = options.out is None and sys.stdout.isatty()
    depth = colour_depth(options.colour, os.environ, is_terminal)
    encoding = "utf-8" if options.out else (sys.stdout.encoding or "ascii")
    is_unicode = encoding.lower().replace("-", "").startswith("utf")
    text = heatmap_text(heatmap, width, depth, ascii_only=not is_unicode)
    if options.out is None:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return
    _write(options.out, text)
    sys.stdout.write(f"{options.out}: example {heatmap.example_id!r}\n")


def _file_stem(example_id: str) -> str:
    """An example id as part of a file name: letters, digits, dots and dashes, at most 60."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", example_id)[:60].strip("._") or "example"


if __name__ == "__main__":
    sys.exit(main())
