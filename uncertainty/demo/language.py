"""The demo language: generated conversations whose every completion token has a known distribution.

A conversation is one or two questions with their answers. An answer is written by a small generator
that yields one `Point` per token, its true distribution, and is sent the word that came. Sampling sends
a drawn word, the oracle sends the word that stands in the text: one program is both the source of the
text and the truth about it, and since it receives nothing but the past words, no hidden state enters.

Seven token classes, each with one cause of spread:

=============  ===================================================  =====================================
class          what it is                                           what it is there for
=============  ===================================================  =====================================
structure      words and marks fixed by the grammar; entropy 0      the floor: both uncertainties near 0
copy           a word to be found in the context; entropy 0         known only by attending to the past
arithmetic     sign or result of a step; entropy 0                  known by rule, learnt by practice
fact           a stock fact of Zipf frequency; entropy 0            ignorance: the more seldom told, the
                                                                    more is left to learn
choice         synonyms and style; probabilities fixed by the past  irreducible spread that can be learnt
               (the greeting sets the tone, the sky the wind)       exactly
draw           a die with the stated number of sides, uniform       large irreducible spread, no ignorance
label          a mood known by rule from a word, then corrupted at  noise on top of a rule: the loss of a
               a rate that the reader's habit states                wrong label stays high for ever
=============  ===================================================  =====================================

What can be held against it: *entropy* and *aleatoric* against the true entropy, token by token; loss
against -log of the true probability, whose mean difference over tokens estimates the KL divergence from
the truth, the reducible error; epistemic against that reducible error and against how often a fact was
told. What cannot: *epistemic* has no true value here, being a property of the family of members that was
chosen and not of the language. And for a fact never told the true entropy is 0 although nobody could
know the value: there the best a reader of the training text can do is to spread over that relation's
values, so a high entropy is right of the model and its distance from the true 0 is not an error of the
estimate.

Held out: a conversation is held out if the CRC-32 of its first message is 0 modulo `HELD_OUT_MODULUS`;
training has none with such an opening. The split looks at the opening question only, never at an answer,
and so leaves the distribution of the answers as stated.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from uncertainty.demo.facts import VALUE_OF, fact_name
from uncertainty.demo.questions import Question, draw, draw_new_fact_question, draw_question, read_question
from uncertainty.demo.words import ADJECTIVES_OF, END, MOOD_OF, SIGN_OF, join_words, split_words

HELD_OUT_SEED: Final = 2503
HELD_OUT_CONVERSATIONS: Final = 128
HELD_OUT_MODULUS: Final = 16
FINE_TUNE_SEED: Final = 16511
FINE_TUNE_CONVERSATIONS: Final = 512
FINE_TUNE_HELD_OUT_CONVERSATIONS: Final = 64
SECOND_QUESTION_PROBABILITY: Final = 0.35
TOKEN_CLASSES: Final = ("structure", "copy", "arithmetic", "fact", "choice", "draw", "label")

OPENER: Final = {"Well": 0.6, "Sure": 0.3, "Gladly": 0.1}
OPENER_IF_GREETED: Final = {"Well": 0.1, "Sure": 0.3, "Gladly": 0.6}
FACT_VERB: Final = {"is": 0.6, "remains": 0.25, "stays": 0.15}
OWN_VERB: Final = {"has": 0.5, "owns": 0.3, "keeps": 0.2}
DIE_VERB: Final = {"shows": 0.8, "reads": 0.2}
MOOD_VERB: Final = {"noted": 0.7, "wrote": 0.3}
NOISE_OF: Final[Mapping[str, float]] = {"careful": 0.02, "steady": 0.1, "hasty": 0.3, "sleepy": 0.6}
"""Habit of a reader -> probability that the label is not the true mood (either other one, equally)."""
SKY: Final = {"clear": 0.4, "cloudy": 0.3, "rainy": 0.2, "stormy": 0.1}
WIND_GIVEN_SKY: Final[Mapping[str, Mapping[str, float]]] = {
    "clear": {"calm": 0.7, "mild": 0.25, "fresh": 0.05},
    "cloudy": {"calm": 0.3, "mild": 0.5, "fresh": 0.2},
    "rainy": {"calm": 0.05, "mild": 0.45, "fresh": 0.4, "strong": 0.1},
    "stormy": {"fresh": 0.1, "strong": 0.9},
}
CLOSING: Final = {END: 0.75, "Ask": 0.15, "Good": 0.1}
AFTER_CLOSING: Final[Mapping[str, str]] = {"Ask": "me more.", "Good": "luck."}


@dataclass(frozen=True, slots=True)
class Point:
    """One token to be produced: the true distribution over words, its class, and the fact it tells."""

    probabilities: Mapping[str, float]
    token_class: str
    fact: str | None = None


Answer = Generator[Point, str, None]
Message = dict[str, str]


def generate(n: int, seed: int, *, held_out: bool = False) -> Iterator[dict[str, Any]]:
    """Yield ``n`` conversations as rows of the ``messages`` format.

    Args:
        n: Number of conversations, >= 0.
        seed: Seed; the same conversations on every platform and Python version.
        held_out: Draw from the held-out part (see the module's docstring), else from the training part.

    Yields:
        ``{"id": "demo-00000", "kind": kinds of its questions joined by "+", "messages": [...]}``
    """
    rng = random.Random(seed)
    for number in range(n):
        yield _row(f"demo-{number:05d}", _draw_conversation(rng, held_out))


def held_out_jsonl() -> str:
    """Return the text of ``data/held_out.jsonl``: `HELD_OUT_CONVERSATIONS` rows from `HELD_OUT_SEED`."""
    rows = generate(HELD_OUT_CONVERSATIONS, HELD_OUT_SEED, held_out=True)
    return "".join(json.dumps(row) + "\n" for row in rows)


def fine_tune_jsonl(*, held_out: bool = False) -> str:
    """Return the text of ``data/fine_tune.jsonl``, or of ``data/fine_tune_held_out.jsonl``.

    Rows that ask for one of the facts never told, then perhaps something else: a stand-in for post-training data, with
    knowledge that the embedded model lacks and can learn. The held-out rows ask for the same facts in other
    conversations, none of whose openings opens one of the others.
    """
    rng = random.Random(FINE_TUNE_SEED + held_out)
    rows = []
    for number in range(FINE_TUNE_HELD_OUT_CONVERSATIONS if held_out else FINE_TUNE_CONVERSATIONS):
        text = draw_new_fact_question(rng)
        while is_held_out(text) != held_out:
            text = draw_new_fact_question(rng)
        rows.append(_row(f"new-{number:05d}", _continued(text, rng, held_out=False)))
    return "".join(json.dumps(row) + "\n" for row in rows)


def is_held_out(first_message: str) -> bool:
    """Say whether a conversation that opens with this user message belongs to the held-out part."""
    return zlib.crc32(first_message.encode()) % HELD_OUT_MODULUS == 0


def answer(question: Question, person: str | None) -> Answer:
    """Yield the `Point` of every token of the answer, ``<|end|>`` included; expects each word sent back.

    Args:
        question: The question to answer.
        person: The name that the user gave in this or an earlier message, None without one.
    """
    yield Point(OPENER_IF_GREETED if question.greeted else OPENER, "choice")
    yield from _fixed(",")
    if person:
        yield from _given(person, "copy")
        yield from _fixed(",")
    yield from _ANSWERS[question.kind](question)
    yield from _fixed(".")
    closing = yield Point(CLOSING, "choice")
    if closing != END:
        yield from _fixed(AFTER_CLOSING[closing])
        yield from _fixed(END)


def draw_answer(points: Answer, rng: random.Random) -> list[str]:
    """Draw every word of an answer from its own distribution; leaves out the closing ``<|end|>``."""
    words = [draw(next(points).probabilities, rng)]
    while words[-1] != END:
        words.append(draw(points.send(words[-1]).probabilities, rng))
    return words[:-1]


def _row(name: str, messages: list[Message]) -> dict[str, Any]:
    kinds = [question.kind for m in messages[::2] if (question := read_question(m["content"]))]
    return {"id": name, "kind": "+".join(kinds), "messages": messages}


def _draw_conversation(rng: random.Random, held_out: bool) -> list[Message]:
    text = draw_question(rng, may_greet=True, held_out=held_out)
    while is_held_out(text) != held_out:
        text = draw_question(rng, may_greet=True, held_out=held_out)
    return _continued(text, rng, held_out=held_out)


def _continued(text: str, rng: random.Random, *, held_out: bool) -> list[Message]:
    """The conversation that opens with ``text``: its answer, then perhaps a second question with its own."""
    messages, person = _draw_turn(text, None, rng)
    if rng.random() < SECOND_QUESTION_PROBABILITY:
        messages += _draw_turn(draw_question(rng, may_greet=False, held_out=held_out), person, rng)[0]
    return messages


def _draw_turn(text: str, person: str | None, rng: random.Random) -> tuple[list[Message], str | None]:
    question = read_question(text)
    if question is None:
        raise AssertionError(f"the demo language draws a question that it cannot read: {text!r}")
    person = question.person or person
    content = join_words(draw_answer(answer(question, person), rng))
    return [{"role": "user", "content": text}, {"role": "assistant", "content": content}], person


def _answer_fact(question: Question) -> Answer:
    """Answer as "the capital of Veldora is Aldford, the river is Arne and the ruler remains Ilda"."""
    country = question.slots["country"]
    relations = question.series("relation")
    for i, relation in enumerate(relations):
        if i:
            yield from _fixed("and" if i == len(relations) - 1 else ",")
        yield from _fixed("the")
        yield from _given(relation, "copy")
        if i == 0:
            yield from _fixed("of")
            yield from _given(country, "copy")
        yield Point(FACT_VERB, "choice")
        fact = fact_name(relation, country)
        yield Point({VALUE_OF[fact]: 1.0}, "fact", fact)


def _answer_sum(question: Question) -> Answer:
    """Answer as "12 + 5 = 17, 17 - 3 = 14, so Bran has 14 coins"."""
    total = question.slots["start"]
    for verb, step in zip(question.series("verb"), question.series("number"), strict=True):
        yield from _given(total, "copy")
        yield from _given(SIGN_OF[verb], "arithmetic")
        yield from _given(step, "copy")
        yield from _fixed("=")
        total = str(int(total) + int(SIGN_OF[verb] + step))
        yield from _given(total, "arithmetic")
        yield from _fixed(",")
    yield from _fixed("so")
    yield from _given(question.slots["who"], "copy")
    yield Point(OWN_VERB, "choice")
    yield from _given(total, "copy")
    yield from _given(question.slots["thing"], "copy")


def _answer_die(question: Question) -> Answer:
    """Answer as "the die shows 5"."""
    yield from _fixed("the die")
    yield Point(DIE_VERB, "choice")
    sides = int(question.slots["sides"])
    yield Point({str(side): 1 / sides for side in range(1, sides + 1)}, "draw")


def _answer_mood(question: Question) -> Answer:
    """Answer as "the hasty reader noted a negative mood"."""
    yield from _fixed("the")
    yield from _given(question.slots["habit"], "copy")
    yield from _fixed("reader")
    yield Point(MOOD_VERB, "choice")
    yield from _fixed("a")
    noise, true_mood = NOISE_OF[question.slots["habit"]], MOOD_OF[question.slots["adjective"]]
    others = len(ADJECTIVES_OF) - 1
    yield Point({mood: 1 - noise if mood == true_mood else noise / others for mood in ADJECTIVES_OF}, "label")
    yield from _fixed("mood")


def _answer_weather(question: Question) -> Answer:
    """Answer as "the sky over Veldora is cloudy and the wind is mild"."""
    yield from _fixed("the sky over")
    yield from _given(question.slots["country"], "copy")
    yield from _fixed("is")
    sky = yield Point(SKY, "choice")
    yield from _fixed("and the wind is")
    yield Point(WIND_GIVEN_SKY[sky], "choice")


def _fixed(text: str) -> Answer:
    for word in split_words(text):
        yield Point({word: 1.0}, "structure")


def _given(word: str, token_class: str) -> Answer:
    yield Point({word: 1.0}, token_class)


_ANSWERS: Final[Mapping[str, Callable[[Question], Answer]]] = {
    "fact": _answer_fact,
    "sum": _answer_sum,
    "die": _answer_die,
    "mood": _answer_mood,
    "weather": _answer_weather,
}
