import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uncertainty.data.json_scan import MAX_DEPTH, Fault, check, find

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
@settings(max_examples=80, deadline=None)
def test_everything_that_json_writes_is_accepted(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert check(text) == len(text)


@given(VALUES, st.data())
@settings(max_examples=150, deadline=None)
def test_the_walk_agrees_with_the_standard_parser_on_damaged_text(value, data):
    text = json.dumps(value)
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + data.draw(st.sampled_from(["", "}", ",", '"', "\\", "0", "x", ":", " "])) + text[at + 1 :]
    try:
        check(text)
        ours = True
    except Fault as fault:
        if any(word in fault.what for word in ("twice", "surrogate", "too large")):
            return  # stricter on purpose
        ours = False
    try:
        json.loads(text)
        accepted = True
    except ValueError:
        accepted = False
    assert ours == accepted, text


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ('{"a": NaN}', 6, "NaN"),
        ('{"a": -Infinity}', 6, "Infinity"),
        ('{"a": 1e999}', 6, "too large"),
        ('{"a": 1, "a": 2}', 9, "twice"),
        ('{"a": "x\\ud800y"}', 8, "surrogate"),
        ('{"a": "\\udc00"}', 7, "surrogate"),
        ('{"a": "\\ud800\\ud800"}', 7, "surrogate"),
        ('{"a": "b\tc"}', 8, "control character U+0009"),
        ("{'a': 1}", 1, "a key in double quotes"),
        ('{"a" 1}', 5, "a colon"),
        ('{"a": 1,}', 8, "a key in double quotes"),
        ("[1 2]", 3, "a comma or ]"),
        ('{"a": 1} {', 9, "after the end"),
        ('{"a": "\\q"}', 7, "escape"),
        ('{"a": 01}', 7, "a comma or }"),
        ("[" * (MAX_DEPTH + 2), MAX_DEPTH + 1, "nesting"),
        ('{"a": ' + "1" * 5000 + "}", 6, "5000 digits"),
    ],
)
def test_the_first_fault_is_found_where_it_stands(text, position, what):
    with pytest.raises(Fault, match=re.escape(what)) as caught:
        check(text)
    assert (caught.value.position, caught.value.cut) == (position, False)


@pytest.mark.parametrize("cut", range(1, 40))
def test_text_that_merely_ends_too_early_is_called_cut(cut):
    whole = '{"ab": ["c\\u00e9\\n", -12.5e3, true, {"d": nul'
    with pytest.raises(Fault) as caught:
        check(whole[:cut])
    assert caught.value.cut


def test_a_surrogate_pair_and_an_escaped_backslash_are_fine():
    assert check('"\\ud83d\\ude00 \\\\ud800"') == 22


def test_find_returns_where_a_nested_value_begins():
    text = ' {"a": [1, {"b\\u0063": "x"}], "d": null}'
    assert text[find(text, ["a", 1, "bc"]) :].startswith('"x"')
    assert text[find(text, ["d"]) :].startswith("null")
    assert find(text, ["a", 2]) is None
