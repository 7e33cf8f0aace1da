"""What a report is made of: sections of paragraphs, tables and pictures.

Nothing here knows HTML or Markdown; ``report_html.py`` and ``report_markdown.py`` turn the same parts into each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from analysis.token_text import context_clusters

Tone = Literal["plain", "note", "warning", "good", "bad", "open"]


@dataclass(frozen=True)
class Paragraph:
    """Plain sentences; ``tone`` says how they are set."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Column:
    """One shown column of a table.

    Attributes:
        head: what stands above it.
        show: a row to the text of its cell.
        is_number: set flush right, in figures of equal width.
        kind: ``text`` on one line, ``long`` text that may be broken, or ``context``: the cell is ``before, token,
            after``, the token marked.
    """

    head: str
    show: Callable[[pd.Series], Any]
    is_number: bool = True
    kind: Literal["text", "long", "context"] = "text"


@dataclass(frozen=True, eq=False)
class Table:
    """A table: the whole of it for CSV and JSON, some columns of it for the page.

    Attributes:
        name: file stem, and key in the JSON.
        title: one line above it.
        frame: all columns.
        columns: what the page shows.
        shown: the rows the page shows; all of ``frame`` if None.
        is_folded: the page shows it only when asked.
        run: name of the run it is of; "" for a table of several. Tables of one name make one file.
    """

    name: str
    title: str
    frame: pd.DataFrame
    columns: tuple[Column, ...] = ()
    shown: pd.DataFrame | None = None
    is_folded: bool = False
    run: str = ""

    @property
    def rows(self) -> pd.DataFrame:
        """The rows that the page shows."""
        return self.frame if self.shown is None else self.shown


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with its caption; ``name`` is its file stem, ``width`` a share of the text's width on a page."""

    name: str
    caption: str
    figure: Figure
    width: float = 1.0


Part = Paragraph | Table | Picture


@dataclass(frozen=True, eq=False)
class Section:
    """A titled stretch of a report."""

    anchor: str
    title: str
    parts: tuple[Part, ...]
    level: int = 2


@dataclass(frozen=True)
class Card:
    """One of the questions on the first screen, with its answer in a few words and the numbers behind it."""

    question: str
    answer: str
    tone: Tone
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Report:
    """A whole report.

    Attributes:
        title: its heading.
        subtitle: what was run, in a line.
        cards: the first screen's questions and answers.
        lead: the picture beside them.
        sections: the rest.
        data: what the JSON says beside the tables.
    """

    title: str
    subtitle: str
    cards: tuple[Card, ...]
    lead: tuple[Part, ...]
    sections: tuple[Section, ...]
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> list[Part]:
        """Every part, in order."""
        return [*self.lead, *(part for section in self.sections for part in section.parts)]

    @property
    def tables(self) -> list[Table]:
        """Every table, in order."""
        return [part for part in self.parts if isinstance(part, Table)]

    @property
    def pictures(self) -> list[Picture]:
        """Every picture, in order."""
        return [part for part in self.parts if isinstance(part, Picture)]


def visible(text: object) -> str:
    r"""A text with everything invisible in it turned into marks: line breaks, tabs, controls, direction overrides.

    >>> visible("a\n"), visible("\u202ex")
    ('a↵', '‹U+202E›x')
    """
    return "".join(cluster.text for cluster in context_clusters(str(text)))


def visible_token(text: object) -> str:
    """As ``visible``, with the blanks at its edges as dots: `` cat`` and ``cat`` are different tokens.

    >>> visible_token(" cat")
    '·cat'
    """
    shown = visible(text)
    inner = shown.strip(" ")
    start = len(shown) - len(shown.lstrip(" "))
    return "·" * start + inner + "·" * (len(shown) - start - len(inner)) if inner else "·" * len(shown)
