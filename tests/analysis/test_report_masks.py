import re
from pathlib import Path

import pytest
from mask_runs import info, tokens

from analysis.report_data import RunData
from analysis.report_masks import mask_lines, mask_pairs, masks_section
from analysis.report_parts import Paragraph, Picture, Table
from analysis.report_settings import ReportSettings

SETTINGS = ReportSettings(replicates=0)


def run(name, masks="iid", *, passes=100, n_examples=40, about=None, **frame):
    data = tokens(masks, passes=passes, n_examples=n_examples, **frame)
    told = info(masks, passes=passes) if about is None else about
    return RunData(name, name, Path(name), told, data, tuple(f"q-{n}" for n in range(n_examples)), 0)


def test_two_runs_say_what_equal_error_costs_each_way():
    section = masks_section([run("b", "balanced"), run("a")], SETTINGS)
    (line,) = mask_lines(section)
    assert line.startswith("a (iid) and b (balanced). Balanced masks take fewer passes for the same error. ")
    assert re.search(r"One balanced pass is worth (3\.[6-9]|4\.[0-4])\d? \[3\.\d+, 4\.\d+\] iid passes", line)
    assert re.search(r"that 100 balanced passes have, iid masks take about (3[6-9]|4[0-4])0\.$", line)
    each, worth = (part for part in section.parts if isinstance(part, Table))
    cells = [[str(column.show(row)) for column in each.columns] for _, row in each.rows.iterrows()]
    assert [row[0] for row in cells] == ["20 %", "10 %", "5 %"]
    iid, balanced = (int(re.match(r"about (\d+)", cell)[1]) for cell in cells[1][1:])
    assert iid / balanced == pytest.approx(4, rel=0.12)
    assert set(each.frame["masks"]) == {"iid", "balanced"}
    assert worth.frame["run_balanced"].unique().tolist() == ["b"]
    assert [part.name for part in section.parts if isinstance(part, Picture)] == ["masks-a-b"]


def test_a_few_resolved_tokens_do_not_speak_for_the_run():
    first, second = run("a"), run("b", "balanced")
    rare = first.tokens["position"] > 10
    for one in (first, second):
        one.tokens.loc[rare, "epistemic_se"] = one.tokens["epistemic"]
    (line,) = mask_lines(masks_section([first, second], SETTINGS))
    assert re.search(r"At only \d+ of [\d,]+ tokens is the error at most half of the value", line)
    assert "Balanced masks take fewer" not in line


def test_few_examples_are_no_proof():
    (line,) = mask_lines(masks_section([run("a", n_examples=4), run("b", "balanced", n_examples=4)], SETTINGS))
    assert "The examples are too few to be sure." in line


def test_masks_that_gain_nothing_are_not_praised():
    balanced = run("b", about=info("balanced"), seed=5)
    (line,) = mask_lines(masks_section([run("a"), balanced], SETTINGS))
    assert "These runs do not tell the masks apart." in line


def test_masks_that_cost_more_are_said_to():
    first, second = run("a", "balanced", about=info()), run("b", about=info("balanced"))
    (line,) = mask_lines(masks_section([first, second], SETTINGS))
    assert "Balanced masks take more passes for the same error here." in line


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (run("a"), run("b", "balanced", passes=20), "are one group, and nothing within a group tells its error"),
        (run("a"), RunData(*vars(run("b", "balanced")).values()), ""),
    ],
)
def test_what_cannot_be_compared_is_said(first, second, said):
    if not said:
        second = RunData("b", "b", Path("b"), second.info, second.tokens, tuple(f"r-{n}" for n in range(40)), 0)
        said = "share no token of 0.001 nats or more"
    section = masks_section([first, second], SETTINGS)
    (part,) = section.parts
    assert isinstance(part, Paragraph)
    assert said in part.text
    assert mask_lines(section) == ()


def test_runs_of_equal_masks_have_no_such_section():
    runs = [run("a"), run("b", seed=2)]
    assert mask_pairs(runs) == []
    assert masks_section(runs, SETTINGS) is None
    assert mask_lines(None) == ()
