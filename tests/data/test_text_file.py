import gzip
import hashlib

import pytest

from uncertainty.data.text_file import read_lines, read_text, sha256_of
from uncertainty.errors import InputError


def test_only_newlines_end_lines_and_the_last_may_be_open(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffé\u2028\x0b\r\n\nlast\r".encode())
    assert [tuple(line) for line in read_lines(path)] == [
        (1, "é\u2028\x0b", True),
        (2, "", True),
        (3, "last", False),
    ]
    assert read_text(path) == "é\u2028\x0b\n\nlast"


def test_a_compressed_file_reads_as_its_content_and_hashes_as_it_lies(tmp_path):
    path = tmp_path / "a.txt.GZ"
    path.write_bytes(gzip.compress(b"a\nb\n"))
    assert read_text(path) == "a\nb\n"
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\n\xc3\xa9\x00", "line 2 column 2: a NUL byte"),
        (b"a\n\xc3\xa9\xc3", "line 2 column 2: the byte 0xC3 is not UTF-8"),
        (b"\xff\xfea\x00", "line 1 column 1: the file is UTF-16"),
    ],
)
def test_what_is_not_utf8_is_named_by_line_and_column(tmp_path, content, words):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path} {words}"):
        read_text(path)


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read_text(tmp_path)
