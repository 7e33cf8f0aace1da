import csv
import json

import pytest
from hand_made_report import HOSTILE, report

from analysis.report_files import check_folder, write_report
from uncertainty.errors import InputError


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "folder"
    write_report(report(), path, lambda step: None)
    return path


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_every_file_is_there_and_named_in_the_json(out):
    expected = {"report.html", "report.md", "report.json", "tables/texts.csv", "figures/small.png", "figures/small.pdf"}
    assert set(content(out)) == expected
    assert json.loads((out / "report.json").read_bytes())["files"] == sorted(expected)


def test_the_same_report_gives_the_same_bytes(out, tmp_path):
    write_report(report(), tmp_path, lambda step: None)
    assert content(tmp_path) == content(out)


def test_tables_of_one_name_are_one_file_with_the_run_in_front(out):
    with (out / "tables/texts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["a"] * len(HOSTILE) + ["b"]
    assert [float(row["value"]) for row in rows] == [*range(len(HOSTILE)), 0]


def test_a_formula_is_no_formula_in_a_spreadsheet(out):
    text = (out / "tables/texts.csv").read_text(encoding="utf-8")
    assert "a,'=1+1," in text


def test_json_has_null_for_nan_and_every_row(out):
    found = json.loads((out / "report.json").read_bytes())
    assert found["not a number"] is None
    assert [row["text"] for row in found["tables"]["texts"]][: len(HOSTILE)] == list(HOSTILE)


def test_what_an_earlier_report_left_is_removed_and_nothing_else(tmp_path):
    write_report(report(), tmp_path, lambda step: None)
    (tmp_path / "figures/mine.png").write_bytes(b"mine")
    (tmp_path / "tables/texts-2.csv").write_bytes(b"mine too")
    old = json.loads((tmp_path / "report.json").read_bytes())
    (tmp_path / "figures/old.png").write_bytes(b"old")
    old["files"] += ["figures/old.png", "../figures/mine.png", "/etc/passwd", "figures/../run.json"]
    (tmp_path / "report.json").write_text(json.dumps(old))
    write_report(report(), tmp_path, lambda step: None)
    left = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert {"mine.png", "texts-2.csv"} <= left
    assert "old.png" not in left


def test_a_run_folder_and_a_file_are_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="is the folder of a run"):
        check_folder(tmp_path)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="is, or lies under, a file"):
            check_folder(path)


def test_checking_makes_nothing(tmp_path):
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
