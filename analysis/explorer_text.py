"""An example's text as the explorer's page reads it: segments, each of one look and of one token or a few.

A segment is the longest stretch of clusters (``analysis/token_text.py``) that share their tokens and their kind. It is
written as short as possible, because a page holds tens of thousands of them: a plain string is text of the next token;
anything else is the list ``[kind, shown, token, ...]``, tokens counted from 0 in their example. In a prompt a plain
string is text without a token, and there are no others.

Kinds: ``t`` text, ``s`` spaces to be seen, ``n`` the end of a line, ``b`` a tab, ``m`` a mark for something invisible,
``x`` the name of a special token. What stands for something else (``n`` to ``x``) is drawn but not part of the text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from analysis.token_text import MARK, NEWLINE, SPACE, SPECIAL, Cluster, Token, completion_clusters, cut_middle

Segment = str | list[Any]

PROMPT_CHARACTERS = 20_000
_SNIPPET_CHARACTERS = 160
_TEXT, _TAB, _TAB_MARK = "t", "b", "⇥"
_KINDS = {MARK: "m", SPECIAL: "x", NEWLINE: "n"}
_APART = ("n", _TAB)  # one mark for each: two line ends are not one


def completion_blocks(
    prompt: str, completion: str, tokens: Sequence[Token], turn_N: Sequence[int], messages: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The scored turns of one example, each with what was said before it.

    Args:
        prompt: Text before the first completion token.
        completion: What all completion tokens spell, turn after turn.
        tokens: The completion tokens in order.
        turn_N: Message index of each of them.
        messages: The conversation, objects with ``role`` and ``content``.

    Returns:
        One object per turn: ``before``, a list of ``[role, segments]`` (role "prompt" for the text as the model got
        it), ``segments`` of the completion, and ``names`` of the tokens that only spell a part of a character.
    """
    blocks: list[dict[str, Any]] = []
    turn: int | None = None
    clusters: list[Cluster] = []
    for cluster in completion_clusters(completion, tokens):
        here = turn_N[cluster.tokens[0]] if cluster.tokens else turn
        if here != turn and turn is not None:
            blocks.append(_block(clusters, tokens))
            blocks[-1]["turn"] = turn
            clusters = []
        turn = here
        clusters.append(cluster)
    blocks.append({**_block(clusters, tokens), "turn": turn})
    previous: int | None = None
    for block in blocks:
        here = block.pop("turn")
        block["before"] = _prompt(prompt) if previous is None else _between(messages, previous, here or 0)
        previous = here or 0
    return blocks


def context_segments(text: str) -> list[Segment]:
    """Unscored text, of a very long one without its middle; spaces stay blank, all else that is invisible is marked."""
    clusters = completion_clusters(cut_middle(text, PROMPT_CHARACTERS), ())
    return [
        shown if kind == _TEXT else [kind, shown]
        for kind, shown, _ in _merged(
            (_TEXT if kind == "s" else kind, text, held) for kind, text, held in _read(clusters)
        )
    ]


def snippet(prompt: str, completion: str, messages: Sequence[dict[str, Any]], first_turn: int) -> str:
    """What an example is recognised by in a list: what was last said before its first scored turn."""
    said = [str(message.get("content") or "") for message in messages[:first_turn]]
    text = next((one for one in reversed(said) if one.strip()), "") or completion or prompt
    plain = "".join(
        character if unicodedata.category(character) not in ("Cc", "Cf", "Cs") else " " for character in text
    )
    shown = " ".join(plain.split())
    return shown if len(shown) <= _SNIPPET_CHARACTERS else shown[: _SNIPPET_CHARACTERS - 1] + "…"


def _prompt(prompt: str) -> list[list[Any]]:
    return [["prompt", context_segments(prompt)]] if prompt else []


def _between(messages: Sequence[dict[str, Any]], last: int, following: int) -> list[list[Any]]:
    said = messages[last + 1 : following]
    return [[str(message.get("role")), context_segments(str(message.get("content") or ""))] for message in said]


def _block(clusters: Sequence[Cluster], tokens: Sequence[Token]) -> dict[str, Any]:
    segments: list[Segment] = []
    names: dict[str, str] = {}
    following = min((cluster.tokens[0] for cluster in clusters if cluster.tokens), default=0)
    first = following
    for kind, shown, held in _merged(_read(clusters)):
        segments.append(shown if kind == _TEXT and held == (following,) else [kind, shown, *held])
        following = held[-1] + 1 if held else following
        if len(held) > 1:
            names.update({str(token): tokens[token].text for token in held})
    return {"first": first, "segments": segments, "names": names}


def _read(clusters: Iterable[Cluster]) -> Iterable[tuple[str, str, tuple[int, ...]]]:
    """Each cluster as kind, what is shown, tokens."""
    for cluster in clusters:
        kind = _KINDS.get(cluster.kind, _TEXT)
        shown = cluster.text
        if cluster.kind == SPACE and shown != " ":
            kind, shown = "s", " "
        elif kind == "m" and shown.startswith(_TAB_MARK):
            kind, shown = _TAB, _TAB_MARK
        yield kind, shown, cluster.tokens


def _merged(pieces: Iterable[tuple[str, str, tuple[int, ...]]]) -> list[tuple[str, str, tuple[int, ...]]]:
    merged: list[tuple[str, str, tuple[int, ...]]] = []
    for kind, shown, held in pieces:
        if merged and merged[-1][0] == kind and merged[-1][2] == held and kind not in _APART:
            shown = merged.pop()[1] + shown
        merged.append((kind, shown, held))
    return merged
