import base64
import hashlib
import re
import unicodedata

import browser
import numpy as np
import pytest
from heatmap_frames import heatmap
from heatmap_markup import nasty_heatmap, read, rgb

from analysis.colours import contrast
from analysis.heatmap_html import heatmap_html

ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "h1", "h2", "p", "div",
    "span", "details", "summary", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "dir", "title", "id", "role", "aria-label",
    "aria-labelledby", "scope", "tabindex",
}  # fmt: skip
RULE = re.compile(r"\.(c[0-9a-f]{2}-\d+)\{background-color:(#[0-9a-f]{6});color:(#[0-9a-f]{3})\}")


@pytest.fixture(scope="module")
def nasty():
    return heatmap_html(nasty_heatmap())


def test_whatever_tokens_hold_a_page_has_its_own_elements_and_attributes_only(nasty):
    for element in read(nasty):
        assert element.name in ELEMENTS
        assert set(element.attributes) <= ATTRIBUTES


def test_no_invisible_character_reaches_the_page(nasty):
    assert {sign for sign in nasty if unicodedata.category(sign)[0] == "C"} == {"\n"}


def test_the_policy_allows_this_style_and_nothing_else(nasty):
    elements = read(nasty)
    policies = [e.attributes["content"] for e in elements if "http-equiv" in e.attributes]
    style = next(e.text for e in elements if e.name == "style")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policies == [f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"]
    assert "url(" not in style
    assert "@import" not in style


def test_every_colour_class_that_is_used_is_defined_and_readable_on_both_pages():
    page = heatmap_html(heatmap([" tok"] * 120, loss=np.linspace(0, 3, 120)))
    rules = RULE.findall(page)
    used = {name for e in read(page) for name in e.attributes.get("class", "").split() if re.match(r"c..-\d", name)}
    assert len(used) > 100
    assert sorted(name for name, _, _ in rules) == sorted([*used, *used])  # once for a light page, once for a dark one
    assert min(contrast(rgb(background), rgb(ink)) for _, background, ink in rules) >= 4.5


def test_high_values_stand_away_from_the_page():
    page = heatmap_html(heatmap(["a", "b"], loss=[0, 2]))
    light, dark = page.split("@media screen and (prefers-color-scheme: dark) {\n.c")
    brightness = [[sum(rgb(background)) for _, background, _ in RULE.findall(part)] for part in (light, ".c" + dark)]
    assert brightness[0][0] > brightness[0][1]
    assert brightness[1][0] < brightness[1][1]


def test_the_colour_bar_and_the_table_say_in_words_what_colours_say():
    elements = read(heatmap_html(heatmap(["a", " b"], loss=[0.5, 2])))
    assert [e.attributes["aria-label"] for e in elements if e.attributes.get("role") == "img"] == [
        "Colours from 0 to 2 nats (maximum of the run)"
    ]
    rows = [e.text for e in elements if e.name == "tr"]
    assert len(rows) == 3
    heads = [e.text for e in elements if e.name == "th"]
    cells = [e.text for e in elements if e.name == "td"][len(heads) :]
    assert dict(zip(heads, cells, strict=True))["loss, nats"] == "2.00"


def test_the_same_heatmap_gives_the_same_page():
    assert heatmap_html(heatmap(["a"])) == heatmap_html(heatmap(["a"]))


def test_a_browser_shows_the_page_quietly_and_loads_nothing(tmp_path, nasty):
    file = tmp_path / "x.html"
    file.write_text(nasty, encoding="utf-8")
    with browser.chromium() as chromium:
        for scheme in ("light", "dark"):
            with browser.open_page(chromium, file, color_scheme=scheme) as page:
                look = "e => getComputedStyle(e).backgroundColor"
                backgrounds = page.eval_on_selector_all(".text span.k", f"all => all.map({look})")
                assert len(set(backgrounds)) > 10
                # Joined letters need spans that take no room.
                room = "e => ['paddingLeft', 'unicodeBidi', 'display'].map(name => getComputedStyle(e)[name])"
                assert page.eval_on_selector(".text span.k", room) == ["0px", "normal", "inline"]
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                assert "<script>alert(1)</script>" in page.inner_text("main")
