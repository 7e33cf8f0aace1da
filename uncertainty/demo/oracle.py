"""The truth about a conversation of the demo language: distribution and entropy at every completion token."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from uncertainty.demo.language import Answer, Point, answer
from uncertainty.demo.questions import read_question
from uncertainty.demo.words import END, ID_OF, split_words
from uncertainty.errors import InputError

FACTS_SEEN_PATH: Final = Path(__file__).resolve().parent / "data" / "facts_seen.json"
FACT_BIN_STARTS: Final = (0, 1, 10, 30, 100, 300, 1000)


@dataclass(frozen=True)
class TokenTruth:
    """What is true of one completion token, given everything before it.

    Attributes:
        turn: Index of its message in the conversation.
        token: The word that stands there, ``<|end|>`` included.
        token_id: Its id in the demo tokenizer.
        token_class: One of `uncertainty.demo.language.TOKEN_CLASSES`.
        entropy: Entropy of the true distribution, nats, >= 0.
        distribution: Token id -> true probability, > 0; ids not in it have probability 0. Sums to 1.
        fact: Name of the fact that the token tells, None for other classes.
        fact_seen: How often that fact was told in the training of the embedded model, None likewise.
    """

    turn: int
    token: str
    token_id: int
    token_class: str
    entropy: float
    distribution: Mapping[int, float]
    fact: str | None
    fact_seen: int | None

    @property
    def probability(self) -> float:
        """True probability of the token that stands there, > 0."""
        return self.distribution[self.token_id]

    @property
    def loss(self) -> float:
        """-log of that probability, nats: the loss of a perfect model."""
        return -math.log(self.probability) + 0.0


def oracle(example: Mapping[str, Any], *, seen: Mapping[str, int] | None = None) -> list[TokenTruth]:
    """Return the truth of every completion token of a conversation, turn after turn, in reading order.

    Args:
        example: A row of the demo data: ``messages``, a list of ``{"role", "content"}``, and ``id``.
        seen: How often each fact was told in training; None for the training of the embedded model.

    Raises:
        InputError: The conversation is not of the demo language; the message says where.
    """
    seen = facts_seen() if seen is None else seen
    return [_truth(turn, word, point, seen) for turn, word, point in read_points(example)]


def read_points(example: Mapping[str, Any]) -> list[tuple[int, str, Point]]:
    """Return (turn, word, `Point`) of every completion token; ``example`` and Raises as in `oracle`."""
    messages: Sequence[Mapping[str, str]] = example["messages"]
    where = f"example {example.get('id', '(no id)')!r}"
    read: list[tuple[int, str, Point]] = []
    person: str | None = None
    for turn in range(0, len(messages), 2):
        if [message["role"] for message in messages[turn : turn + 2]] != ["user", "assistant"]:
            raise InputError(f"{where}, turn {turn}: the demo language alternates user and assistant messages")
        asked = messages[turn]["content"]
        question = read_question(asked)
        if question is None:
            raise InputError(f"{where}, turn {turn}: not a question of the demo language: {asked!r}")
        person = question.person or person
        words = [*split_words(messages[turn + 1]["content"]), END]
        points = _follow(answer(question, person), words, f"{where}, turn {turn + 1}")
        read.extend((turn + 1, word, point) for word, point in zip(words, points, strict=True))
    return read


def fact_group(seen: int) -> str:
    """Return the frequency group of a fact told ``seen`` times, as "fact, told 10-29 times"."""
    index = bisect_right(FACT_BIN_STARTS, seen) - 1
    start, following = FACT_BIN_STARTS[index], (*FACT_BIN_STARTS, None)[index + 1]
    if following is None:
        return f"fact, told {start}+ times"
    return f"fact, told {start if following == start + 1 else f'{start}-{following - 1}'} times"


@cache
def facts_seen() -> Mapping[str, int]:
    """Return how often each fact was told in the training of the embedded model, by fact name."""
    counts: dict[str, int] = json.loads(FACTS_SEEN_PATH.read_text(encoding="utf-8"))
    return counts


def _follow(points: Answer, words: Sequence[str], where: str) -> list[Point]:
    """Drive an answer with the words of a text; each must be possible where it stands, up to ``<|end|>``."""
    followed = [next(points)]
    for index, word in enumerate(words):
        ends_early = word == END and index < len(words) - 1
        if ends_early or not followed[-1].probabilities.get(word):
            expected = ", ".join(repr(token) for token in followed[-1].probabilities)
            raise InputError(f"{where}, token {index}: {word!r} is impossible here, the demo language has {expected}")
        if word != END:
            followed.append(points.send(word))
    return followed


def _truth(turn: int, word: str, point: Point, seen: Mapping[str, int]) -> TokenTruth:
    probabilities = point.probabilities
    return TokenTruth(
        turn=turn,
        token=word,
        token_id=ID_OF[word],
        token_class=point.token_class,
        entropy=-math.fsum(p * math.log(p) for p in probabilities.values()) + 0.0,
        distribution={ID_OF[token]: p for token, p in probabilities.items()},
        fact=point.fact,
        fact_seen=None if point.fact is None else seen[point.fact],
    )
