"""A heatmap as lines of text for a terminal: colour codes, or a line of shades below the text without them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal

from rich.cells import cell_len

from analysis.colours import BLACK, Colours, Rgb, text_colour
from analysis.heatmap import Block, Heatmap
from analysis.panel import Panel
from analysis.token_text import MARK, SPECIAL, Cluster, context_clusters
from analysis.wrap import Line, wrap

Depth = Literal["24bit", "256", "none"]

MIN_WIDTH = 20
_BAR_CELLS = 20
_SHADES = "▁▂▃▄▅▆▇█"
_DIGITS = "0123456789"
_RESET = "\x1b[0m"
_GREY, _BOLD = "\x1b[90m", "\x1b[1m"
_CUBE = (0, 95, 135, 175, 215, 255)  # levels of the 6 x 6 x 6 cube of the 256-colour palette


def colour_depth(choice: str, environment: Mapping[str, str], is_terminal: bool) -> Depth:
    """How many colours to use.

    Args:
        choice: ``auto``, ``always`` or ``never``. ``auto`` is no colour where the output is not a terminal, where
            ``NO_COLOR`` is set to anything (https://no-color.org), or on a ``dumb`` terminal.
        environment: ``COLORTERM`` of ``truecolor`` or ``24bit`` says that the terminal has 24-bit colour.
        is_terminal: Whether the output is one.
    """
    off = environment.get("NO_COLOR", "") != "" or environment.get("TERM", "") == "dumb" or not is_terminal
    if choice == "never" or (choice == "auto" and off):
        return "none"
    rich_enough = environment.get("COLORTERM", "").lower() in ("truecolor", "24bit")
    return "24bit" if rich_enough or "direct" in environment.get("TERM", "") else "256"


def heatmap_text(heatmap: Heatmap, width: int, depth: Depth, *, ascii_only: bool = False) -> str:
    """The heatmap as text, ready to be written to a terminal.

    Nothing that is in a token reaches the terminal as a control sequence: controls are marks already.

    Args:
        heatmap: What to show.
        width: Cells of a line; at least 20 are used.
        depth: Which colours. Without any, a line of shades stands below each line of text: the taller, the higher.
        ascii_only: Use the digits 0 to 9 as shades, for an output that cannot show ``▁`` to ``█``.
    """
    width = max(width, MIN_WIDTH)
    pen = _Pen(depth, _DIGITS if ascii_only else _SHADES)
    lines = [pen.styled(text, _BOLD) for text in _plain_lines(f"Example {heatmap.example_id}", width)]
    lines += [pen.styled(_text(line), _GREY) for line in _wrapped(heatmap.prompt, width)]
    for panel in heatmap.panels:
        lines += ["", *_legend_lines(heatmap, panel, width, pen)]
        for block in heatmap.blocks:
            lines += _block_lines(heatmap, panel, block, width, pen)
    lines.append("")
    for text in (" ".join(heatmap.text_notes), heatmap.facts):
        lines += [pen.styled(line, _GREY) for line in _plain_lines(text, width)]
    return "\n".join(lines) + "\n"


class _Pen:
    """Writes colours in one depth, or shades where there are none."""

    def __init__(self, depth: Depth, shades: str) -> None:
        self.depth = depth
        self.shades = shades

    def styled(self, text: str, style: str) -> str:
        return text if self.depth == "none" or not text else f"{style}{text}{_RESET}"

    def painted(self, text: str, background: Rgb, style: str) -> str:
        """Text on a background, black or white whichever is readable on the colour that is really shown."""
        extra = {SPECIAL: ";3;4", MARK: ";3"}.get(style, "")
        if self.depth == "256":
            index, shown = _nearest_256(background)
            ink = 16 if text_colour(shown) == BLACK else 231
            return f"\x1b[38;5;{ink};48;5;{index}{extra}m{text}{_RESET}"
        back = ";".join(str(round(part * 255)) for part in background)
        ink_rgb = ";".join(str(round(part * 255)) for part in text_colour(background))
        return f"\x1b[38;2;{ink_rgb};48;2;{back}{extra}m{text}{_RESET}"

    def shade(self, position: float) -> str:
        if math.isnan(position):
            return " "
        return self.shades[min(int(position * len(self.shades)), len(self.shades) - 1)]


def _legend_lines(heatmap: Heatmap, panel: Panel, width: int, pen: _Pen) -> list[str]:
    low, wordings = panel.legend()
    steps = [(cell + 0.5) / _BAR_CELLS for cell in range(_BAR_CELLS)]
    if pen.depth == "none":
        bar = "".join(pen.shade(step) for step in steps)
    else:
        bar = "".join(pen.painted(" ", heatmap.colours_of(panel)(step), "text") for step in steps)
    title = [pen.styled(line, _BOLD) for line in _plain_lines(panel.heading, width)]
    room = width - cell_len(low) - _BAR_CELLS - 2
    if cell_len(panel.heading) + 2 + cell_len(wordings[0]) <= room:
        return [f"{title[0]}  {low} {bar} {wordings[0]}"]
    fitting = [wording for wording in wordings if cell_len(wording) <= room]
    if not fitting:
        return [*title, *_plain_lines(f"{low} to {wordings[0]}", width)]
    return [*title, f"{low} {bar} {fitting[0]}"]


def _block_lines(heatmap: Heatmap, panel: Panel, block: Block, width: int, pen: _Pen) -> list[str]:
    lines = _wrapped(block.clusters, width)
    if not block.is_completion:
        return [pen.styled(_text(line), _GREY) for line in lines]
    if pen.depth != "none":
        return [_painted_line(heatmap.colours_of(panel), panel, line, pen) for line in lines]
    return [text for line in lines for text in (_text(line), _shade_line(panel, line, pen).rstrip()) if text.strip()]


def _painted_line(colours: Colours, panel: Panel, line: Line, pen: _Pen) -> str:
    # Clusters stay in logical order: a terminal that knows right-to-left text turns it itself.
    painted = []
    for (_, style), group in groupby(line.clusters, key=lambda cluster: (cluster.tokens, cluster.style)):
        clusters = list(group)
        text = "".join(cluster.text for cluster in clusters)
        position = panel.shown_position(clusters[0].tokens)
        painted.append(text if math.isnan(position) else pen.painted(text, colours(position), style))
    return "".join(painted)


def _shade_line(panel: Panel, line: Line, pen: _Pen) -> str:
    shades = ((pen.shade(panel.shown_position(cluster.tokens)), cluster) for cluster in line.clusters)
    return "".join(shade * cell_len(cluster.text) for shade, cluster in shades)


def _wrapped(clusters: Sequence[Cluster], width: int) -> list[Line]:
    return wrap(clusters, lambda cluster: cell_len(cluster.text), width)


def _text(line: Line) -> str:
    return "".join(cluster.text for cluster in line.clusters)


def _plain_lines(text: str, width: int) -> list[str]:
    return [_text(line) for line in _wrapped(context_clusters(text), width)]


def _nearest_256(colour: Rgb) -> tuple[int, Rgb]:
    """The palette's nearest colour, from its cube and its greys, and what it really looks like."""
    target = [part * 255 for part in colour]
    levels = [min(range(6), key=lambda level: abs(_CUBE[level] - part)) for part in target]
    cube = (16 + 36 * levels[0] + 6 * levels[1] + levels[2], tuple(_CUBE[level] for level in levels))
    step = min(max(round((sum(target) / 3 - 8) / 10), 0), 23)
    grey = (232 + step, (8 + 10 * step,) * 3)
    index, (red, green, blue) = min(cube, grey, key=lambda choice: _distance(choice[1], target))
    return index, (red / 255, green / 255, blue / 255)


def _distance(first: Sequence[float], second: Sequence[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
