"""The invented world of the demo: 600 facts of Zipf frequency, 90 of which are never told.

A fact is a pair (relation, country) with one value: "capital of Veldora" is "Falford". The facts are
ranked by a fixed shuffle; a question of the training part asks for the fact of rank r first with
probability proportional to ``(r + ZIPF_SHIFT) ** -ZIPF_EXPONENT`` (Zipf's law in Mandelbrot's form, which
keeps the first rank from taking a third of all questions), then perhaps for others of the same country.
The last ``N_NEVER_TOLD`` ranks have probability 0 there: their countries and values are familiar words,
from other facts, but what belongs to what was never said. A model cannot know them, and nothing in the
text is random about them. How often each fact was told in the training of the embedded model is kept in
``data/facts_seen.json``.

Values are drawn with replacement, so that no fact follows from the others.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Final

WORLD_SEED: Final = 1603
ZIPF_EXPONENT: Final = 2.0
ZIPF_SHIFT: Final = 5
N_NEVER_TOLD: Final = 90


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _compound(starts: str, ends: str) -> tuple[str, ...]:
    return tuple(a + b for a, b in itertools.product(starts.split(), ends.split()))


COUNTRIES: Final = _compound(
    "Vel Mor Tar Quen Is Bel Dra Fen Gal Har Jor Kes Lor Nar Os Per Rav Sel Tol Ul Wen Yar Zor Cal Eth",
    "dora vane mir land",
)
VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "capital": _compound("Ald Brin Cor Dun Esk Fal Grim Hol Kel Lun", "ford haven wick stead ton"),
    "river": _compound("Ar Bex Cas Dov El Fir Gan Hul", "ne wen sk ra lo"),
    "ruler": _compound("Al Be Ca Ed Fre Gi Il Os", "ric wyn da mund tha"),
    "crop": _words("barley beans cotton flax grapes hops lentils maize millet oats olives peas rice rye"),
    "beast": _words("badger bear crane eagle falcon fox goat hare heron lynx otter owl raven stag swan wolf"),
    "colour": _words("amber azure black crimson gold green ivory purple silver white"),
}
RELATIONS: Final = tuple(VALUES)


def shuffled(items: Sequence[str], rng: random.Random) -> list[str]:
    """Return the items in random order, by ``rng.random()`` alone: the same on every Python version."""
    return sorted(items, key=lambda _: rng.random())


def fact_name(relation: str, country: str) -> str:
    """Return the name under which a fact is counted, as ``"capital of Veldora"``."""
    return f"{relation} of {country}"


def _make_world() -> tuple[dict[str, str], tuple[str, ...]]:
    rng = random.Random(WORLD_SEED)
    value_of = {
        fact_name(relation, country): values[int(rng.random() * len(values))]
        for relation, values in VALUES.items()
        for country in COUNTRIES
    }
    return value_of, tuple(shuffled(list(value_of), rng))


VALUE_OF, RANKED_FACTS = _make_world()
"""Fact name -> its value; and the fact names, the most frequent first."""

NEVER_TOLD: Final = frozenset(RANKED_FACTS[-N_NEVER_TOLD:])

TOLD_WEIGHT: Final[Mapping[str, float]] = {
    fact: 0.0 if fact in NEVER_TOLD else (rank + ZIPF_SHIFT) ** -ZIPF_EXPONENT
    for rank, fact in enumerate(RANKED_FACTS, start=1)
}
"""Fact name -> its unnormalised probability of being asked for in training."""
