"""Reading a flat YAML file as texts, and refusing everything else with its place."""

from pathlib import Path

import pytest

from uncertainty.cli.yaml_file import Entry, read_entries, yaml_text
from uncertainty.errors import InputError


def entries(tmp_path: Path, content: bytes | str) -> list[Entry]:
    file = tmp_path / "run.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_entries(file)


def test_entries_keep_their_texts_and_their_lines(tmp_path: Path) -> None:
    found = entries(tmp_path, "# a comment\na: 1e-1\n\nb: [x, 'null']\nc: null\nd: 'null'\n")
    assert [(one.key, one.texts, one.is_list) for one in found] == [
        ("a", ("1e-1",), False),
        ("b", ("x", "null"), True),
        ("c", None, False),
        ("d", ("null",), False),
    ]
    assert [one.where.removeprefix(str(tmp_path)) for one in found] == [
        f"/run.yaml line {line}" for line in (2, 4, 5, 6)
    ]


@pytest.mark.parametrize("content", ["", "# all commented out\n", "---\n", "\ufeff{}"])
def test_a_file_without_options_gives_none(tmp_path: Path, content: str) -> None:
    if content == "---\n":  # an explicit, empty document is a null, not a mapping
        with pytest.raises(InputError, match="holds no 'name: value' lines"):
            entries(tmp_path, content)
    else:
        assert entries(tmp_path, content) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("passes 3\n", ": holds no 'name: value' lines; write one option on each"),
        ("- passes\n", ": holds no 'name: value' lines; write one option on each"),
        ("a: 1\nb: [1, 2\n", " line 3, column 1: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n---\nb: 2\n", " line 2, column 1: not YAML: but found another document"),
        ("a: *nowhere\n", " line 1, column 4: not YAML: found undefined alias 'nowhere'"),
        ("a: 1\n\tb: 2\n", " line 2, column 1: not YAML: found character '\\t' that cannot start any token"),
        ("a: \0\n", ": not YAML: unacceptable character #x0000: special characters are not allowed in"),
        ("a:\n  b: 1\n", " line 1: a: holds further 'name: value' lines; options are not nested"),
        ("a: [[1]]\n", " line 1: a: plain values are wanted, without tags and not nested"),
        ("a: &x [*x]\n", " line 1: a: plain values are wanted, without tags and not nested"),
        ("a: !!int 3\n", " line 1: a: plain values are wanted, without tags and not nested"),
        ("a: !!python/name:os.system x\n", " line 1: a: plain values are wanted, without tags and not nested"),
        ("[a, b]: 1\n", " line 1: a name of an option is wanted before ':', not a list or a mapping"),
        ("a: " + "[" * 2000 + "]" * 2000, ": nested too deeply; options are a flat list of 'name: value'"),
        (b"a: \xff\n", " is not UTF-8 (byte 3); save it as UTF-8"),
        ("a: 1\n".encode("utf-16"), " is not UTF-8 (byte 0); save it as UTF-8"),
    ],
)
def test_anything_else_is_refused_with_its_place(tmp_path: Path, content: bytes | str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        entries(tmp_path, content)
    assert str(refused.value).startswith(f"{tmp_path / 'run.yaml'}{message}")
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--config: cannot read .*nowhere\.yaml: No such file or directory"):
        read_entries(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match=r"--config: cannot read .*: Is a directory"):
        read_entries(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (0.1, "0.1"),
        ("plain", "plain"),
        ("no", "'no'"),
        ("null", "'null'"),
        ("", "''"),
        ("a: b # c", "'a: b # c'"),
        ("two\nlines", '"two\\nlines"'),
        (Path("out/demo"), "out/demo"),
        ((), "[]"),
        (("a", "b,c"), "[a, 'b,c']"),
    ],
)
def test_values_are_written_on_one_line(value: object, text: str) -> None:
    assert yaml_text(value) == text
