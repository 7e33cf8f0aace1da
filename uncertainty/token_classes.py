"""What tokens spell: special, structural, number, word start, word continuation, punctuation.

Dimension key: N tokens of some texts, in order, V entries of a vocabulary.

Most of a token's class is known from its text alone. Whether letters begin a word or go on with one depends on the
token before it, so a vocabulary is classed once (``vocabulary_classes``) and looked up in its texts
(``VocabularyClasses.in_text``). No torch here: the trainer's record and the analysis of score tables both use it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SPECIAL, STRUCTURAL, NUMBER = "special", "structural", "number"
WORD_START, WORD_CONTINUATION, PUNCTUATION = "word start", "word continuation", "punctuation"
CLASSES = (SPECIAL, STRUCTURAL, NUMBER, WORD_START, WORD_CONTINUATION, PUNCTUATION)
CLASS_MEANINGS = {
    SPECIAL: "special tokens of the tokenizer: end of turn, end of text",
    STRUCTURAL: "only white space, line breaks, or nothing visible",
    NUMBER: "digits and no letter",
    WORD_START: "letters that begin a word",
    WORD_CONTINUATION: "letters that go on with the word before, and bytes of a character",
    PUNCTUATION: "anything else: punctuation, operators, symbols",
}

_APOSTROPHES = "'’"
_PIECES = re.compile(r"(?:<0x[0-9A-Fa-f]{2}>)+")


@dataclass(frozen=True, eq=False)
class VocabularyClasses:
    """The class of every entry of a vocabulary.

    Attributes:
        code_V: int8, index into ``CLASSES`` of the token on its own.
        joins_left_V: bool, letters that go on with a word where one stands right before them.
        joins_right_V: bool, ends so that letters after it go on with the word.
    """

    code_V: np.ndarray
    joins_left_V: np.ndarray
    joins_right_V: np.ndarray

    def __len__(self) -> int:
        return len(self.code_V)

    def in_text(self, token_N: np.ndarray, follows_N: np.ndarray) -> np.ndarray:
        """Class of each token where it stands.

        A token with letters goes on with a word if it begins with a letter (or an apostrophe) and the token before it
        ends in a letter or a digit; scripts without spaces so have one word start for each stretch of letters.

        Args:
            token_N: entries of the vocabulary, in the order of the text.
            follows_N: bool, whether the token follows the one before it in the array without a gap: False at the
                first token of each text and of each turn.

        Returns:
            int8 ``[N]``, indices into ``CLASSES``.

        Raises:
            ValueError: an entry that the vocabulary does not have.
        """
        token_N = np.asarray(token_N, dtype=np.int64)
        if len(token_N) and not (token_N.min() >= 0 and token_N.max() < len(self)):
            found = f"{token_N.min()} to {token_N.max()}"
            raise ValueError(f"tokens have the ids {found}; the vocabulary has 0 to {len(self) - 1}")
        code_N = self.code_V[token_N]
        has_left_N = np.zeros(len(token_N), dtype=bool)
        has_left_N[1:] = np.asarray(follows_N, dtype=bool)[1:] & self.joins_right_V[token_N[:-1]]
        code_N[has_left_N & self.joins_left_V[token_N]] = CLASSES.index(WORD_CONTINUATION)
        return code_N


def vocabulary_classes(spelled: Sequence[str], is_special: Sequence[bool] | np.ndarray) -> VocabularyClasses:
    """Class every entry of a vocabulary once.

    Args:
        spelled: the text of each entry, leading spaces kept; bytes of a character as ``<0xE2>``.
        is_special: of each entry, whether it is a special token of the tokenizer.

    >>> found = vocabulary_classes([" un", "sure", "!", "</s>"], [False, False, False, True])
    >>> [CLASSES[code] for code in found.in_text(np.array([0, 1, 2, 3]), np.array([False, True, True, True]))]
    ['word start', 'word continuation', 'punctuation', 'special']
    """
    table = np.array([_spelling(str(text)) for text in spelled], dtype=np.int8).reshape(-1, 3)
    special_V = np.asarray(is_special, dtype=bool)
    if len(special_V) != len(table):
        raise ValueError(f"{len(table)} spelled entries but {len(special_V)} marks of special tokens")
    code_V = np.where(special_V, np.int8(CLASSES.index(SPECIAL)), table[:, 0]).astype(np.int8)
    begins_V = code_V == CLASSES.index(WORD_START)
    return VocabularyClasses(code_V, begins_V & (table[:, 1] > 0), ~special_V & (table[:, 2] > 0))


def _spelling(text: str) -> tuple[int, int, int]:
    """Class of a token's text, whether it can go on with a word to its left, and whether a word can go on after it."""
    if _PIECES.fullmatch(text):
        return CLASSES.index(WORD_CONTINUATION), 0, 1
    kinds = [unicodedata.category(character)[0] for character in text]
    if all(kind in "ZC" for kind in kinds):
        return CLASSES.index(STRUCTURAL), 0, 0
    ends_open = int(kinds[-1] in "LMN")
    if any(kind in "LM" for kind in kinds):
        after_apostrophe = text[0] in _APOSTROPHES and kinds[1:2] == ["L"]
        return CLASSES.index(WORD_START), int(kinds[0] in "LM" or after_apostrophe), ends_open
    if "N" in kinds:
        return CLASSES.index(NUMBER), 0, ends_open
    return CLASSES.index(PUNCTUATION), 0, 0
