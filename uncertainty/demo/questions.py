"""The questions of the demo language: their wordings, how they are drawn, and how a text is read back.

Questions are never scored, so their distribution is free: the held-out part asks for facts more evenly
than training does, so that rare and never-told ones come up. What a question means is read from its
text alone (`read_question`), by the oracle and by the generator alike.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from uncertainty.demo.facts import COUNTRIES, N_NEVER_TOLD, RANKED_FACTS, RELATIONS, TOLD_WEIGHT, fact_name
from uncertainty.demo.words import HABITS, MAX_NUMBER, MOOD_OF, PEOPLE, SIDES, SIGN_OF, THINGS, WORKS

GREETINGS: Final[Mapping[str, float]] = {"": 0.4, "I am {person}. ": 0.3, "Hello, I am {person}. ": 0.3}
KINDS: Final[Mapping[str, float]] = {"fact": 0.38, "sum": 0.17, "die": 0.16, "mood": 0.19, "weather": 0.1}
WORDINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "fact": (
        "What is the {relation_1} of {country}?",
        "What are the {relation_1} and the {relation_2} of {country}?",
        "What are the {relation_1}, the {relation_2} and the {relation_3} of {country}?",
    ),
    "sum": (
        "{who} has {start} {thing} and {verb_1} {number_1}. How many {thing} does {who} have?",
        "{who} has {start} {thing}, {verb_1} {number_1} and {verb_2} {number_2}. How many {thing} does {who} have?",
    ),
    "die": ("Roll a die with {sides} sides.", "Throw a die with {sides} sides for me."),
    "mood": (
        "A {habit} reader saw a {adjective} {work}. Which mood was noted?",
        "Which mood did a {habit} reader note for a {adjective} {work}?",
    ),
    "weather": ("What is the weather like in {country}?", "How is the day in {country} today?"),
}
EVEN_SHARE_HELD_OUT: Final = 0.7
"""Fraction of the held-out fact questions whose facts are drawn evenly over all facts, told or not."""
MAX_STEP: Final = 9
"""Largest number that a step of a sum adds or takes away."""


@dataclass(frozen=True)
class Question:
    """What one user message asks: its kind, its filled slots, whether it says hello, the name it gives."""

    kind: str
    slots: Mapping[str, str]
    greeted: bool
    person: str | None

    def series(self, name: str) -> list[str]:
        """Return the values of the slots ``name_1``, ``name_2``, ``name_3`` that the question has."""
        return [self.slots[key] for key in (f"{name}_1", f"{name}_2", f"{name}_3") if key in self.slots]


def draw(weights: Mapping[str, float], rng: random.Random) -> str:
    """Draw a key with probability proportional to its weight, by at most one ``rng.random()``."""
    if len(weights) == 1:
        return next(iter(weights))
    mark = rng.random() * sum(weights.values())
    for key, weight in weights.items():
        mark -= weight
        if mark < 0:
            return key
    return max(weights, key=lambda key: weights[key])  # rounding can leave the mark at 0 after the last key


def draw_question(rng: random.Random, *, may_greet: bool, held_out: bool) -> str:
    """Draw the text of one user message; ``may_greet`` lets it open with a greeting and a name."""
    greeting = draw(GREETINGS, rng) if may_greet else ""
    return greeting.format(person=_pick(PEOPLE, rng)) + _DRAW[draw(KINDS, rng)](rng, held_out)


def draw_new_fact_question(rng: random.Random) -> str:
    """Draw the text of an opening message that asks for one of the facts never told, all equally often."""
    greeting = draw(GREETINGS, rng).format(person=_pick(PEOPLE, rng))
    relation, country = _pick(RANKED_FACTS[-N_NEVER_TOLD:], rng).split(" of ")
    return greeting + WORDINGS["fact"][0].format(relation_1=relation, country=country)


def read_question(text: str) -> Question | None:
    """Read a user message back; None if it is not a question of the language."""
    for kind, pattern in _PATTERNS:
        match = pattern.fullmatch(text)
        if match:
            slots = {name: word for name, word in match.groupdict().items() if word is not None}
            person = slots.pop("person", None)
            return Question(kind, slots, greeted=text.startswith("Hello"), person=person)
    return None


def _draw_fact(rng: random.Random, held_out: bool) -> str:
    """Draw a fact, then up to two more of the same country, the more often told the likelier."""
    even = held_out and rng.random() < EVEN_SHARE_HELD_OUT
    relation, country = (_pick(RANKED_FACTS, rng) if even else _draw_told_fact(rng)).split(" of ")
    asked = [relation]
    for _ in range(int(rng.random() * len(WORDINGS["fact"]))):
        others = [other for other in RELATIONS if other not in asked]
        weights = {other: 1.0 if even else TOLD_WEIGHT[fact_name(other, country)] for other in others}
        if any(weights.values()):
            asked.append(draw(weights, rng))
    asked.sort(key=lambda _: rng.random())
    slots = {f"relation_{i}": relation for i, relation in enumerate(asked, start=1)}
    return WORDINGS["fact"][len(asked) - 1].format(country=country, **slots)


def _draw_told_fact(rng: random.Random) -> str:
    return RANKED_FACTS[bisect_right(_CUMULATIVE_WEIGHT, rng.random() * _CUMULATIVE_WEIGHT[-1])]


def _draw_sum(rng: random.Random, held_out: bool) -> str:
    """Draw one or two steps that keep the running number within 0 and `MAX_NUMBER`."""
    number = 1 + int(rng.random() * MAX_NUMBER)
    slots = {"who": _pick(PEOPLE, rng), "thing": _pick(THINGS, rng), "start": str(number)}
    n_steps = 1 + int(rng.random() * len(WORDINGS["sum"]))
    for i in range(1, n_steps + 1):
        step = 1 + int(rng.random() * MAX_STEP)
        after = {verb: number + int(f"{sign}{step}") for verb, sign in SIGN_OF.items()}
        verb = _pick([verb for verb, result in after.items() if 0 <= result <= MAX_NUMBER], rng)
        number = after[verb]
        slots |= {f"verb_{i}": verb, f"number_{i}": str(step)}
    return WORDINGS["sum"][n_steps - 1].format(**slots)


def _draw_die(rng: random.Random, held_out: bool) -> str:
    return _pick(WORDINGS["die"], rng).format(sides=_pick(SIDES, rng))


def _draw_mood(rng: random.Random, held_out: bool) -> str:
    slots = {"habit": _pick(HABITS, rng), "adjective": _pick(tuple(MOOD_OF), rng), "work": _pick(WORKS, rng)}
    return _pick(WORDINGS["mood"], rng).format(**slots)


def _draw_weather(rng: random.Random, held_out: bool) -> str:
    return _pick(WORDINGS["weather"], rng).format(country=_pick(COUNTRIES, rng))


def _pick(items: Sequence[str], rng: random.Random) -> str:
    return items[int(rng.random() * len(items))]


def _pattern(wording: str) -> re.Pattern[str]:
    """Compile a wording; a slot named for the second time must hold the same word again."""
    named: set[str] = set()

    def group(match: re.Match[str]) -> str:
        name = match[1]
        if name in named:
            return f"(?P={name})"
        named.add(name)
        return f"(?P<{name}>{'|'.join(_SLOT_WORDS[name.rstrip('_123')])})"

    slots_open = re.escape(wording).replace(r"\{", "{").replace(r"\}", "}")
    greeting = f"(?:(?:Hello, )?I am (?P<person>{'|'.join(PEOPLE)})\\. )?"
    return re.compile(greeting + re.sub(r"\{(\w+)\}", group, slots_open))


_CUMULATIVE_WEIGHT: Final = list(accumulate(TOLD_WEIGHT[fact] for fact in RANKED_FACTS if TOLD_WEIGHT[fact]))
_NUMBERS: Final = tuple(str(number) for number in range(MAX_NUMBER + 1))
_SLOT_WORDS: Final[Mapping[str, Sequence[str]]] = {
    "relation": RELATIONS,
    "country": COUNTRIES,
    "who": PEOPLE,
    "thing": THINGS,
    "start": _NUMBERS,
    "verb": tuple(SIGN_OF),
    "number": _NUMBERS,
    "sides": SIDES,
    "habit": HABITS,
    "adjective": tuple(MOOD_OF),
    "work": WORKS,
}
_PATTERNS: Final = tuple((kind, _pattern(wording)) for kind, wordings in WORDINGS.items() for wording in wordings)
_DRAW: Final[Mapping[str, Callable[[random.Random, bool], str]]] = {
    "fact": _draw_fact,
    "sum": _draw_sum,
    "die": _draw_die,
    "mood": _draw_mood,
    "weather": _draw_weather,
}
