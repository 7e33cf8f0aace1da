"""A report as Markdown, with its pictures as files beside it; every text escaped, so that a token stays a token."""

from __future__ import annotations

import re

from analysis.report_parts import Card, Column, Paragraph, Part, Picture, Report, Table

_TONES = {"warning": "**Note:** "}


def report_markdown(report: Report) -> str:
    """The whole report; the same report gives the same text."""
    lines = [f"# {_text(report.title)}", "", _text(report.subtitle), ""]
    for card in report.cards:
        lines += _card(card)
    for part in report.lead:
        lines += _part(part)
    for section in report.sections:
        lines += [f"{'#' * section.level} {_text(section.title)}", ""]
        for part in section.parts:
            lines += _part(part)
    return "\n".join(lines).rstrip("\n") + "\n"


def _card(card: Card) -> list[str]:
    return [f"**{_text(card.question)}** {_text(card.answer)}", "", *(f"- {_text(line)}" for line in card.lines), ""]


def _part(part: Part) -> list[str]:
    if isinstance(part, Paragraph):
        return [_TONES.get(part.tone, "") + _text(part.text), ""]
    if isinstance(part, Picture):
        return [f"![{_text(part.caption or part.name)}](figures/{part.name}.png)", "", _text(part.caption), ""]
    return _table(part)


def _table(table: Table) -> list[str]:
    head = "| " + " | ".join(_text(column.head) for column in table.columns) + " |"
    rule = "|" + "|".join("---:" if column.is_number else "---" for column in table.columns) + "|"
    rows = [
        "| " + " | ".join(_cell(column, column.show(row)) for column in table.columns) + " |"
        for _, row in table.rows.iterrows()
    ]
    return [*([f"**{_text(table.title)}**", ""] if table.title else []), head, rule, *rows, ""]


def _cell(column: Column, shown: object) -> str:
    if column.kind == "context" and isinstance(shown, tuple):
        before, token, after = (_text(part) for part in shown)
        return f"{before}**⟦{token}⟧**{after}"
    return _text(shown)


def _text(text: object) -> str:
    """A text that reads as itself: no markup, no links, no HTML, no formula, on one line."""
    one_line = " ".join(str(text).split())
    return _MARKUP.sub(r"\\\g<0>", one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


_MARKUP = re.compile(r"[\\`*_|$~#]|(?<=\])[(\[:]|!(?=\[)")
