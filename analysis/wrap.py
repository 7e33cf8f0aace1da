"""Clusters of text into lines: where a line may break, and which way it runs, whatever the widths are measured in.

The figure measures in points and the terminal in cells; both wrap here. Right-to-left text is put in its visual
order by runs: a simplified Unicode bidirectional algorithm with one paragraph level, one level of opposite runs,
and no explicit overrides (those are shown as marks and change nothing).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from analysis.token_text import MARK, NEWLINE, SPACE, TEXT, Cluster

_NO_BREAK_BEFORE = frozenset("、。，．！？：；）］｝」』】〉》・ー…‥’”%％")
_NO_BREAK_AFTER = frozenset("（［｛「『【〈《‘“")
_BREAK_AFTER = frozenset("-–—/\\")


@dataclass(frozen=True)
class Line:
    """Clusters that stand on one line, in logical order.

    Attributes:
        clusters: What stands on it; a blank where the line was broken is left out.
        rtl: Whether the paragraph it belongs to runs from right to left.
    """

    clusters: tuple[Cluster, ...]
    rtl: bool


@dataclass(frozen=True)
class Run:
    """Neighbouring clusters of one line that run in one direction, in logical order."""

    clusters: tuple[Cluster, ...]
    rtl: bool


def wrap(clusters: Sequence[Cluster], measure: Callable[[Cluster], float], width: float) -> list[Line]:
    """Break clusters into lines no wider than ``width``.

    Lines end after a newline mark, at blanks, after hyphens and slashes, and between wide (CJK) characters; a
    word longer than a line is broken between clusters. A cluster wider than the line stands alone on one.

    Args:
        clusters: Text in logical order.
        measure: Width of a cluster, in the unit of ``width``.
        width: Width of a line, > 0.

    Returns:
        Lines from top to bottom. A blank at which a line is broken is on neither line.
    """
    lines: list[Line] = []
    for paragraph in _paragraphs(clusters):
        rtl = _base_direction(paragraph)
        lines.extend(Line(tuple(line), rtl) for line in _fill(_words(paragraph), measure, width))
    return lines


def visual_runs(line: Line) -> list[Run]:
    """The runs of a line from left to right as they stand on the page.

    Neutral signs between two letters of the opposite direction run with them, numbers with the letters before
    them (rules W2, W7 and N1), all others with the paragraph (N2).
    """
    runs: list[Run] = []
    for clusters, rtl in _runs(line.clusters, line.rtl):
        runs.append(Run(tuple(clusters), rtl))
    return runs[::-1] if line.rtl else runs


def strong_direction(cluster: Cluster) -> str:
    """``"rtl"`` or ``"ltr"`` for a cluster that has a direction of its own, ``""`` for neutral signs and digits."""
    if cluster.kind in (SPACE, NEWLINE):
        return ""
    if cluster.kind != TEXT:
        return "ltr"
    kinds = {unicodedata.bidirectional(character) for character in cluster.text}
    if kinds & {"R", "AL"}:
        return "rtl"
    return "ltr" if "L" in kinds else ""


def is_digit(cluster: Cluster) -> bool:
    """Whether a cluster is a digit: digits stand from left to right everywhere, and go with the letters before."""
    return unicodedata.bidirectional(cluster.text[0]) in ("EN", "AN")


def _paragraphs(clusters: Sequence[Cluster]) -> Iterable[list[Cluster]]:
    paragraph: list[Cluster] = []
    for cluster in clusters:
        paragraph.append(cluster)
        if cluster.kind == NEWLINE:
            yield paragraph
            paragraph = []
    if paragraph:
        yield paragraph


def _base_direction(paragraph: Sequence[Cluster]) -> bool:
    """Right to left if the first letter of the paragraph is (rules P2 and P3); marks do not count."""
    for cluster in paragraph:
        if cluster.kind == TEXT and (direction := strong_direction(cluster)):
            return direction == "rtl"
    return False


def _words(paragraph: Sequence[Cluster]) -> list[list[Cluster]]:
    """Cut between clusters wherever a line may end."""
    words = [[paragraph[0]]]
    for before, here in pairwise(paragraph):
        if _may_break(before, here):
            words.append([here])
        else:
            words[-1].append(here)
    return words


def _may_break(before: Cluster, here: Cluster) -> bool:
    if here.kind == NEWLINE:
        return False
    if SPACE in (before.kind, here.kind) or before.kind == MARK or before.text in _BREAK_AFTER:
        return True
    if here.text in _NO_BREAK_BEFORE or before.text in _NO_BREAK_AFTER:
        return False
    return _is_wide(before) or _is_wide(here)


def _is_wide(cluster: Cluster) -> bool:
    return cluster.kind == TEXT and unicodedata.east_asian_width(cluster.text[0]) in "WF"


def _fill(words: list[list[Cluster]], measure: Callable[[Cluster], float], width: float) -> Iterable[list[Cluster]]:
    line: list[Cluster] = []
    used = 0.0
    for word in words:
        needed = sum(measure(cluster) for cluster in word)
        if line and used + needed > width:
            if _is_blank(word[0]) and len(word) == 1:
                yield line
                line, used = [], 0.0
                continue
            while line and _is_blank(line[-1]):
                line.pop()
            if line:
                yield line
            line, used = [], 0.0
        for cluster in word:
            size = measure(cluster)
            if line and used + size > width:
                yield line
                line, used = [], 0.0
            line.append(cluster)
            used += size
    if line:
        yield line


def _is_blank(cluster: Cluster) -> bool:
    return cluster.kind == SPACE and cluster.text == " "


def _runs(clusters: Sequence[Cluster], base_rtl: bool) -> list[tuple[list[Cluster], bool]]:
    """Runs in logical order: the opposite direction reaches from its first letter to its last one or last digit."""
    opposite = "ltr" if base_rtl else "rtl"
    runs: list[tuple[list[Cluster], bool]] = []
    index = 0
    while index < len(clusters):
        end = _end_of_opposite(clusters, index, opposite)
        if end > index:
            runs.append((list(clusters[index:end]), not base_rtl))
            index = end
            continue
        if runs and runs[-1][1] == base_rtl:
            runs[-1][0].append(clusters[index])
        else:
            runs.append(([clusters[index]], base_rtl))
        index += 1
    return runs


def _end_of_opposite(clusters: Sequence[Cluster], start: int, opposite: str) -> int:
    if strong_direction(clusters[start]) != opposite:
        return start
    end = start + 1
    for index in range(start + 1, len(clusters)):
        direction = strong_direction(clusters[index])
        if direction and direction != opposite:
            break
        if direction == opposite or is_digit(clusters[index]):
            end = index + 1
    return end
