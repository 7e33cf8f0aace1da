"""Reads a heatmap's HTML as a browser would, and holds it to the few elements and attributes that it may have."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from heatmap_frames import FACTS, example, tokens

from analysis.heatmap import Heatmap, make_heatmap
from analysis.look import Look

# Texts that ended an element, began another, were typeset, turned the line around or erased it somewhere.
PAYLOADS = (
    "<script>alert(1)</script>", "</span><img src=x onerror=alert(1)>", "<b>", "&lt;b&gt;", "&amp;", '" onmouseover="x',
    "' style='x", "`x`", "<!--", "-->", "]]>", "</style><style>*{display:none}", "</title>", "{{x}}", "{% raw %}",
    "${alert(1)}", "$x_1^{$", "\\(a\\)", "\\begin{x}", "\x1b[31m", "\u202e", "\u2066", "\x00", "javascript:alert(1)",
    "<svg/onload=alert(1)>", "</div></body></html>", "<iframe srcdoc='x'>", "@import url(//x)", "\u2028",
)  # fmt: skip
VOID = {"meta", "br", "img", "input", "link"}


def nasty_heatmap(**look: object) -> Heatmap:
    """Each payload a token, the prompt, the id, the facts and what was said between two turns."""
    everything = "".join(PAYLOADS)
    turns = [1] * 10 + [3] * (len(PAYLOADS) - 10)
    frame = tokens(PAYLOADS, turn=turns)
    said = [
        {"role": "user", "content": everything},
        {"role": "assistant", "content": ""},
        {"role": everything, "content": everything},
        {"role": "assistant", "content": ""},
    ]
    row = example(everything, prompt=everything, id=everything, messages=said)
    look.setdefault("measures", ("loss", "epistemic"))
    return make_heatmap(frame, row, frame, Look(prompt_characters=9999, **look), everything + FACTS)  # type: ignore[arg-type]


@dataclass
class Element:
    """One element: its name, attributes, and all text inside it."""

    name: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Markup(HTMLParser):
    """Every element of a document in order; asserts that all are closed as they were opened."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        assert len(element.attributes) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def read(text: str) -> list[Element]:
    """The elements of an HTML text."""
    markup = Markup()
    markup.feed(text)
    markup.close()
    assert markup.open == []
    return markup.elements


def style_of(element: Element) -> dict[str, str]:
    """The declarations of a style attribute."""
    parts = [part.partition(":") for part in element.attributes.get("style", "").split(";") if part]
    return {name: value for name, _, value in parts}


def rgb(colour: str) -> tuple[float, ...]:
    """A colour of three or six hexadecimal digits, 0 to 1."""
    digits = re.fullmatch(r"#([0-9a-f]{3}|[0-9a-f]{6})", colour)[1]  # type: ignore[index]
    wide = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    return tuple(int(wide[at : at + 2], 16) / 255 for at in (0, 2, 4))
