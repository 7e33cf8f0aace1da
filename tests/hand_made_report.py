"""A small report with every kind of part and texts that would break a page, made by hand."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.report_parts import Card, Column, Paragraph, Picture, Report, Section, Table

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></title><script>alert(1)</script>",
    "&lt;b&gt;",
    "{{7*7}} ${7*7} $x_1$",
    "[a](javascript:alert(1)) ![b](x) `c` **d** | e",
    "\\textbf{f}",
    "=1+1",
    "\u202eabc\x00\x1b[31m",
)


def report(texts: tuple[str, ...] = HOSTILE) -> Report:
    """Every text stands in every place that a text can have."""
    figure = Figure(figsize=(1.2, 0.8))
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1])
    ax.set_title("$x_1$")
    frame = pd.DataFrame({"text": list(texts), "value": [float(index) for index in range(len(texts))]})
    columns = (
        Column("<text>", lambda row: row["text"], is_number=False),
        Column("context", lambda row: (row["text"], row["text"], row["text"]), is_number=False, kind="context"),
        Column("value", lambda row: f"{row['value']:.1f}"),
    )
    everything = " ".join(texts)
    section = Section(
        "one",
        everything,
        (
            Paragraph(everything, "warning"),
            Table("texts", everything, frame, columns, run="a"),
            Table("texts", "", frame.iloc[:1], columns, run="b", is_folded=True),
            Table("", "shown only", frame, columns[:1], shown=frame.iloc[:2]),
        ),
    )
    lead = (Picture("small", everything, figure),)
    card = Card(everything, everything, "good", (everything,))
    return Report(
        everything, everything, (card,), lead, (section,), {"settings": {"seed": 0}, "not a number": float("nan")}
    )
