"""Where everything stands: wrapped text as coloured boxes and strings with positions in points.

Left-to-right text is set token by token. A run of right-to-left text is set as one string, because letters join
across tokens; its boxes are put where each token's letters come to lie. What cannot be drawn with the installed
fonts is replaced by its code points.

All lengths in points, x to the right, y down.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, groupby, pairwise

from analysis.token_text import MARK, SPECIAL, TEXT, Cluster, code_points
from analysis.typeface import Typeface
from analysis.wrap import Line, Run, is_digit, visual_runs, wrap

LINE_HEIGHT = 1.5  # of the type size
_MARK_SIZE = 0.75
_SPECIAL_SIZE = 0.85
_ZERO_WIDTH_JOINER = "\u200d"
_RIGHT_TO_LEFT_MARK = "\u200f"


@dataclass(frozen=True)
class Box:
    """The part of a line that one token colours.

    Attributes:
        left: In points.
        right: In points.
        token: Index of the token; None where nothing is scored.
        style: ``text``, ``mark`` or ``special``.
        joins_next: Whether the box to its right holds another piece of the same character.
    """

    left: float
    right: float
    token: int | None
    style: str
    joins_next: bool = False


@dataclass(frozen=True)
class String:
    """A string drawn in one piece over one or several boxes."""

    left: float
    text: str
    typeface: Typeface
    is_special: bool
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class SetLine:
    """One line of boxes and the strings over them."""

    boxes: tuple[Box, ...]
    strings: tuple[String, ...]


@lru_cache(maxsize=32)  # the panels of a figure share their text, and its height is asked for before it is drawn
def set_lines(clusters: tuple[Cluster, ...], typeface: Typeface, width: float) -> tuple[SetLine, ...]:
    """Wrap and place clusters on lines of a width."""
    shown = [drawable(cluster, typeface) for cluster in clusters]
    lines = wrap(shown, lambda cluster: cluster_typeface(cluster, typeface).advance(cluster.text), width)
    return tuple(_set_line(line, typeface, width) for line in lines)


def drawable(cluster: Cluster, typeface: Typeface) -> Cluster:
    """The cluster itself, or its code points where no font of the typeface has a glyph of it."""
    if typeface.has(cluster.text):
        # Variation selectors choose between glyphs of a font; one that lacks them would draw a box.
        return replace(cluster, text=cluster.text.translate({0xFE0E: None, 0xFE0F: None}) or cluster.text)
    return replace(cluster, text=code_points(cluster.text), kind=MARK if cluster.kind == TEXT else cluster.kind)


def cluster_typeface(cluster: Cluster, typeface: Typeface) -> Typeface:
    """Marks and special tokens are set smaller than text, so that they are not read as text."""
    if cluster.kind == MARK:
        return typeface.at(_MARK_SIZE)
    return typeface.at(_SPECIAL_SIZE) if cluster.kind == SPECIAL else typeface


def _set_line(line: Line, typeface: Typeface, width: float) -> SetLine:
    boxes: list[Box] = []
    strings: list[String] = []
    left = 0.0
    for run in visual_runs(line):
        placed, left = (_set_rtl if run.rtl else _set_ltr)(run, typeface, left)
        strings.extend(placed)
        boxes.extend(box for string in placed for box in string.boxes)
    shift = width - left if line.rtl else 0.0
    return SetLine(
        tuple(_joined(_moved(box, shift) for box in boxes)),
        tuple(
            replace(string, left=string.left + shift, boxes=tuple(_moved(box, shift) for box in string.boxes))
            for string in strings
        ),
    )


def _set_ltr(run: Run, typeface: Typeface, left: float) -> tuple[list[String], float]:
    strings = []
    for (tokens, style), group in groupby(run.clusters, key=lambda cluster: (cluster.tokens, cluster.style)):
        clusters = list(group)
        # Pieces of one character are joined with each other, not with the pieces of the next one.
        for text in (cluster.text for cluster in clusters) if len(tokens) > 1 else ("".join(c.text for c in clusters),):
            face = cluster_typeface(clusters[0], typeface)
            right = left + face.advance(text)
            boxes = _pieces(left, right, tokens, style)
            strings.append(String(left, text, face, style == SPECIAL, boxes))
            left = right
    return strings, left


def _set_rtl(run: Run, typeface: Typeface, left: float) -> tuple[list[String], float]:
    """One string for the whole run; boxes where the letters of each token come to lie in it."""
    texts = [cluster.text for cluster in run.clusters]
    whole = "".join(texts)
    total = typeface.advance(whole)
    ends = [_prefix_advance(whole, length, typeface) for length in accumulate(map(len, texts))]
    # Ligatures make a prefix wider than what it becomes; boxes never overlap for that.
    ends = [min(end, total) for end in accumulate(ends, max)]
    spans = _numbers_turned(run.clusters, list(pairwise([0.0, *ends[:-1], total])))
    boxes: list[Box] = []
    for cluster, (near, far) in zip(run.clusters, spans, strict=True):
        boxes.extend(_pieces(left + total - far, left + total - near, cluster.tokens[::-1], cluster.style))
    boxes.sort(key=lambda box: box.left)
    string = String(left, _forced_rtl(whole), typeface, False, tuple(_joined(boxes)))
    return [string], left + total


def _prefix_advance(text: str, length: int, typeface: Typeface) -> float:
    """How far the first characters of a right-to-left text reach when the rest follows.

    A joiner stands in for the rest, so that the last letter has the form it has before another one.
    """
    joins = length < len(text) and unicodedata.bidirectional(text[length]) == "AL"
    return typeface.advance(text[:length] + (_ZERO_WIDTH_JOINER if joins else ""))


def _numbers_turned(clusters: Sequence[Cluster], spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Digits run from left to right within right-to-left text: mirror the spans of each number in place."""
    turned: list[tuple[float, float]] = []
    numbered = groupby(zip(clusters, spans, strict=True), key=lambda pair: is_digit(pair[0]))
    for is_number, group in numbered:
        part = [span for _, span in group]
        near, far = part[0][0], part[-1][1]
        turned.extend([(near + far - end, near + far - start) for start, end in part] if is_number else part)
    return turned


def _forced_rtl(text: str) -> str:
    """The text, marked as right-to-left where none of its characters says so."""
    strong = any(unicodedata.bidirectional(character) in ("R", "AL") for character in text)
    return text if strong else _RIGHT_TO_LEFT_MARK + text


def _pieces(left: float, right: float, tokens: tuple[int, ...], style: str) -> tuple[Box, ...]:
    """One box, or as many equal ones as there are tokens that spell the character."""
    if len(tokens) <= 1:
        return (Box(left, right, tokens[0] if tokens else None, style),)
    step, last = (right - left) / len(tokens), len(tokens) - 1
    return tuple(
        Box(left + place * step, left + (place + 1) * step, token, style, joins_next=place < last)
        for place, token in enumerate(tokens)
    )


def _joined(boxes: Iterable[Box]) -> list[Box]:
    """Neighbouring boxes of one token as one box."""
    joined: list[Box] = []
    for box in boxes:
        last = joined[-1] if joined else None
        if last is not None and last.token == box.token and abs(last.right - box.left) < 1e-6:
            joined[-1] = replace(last, right=box.right, joins_next=box.joins_next)
        else:
            joined.append(box)
    return joined


def _moved(box: Box, shift: float) -> Box:
    return replace(box, left=box.left + shift, right=box.right + shift)
