import pytest

from uncertainty.data.formats import FORMATS, NEEDS, Row, UnusableRow, choose_format, conversation, settle_format
from uncertainty.data.sources import read_source
from uncertainty.errors import InputError


def row(**fields):
    return Row(0, "0", fields, "f.parquet row 0")


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def said(*pairs):
    return [{"from": speaker, "value": value} for speaker, value in pairs]


HELLO = turns(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "?"), ("assistant", "!"))


@pytest.mark.parametrize(
    ("format", "fields", "expected"),
    [
        ("messages", {"messages": HELLO}, HELLO),
        ("messages", {"conversation": HELLO, "messages_count": 5}, HELLO),
        ("messages", {"conversations": HELLO}, HELLO),
        (
            "sharegpt",
            {"conversations": said(("system", "s"), ("human", "a"), ("gpt", "b"), ("user", "c"), ("assistant", "d"))},
            turns(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
        ),
        (
            "sharegpt",
            {"conversations": said(("human", "a"), ("gpt", "b")), "system": "s"},
            turns(("system", "s"), ("user", "a"), ("assistant", "b")),
        ),
        ("alpaca", {"instruction": "a", "input": "", "output": "b"}, turns(("user", "a"), ("assistant", "b"))),
        ("alpaca", {"instruction": "a", "input": None, "output": "b"}, turns(("user", "a"), ("assistant", "b"))),
        (
            "alpaca",
            {"instruction": "a", "input": "x\n\ny", "output": "b"},
            [{"role": "user", "content": "a\n\nx\n\ny", "input": "x\n\ny"}, *turns(("assistant", "b"))],
        ),
        (
            "gsm8k",
            {"question": "1+1?", "answer": "<<1+1=2>>\n#### 2"},
            turns(("user", "1+1?"), ("assistant", "<<1+1=2>>\n#### 2")),
        ),
        ("prompt-completion", {"prompt": "", "completion": " b"}, turns(("user", ""), ("assistant", " b"))),
        (
            "prompt-completion-messages",
            {
                "prompt": turns(("user", "q"), ("assistant", "a"), ("user", "r")),
                "completion": turns(("assistant", "b")),
            },
            [
                *turns(("user", "q")),
                {"role": "assistant", "content": "a", "scored": "no"},
                *turns(("user", "r"), ("assistant", "b")),
            ],
        ),
        ("text", {"text": " a\n"}, turns(("text", " a\n"))),
    ],
)
def test_each_format_gives_its_messages(format, fields, expected):
    assert conversation(row(**fields), format) == expected


@pytest.mark.parametrize(
    ("format", "fields", "reason"),
    [
        ("messages", {}, "missing_messages"),
        ("messages", {"messages": []}, "no_assistant_turn"),
        ("messages", {"messages": turns(("user", "a"))}, "no_assistant_turn"),
        ("messages", {"messages": turns(("user", "a"), ("assistant", " \n"))}, "empty_completion"),
        ("messages", {"messages": turns(("user", "a"), ("assistant", None))}, "missing_completion"),
        ("messages", {"messages": turns(("user", None), ("assistant", "a"))}, "missing_text"),
        ("messages", {"messages": turns(("tool", "a"), ("assistant", "a"))}, "unknown_role"),
        (
            "messages",
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]},
            "unsupported_field",
        ),
        ("sharegpt", {"conversations": said(("human", "a"), ("function_call", "f()"), ("gpt", "b"))}, "unknown_role"),
        ("sharegpt", {"conversations": said(("human", "a"))}, "no_assistant_turn"),
        ("sharegpt", {"conversations": None}, "missing_messages"),
        ("alpaca", {"instruction": "a", "output": ""}, "empty_completion"),
        ("alpaca", {"instruction": "a", "output": None}, "missing_completion"),
        ("alpaca", {"instruction": "", "input": " ", "output": "b"}, "empty_prompt"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["q", "a"]]}, "history_column"),
        ("gsm8k", {"question": "a"}, "missing_completion"),
        ("gsm8k", {"question": None, "answer": "b"}, "missing_prompt"),
        ("prompt-completion", {"prompt": "a", "completion": ""}, "empty_completion"),
        ("prompt-completion-messages", {"prompt": [], "completion": turns(("user", "a"))}, "no_assistant_turn"),
        ("text", {"text": None}, "missing_text"),
        ("text", {"text": "\n"}, "empty_text"),
    ],
)
def test_a_row_with_nothing_to_score_is_skipped_with_a_reason(format, fields, reason):
    with pytest.raises(UnusableRow) as caught:
        conversation(row(**fields), format)
    assert caught.value.reason == reason
    assert caught.value.detail


# a line of a file -> column and words of the message
WRONG = [
    ("gsm8k", '{"question": "a", "answer": 5}', 29, "answer is the number 5 where a string is needed"),
    ("gsm8k", '{"answer": "5", "question": ["a"]}', 29, "question is a list where a string is needed"),
    ("messages", '{"messages": "a"}', 14, "messages is a string where a list of messages is needed"),
    ("messages", '{"messages": ["a"]}', 15, "messages[0] is a string where an object with role and content"),
    (
        "messages",
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": true}]}',
        82,
        "messages[1].content is true where a string is needed",
    ),
    (
        "messages",
        '{"messages": [{"from": "human", "value": "a"}]}',
        15,
        "has the keys from, value and not role, content",
    ),
    ("sharegpt", '{"conversations": [{"from": 1, "value": "a"}]}', 29, "conversations[0].from is the number 1"),
    ("sharegpt", '{"conversations": [{"role": "user", "content": "a"}]}', 20, "choose --format messages"),
    ("prompt-completion", '{"prompt": "a", "completion": ["b"]}', 31, "completion is a list where a string"),
    ("text", '{"text": {"a": 1}}', 10, "text is an object where a string is needed"),
]


@pytest.mark.parametrize(("format", "line", "column", "words"), WRONG)
def test_a_value_of_the_wrong_type_stops_and_is_named_by_line_and_column(tmp_path, format, line, column, words):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + line + "\n")
    source = read_source(str(path), format=format)
    with pytest.raises(InputError) as caught:
        conversation(source.rows[0], source.format)
    assert str(caught.value).startswith(f"{path} line 2 column {column}: ")
    assert words in str(caught.value)


def test_a_wrong_type_in_a_file_without_lines_is_named_by_row():
    with pytest.raises(InputError, match=r"^f.parquet row 0: answer is the number 5 where a string is needed"):
        conversation(row(question="a", answer=5), "gsm8k")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_says_which_columns_it_needs(format):
    with pytest.raises(InputError, match=f"data has the columns other: format {format} needs {NEEDS[format][0][0]}"):
        choose_format(["other"], format, "data")
    assert choose_format([*NEEDS[format][0], "other"], format, "data") == format


@pytest.mark.parametrize(
    ("columns", "format"),
    [
        (["id", "messages"], "messages"),
        (["conversation", "lang"], "messages"),
        (["conversations", "tools"], "sharegpt"),
        (["instruction", "input", "output"], "alpaca"),
        (["output", "instruction"], "alpaca"),
        (["answer", "question"], "gsm8k"),
        (["completion", "prompt"], "prompt-completion"),
        (["text", "prompt"], "text"),
    ],
)
def test_the_format_follows_from_the_column_names(columns, format):
    assert choose_format(columns, None, "data") == format


@pytest.mark.parametrize(
    ("columns", "format", "words"),
    [
        (["a", "b"], None, r"^data has the columns a, b: no format has these columns.*gsm8k \(question, answer\)"),
        (["text", "instruction", "output"], None, "fit the formats alpaca and text; say which with --format"),
        (["text"], "txet", "--format txet is unknown.*did you mean text?"),
    ],
)
def test_unknown_or_ambiguous_columns_are_refused(columns, format, words):
    with pytest.raises(InputError, match=words):
        choose_format(columns, format, "data")


def test_prompt_completion_is_settled_by_the_type_of_the_first_prompt_there_is():
    rows = [row(prompt=None), row(prompt=turns(("user", "a")))]
    assert settle_format(rows, "prompt-completion") == "prompt-completion-messages"
    assert settle_format([row(prompt="a")], "prompt-completion") == "prompt-completion"
