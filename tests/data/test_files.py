import csv
import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uncertainty.data.files import known_suffix, read_csv, read_file, read_parquet, read_units
from uncertainty.errors import InputError


def units(path, sample_by):
    return [record.fields["text"] for record in read_units(path, sample_by)]


def test_csv_values_stay_the_strings_they_are(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('question,answer\n007,NaN\n"a, ""b""\nc",\n', encoding="utf-8-sig")
    records = read_csv(path)
    assert [record.fields for record in records] == [
        {"question": "007", "answer": "NaN"},
        {"question": 'a, "b"\nc', "answer": ""},
    ]
    assert [record.where for record in records] == ["rows.csv line 2", "rows.csv line 3"]


def test_csv_takes_a_field_longer_than_the_module_allows_and_leaves_its_limit_alone(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "x" * 200_000 + "\n")
    before = csv.field_size_limit(1000)
    try:
        assert len(read_csv(path)[0].fields["text"]) == 200_000
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n1,2,3\n", "line 3: 3 fields where the header has 2"),
        (b"a,b\n1\n", "line 2: 1 fields where the header has 2"),
        (b'a,b\n1,2\n"x,2\n3,4\n', "line 3: unexpected end of data in the row that begins here"),
        (b"a,a\n1,2\n", "line 1: the header names 'a' twice"),
        (b"a,b\n1,\xff\n", "line 2 column 3: the byte 0xFF is not UTF-8"),
    ],
)
def test_a_bad_csv_names_its_line(tmp_path, content, words):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_csv(path)
    assert f"{path} {words}" in str(caught.value)


TEXT = "\n\nOne day.\r\nTwo.\n \n Three\n\n\nFour\n<|endoftext|>\nFive\n\n<|endoftext|>\n<|endoftext|>\nSix"


@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [
        ("paragraph", ["One day.\nTwo.", " Three", "Four", "Five", "Six"]),
        ("line", ["One day.", "Two.", " Three", "Four", "Five", "Six"]),
        ("document", ["One day.\nTwo.\n \n Three\n\n\nFour", "Five", "Six"]),
    ],
)
def test_a_text_file_is_cut_into_units(tmp_path, sample_by, expected):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    assert units(path, sample_by) == expected


def test_a_unit_says_on_which_line_it_begins(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, newline="")
    assert [r.where for r in read_units(path)] == [f"a.txt line {n}" for n in (3, 6, 9, 11, 15)]


def test_parquet_rows_are_python_values_and_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [{"messages": [{"role": "user", "content": "é"}], "n": None}, {"messages": [], "n": 2}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert [record.fields for record in read_parquet(path)] == rows
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="not a sound parquet file"):
        list(read_parquet(path))


def test_limit_stops_the_reader_before_what_is_wrong(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{broken')
    assert len(read_file(path, limit=2)) == 2
    with pytest.raises(InputError, match="line 3 column 2"):
        read_file(path, limit=3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.jsnl", "the suffix .jsnl is unknown.*did you mean .jsonl?"),
        ("a", "the suffix .none. is unknown"),
        ("a.parquet.gz", "the suffix .parquet.gz is unknown"),
    ],
)
def test_an_unknown_suffix_names_the_nearest(tmp_path, name, words):
    with pytest.raises(InputError, match=words):
        known_suffix(tmp_path / name)
