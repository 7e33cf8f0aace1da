import re

import pytest

from uncertainty.data.render import render
from uncertainty.data.show import show_mask, visible
from uncertainty.data.templates import choose_template

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
MESSAGES = [
    {"role": "user", "content": "hi\tthere\x1b[31m\u202e"},
    {"role": "assistant", "content": "hello\n\n👩‍👧 €"},
    {"role": "user", "content": "again"},
    {"role": "assistant", "content": "world"},
]


@pytest.fixture
def example(tokenizer):
    template = choose_template("plain", tokenizer, "messages")
    return render(MESSAGES, tokenizer, id="row \x1b7", template=template, max_length=10**6)


def test_brackets_stand_around_each_completion(example, tokenizer):
    shown = show_mask(example, tokenizer, colour=False)
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token
    assert shown.startswith(
        f"{bos}User:↵\nhi⇥\tthere\\x1b[31m\\u202e↵\n↵\nAssistant:↵\n[[hello↵\n↵\n👩‍👧 €{eos}]]↵\n↵\nUser:↵\nagain"
        f"↵\n↵\nAssistant:↵\n[[world{eos}]]\n"
    )


def test_the_last_line_counts(example, tokenizer):
    total, completion = len(example.input_ids), sum(example.completion)
    assert show_mask(example, tokenizer, colour=False).splitlines()[-1] == (
        f"example row \\x1b7 · {total} tokens · prompt {total - completion} · completion {completion} in 2 turns"
    )


def test_colours_change_nothing_but_the_colours(example, tokenizer):
    plain = show_mask(example, tokenizer, colour=False).replace("[[", "").replace("]]", "")
    assert ESCAPE.sub("", show_mask(example, tokenizer)) == plain


def test_the_completion_and_nothing_else_is_on_a_background(example, tokenizer):
    shown = show_mask(example, tokenizer)
    green = "".join(text for text in re.findall(r"\x1b\[30;48;5;\d+m(?:\x1b\[1m)?([^\x1b]*)\x1b\[0m", shown))
    assert green == f"hello↵↵👩‍👧 €{tokenizer.eos_token}world{tokenizer.eos_token}"


def test_every_line_closes_the_styles_it_opens(example, tokenizer):
    for line in show_mask(example, tokenizer).splitlines():
        styles = ESCAPE.findall(line)
        assert not styles or styles[-1] == "\x1b[0m"


def test_a_cut_example_says_so(tokenizers_by_kind):
    tokenizer = tokenizers_by_kind["byte_fallback"]
    template = choose_template("plain", tokenizer, "messages")
    whole = render(MESSAGES, tokenizer, id="a", template=template, max_length=10**6)
    cut = render(MESSAGES, tokenizer, id="a", template=template, max_length=len(whole.input_ids) - 1)
    assert show_mask(cut, tokenizer).endswith(" · truncated")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb", "a↵\nb"),
        ("\x00\x07\x1b[2J\r\x7f\x9b", "\\x00\\x07\\x1b[2J\\x0d\\x7f\\x9b"),
        ("\u200b\u2066\u2028\ufeff", "\\u200b\\u2066\\u2028\\ufeff"),
        ("é مرحبا 👩‍👧", "é مرحبا 👩‍👧"),
    ],
)
def test_nothing_that_a_terminal_would_obey_is_left(text, expected):
    assert visible(text) == expected
