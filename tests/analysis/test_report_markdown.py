import re

from hand_made_report import HOSTILE, report

from analysis.report_markdown import report_markdown

TEXT = report_markdown(report())


def test_no_html_and_no_link_comes_out_of_a_text():
    assert "<" not in TEXT
    # The only link-like construct left is the picture's, whose target is ours.
    targets = re.findall(r"(?<!\\)\]\(([^)]*)\)", TEXT)
    assert targets == ["figures/small.png"]


def test_marks_are_escaped_and_so_read_as_themselves():
    plain = TEXT.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    plain = re.sub(r"\\([\\`*_|$~#(\[:!])", r"\1", plain)
    for hostile in HOSTILE:
        assert " ".join(hostile.split()) in plain


def test_a_table_has_as_many_cells_in_each_row():
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    tables = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    assert set(tables) == {4, 2}
    # head and rule, then the rows: 12 texts, 1 text, and 2 of which only one column is shown
    assert tables.count(4) == 2 + len(HOSTILE) + 2 + 1
    assert tables.count(2) == 2 + 2


def test_a_text_stays_on_its_line():
    assert "\na\n" not in report_markdown(report(("x\na\ny",)))
