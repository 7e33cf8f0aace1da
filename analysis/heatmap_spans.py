"""A heatmap's text as HTML spans that neither scripts nor style sheets need: for a page, or for a notebook's output.

A span has a background and an ink and nothing that takes room or ends a run of letters: no padding, no border, no
isolation, so that joined letters stay joined and right-to-left text keeps its order. Each paragraph is a block with
``dir=auto``. What a token holds reaches the HTML escaped, and without a character that cannot be seen.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Protocol

from analysis.colours import Colours, Rgb, text_colour
from analysis.heatmap import Heatmap
from analysis.panel import Panel
from analysis.readings import Reading, visible
from analysis.token_text import MARK, NEWLINE, SPECIAL, Cluster

_BAR_CELLS = 24


class Brush(Protocol):
    """How a span gets its look: by classes of a style sheet, or by itself."""

    def token(self, colours: Colours, position: float, style: str) -> str:
        """Attributes of a token's span; ``style`` is a cluster's."""

    def text(self, text: str) -> str:
        """Text, escaped."""


class InlineBrush:
    """Looks that stand in the span itself, for notebooks: GitHub and untrusted notebooks drop style sheets."""

    def token(self, colours: Colours, position: float, style: str) -> str:
        """Attributes of a token's span: its colours, or a dotted line where it has no prediction."""
        if math.isnan(position):
            look = "outline:1px dotted #888;"
        else:
            background = shown_colour(colours(position))
            look = f"background-color:{css_colour(background)};color:{css_colour(text_colour(background))};"
            look += "box-shadow:inset -1px 0 0 #fff;"
        return f'style="{look}{_INLINE.get(style, "")}"'

    def text(self, text: str) -> str:
        """Text, escaped; each ``$`` and backslash in a span of its own, so that no notebook typesets it."""
        escaped = html.escape(text)
        return "".join(f"<span>{sign}</span>" if sign in _MATHEMATICS else sign for sign in escaped)


def panel_blocks(heatmap: Heatmap, panel: Panel, brush: Brush, *, context: str) -> str:
    """The text of one panel: each paragraph a block, each token in it a span with a tooltip.

    Args:
        heatmap: Whose text it is.
        panel: Whose colours.
        brush: How a span looks.
        context: Attributes of the blocks that are not scored: what was said between two completions.
    """
    blocks = []
    for block in heatmap.blocks:
        for paragraph in paragraphs(block.clusters):
            if block.is_completion:
                blocks.append(f'<div dir="auto">{"".join(_spans(heatmap, panel, paragraph, brush))}</div>')
            else:
                blocks.append(f'<div dir="auto" {context}>{brush.text(_joined(paragraph))}</div>')
    # Nothing between the blocks: white space is kept there, and a line feed would be a line.
    return "".join(blocks)


def heatmap_fragment(heatmap: Heatmap) -> str:
    """The whole heatmap as one HTML element for a notebook; its looks stand in the elements themselves.

    On a light and on a dark notebook alike: what is not coloured takes the notebook's own ink.
    """
    brush = InlineBrush()
    quiet = f'style="{_QUIET}"'
    panels = "\n".join(
        f'<div style="margin:0 0 1em 0">{_fragment_header(heatmap, panel, brush)}\n'
        f'<div style="line-height:1.7;white-space:pre-wrap;overflow-wrap:break-word">'
        f"{panel_blocks(heatmap, panel, brush, context=quiet)}</div></div>"
        for panel in heatmap.panels
    )
    foot = "".join(
        f'<div dir="auto" style="{_QUIET};font-size:85%">{brush.text(visible(line))}</div>'
        for line in (" ".join(heatmap.text_notes), heatmap.facts)
        if line
    )
    prompt = _joined(heatmap.prompt)
    prompt = f'<div dir="auto" style="{_QUIET};margin:0 0 1em 0">{brush.text(prompt)}</div>\n' if prompt else ""
    # The class keeps mathematics out where the notebook's typesetter looks for it; the spans do where it does not.
    return (
        '<div class="tex2jax_ignore mathjax_ignore" style="max-width:60em">\n'
        f'<div dir="auto"><strong>{brush.text(visible(f"Example {heatmap.example_id}"))}</strong></div>\n'
        f"{prompt}{panels}\n{foot}\n</div>"
    )


def paragraphs(clusters: Iterable[Cluster]) -> list[list[Cluster]]:
    """Clusters cut after each line end, whose mark stays with its line."""
    cut: list[list[Cluster]] = [[]]
    for cluster in clusters:
        cut[-1].append(cluster)
        if cluster.kind == NEWLINE:
            cut.append([])
    return [paragraph for paragraph in cut if paragraph]


def css_colour(colour: Rgb) -> str:
    """A colour as CSS writes it.

    >>> css_colour((1.0, 0.5, 0.0))
    '#ff8000'
    """
    return "#" + "".join(f"{round(part * 255):02x}" for part in colour)


def shown_colour(colour: Rgb) -> Rgb:
    """What CSS makes of a colour: 256 steps of each part. Ink is chosen for this one."""
    red, green, blue = (round(part * 255) / 255 for part in colour)
    return red, green, blue


def _spans(heatmap: Heatmap, panel: Panel, paragraph: Sequence[Cluster], brush: Brush) -> Iterable[str]:
    for (tokens, style), group in groupby(paragraph, key=lambda cluster: (cluster.tokens, cluster.style)):
        text = brush.text(_joined(group))
        if not tokens:
            yield text
            continue
        look = brush.token(heatmap.colours_of(panel), panel.shown_position(tokens), style)
        tooltip = html.escape("\n\n".join(_tooltip(heatmap.readings[token]) for token in tokens))
        # A line feed would do in HTML, but sanitizers and editors fold white space in attributes.
        yield f'<span {look} title="{tooltip.replace(chr(10), "&#10;")}">{text}</span>'


def _tooltip(readings: Sequence[Reading]) -> str:
    return "\n".join(str(reading) for reading in readings)


def _joined(clusters: Iterable[Cluster]) -> str:
    return "".join(cluster.text for cluster in clusters)


def _fragment_header(heatmap: Heatmap, panel: Panel, brush: Brush) -> str:
    low, wordings = panel.legend()
    colours = heatmap.colours_of(panel)
    cells = "".join(
        f'<span style="background-color:{css_colour(colours((cell + 0.5) / _BAR_CELLS))}">&nbsp;</span>'
        for cell in range(_BAR_CELLS)
    )
    label = html.escape(f"Colours from {low} to {wordings[0]}")
    return (
        f'<div dir="ltr"><strong>{brush.text(panel.heading)}</strong> '
        f'<span style="font-size:85%;white-space:nowrap">{low} <span role="img" aria-label="{label}">{cells}</span> '
        f"{brush.text(wordings[0])}</span></div>"
    )


_MATHEMATICS = frozenset("$\\")
_QUIET = "opacity:0.7"
_INLINE = {SPECIAL: "font-style:italic;outline:1px solid #888", MARK: "font-style:italic"}
