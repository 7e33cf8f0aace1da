"""Fonts for any text: which installed fonts have its glyphs, how wide a string is, and what cannot be drawn.

matplotlib ships DejaVu, which has Latin, Greek, Cyrillic, Arabic, Hebrew and many signs but no CJK and few emoji.
A glyph that no font of the list has would be drawn as a box with a warning each; here it is known beforehand.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from matplotlib import font_manager
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FaceFlags, FT2Font
from matplotlib.textpath import TextToPath

from analysis.look import MONOSPACED
from uncertainty.errors import InputError

PROPORTIONAL = ("DejaVu Sans",)

# Have no ink of their own, and matplotlib draws a box where a font lacks them.
_WITHOUT_INK = frozenset("\ufe0e\ufe0f\u200c\u200d")
# Fonts in which a code point does not mean what Unicode says: TeX's own, pieces of large signs, and the one that
# draws a framed placeholder for every character there is.
_NOT_FOR_TEXT = ("Last Resort", "STIXSize", "STIXNonUnicode", "cmb10", "cmex", "cmmi", "cmr10", "cmss", "cmsy", "cmtt")
_BAR = "|"


@dataclass(frozen=True)
class Typeface:
    """A list of font families at one size.

    Attributes:
        families: Tried in this order for each glyph.
        size: In points.
        weight: ``normal`` or ``bold``.
    """

    families: tuple[str, ...]
    size: float
    weight: str = "normal"

    def advance(self, text: str) -> float:
        """How far a text moves the pen, in points, trailing blanks included."""
        return _advance(text, self.families, self.weight) * self.size

    def has(self, text: str) -> bool:
        """Whether every character of a text has a glyph."""
        return all(
            character in _WITHOUT_INK or any(_has_glyph(family, character) for family in self.families)
            for character in text
        )

    def at(self, scale: float) -> Typeface:
        """The same families at another size."""
        return replace(self, size=self.size * scale)


def typeface_for(texts: Iterable[str], size: float, families: Sequence[str] = MONOSPACED) -> Typeface:
    """A typeface that has as many of the texts' glyphs as the installed fonts allow.

    Args:
        texts: All that will be drawn.
        size: In points.
        families: Families to prefer; others are added only for characters that these lack.

    Raises:
        InputError: a family that is not installed.
    """
    installed = set(font_manager.get_font_names())
    for family in families:
        if family not in installed:
            raise InputError(f"font {family!r} is not installed; {_similar_fonts(family, installed)}")
    chosen = list(dict.fromkeys([*families, *PROPORTIONAL]))
    drawn = {character for text in texts for character in text} - _WITHOUT_INK
    missing = {c for c in drawn if not any(_has_glyph(family, c) for family in chosen)}
    for family, path in _other_fonts(chosen) if missing else ():
        found = {character for character in missing if _file_has_glyph(path, character)}
        if found:
            chosen.append(family)
            missing -= found
        if not missing:
            break
    return Typeface(tuple(chosen), size)


def _similar_fonts(family: str, installed: set[str]) -> str:
    near = difflib.get_close_matches(family, installed, n=3, cutoff=0.4)
    return f"did you mean {', '.join(map(repr, near))}?" if near else "matplotlib's own is 'DejaVu Sans'"


def _other_fonts(chosen: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Installed upright text fonts, one file per family, in an order that does not depend on the disk's."""
    entries = sorted(
        (
            entry
            for entry in font_manager.fontManager.ttflist
            if entry.name not in chosen and not entry.name.startswith(_NOT_FOR_TEXT)
        ),
        key=lambda entry: (entry.style != "normal", entry.weight not in (400, "normal", "regular"), entry.name),
    )
    files: dict[str, str] = {}
    for entry in entries:
        files.setdefault(entry.name, str(entry.fname))
    return files.items()


@lru_cache(maxsize=4096)
def _has_glyph(family: str, character: str) -> bool:
    return _file_has_glyph(_file_of(family), character)


@lru_cache(maxsize=256)
def _file_of(family: str) -> str:
    return str(font_manager.findfont(FontProperties(family=[family]), fallback_to_default=False))


def _file_has_glyph(path: str, character: str) -> bool:
    font = _open(path)
    return font is not None and font.get_char_index(ord(character)) != 0


@lru_cache(maxsize=512)
def _open(path: str) -> FT2Font | None:
    try:
        font = FT2Font(path)
    except (RuntimeError, OSError):
        # A damaged font file somewhere on the machine, or one that FreeType cannot scale, is no font to us.
        return None
    return font if font.face_flags & FaceFlags.SCALABLE else None


@lru_cache(maxsize=65536)
def _advance(text: str, families: tuple[str, ...], weight: str) -> float:
    """Advance at one point: between two bars, because a text's extent alone leaves out blanks at its ends."""
    properties = FontProperties(family=list(families), weight=weight, size=100)
    between, _, _ = TextToPath().get_text_width_height_descent(_BAR + text + _BAR, properties, ismath=False)
    alone, _, _ = TextToPath().get_text_width_height_descent(_BAR + _BAR, properties, ismath=False)
    return float(between - alone) / 100
