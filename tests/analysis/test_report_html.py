import html
import re
from html.parser import HTMLParser

import matplotlib
import pytest
from hand_made_report import HOSTILE, report

from analysis.plot_style import INK, STYLE
from analysis.report_html import picture_svg, report_html

ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "div", "section", "nav", "ol", "ul", "li",
    "a", "h1", "h2", "h3", "p", "figure", "figcaption", "table", "caption", "thead", "tbody", "tr", "th", "td",
    "details", "summary", "span", "mark", "svg", "g", "path", "defs", "clippath", "rect", "use", "lineargradient",
    "stop", "image",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "id", "class", "href", "scope", "style", "dir", "role",
    "aria-label", "viewbox", "xmlns", "xmlns:xlink", "xlink:href", "width", "height", "version", "d", "transform",
    "clip-path", "x", "y", "x1", "y1", "x2", "y2", "offset", "fill",
}  # fmt: skip


class Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.elements, self.attributes, self.text = set(), [], []

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page():
    with matplotlib.rc_context(STYLE):
        return report_html(report())


@pytest.fixture(scope="module")
def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_markup_in_a_text_makes_no_element_and_no_attribute(read):
    assert read.elements <= ELEMENTS
    assert {name for _, name, _ in read.attributes} <= ATTRIBUTES


def test_links_lead_to_places_on_the_page(read):
    ids = {value for _, name, value in read.attributes if name == "id"}
    for _, name, value in read.attributes:
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
            assert value[1:] in ids


def test_every_text_reads_as_itself(read):
    text = "\n".join(read.text)
    for hostile in HOSTILE:
        assert hostile.replace("\x00", "\ufffd") in text or hostile in text


def test_the_page_fetches_nothing_and_runs_nothing(page):
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r"(?:src|href|action)=[\"']?(?:https?:|//|data:text)", page)
    assert not re.search(r"@import|url\((?!#)", page)


def test_ids_of_a_picture_are_its_own(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_a_picture_follows_the_colours_of_the_page():
    with matplotlib.rc_context(STYLE):
        svg = picture_svg(report(("x",)).lead[0])
    assert "var(--ink)" in svg
    assert "var(--paper)" in svg
    assert INK not in svg
    assert re.match(r'<svg [^>]*viewBox="', svg)
    assert 'width="' not in svg.partition(">")[0]


def test_both_colour_schemes_have_the_same_names(page):
    style = page[page.index("<style>") : page.index("</style>")]
    light, dark = (set(re.findall(r"--[a-z-]+(?=:)", part)) for part in style.split("prefers-color-scheme: dark")[:2])
    assert light == set(re.findall(r"--[a-z-]+(?=:)", style.split("prefers-color-scheme: dark")[1])) == dark


def test_the_same_report_gives_the_same_page():
    with matplotlib.rc_context(STYLE):
        assert report_html(report()) == report_html(report())
