"""A heatmap as one HTML page: no script, no network, light and dark; opens from disk and prints.

The page forbids itself everything but its own style sheet (Content-Security-Policy), so that markup in a token could
not act even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
from itertools import groupby

from analysis.colours import BLACK, Colours, text_colour
from analysis.heatmap import Heatmap
from analysis.heatmap_spans import css_colour, panel_blocks, shown_colour
from analysis.panel import Panel
from analysis.readings import visible
from analysis.token_text import MARK, SPECIAL

_STEPS = 256  # colours of a table
_BAR_STOPS = 33


def heatmap_html(heatmap: Heatmap) -> str:
    """The whole page; the same heatmap gives the same text."""
    title = _text(visible(f"Example {heatmap.example_id}"))
    style = _STYLE + _palette(heatmap)
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    prompt = "".join(cluster.text for cluster in heatmap.prompt)
    prompt = f'<p class="quiet prompt" dir="auto">{_text(prompt)}</p>\n' if prompt else ""
    notes = " ".join(heatmap.text_notes)
    notes = f'<p dir="auto">{_text(visible(notes))}</p>\n' if notes else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_text(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<header><h1 dir="auto">{title}</h1>\n{prompt}</header>\n<main>\n{_groups(heatmap)}</main>\n'
        f"{_table(heatmap)}"
        f'<footer class="quiet">\n{notes}<p dir="auto">{_text(visible(heatmap.facts))}</p>\n</footer>\n'
        "</body>\n</html>\n"
    )


class _ClassBrush:
    """Looks by the classes of the page's style sheet: one for each colour of a map."""

    def token(self, colours: Colours, position: float, style: str) -> str:
        classes = ["k", _STYLES.get(style, ""), *_colour_classes(colours, position)]
        return f'class="{" ".join(filter(None, classes))}"'

    def text(self, text: str) -> str:
        return _text(text)


def _colour_classes(colours: Colours, position: float) -> list[str]:
    return ["none"] if math.isnan(position) else [f"{_prefix(colours)}{min(int(position * _STEPS), _STEPS - 1)}"]


def _prefix(colours: Colours) -> str:
    return f"c{hashlib.sha256(colours.name.encode()).hexdigest()[:2]}-"


def _groups(heatmap: Heatmap) -> str:
    """The panels: of one run all in one grid, of two runs a row for each measure."""
    if any(panel.source for panel in heatmap.panels):
        groups = [list(group) for _, group in groupby(heatmap.panels, key=lambda panel: panel.measure)]
    else:
        groups = [list(heatmap.panels)]
    number = iter(range(len(heatmap.panels)))
    return "".join(
        f'<div class="panels">\n{"".join(_panel(heatmap, panel, next(number)) for panel in group)}</div>\n'
        for group in groups
    )


def _panel(heatmap: Heatmap, panel: Panel, number: int) -> str:
    low, wordings = panel.legend()
    bar = f"bar {_prefix(heatmap.colours_of(panel))}bar"
    label = _text(f"Colours from {low} to {wordings[0]}")
    return (
        f'<section aria-labelledby="p{number}">\n<div class="head"><h2 id="p{number}">{_text(panel.heading)}</h2>\n'
        f'<div class="legend" dir="ltr"><span>{_text(low)}</span>'
        f'<span class="{bar}" role="img" aria-label="{label}"></span><span>{_text(wordings[0])}</span></div></div>\n'
        f'<div class="text">{panel_blocks(heatmap, panel, _ClassBrush(), context=_QUIET)}</div>\n'
        "</section>\n"
    )


def _table(heatmap: Heatmap) -> str:
    """All values as a table: for the keyboard, for screen readers, and to be copied."""
    if not heatmap.readings:
        return ""
    heads = "".join(
        f'<th scope="col">{_text(reading.name + (f", {reading.unit}" if reading.unit else ""))}</th>'
        for reading in heatmap.readings[0]
    )
    rows = "\n".join(
        "<tr>" + "".join(f'<td dir="auto">{_text(reading.value)}</td>' for reading in readings) + "</tr>"
        for readings in heatmap.readings
    )
    return (
        f"<details><summary>All values of the {len(heatmap.readings):,} tokens</summary>\n"
        f'<div class="wide" tabindex="0" role="group" aria-label="Table of values"><table>\n<thead><tr>{heads}</tr>'
        f"</thead>\n<tbody>\n{rows}\n</tbody>\n</table></div></details>\n"
    )


def _palette(heatmap: Heatmap) -> str:
    """A class for each colour that occurs, with black or white text, whichever can be read on it; and the bars."""
    used: dict[str, tuple[Colours, set[int]]] = {}
    for panel in heatmap.panels:
        colours = heatmap.colours_of(panel)
        steps = used.setdefault(_prefix(colours), (colours, set()))[1]
        held = {cluster.tokens for block in heatmap.blocks for cluster in block.clusters if cluster.tokens}
        positions = (panel.shown_position(tokens) for tokens in held)
        steps.update(min(int(position * _STEPS), _STEPS - 1) for position in positions if not math.isnan(position))
    light = "\n".join(_rules(prefix, colours, steps) for prefix, (colours, steps) in used.items())
    dark = "\n".join(_rules(prefix, colours.for_dark_page, steps) for prefix, (colours, steps) in used.items())
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _rules(prefix: str, colours: Colours, steps: set[int]) -> str:
    rules = []
    for step in sorted(steps):
        background = shown_colour(colours((step + 0.5) / _STEPS))
        ink = "#000" if text_colour(background) == BLACK else "#fff"
        rules.append(f".{prefix}{step}{{background-color:{css_colour(background)};color:{ink}}}")
    stops = ",".join(css_colour(colours(stop / (_BAR_STOPS - 1))) for stop in range(_BAR_STOPS))
    return "\n".join([*rules, f".{prefix}bar{{background:linear-gradient(to right,{stops})}}"])


def _text(text: str) -> str:
    return html.escape(text)


_QUIET = 'class="quiet"'
_STYLES = {SPECIAL: "special", MARK: "mark"}
_STYLE = """
:root { color-scheme: light dark; --page: #fbfaf8; --ink: #1b1b1f; --quiet: #5f5f66; --line: #d9d6d0; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #16171a; --ink: #e6e4df; --quiet: #a3a2a0; --line: #3a3b40; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem clamp(1rem, 3vw, 3rem) 3rem; max-width: 110rem;
  background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.25rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: .9375rem; margin: 0; overflow-wrap: anywhere; }
.quiet { color: var(--quiet); }
.prompt { margin: 0 0 1.5rem; max-width: 60rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.panels {
  display: grid; gap: 1.75rem 2.5rem; margin-bottom: 1.75rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
}
section { min-width: 0; }
.head {
  display: flex; flex-wrap: wrap; gap: .1rem 1rem; justify-content: space-between; align-items: baseline;
  margin-bottom: .35rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line);
}
.legend { display: flex; gap: .4rem; align-items: center; font-size: .8125rem; color: var(--quiet); }
.bar { display: inline-block; flex: none; width: 6rem; height: .75rem; outline: 1px solid var(--line); }
.text { line-height: 1.75; white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; max-width: 46rem; }
.text > div + .quiet, .text > .quiet + div { margin-top: .5rem; }
.k { box-shadow: inset -1px 0 0 var(--page); }
.k:dir(rtl) { box-shadow: inset 1px 0 0 var(--page); }
.k:hover { outline: 2px solid var(--ink); outline-offset: 1px; }
.none { outline: 1px dotted var(--quiet); outline-offset: -1px; }
.special { font-style: italic; outline: 1px solid var(--quiet); outline-offset: -1px; }
.mark { font-style: italic; }
summary { cursor: pointer; margin: .5rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: start; white-space: pre; }
footer { margin-top: 1.5rem; font-size: .8125rem; overflow-wrap: anywhere; }
footer p { margin: .25rem 0; }
@media print { body { padding: 0; } .k, .bar { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
