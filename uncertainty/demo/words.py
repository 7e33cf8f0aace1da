"""The words of the demo language: their lists, how a message is split into them, and their token ids.

A word is a token. Ids are fixed by `VOCABULARY`: special tokens first, then numbers, marks and words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from uncertainty.demo.facts import COUNTRIES, RELATIONS, VALUES

END: Final = "<|end|>"
SPECIAL_TOKENS: Final = ("<|pad|>", "<|unk|>", "<|bos|>", "<|user|>", "<|assistant|>", END)
MARKS: Final = (".", ",", "?")
MAX_NUMBER: Final = 40


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PEOPLE: Final = _words(
    "Ada Bran Cleo Dov Ella Finn Greta Hugo Ines Jonas Kira Liam Mona Nils Olga Pia Rosa Sven Tilda Vera"
)
THINGS: Final = _words("apples beads candles coins eggs lamps nails ropes shells tiles")
SIGN_OF: Final[Mapping[str, str]] = {"finds": "+", "buys": "+", "loses": "-", "sells": "-"}
SIDES: Final = ("4", "6", "8", "10", "12", "20")
HABITS: Final = ("careful", "steady", "hasty", "sleepy")
ADJECTIVES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "positive": _words("brilliant charming delightful lovely moving splendid superb witty"),
    "negative": _words("boring clumsy dreadful dull feeble painful poor tedious"),
    "neutral": _words("brief common familiar long modern plain quiet short"),
}
MOOD_OF: Final = {adjective: mood for mood, group in ADJECTIVES_OF.items() for adjective in group}
WORKS: Final = _words("book film play poem song story")

_GRAMMAR: Final = """
    I am Hello What is are the and of has How many does have Roll Throw a die with sides for me reader saw Which mood
    was noted did note weather in day like today A Well Sure Gladly so remains stays owns keeps shows reads wrote sky
    clear cloudy rainy stormy over wind calm mild fresh strong Ask more Good luck + - =
"""


def split_words(text: str) -> list[str]:
    """Split a message into words and punctuation marks, the tokens of the language."""
    return re.findall(r"[.,?]|[^\s.,?]+", text)


def join_words(words: Sequence[str]) -> str:
    """Spell words as a message, a space before all but marks; the inverse of `split_words`."""
    return "".join(word if word in MARKS else " " + word for word in words).removeprefix(" ")


def _all_words() -> tuple[str, ...]:
    lists = (PEOPLE, THINGS, SIGN_OF, HABITS, MOOD_OF, ADJECTIVES_OF, WORKS, COUNTRIES, RELATIONS, *VALUES.values())
    found = {*_GRAMMAR.split(), *(word for words in lists for word in words)}
    return (*(str(number) for number in range(MAX_NUMBER + 1)), *MARKS, *sorted(found))


WORDS: Final = _all_words()
VOCABULARY: Final = SPECIAL_TOKENS + WORDS
"""Every token; its index is its id. The tokenizer writes words other than marks with a leading "▁"."""

ID_OF: Final[Mapping[str, int]] = {word: token_id for token_id, word in enumerate(VOCABULARY)}
