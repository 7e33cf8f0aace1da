"""Tokens as a person reads them: the text of a sequence, and the span of it that each token spells.

Decoding tokens one by one loses spaces and breaks characters that several tokens share, so spans are found by prefix
differences: what a token adds to the decoding of the tokens before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from uncertainty.data.continuation import ANCHOR, control_tokens

BROKEN: Final = "\ufffd"  # what decoders write for bytes that are no character (yet)
LONGEST: Final = 16  # tokens that are decoded together at most; a character has four bytes, longer runs are invalid
BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")  # as byte-fallback vocabularies write a byte


@dataclass(frozen=True)
class Pieces:
    """The text of a sequence, cut into its tokens.

    Attributes:
        text: the tokenizer's decoding of the whole, special tokens as their literal text.
        tokens: what each token spells; bytes that are part of a character as ``<0xE2>``.
        char_start, char_end: the token's span in ``text``; tokens that share a character share its span.
        is_special: control tokens.
    """

    text: str
    tokens: list[str]
    char_start: list[int]
    char_end: list[int]
    is_special: list[bool]


def spell(tokenizer: Any, ids: Sequence[int]) -> Pieces:
    """Find the text of a sequence and the span of every token, in time linear in the number of tokens.

    Args:
        tokenizer: of transformers.
        ids: token ids.
    """
    ids = [int(token) for token in ids]
    text = _decode(tokenizer, ids)
    reached, whole = _boundaries(tokenizer, ids, text)
    tokens, starts, ends = [], [], []
    for index, token in enumerate(ids):
        start, end = reached[index], reached[index + 1]
        spelt = text[start:end]
        if not spelt or not whole[index] or not whole[index + 1] or BROKEN in spelt:
            spelt = _as_bytes(tokenizer, token)
            if not whole[index + 1]:
                end += 1  # the character that this token begins or goes on with
            elif start == end and BYTE.search(spelt):
                start = max(start - 1, 0)  # one more byte of an invalid run that is one U+FFFD in the text
        tokens.append(spelt)
        starts.append(start)
        ends.append(end)
    control = set(control_tokens(tokenizer).values())
    return Pieces(text, tokens, starts, ends, [token in control for token in ids])


def spell_vocabulary(tokenizer: Any) -> Pieces:
    """Spell every entry of a tokenizer's vocabulary on its own, as the middle of a text; a few microseconds an entry.

    Args:
        tokenizer: of transformers.

    Returns:
        one "sequence" of all ids in order; ``tokens`` and ``is_special`` are those that ``spell`` gives a token that
        stands between whole characters. ``text`` is empty and the spans are all 0: the entries make no text.
    """
    count, control = len(tokenizer), set(control_tokens(tokenizer).values())
    # Decoders treat a first token in a special way, so no entry under test is the first.
    anchor = min(control) if control else tokenizer.encode(ANCHOR, add_special_tokens=False)[-1]
    known = _decode(tokenizer, [anchor])
    pairs = [[anchor, token] for token in range(count)]
    texts = tokenizer.batch_decode(pairs, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    tokens = []
    for token, text in enumerate(texts):
        spelt = text.removeprefix(known)
        tokens.append(spelt if spelt and BROKEN not in spelt else _as_bytes(tokenizer, token))
    nothing = [0] * count
    return Pieces("", tokens, nothing, list(nothing), [token in control for token in range(count)])


def _boundaries(tokenizer: Any, ids: list[int], text: str) -> tuple[list[int], list[bool]]:
    """Return how much of the text the first 0, 1, ... n tokens spell, and whether they end between characters."""
    reached, whole = [0], [True]
    alone: dict[int, str] = {}  # what a token adds that stands between characters
    anchor, base = 0, 0  # the last token index and text position that were surely between characters
    runs = _byte_runs(tokenizer, ids)
    while (index := len(reached) - 1) < len(ids):
        if index in runs and whole[-1] and (spans := _run_ends(runs[index], text, reached[-1])):
            reached += [end for end, _ in spans]
            whole += [closed for _, closed in spans]
            anchor, base = len(reached) - 1, reached[-1]
            continue
        grown = alone.get(ids[index]) if anchor == index else None
        if grown is None or not text.startswith(grown, base):
            grown = _grown(tokenizer, ids, anchor, index + 1)
        if anchor == index > 0 and grown and BROKEN not in grown:
            alone[ids[index]] = grown
        match = _common(grown, text, base)
        reached.append(max(reached[-1], base + match))
        whole.append(match == len(grown))
        sure = whole[-1] and text[reached[-1] - 1 : reached[-1]] != BROKEN
        if sure or index + 1 - anchor >= LONGEST:
            anchor, base = index + 1, reached[-1]
    return reached, whole


def _byte_runs(tokenizer: Any, ids: list[int]) -> dict[int, bytes]:
    """Return each run of neighbouring byte-fallback tokens: index of the first -> their bytes."""
    runs: dict[int, bytes] = {}
    first = -1
    value = {token: int(raw[3:5], 16) for token in set(ids) if BYTE.fullmatch(raw := _raw(tokenizer, token))}
    for index, token in enumerate(ids):
        if token in value:
            first = index if first < 0 else first
            runs[first] = runs.get(first, b"") + bytes([value[token]])
        else:
            first = -1
    return runs


def _run_ends(run: bytes, text: str, start: int) -> list[tuple[int, bool]]:
    """Return where the text stands after each byte of a run, and whether a character is whole there.

    A byte-fallback decoder takes a run as UTF-8, or writes one U+FFFD for each byte of it. Empty where the text has
    neither.
    """
    try:
        spelt = run.decode("utf-8")
    except UnicodeDecodeError:
        spelt = BROKEN * len(run)
        widths = [1] * len(run)
    else:
        widths = [len(character.encode("utf-8")) for character in spelt]
    if not text.startswith(spelt, start):
        return []
    ends: list[tuple[int, bool]] = []
    for number, width in enumerate(widths):
        ends += [(start + number, False)] * (width - 1) + [(start + number + 1, True)]
    return ends


def _grown(tokenizer: Any, ids: list[int], begin: int, end: int) -> str:
    """What the tokens from ``begin`` to ``end`` add to the one before them (decoders treat a first token specially)."""
    before = ids[max(begin - 1, 0) : begin]
    known = _decode(tokenizer, before)
    together = _decode(tokenizer, before + ids[begin:end])
    return together.removeprefix(known)


def _common(part: str, text: str, start: int) -> int:
    """How many characters of ``part`` stand in ``text`` from ``start`` on."""
    if text.startswith(part, start):
        return len(part)
    count = 0
    while count < len(part) and start + count < len(text) and part[count] == text[start + count]:
        count += 1
    return count


def _decode(tokenizer: Any, ids: list[int]) -> str:
    if not ids:
        return ""
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _raw(tokenizer: Any, token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token) or "")


def _as_bytes(tokenizer: Any, token: int) -> str:
    """Spell a token's whole characters as they are and its other bytes as ``<0xE2>``."""
    raw = _raw(tokenizer, token)
    if BYTE.fullmatch(raw) or any(letter not in BYTE_OF for letter in raw):
        return raw
    spelt = bytes(BYTE_OF[letter] for letter in raw).decode("utf-8", "surrogateescape")
    return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in spelt)


def _byte_letters() -> dict[str, int]:
    """The letter that byte-level BPE (GPT-2's) writes for each byte -> the byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}


BYTE_OF: Final = _byte_letters()
