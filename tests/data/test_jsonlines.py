import gzip
import json

import pytest

from uncertainty.data.jsonlines import locate, read_json, read_json_lines
from uncertainty.errors import InputError

GOOD = b'{"a": "x"}\n'
# file bytes -> line, column, and words of the message
BAD_LINES = [
    (GOOD + b'{"a": }\n', 2, 7, "'}', which is no JSON value"),
    (GOOD + b'{"a": "x"\n' + GOOD, 2, 10, "a comma or }"),
    (GOOD + b'{"a": "x', 2, 9, "the last line is cut off here"),
    (GOOD + b'{"a"', 2, 5, "the last line is cut off here"),
    (GOOD + b'{"a": tru', 2, 7, "the last line is cut off here"),
    (GOOD + b"[1, 2]\n", 2, 1, "an object {...}, this is a list; a JSON array of rows belongs in a .json file"),
    (b'  "text"\n', 1, 3, "an object {...}, this is a string"),
    (b"5\n", 1, 1, "this is the number 5"),
    (b"null\n", 1, 1, "this is null"),
    (GOOD + b'{"a": "\xff"}\n', 2, 8, "the byte 0xFF is not UTF-8"),
    ('{"é": "'.encode() + b'\xe2\x82"}\n', 1, 8, "the byte 0xE2 is not UTF-8"),
    (b'{"a": "\xed\xa0\x80"}\n', 1, 8, "a lone surrogate is not UTF-8"),
    (b'{"a": "\\ud800"}\n', 1, 8, "lone surrogate \\ud800"),
    ('{"a": "x"}\n'.encode("utf-16"), 1, 1, "the file is UTF-16; save it as UTF-8"),
    ('{"a": "x"}\n'.encode("utf-16-le"), 1, 2, "a NUL byte, so this is UTF-16 or binary"),
    ('{"a": "x"}\n'.encode("utf-32"), 1, 1, "the file is UTF-32"),
    (b'{"a": NaN}\n', 1, 7, "'NaN', which is no JSON value"),
    (b'{"a": [Infinity]}\n', 1, 8, "'Infinity'"),
    (b'{"a": 1, "b": {"c": 1, "c": 2}}\n', 1, 24, "the key 'c' occurs twice"),
    (GOOD * 2 + b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}\n", 3, 107, "nesting deeper than 100"),
    (b'{"a": ' + b"[" * 200_000 + b"\n", 1, 107, "nesting deeper than 100"),
    (b'{"a": 1}{"a": 2}\n', 1, 9, "text after the end of the row"),
    (b'\xef\xbb\xbf{"a": x}\r\n', 1, 7, "'x', which is no JSON value"),
]
BAD_ARRAYS = [
    (b'[{"a": 1},\n {"a": }]', 2, 8, "no JSON value"),
    (b'[{"a": 1},\n {"a": 1}', 2, 10, "the file is cut off here"),
    (b'[{"a": 1},\n {"a": "x', 2, 10, "the file is cut off here"),
    (b'[{"a": 1}\n {"a": 1}]', 2, 2, "a comma or ]"),
    (b'[{"a": 1},\n 7]', 2, 2, "this is the number 7"),
    (b'[{"a": 1}]\n]', 2, 1, "text after the end of the array"),
    (b'[{"a": 1},]', 1, 11, "no JSON value"),
    (b'{\n "data": [{"a": 1}]\n}', 1, 1, "the file is one object"),
    (b'[\n{"a": "\\udead"}]', 2, 8, "lone surrogate"),
]


def message_of(reader, path):
    with pytest.raises(InputError) as caught:
        list(reader(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("content", "line", "column", "words"), BAD_LINES)
def test_a_bad_line_is_named_by_file_line_and_column(tmp_path, content, line, column, words):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    message = message_of(read_json_lines, path)
    assert message.startswith(f"{path} line {line} column {column}: ")
    assert words in message


@pytest.mark.parametrize(("content", "line", "column", "words"), BAD_ARRAYS)
def test_a_bad_array_is_named_by_file_line_and_column(tmp_path, content, line, column, words):
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    message = message_of(read_json, path)
    assert message.startswith(f"{path} line {line} column {column}: ")
    assert words in message


def test_byte_order_mark_line_ends_and_blank_lines_are_accepted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"a": "é\u2028"}\r\n\r\n  \n{"a": "😀 \\ud83d\\ude00"}'.encode())
    records = list(read_json_lines(path))
    assert [record.fields["a"] for record in records] == ["é\u2028", "😀 😀"]
    assert [record.where for record in records] == ["rows.jsonl line 1", "rows.jsonl line 4"]


def test_rows_before_a_bad_line_are_given_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD * 3 + b"{")
    rows = read_json_lines(path)
    assert [next(rows).fields for _ in range(3)] == [{"a": "x"}] * 3


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_gives_the_rows_that_json_loads_gives(tmp_path, indent):
    rows = [{"a": i, "b": [{"c": "é" * i}], "d": None} for i in range(20)]
    path = tmp_path / "rows.json"
    path.write_text("\n" + json.dumps(rows, indent=indent) + "\n")
    assert [record.fields for record in read_json(path)] == rows


def test_a_json_file_may_hold_json_lines_or_nothing(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(GOOD * 2)
    assert len(list(read_json(path))) == 2
    path.write_bytes(b" [ ] ")
    assert list(read_json(path)) == []


def test_a_cut_gzip_stream_says_where_it_ends(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(b'{"a": "%d"}\n' % (i * 7919) for i in range(3000)))[:-2000])
    assert "the gzip stream is damaged or cut off here" in message_of(read_json_lines, path)
    path.write_bytes(b"not gzip at all")
    assert "line 1 column 1: the gzip stream is damaged" in message_of(read_json_lines, path)


def test_locate_finds_a_value_in_lines_and_in_arrays(tmp_path):
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"a": 1}\n  {"b": ["é", {"c": 5}]}\n')
    second = list(read_json_lines(lines))[1]
    assert locate(second.place, ["b", 1, "c"]) == (2, 21)
    array = tmp_path / "rows.json"
    array.write_text('[{"a": 1},\n {"b":\n  [0,\n   7]}]')
    second = list(read_json(array))[1]
    assert locate(second.place, ["b", 1]) == (4, 4)
