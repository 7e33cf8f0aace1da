import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font, LoadFlags

from analysis.look import MONOSPACED
from analysis.typeface import Typeface, typeface_for
from uncertainty.errors import InputError

FACE = Typeface(MONOSPACED, 10.0)
UNASSIGNED = "\U000e0fff"


def test_an_advance_is_the_fonts_own_and_scales_with_the_size():
    font = FT2Font(font_manager.findfont("DejaVu Sans Mono"))
    font.set_size(100, 72)
    expected = font.load_char(ord("m"), flags=LoadFlags.NO_HINTING).linearHoriAdvance / 65536 / 100
    assert FACE.advance("m") == pytest.approx(10 * expected, rel=0.01)
    assert FACE.at(2).advance("m") == pytest.approx(2 * FACE.advance("m"))


def test_every_character_of_a_monospaced_font_is_as_wide_blanks_at_the_ends_too():
    for text in ("iiii", "WWWW", " a  ", "    ", "$\\{_"):
        assert FACE.advance(text) == pytest.approx(4 * FACE.advance("m"), rel=1e-3)


def test_joined_arabic_letters_are_narrower_than_lone_ones():
    face = Typeface(("DejaVu Sans",), 10.0)
    assert 0 < face.advance("بب") < 2 * face.advance("ب")


def test_a_character_without_a_glyph_is_known():
    assert FACE.has("aé→↵⇥·∅◌‹› مש ❤\ufe0f")
    assert not FACE.has("a" + UNASSIGNED)


def test_an_installed_font_that_has_a_missing_glyph_is_added():
    wanted = next(
        chr(code)
        for code in FT2Font(font_manager.findfont("STIXGeneral")).get_charmap()
        if code > 255 and not FACE.has(chr(code)) and not 0xE000 <= code < 0xF900
    )
    assert typeface_for([wanted], 10.0).has(wanted)
    assert typeface_for(["abc"], 10.0).families == MONOSPACED


def test_no_font_that_draws_placeholders_or_symbols_at_letters_places_is_added():
    families = typeface_for(["漢" + UNASSIGNED], 10.0).families
    assert not any(family.startswith(("Last Resort", "cm", "STIXSize")) for family in families)
    assert not Typeface(families, 10.0).has(UNASSIGNED)


def test_a_font_that_is_not_installed_names_similar_ones():
    with pytest.raises(InputError, match="font 'DejaVu Sand' is not installed; did you mean 'DejaVu Sans'"):
        typeface_for(["a"], 10.0, ("DejaVu Sand",))
