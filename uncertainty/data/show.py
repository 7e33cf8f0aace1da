"""An example in the terminal: its completion coloured, everything invisible made visible, nothing executed."""

from __future__ import annotations

import unicodedata
from itertools import groupby
from typing import Any, Final

from uncertainty.data.pieces import Pieces, spell
from uncertainty.data.render import Example

RESET: Final = "\x1b[0m"
DIM: Final = "\x1b[2m"
BOLD: Final = "\x1b[1m"
SHADES: Final = ("\x1b[30;48;5;157m", "\x1b[30;48;5;114m")  # two greens in turn, so that tokens can be told apart
OPEN, CLOSE = "[[", "]]"
VISIBLE: Final = {"\n": "↵\n", "\t": "⇥\t"}
# categories that move the cursor, reorder the text around them or show nothing at all
HIDDEN: Final = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
JOINERS: Final = ("\u200c", "\u200d")  # emoji and Indic and Persian text need them, and they do no harm


def show_mask(example: Example, tokenizer: Any, *, colour: bool = True) -> str:
    """Return an example as a terminal shows it, with a last line of counts.

    Args:
        example: of `uncertainty.data.render.render`.
        tokenizer: the one it was rendered with.
        colour: the completion on green and the prompt dim; else the completion in ``[[`` and ``]]``.
    """
    pieces = spell(tokenizer, example.input_ids)
    body = _coloured(example, pieces) if colour else _bracketed(example, pieces)
    return f"{body}\n{_counts(example)}"


def visible(text: str) -> str:
    """Make line ends and tabs visible and write control characters as escapes, so that a terminal cannot obey them."""
    return "".join(VISIBLE.get(c) or (_escaped(c) if _is_hidden(c) else c) for c in text)


def _coloured(example: Example, pieces: Pieces) -> str:
    styles = [
        (SHADES[index % 2] if completion else DIM) + (BOLD if special else "")
        for index, (completion, special) in enumerate(zip(example.completion, pieces.is_special, strict=True))
    ]
    parts = []
    for style, run in groupby(zip(styles, _own_text(pieces), strict=True), key=lambda pair: pair[0]):
        # line by line: a background colour must not run on to the end of the terminal's line
        lines = visible("".join(text for _, text in run)).split("\n")
        parts.append("\n".join(f"{style}{line}{RESET}" if line else "" for line in lines))
    return "".join(parts)


def _bracketed(example: Example, pieces: Pieces) -> str:
    parts, inside = [], False
    for text, completion in zip(_own_text(pieces), example.completion, strict=True):
        if completion != inside:
            parts.append(OPEN if completion else CLOSE)
        inside = completion
        parts.append(visible(text))
    return "".join(parts) + (CLOSE if inside else "")


def _own_text(pieces: Pieces) -> list[str]:
    """The text of each token, characters that several share with the last of them."""
    texts, shown = [], 0
    following = [*pieces.char_start[1:], len(pieces.text)]
    for end, after in zip(pieces.char_end, following, strict=True):
        upto = max(shown, min(end, after))
        texts.append(pieces.text[shown:upto])
        shown = upto
    return texts


def _counts(example: Example) -> str:
    completion = sum(example.completion)
    turns = len({turn for turn in example.turn if turn >= 0})
    counts = [
        f"example {visible(example.id)}",
        f"{len(example.input_ids)} tokens",
        f"prompt {len(example.input_ids) - completion}",
        f"completion {completion} in {turns} turn{'s' if turns != 1 else ''}",
    ]
    if example.unknown:
        counts.append(f"{example.unknown} outside the vocabulary")
    if example.truncated:
        counts.append("truncated")
    return " · ".join(counts)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in HIDDEN and character not in JOINERS


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
