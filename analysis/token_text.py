"""What a token looks like: completion text cut into the smallest things that can be drawn and coloured.

A model's tokens do not end where characters end: three tokens may spell one CJK character, one token may hold
half an accent. Here the text is cut into grapheme clusters (what a reader sees as one character), each knows the
tokens that spell it, and everything invisible (spaces at the edge of a word, line breaks, tabs, control
characters, direction overrides) is turned into a visible mark. Nothing here knows colours, fonts or widths.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

TEXT, SPACE, MARK, SPECIAL, NEWLINE = "text", "space", "mark", "special", "newline"

_BYTES = re.compile(r"(?:<0x[0-9A-Fa-f]{2}>)+")
_VIRAMAS = frozenset("\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d")
_ZERO_WIDTH_JOINER = "\u200d"
_TAB_MARK = "⇥   "
_MAX_CODE_POINTS_SHOWN = 3


@dataclass(frozen=True)
class Token:
    """One completion token as the score table has it: its reading and its place in the completion's text."""

    text: str
    char_start: int
    char_end: int
    is_special: bool


@dataclass(frozen=True)
class Cluster:
    """The smallest thing drawn whole: one grapheme cluster, or the mark that stands for something invisible.

    Attributes:
        text: What is drawn; never a control character, never a line break, never a direction override.
        tokens: Indices of the tokens that spell it, in order; several when tokens are pieces of one character,
            none for text that is not scored.
        kind: ``text``, ``space`` (drawn as a blank or as ``·``), ``mark`` (stands for something invisible),
            ``special`` (a piece of a special token's name) or ``newline`` (a mark after which the line ends).
    """

    text: str
    tokens: tuple[int, ...]
    kind: str

    @property
    def style(self) -> str:
        """How it is set: ``mark`` and ``special`` differ from ``text``, spaces and line ends do not."""
        return self.kind if self.kind in (MARK, SPECIAL) else TEXT


def completion_clusters(completion: str, tokens: Sequence[Token]) -> list[Cluster]:
    """Cut a completion into clusters that know their tokens.

    Args:
        completion: What all completion tokens spell.
        tokens: The completion tokens in order; ``char_start`` and ``char_end`` index into ``completion``. Pieces
            of one character may share its range, or all but the last may have an empty one.

    Returns:
        Clusters in the order of the text. Every token is in at least one of them.
    """
    owners = _tokens_by_character(completion, tokens)
    clusters: list[Cluster] = []
    start = 0
    for cluster in _cut_at_special_tokens(completion, tokens):
        end = start + len(cluster)
        clusters.extend(_without_text(owners[start], tokens))
        held = sorted({token for owner in owners[start:end] for token in owner.holding})
        clusters.extend(_shown(cluster, tuple(held), tokens))
        start = end
    clusters.extend(_without_text(owners[len(completion)], tokens))
    return _with_visible_spaces(clusters)


def context_clusters(text: str) -> list[Cluster]:
    """Cut unscored text (a prompt, a user's turn) into clusters without tokens; line breaks become inline marks."""
    clusters = [shown for cluster in grapheme_clusters(text) for shown in _shown(cluster, (), ())]
    inline = [replace(cluster, kind=MARK) if cluster.kind == NEWLINE else cluster for cluster in clusters]
    return _with_visible_spaces(inline)


def cut_middle(text: str, max_characters: int) -> str:
    """Shorten a text by leaving out its middle, and say how much is left out.

    >>> cut_middle("abcdefghij", 4)
    'ab […6 characters left out…] ij'
    """
    if len(text) <= max_characters:
        return text
    head = (max_characters + 1) // 2
    tail = max_characters - head
    left_out = len(text) - max_characters
    return f"{text[:head]} […{left_out:,} characters left out…] {text[len(text) - tail :]}".rstrip()


def code_points(text: str) -> str:
    r"""Name a text that cannot be drawn by its code points, at most three of them.

    >>> code_points("漢"), code_points("e\u0301"), code_points("👨‍👩‍👧")
    ('‹U+6F22›', '‹U+0065+0301›', '‹U+1F468+200D+1F469+…›')
    """
    named = [f"{ord(character):04X}" for character in text if character not in "\ufe0e\ufe0f"]
    shown = [*named[:_MAX_CODE_POINTS_SHOWN], "…"] if len(named) > _MAX_CODE_POINTS_SHOWN else named
    return f"‹U+{'+'.join(shown)}›"


def grapheme_clusters(text: str) -> list[str]:
    r"""Cut a text into what a reader sees as characters.

    Source: Unicode Standard Annex 29, rules GB3-GB13, from the general categories that Python knows; the rare
    prepended marks (GB9b) are left out, and a pictograph is taken to be a symbol (So) or one of the arrows and
    signs that have an emoji form.

    >>> grapheme_clusters("e\u0301a👩‍👧🇫🇷")
    ['é', 'a', '👩‍👧', '🇫🇷']
    """
    if text.isascii() and "\r\n" not in text:
        return list(text)
    starts = [0] if text else []
    for index in range(1, len(text)):
        if not _continues_cluster(text, starts[-1], index):
            starts.append(index)
    return [text[start:end] for start, end in pairwise([*starts, len(text)])]


@dataclass
class _Owner:
    """Which tokens hold a character, and which tokens without any text stand before it."""

    holding: list[int]
    before: list[int]


def _without_text(owner: _Owner, tokens: Sequence[Token]) -> list[Cluster]:
    return [Cluster("".join(map(_spelled_out, tokens[token].text)) or "∅", (token,), MARK) for token in owner.before]


def _tokens_by_character(completion: str, tokens: Sequence[Token]) -> list[_Owner]:
    owners = [_Owner([], []) for _ in range(len(completion) + 1)]
    for index, token in enumerate(tokens):
        for position in range(token.char_start, token.char_end):
            owners[position].holding.append(index)
    for index, token in enumerate(tokens):
        if token.char_start < token.char_end:
            continue
        # A piece with an empty range belongs to the character that the next piece completes; anything else
        # without text (a marker that decodes to nothing) is drawn on its own.
        completed = owners[token.char_start].holding
        if _BYTES.fullmatch(token.text) and any(holder > index for holder in completed):
            completed.append(index)
        else:
            owners[token.char_start].before.append(index)
    return owners


def _cut_at_special_tokens(completion: str, tokens: Sequence[Token]) -> list[str]:
    """Grapheme clusters, with each special token's whole name as one, so that nothing joins across its edges."""
    pieces: list[str] = []
    done = 0
    for token in tokens:
        if token.is_special and token.char_start >= done and token.char_end > token.char_start:
            pieces.extend(grapheme_clusters(completion[done : token.char_start]))
            pieces.append(completion[token.char_start : token.char_end])
            done = token.char_end
    return pieces + grapheme_clusters(completion[done:])


def _shown(cluster: str, held: tuple[int, ...], tokens: Sequence[Token]) -> list[Cluster]:
    """The clusters that stand for one piece of text: usually itself, or a mark where it is invisible."""
    if len(held) == 1 and tokens[held[0]].is_special:
        name = "".join(_spelled_out(character) for character in cluster)
        return [Cluster(character, held, SPECIAL) for character in name]
    if cluster == " ":
        return [Cluster(" ", held, SPACE)]
    if cluster in ("\n", "\r\n", "\r"):
        return [Cluster("↵" if cluster == "\n" else f"{code_points(cluster)} ↵", held, NEWLINE)]
    if cluster == "\t":
        return [Cluster(_TAB_MARK, held, MARK)]
    if cluster == "\ufffd" and held and all(_BYTES.fullmatch(tokens[token].text) for token in held):
        return [Cluster("".join(tokens[token].text for token in held), held, MARK)]
    if _is_invisible(cluster[0]):
        return [Cluster(code_points(cluster), held, MARK)]
    if unicodedata.category(cluster[0]).startswith("M"):
        return [Cluster("◌" + cluster, held, TEXT)]
    return [Cluster(cluster, held, TEXT)]


def _spelled_out(character: str) -> str:
    return code_points(character) if _is_invisible(character) and character != " " else character


def _is_invisible(character: str) -> bool:
    """Controls, format characters (direction overrides too), separators but the space, unassigned, private."""
    return unicodedata.category(character)[0] in "CZ" and character != " "


def _with_visible_spaces(clusters: list[Cluster]) -> list[Cluster]:
    """Keep a blank only between two words; every other space becomes ``·``, so that it can be seen and counted."""
    shown = list(clusters)
    for index, cluster in enumerate(clusters):
        if cluster.kind != SPACE:
            continue
        before = clusters[index - 1] if index else None
        after = clusters[index + 1] if index + 1 < len(clusters) else None
        doubled = before is not None and before.kind == SPACE
        at_edge = after is None or after.kind in (SPACE, NEWLINE)
        is_whole_token = bool(cluster.tokens) and all(
            neighbour is None or neighbour.tokens != cluster.tokens for neighbour in (before, after)
        )
        if doubled or at_edge or is_whole_token:
            shown[index] = replace(cluster, text="·")
    return shown


def _continues_cluster(text: str, start: int, index: int) -> bool:
    """Whether ``text[index]`` belongs to the cluster that began at ``start``."""
    before, here = text[index - 1], text[index]
    if before == "\r" and here == "\n":
        return True
    if _is_control(before) or _is_control(here):
        return False
    if _extends(here) or here == _ZERO_WIDTH_JOINER or _joins_hangul(before, here):
        return True
    if before == _ZERO_WIDTH_JOINER and _is_pictograph(text[start]) and _is_pictograph(here):
        return True
    if _is_regional_indicator(here) and _is_regional_indicator(before):
        return (index - start) % 2 == 1
    return _joins_conjunct(text[start:index], here)


def _is_control(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cf":
        return character not in ("\u200c", _ZERO_WIDTH_JOINER) and not 0xE0020 <= ord(character) <= 0xE007F
    return category in ("Cc", "Zl", "Zp", "Cs")


def _extends(character: str) -> bool:
    code = ord(character)
    return (
        unicodedata.category(character) in ("Mn", "Me", "Mc")
        or character == "\u200c"
        or 0x1F3FB <= code <= 0x1F3FF
        or 0xE0020 <= code <= 0xE007F
        or code in (0x0E33, 0x0EB3, 0xFF9E, 0xFF9F)
    )


def _is_regional_indicator(character: str) -> bool:
    return 0x1F1E6 <= ord(character) <= 0x1F1FF


def _is_pictograph(character: str) -> bool:
    return (
        unicodedata.category(character) == "So"
        or character in "‼⁉↔↕↖↗↘↙↩↪⤴⤵〰"
        or ord(character) in range(0x1F000, 0x1FB00)
    )


def _joins_hangul(before: str, here: str) -> bool:
    """Conjoining jamo: L then L, V or a syllable; V or an open syllable then V or T; T or any syllable then T."""
    first, second = _hangul_type(before), _hangul_type(here)
    follows = {"L": ("L", "V", "LV", "LVT"), "LV": ("V", "T"), "V": ("V", "T"), "LVT": ("T",), "T": ("T",)}
    return second in follows.get(first, ())


def _hangul_type(character: str) -> str:
    code = ord(character)
    if 0xAC00 <= code <= 0xD7A3:
        return "LVT" if (code - 0xAC00) % 28 else "LV"
    for name, low, high in _JAMO:
        if low <= code <= high:
            return name
    return ""


def _joins_conjunct(cluster: str, here: str) -> bool:
    """Indic conjuncts (GB9c): a consonant after consonant + virama of the same script's block."""
    ending = cluster.rstrip(_ZERO_WIDTH_JOINER)
    same_block = bool(ending) and ord(ending[-1]) // 128 == ord(here) // 128
    return same_block and ending[-1] in _VIRAMAS and len(ending) > 1 and unicodedata.category(here) == "Lo"


_JAMO = (
    ("L", 0x1100, 0x115F),
    ("L", 0xA960, 0xA97C),
    ("V", 0x1160, 0x11A7),
    ("V", 0xD7B0, 0xD7C6),
    ("T", 0x11A8, 0x11FF),
    ("T", 0xD7CB, 0xD7FB),
)
