"""The parts of a heatmap drawn on matplotlib Axes: one measure's panel, the prompt, the caption.

Every drawing function takes an Axes, sets its data coordinates to points (x to the right, y down) and returns it.
What height the text needs at a width is told beforehand by the function of the same name with ``_height``.

Suffix N: completion tokens of the example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.text import Text
from matplotlib.transforms import Bbox, TransformedBbox

from analysis.colours import BLACK, Colours, Rgb, text_colour
from analysis.heatmap import Block, Heatmap, Panel
from analysis.heatmap_layout import LINE_HEIGHT, Box, SetLine, set_lines
from analysis.token_text import SPECIAL, context_clusters, cut_middle
from analysis.typeface import PROPORTIONAL, Typeface

POINTS_PER_INCH = 72
GREY: Rgb = (0.40, 0.40, 0.40)  # 5.7:1 on white
FRAME: Rgb = (0.62, 0.62, 0.62)
_BOX_TOP, _BOX_BOTTOM = 0.14, 1.36  # of the type size, from the top of a line
_BASELINE = 1.03
_TOKEN_GAP, _PIECE_GAP = 0.5, 0.2  # white between boxes, in points
_BAR_WIDTH, _BAR_STEPS = 72.0, 96
_MAX_ID_CHARACTERS = 80


def draw_panel(ax: Axes, heatmap: Heatmap, panel: Panel, typeface: Typeface) -> Axes:
    """Title, colour bar and coloured text of one measure, from the top of the Axes down.

    The text is wrapped at the Axes' width and keeps its size: an Axes lower than ``panel_height`` cuts nothing off,
    the text runs on below it.
    """
    width = _in_points(ax)
    y = _draw_header(ax, panel, heatmap.colours_of(panel), typeface, width)
    paint = _Paint(heatmap.colours_of(panel), panel.positions)
    for block in heatmap.blocks:
        y = _draw_block(ax, block, typeface, width, y, paint)
    return ax


def panel_height(heatmap: Heatmap, panel: Panel, typeface: Typeface, width: float) -> float:
    """Height that ``draw_panel`` needs at a width, in points."""
    lines = sum(len(set_lines(block.clusters, typeface, width)) for block in heatmap.blocks)
    return _header_height(panel, typeface, width) + lines * LINE_HEIGHT * typeface.size


def draw_prompt(ax: Axes, heatmap: Heatmap, typeface: Typeface) -> Axes:
    """The example's id and its prompt in grey."""
    width = _in_points(ax)
    y = 0.0
    for lines, face in _prompt_lines(heatmap, typeface, width):
        for line in lines:
            _draw_strings(ax, line, y, _grey)
            y += LINE_HEIGHT * face.size
    return ax


def prompt_height(heatmap: Heatmap, typeface: Typeface, width: float) -> float:
    """Height that ``draw_prompt`` needs at a width, in points."""
    return sum(len(lines) * LINE_HEIGHT * face.size for lines, face in _prompt_lines(heatmap, typeface, width))


def draw_caption(ax: Axes, heatmap: Heatmap, typeface: Typeface) -> Axes:
    """Notes and the run's facts, small and grey."""
    width = _in_points(ax)
    face = _caption_face(typeface)
    for index, line in enumerate(_caption_lines(heatmap, typeface, width)):
        _draw_strings(ax, line, index * LINE_HEIGHT * face.size, _grey)
    return ax


def caption_height(heatmap: Heatmap, typeface: Typeface, width: float) -> float:
    """Height that ``draw_caption`` needs at a width, in points."""
    return len(_caption_lines(heatmap, typeface, width)) * LINE_HEIGHT * _caption_face(typeface).size


def n_undrawable(heatmap: Heatmap, typeface: Typeface) -> int:
    """How many characters of the text have no glyph in the typeface and are drawn as their code points."""
    clusters = [*heatmap.prompt, *(cluster for block in heatmap.blocks for cluster in block.clusters)]
    return sum(not typeface.has(cluster.text) for cluster in clusters)


def _in_points(ax: Axes) -> float:
    """Make the Axes' data coordinates points with y down; returns its width."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    box = ax.get_window_extent()
    width, height = (size / figure.dpi * POINTS_PER_INCH for size in (box.width, box.height))
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_axis_off()
    return float(width)


@dataclass(frozen=True, eq=False)
class _Paint:
    """The colours of one panel's boxes and of the text over them."""

    colours: Colours
    positions_N: np.ndarray

    def background(self, box: Box) -> Rgb | None:
        return None if box.token is None else self.colours(self.positions_N[box.token])

    def ink(self, box: Box) -> Rgb:
        background = self.background(box)
        return GREY if background is None else text_colour(background)

    def edge(self, box: Box) -> Rgb | None:
        """Special tokens and those without a prediction are framed."""
        framed = box.token is not None and (box.style == SPECIAL or np.isnan(self.positions_N[box.token]))
        return FRAME if framed else self.background(box)


def _grey(box: Box) -> Rgb:
    return GREY


def _draw_block(ax: Axes, block: Block, typeface: Typeface, width: float, y: float, paint: _Paint) -> float:
    for line in set_lines(block.clusters, typeface, width):
        _draw_boxes(ax, line.boxes, y, typeface.size, paint)
        _draw_strings(ax, line, y, paint.ink if block.is_completion else _grey, line_size=typeface.size)
        y += LINE_HEIGHT * typeface.size
    return y


def _draw_boxes(ax: Axes, boxes: Sequence[Box], y: float, size: float, paint: _Paint) -> None:
    corners, faces, edges = [], [], []
    top, bottom = y + _BOX_TOP * size, y + _BOX_BOTTOM * size
    for box in boxes:
        face = paint.background(box)
        if face is None:
            continue
        right = box.right - (_PIECE_GAP if box.joins_next else _TOKEN_GAP)
        corners.append([(box.left, top), (right, top), (right, bottom), (box.left, bottom)])
        faces.append(face)
        edges.append(paint.edge(box))
    ax.add_collection(PolyCollection(corners, facecolors=faces, edgecolors=edges, linewidths=0.35), autolim=False)


def _draw_strings(
    ax: Axes,
    line: SetLine,
    y: float,
    colour: Callable[[Box], Rgb],
    *,
    line_size: float | None = None,
) -> None:
    for string in line.strings:
        size = string.typeface.size if line_size is None else line_size
        baseline = y + _BASELINE * size
        parts = [(ink, list(boxes)) for ink, boxes in groupby(string.boxes, key=colour)]
        for ink, boxes in parts:
            style = "italic" if string.is_special else "normal"
            text = _write(ax, string.left, baseline, string.text, string.typeface, ink, style)
            if len(parts) > 1:
                # One string over boxes of different colours is drawn once per part, each time clipped to it:
                # so its letters stay joined and every part of it keeps its contrast.
                text.set_clip_box(_data_box(ax, boxes[0].left, boxes[-1].right, y, y + LINE_HEIGHT * size))
                text.set_clip_on(True)


def _data_box(ax: Axes, left: float, right: float, top: float, bottom: float) -> TransformedBbox:
    return TransformedBbox(Bbox([[left, top], [right, bottom]]), ax.transData)


@dataclass(frozen=True)
class _Header:
    """Where title and colour bar of a panel stand: side by side, or one below the other."""

    title: Typeface
    legend: Typeface
    low: str
    high: str
    legend_left: float
    n_lines: int


def _header(panel: Panel, typeface: Typeface, width: float) -> _Header:
    title, legend = _title_face(typeface), _legend_face(typeface)
    # A heading with a run's name can be longer than a narrow column.
    title = title.at(min(1.0, width / title.advance(panel.heading)))
    low, wordings = panel.legend()

    def legend_width(high: str) -> float:
        return legend.advance(low) + legend.advance(high) + _BAR_WIDTH + legend.size

    beside = title.advance(panel.heading) + 2 * typeface.size + legend_width(wordings[0]) <= width
    if beside:
        return _Header(title, legend, low, wordings[0], width - legend_width(wordings[0]), 1)
    fitting = [high for high in wordings if legend_width(high) <= width]
    return _Header(title, legend, low, (fitting or wordings[-1:])[0], 0.0, 2)


def _header_height(panel: Panel, typeface: Typeface, width: float) -> float:
    return (LINE_HEIGHT * _header(panel, typeface, width).n_lines + 0.25) * typeface.size


def _title_face(typeface: Typeface) -> Typeface:
    return Typeface(tuple(dict.fromkeys([*PROPORTIONAL, *typeface.families])), typeface.size * 1.05, "bold")


def _legend_face(typeface: Typeface) -> Typeface:
    return Typeface(_title_face(typeface).families, typeface.size * 0.85)


def _draw_header(ax: Axes, panel: Panel, colours: Colours, typeface: Typeface, width: float) -> float:
    """Title and colour bar; returns y below them."""
    header = _header(panel, typeface, width)
    title, legend = header.title, header.legend
    first = _BASELINE * typeface.size
    baseline = first + (header.n_lines - 1) * LINE_HEIGHT * typeface.size
    bar = header.legend_left + legend.advance(header.low) + 0.5 * legend.size
    for x, y, text, face in (
        (0.0, first, panel.heading, title),
        (header.legend_left, baseline, header.low, legend),
        (bar + _BAR_WIDTH + 0.5 * legend.size, baseline, header.high, legend),
    ):
        _write(ax, x, y, text, face, BLACK)
    _draw_colour_bar(ax, colours, bar, baseline, legend.size)
    return _header_height(panel, typeface, width)


def _write(ax: Axes, x: float, baseline: float, text: str, face: Typeface, ink: Rgb, style: str = "normal") -> Text:
    """A string as it stands: no ``$`` and no backslash means anything in it."""
    return ax.text(
        x,
        baseline,
        text,
        color=ink,
        fontfamily=list(face.families),
        fontsize=face.size,
        fontweight=face.weight,
        fontstyle=style,
        parse_math=False,
        usetex=False,
    )


def _draw_colour_bar(ax: Axes, colours: Colours, left: float, baseline: float, size: float) -> None:
    top, bottom, right = baseline - 0.75 * size, baseline, left + _BAR_WIDTH
    starts = [left + _BAR_WIDTH * step / _BAR_STEPS for step in range(_BAR_STEPS)]
    # Each step reaches to the end and the next covers it: side by side, PDF viewers show hairlines between them.
    corners = [[(start, top), (right, top), (right, bottom), (start, bottom)] for start in starts]
    faces = [colours((step + 0.5) / _BAR_STEPS) for step in range(_BAR_STEPS)]
    ax.add_collection(PolyCollection(corners, facecolors=faces, edgecolors="none"), autolim=False)
    frame = [[(left, top), (right, top), (right, bottom), (left, bottom)]]
    ax.add_collection(PolyCollection(frame, facecolors="none", edgecolors=[FRAME], linewidths=0.4), autolim=False)


def _prompt_lines(heatmap: Heatmap, typeface: Typeface, width: float) -> list[tuple[tuple[SetLine, ...], Typeface]]:
    label = replace(_title_face(typeface), size=_legend_face(typeface).size)
    name = context_clusters(cut_middle(f"Example {heatmap.example_id}", _MAX_ID_CHARACTERS))
    heading = (set_lines(tuple(name), label, width), label)
    face = typeface.at(0.9)
    return [heading, (set_lines(heatmap.prompt, face, width), face)] if heatmap.prompt else [heading]


def _caption_face(typeface: Typeface) -> Typeface:
    return Typeface(_title_face(typeface).families, max(typeface.size * 0.72, 4.5))


def _caption_lines(heatmap: Heatmap, typeface: Typeface, width: float) -> list[SetLine]:
    face = _caption_face(typeface)
    missing = n_undrawable(heatmap, typeface)
    notes = list(heatmap.notes)
    if missing:
        plural = "character has" if missing == 1 else "characters have"
        notes.append(f"{missing} {plural} no glyph in the installed fonts, shown as code points.")
    texts = (" ".join(notes), heatmap.facts)
    return [line for text in texts for line in set_lines(tuple(context_clusters(text)), face, width)]
