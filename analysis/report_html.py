"""A report as one HTML page: no network, no script, light and dark, every text escaped.

Pictures are inline SVG whose ink, lines and paper follow the page's colours. The page forbids itself everything but
its own style sheet (Content-Security-Policy), so that markup in a token could not act even if it were not escaped.
"""

from __future__ import annotations

import html
import io
import re

import matplotlib

from analysis.plot_style import STYLE, THEME
from analysis.report_parts import Card, Column, Paragraph, Part, Picture, Report, Section, Table

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def report_html(report: Report) -> str:
    """The whole page; the same report gives the same text."""
    contents = "".join(
        f'<li class="level{section.level}"><a href="#{_text(section.anchor)}">{_text(section.title)}</a></li>'
        for section in report.sections
    )
    cards = "".join(_card(card) for card in report.cards)
    lead = "".join(_part(part) for part in report.lead)
    body = "".join(_section(section) for section in report.sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_text(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(report.title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{_text(report.title)}</h1><p class="subtitle">{_text(report.subtitle)}</p></header>\n'
        f'<main>\n<div class="first"><div class="cards">{cards}</div><div class="lead">{lead}</div></div>\n'
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>\n{body}</main>\n</body>\n</html>\n'
    )


def picture_svg(picture: Picture) -> str:
    """A picture as an SVG element in the page's colours, its ids its own."""
    content = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": picture.name}):
        picture.figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    text = text[text.index("<svg") :]
    # Ids are unique in one file only, and a page holds many.
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", picture.name)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", text)
    # A style sheet inside would hold for the whole page; what it says stands in the page's own.
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    for ink, variable in THEME.items():
        text = text.replace(ink, variable)
    # The page decides the size; the drawing keeps its proportions.
    return re.sub(r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", re.sub(r'height="[^"]*pt"', "", text, count=1), count=1)


def _section(section: Section) -> str:
    parts = "".join(_part(part) for part in section.parts)
    head = f"h{section.level}"
    return (
        f'<section id="{_text(section.anchor)}" class="level{section.level}"><{head}>{_text(section.title)}</{head}>'
        f"{parts}</section>\n"
    )


def _part(part: Part) -> str:
    if isinstance(part, Paragraph):
        return f'<p class="{_text(part.tone)}">{_text(part.text)}</p>\n'
    if isinstance(part, Picture):
        caption = f"<figcaption>{_text(part.caption)}</figcaption>" if part.caption else ""
        label = f' role="img" aria-label="{_text(part.caption or part.name)}"'
        drawing = picture_svg(part).replace("<svg ", f"<svg{label} ", 1)
        return f'<figure style="width: min(100%, {56 * part.width:.4g}rem)">{drawing}{caption}</figure>\n'
    return _table(part)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"{_class(column)}>{_text(column.head)}</th>' for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(_cell(column, column.show(row)) for column in table.columns) + "</tr>"
        for _, row in table.rows.iterrows()
    )
    title = _text(table.title)
    if table.is_folded:
        grid = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f'<details><summary>{title}</summary><div class="scroll">{grid}</div></details>\n'
    caption = f"<caption>{title}</caption>" if title else ""
    grid = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll">{grid}</div>\n'


def _cell(column: Column, shown: object) -> str:
    if column.kind == "context" and isinstance(shown, tuple):
        before, token, after = (_text(part) for part in shown)
        return f'<td class="context"><span dir="auto">{before}<mark>{token}</mark>{after}</span></td>'
    return f"<td{_class(column)}>{_text(shown)}</td>"


def _class(column: Column) -> str:
    name = "number" if column.is_number else column.kind if column.kind != "text" else ""
    return f' class="{name}"' if name else ""


def _card(card: Card) -> str:
    lines = "".join(f"<li>{_text(line)}</li>" for line in card.lines)
    return (
        f'<section class="card {_text(card.tone)}"><h2>{_text(card.question)}</h2>'
        f'<p class="answer">{_text(card.answer)}</p><ul>{lines}</ul></section>'
    )


def _text(text: object) -> str:
    return html.escape(str(text), quote=True)


_STYLE = """:root {
  --paper: #ffffff; --ink: #20242a; --muted: #5b626c; --line: #dde1e6; --soft: #f5f6f8; --link: #0b5cad;
  --good: #0a7a5a; --bad: #b54708; --open: #6a727d; --mark: #ffe3c2; --mark-ink: #20242a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16191d; --ink: #e4e7eb; --muted: #a3abb5; --line: #343a42; --soft: #1d2126; --link: #7db7f0;
    --good: #3ecf9e; --bad: #ff9a57; --open: #a3abb5; --mark: #6b3a10; --mark-ink: #fff3e6;
  }
}
* { box-sizing: border-box; }
html { background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.4rem 1.6rem 4rem; max-width: 74rem; font: 15px/1.55 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.22rem; margin: 2.6rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.8rem 0 .4rem; }
p { max-width: 46rem; margin: .5rem 0; overflow-wrap: anywhere; }
a { color: var(--link); }
.subtitle { color: var(--muted); max-width: none; margin: .2rem 0 1rem; }
.first { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 25rem); gap: 1.4rem; align-items: start; }
.lead figure { margin: 0; }
.cards { display: grid; gap: .8rem; }
.card { border: 1px solid var(--line); border-left: 5px solid var(--open); border-radius: 6px; background: var(--soft);
  padding: .7rem 1rem .6rem; }
.card.good { border-left-color: var(--good); } .card.bad { border-left-color: var(--bad); }
.card h2 { font-size: .84rem; font-weight: 600; color: var(--muted); border: 0; margin: 0; padding: 0; }
.card .answer { font-size: 1.12rem; font-weight: 650; line-height: 1.35; margin: .15rem 0 .3rem; }
.card ul { margin: 0; padding: 0; list-style: none; font-size: .9rem; }
.card li { margin: .15rem 0; overflow-wrap: anywhere; }
nav { margin: 1.4rem 0 0; font-size: .9rem; }
nav ol { columns: 3 14rem; margin: 0; padding: 0; list-style: none; }
nav li { break-inside: avoid; overflow-wrap: anywhere; } nav .level3 { padding-left: 1rem; }
p.note { color: var(--muted); font-size: .9rem; }
p.warning, p.bad { border-left: 4px solid var(--bad); padding: .1rem 0 .1rem .8rem; }
p.good { border-left: 4px solid var(--good); padding: .1rem 0 .1rem .8rem; }
p.open { border-left: 4px solid var(--open); padding: .1rem 0 .1rem .8rem; }
figure { margin: 1rem 0 1.2rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { color: var(--muted); font-size: .88rem; max-width: 46rem; margin-top: .3rem; }
.scroll { overflow-x: auto; margin: .8rem 0 1.1rem; }
table { border-collapse: collapse; font-size: .86rem; line-height: 1.4; }
caption { text-align: left; font-weight: 600; padding-bottom: .25rem; }
th, td { text-align: left; white-space: nowrap;
  padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--muted); border-bottom: 1px solid var(--muted); vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.long { white-space: normal; overflow-wrap: anywhere; }
td.context { font: .95em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  min-width: 22rem; overflow-wrap: anywhere; white-space: pre-wrap; }
mark { background: var(--mark); color: var(--mark-ink); border-radius: 2px; padding: 0 1px; font-weight: 600; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--link); font-size: .9rem; }
@media (max-width: 60rem) { .first { grid-template-columns: minmax(0, 1fr); } .lead { max-width: 30rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; } .card, figure, tr {
  break-inside: avoid; } }
"""
