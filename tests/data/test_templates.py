import hashlib

import pytest

from uncertainty.data.formats import FORMATS, Row, UnusableRow, conversation
from uncertainty.data.templates import PATTERNS, choose_template, segments
from uncertainty.errors import InputError

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
    {"role": "user", "content": "?"},
]


def written(messages, name, tokenizer, format="messages"):
    """The text of a conversation: completions in [], EOS as a bar."""
    parts = segments(messages, choose_template(name, tokenizer, format))
    marked = [f"[{p.text}]" if p.turn >= 0 else p.text for p in parts]
    return "".join(text + "|" * part.ends for text, part in zip(marked, parts, strict=True))


def test_plain(tokenizer):
    assert written(CHAT, "plain", tokenizer) == (
        "Be kind.\n\nUser:\nHi\n\nAssistant:\n[Hello]|\n\nUser:\nBye\n\nAssistant:\n[See you]|"
    )


def test_raw_writes_the_contents_and_nothing_else(tokenizer):
    row = Row(0, "0", {"prompt": "2 + 2 =", "completion": " 4"}, "row 0")
    messages = conversation(row, "prompt-completion")
    assert written(messages, "auto", tokenizer, "prompt-completion") == "2 + 2 =[ 4]|"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (
            "",
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\nSort {input}\n\nnow\n\n### Response:\n[a b]|",
        ),
        (
            "b {content}",
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n### Instruction:\nSort {input}\n\nnow"
            "\n\n### Input:\nb {content}\n\n### Response:\n[a b]|",
        ),
    ],
)
def test_alpaca_tells_rows_with_input_from_rows_without(tokenizer, extra, expected):
    row = Row(0, "0", {"instruction": "Sort {input}\n\nnow", "input": extra, "output": "a b"}, "row 0")
    assert written(conversation(row, "alpaca"), "alpaca", tokenizer, "alpaca") == expected


def test_a_system_message_takes_the_place_of_alpacas_preamble(tokenizer):
    assert written(CHAT, "alpaca", tokenizer).startswith("Be kind.\n\n### Instruction:\nHi\n\n### Response:\n[Hello]|")


def test_an_assistant_turn_of_the_prompt_is_no_completion(tokenizer):
    messages = [*CHAT[1:2], CHAT[2] | {"scored": "no"}, *CHAT[3:5]]
    assert written(messages, "plain", tokenizer).count("[") == 1
    assert "Assistant:\nHello|\n\nUser" in written(messages, "plain", tokenizer)


def test_a_role_without_a_place_makes_the_row_unusable(tokenizer):
    with pytest.raises(UnusableRow, match="'tool'"):
        written([{"role": "tool", "content": "x"}, *CHAT], "plain", tokenizer)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("has_template", [False, True])
def test_auto_settles_on_one_template_for_every_format(tokenizer, chat_templates, format, has_template):
    tokenizer.chat_template = chat_templates["chatml"] if has_template else None
    expected = {"text": "verbatim", "prompt-completion": "raw"}.get(format, "chat" if has_template else "plain")
    template = choose_template("auto", tokenizer, format)
    assert (template.name, template.kind) == (expected, "chat" if expected == "chat" else "plain")
    assert template.sha256 == hashlib.sha256(template.text.encode()).hexdigest()


def test_no_two_plain_templates_have_the_same_hash(tokenizer):
    assert len({choose_template(name, tokenizer, "messages").sha256 for name in PATTERNS}) == len(PATTERNS)


def test_a_jinja_file_is_a_chat_template(tokenizer, chat_templates, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text(chat_templates["chatml"])
    template = choose_template(str(path), tokenizer, "messages")
    assert (template.name, template.kind, template.text) == (str(path), "chat", chat_templates["chatml"])
    path.write_text("a\n{% if %}")
    with pytest.raises(InputError, match=r"mine\.jinja line 2: "):
        choose_template(str(path), tokenizer, "messages")
    with pytest.raises(InputError, match=r"other\.jinja: cannot be read"):
        choose_template(str(tmp_path / "other.jinja"), tokenizer, "messages")


@pytest.mark.parametrize(
    ("name", "format", "words"),
    [
        ("plian", "messages", "--template plian is unknown.*did you mean plain?"),
        ("chat", "messages", "the tokenizer has no chat template; use plain"),
        ("plain", "text", "the format text is plain text without turns; use --template auto"),
        ("verbatim", "gsm8k", "the format gsm8k is a conversation; use --template auto"),
    ],
)
def test_a_template_that_cannot_be_is_refused(tokenizer, name, format, words):
    with pytest.raises(InputError, match=words):
        choose_template(name, tokenizer, format)


def test_a_plain_template_needs_an_eos_token_and_plain_text_does_not(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="the tokenizer has no EOS token"):
        choose_template("plain", tokenizer, "messages")
    assert choose_template("auto", tokenizer, "text").name == "verbatim"


def test_a_template_that_writes_the_date_writes_the_same_on_every_day(tokenizer):
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y, %Y-%m-%d') }} {{ messages[0]['content'] }}"
    text = choose_template("auto", tokenizer, "messages").text
    written = tokenizer.apply_chat_template(CHAT[1:2], chat_template=text, tokenize=False)
    assert written == "26 Jul 2024, 2024-07-26 Hi"
