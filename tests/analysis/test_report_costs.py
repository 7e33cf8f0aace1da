import re
from datetime import datetime
from pathlib import Path

import pytest
from mask_runs import info, tokens

from analysis.report_costs import MEASURED, MEASURED_ON, cost_line, cost_section, costs_of, other_command
from analysis.report_data import RunData
from analysis.report_parts import Paragraph, Table
from analysis.report_settings import ReportSettings
from uncertainty.run_info import RunInfo

SETTINGS = ReportSettings(replicates=0)


def run(frame, about, *, path="out/gsm8k", n_examples=40):
    return RunData("a", "a", Path(path), about, frame, tuple(f"q-{n}" for n in range(n_examples)), 0)


def section(data, *, advise=True):
    return cost_section(data, costs_of(data, SETTINGS), advise=advise)


def text(data, **options):
    return " ".join(part.text for part in section(data, **options).parts if isinstance(part, Paragraph))


def test_one_run_says_what_its_own_masks_cost():
    data = run(tokens(), info())
    found = costs_of(data, SETTINGS)
    said = text(data)
    assert said.startswith(f"After these 100 passes one standard error of epistemic is {100 * found.typical:.1f} % of ")
    (table,) = (part for part in section(data).parts if isinstance(part, Table))
    shown = [[str(column.show(row)) for column in table.columns] for _, row in table.rows.iterrows()]
    assert [row[0] for row in shown] == ["20 %", "10 %", "5 %"]
    assert re.fullmatch(r"about 2[2-4]0 \[\d+, \d+\]", shown[1][1])
    assert "unc-convergence out/gsm8k" in said
    assert cost_line(data, found).endswith(f"10 % would take {shown[1][1].partition(' [')[0]} passes.")


def test_one_run_names_the_command_that_measures_the_other_masks():
    command = ["unc-score", "--model", "my model", "--masks=iid", "--limit", "40", "--out", "out/gsm8k"]
    about = info()
    data = run(tokens(), RunInfo(about.settings, {"command": command}))
    score, report = other_command(data)
    assert score == "unc-score --model 'my model' --limit 40 --masks balanced --out out/gsm8k-balanced"
    assert report == "unc-report out/gsm8k out/gsm8k-balanced"
    assert f"{score} and then: {report}" in text(data)
    assert score not in text(data, advise=False)
    many = run(tokens(), RunInfo(about.settings, {"command": command}), n_examples=101)
    assert other_command(many)[0] == score.replace("--limit 40", "--limit 50")


@pytest.mark.parametrize("command", [None, ["unc-sweep", "--rates", "0.1"]])
def test_a_run_of_another_command_leaves_the_options_to_the_reader(command):
    data = run(tokens("balanced"), RunInfo(info("balanced").settings, {"command": command}))
    assert other_command(data)[0] == "unc-score ... --masks iid --out out/gsm8k-iid"
    assert "These are balanced masks" in text(data)


def test_the_range_that_is_cited_is_the_table_of_the_docs():
    docs = (Path(__file__).parents[2] / "docs" / "masks.md").read_text(encoding="utf-8")
    table = docs.split("## Error at equal cost")[1].split("In words:")[0]
    found: dict[tuple[str, int], list[float]] = {}
    for name, layers, epistemic in re.findall(
        r"^\| ([\w -]+), (\d) layers \| [\d.]+ \| \d+ \| [^|]+ \| ([\d.]+) \|", table, re.M
    ):
        found.setdefault((name, int(layers)), []).append(float(epistemic))
    assert sum(map(len, found.values())) == 16
    cited = [(name.removeprefix("the "), layers, low, high) for name, layers, low, high in MEASURED]
    assert cited == [(name, layers, min(all_), max(all_)) for (name, layers), all_ in found.items()]
    assert datetime.strptime(MEASURED_ON, "%d %B %Y").date().isoformat() in docs
    assert all(f"{low:.1f} to {high:.1f} in {name} ({layers} layers)" in text(run(tokens(), info()))
               for name, layers, low, high in MEASURED)  # fmt: skip


def test_one_group_of_balanced_masks_gives_a_bound():
    data = run(tokens("balanced", passes=20), info("balanced", passes=20))
    said = text(data)
    assert said.startswith("All 20 passes are one group of balanced masks")
    assert "A run of 50 passes would know." in said
    assert "unc-convergence out/gsm8k --passes 50" in said
    assert "would take at most about" in cost_line(data, costs_of(data, SETTINGS))


def test_a_run_that_stopped_example_by_example_says_so():
    frame = tokens()
    frame.loc[frame["example"] < 5, "n_passes"] = 20
    assert text(run(frame, info())).startswith("After these 20 to 100 passes")


@pytest.mark.parametrize("family", ["weight-noise", "checkpoint-ensemble", "adapter-ensemble"])
def test_other_families_have_costs_and_no_masks(family):
    about = RunInfo({"family": {"family": family}, "passes": 100})
    said = text(run(tokens().assign(epistemic_se=lambda frame: frame["epistemic"]), about))
    assert "masks" not in said
    given = family != "weight-noise"
    assert ("passes" in said, "They are given, not drawn" in said, "unc-convergence" in said) == (
        not given, given, not given,
    )  # fmt: skip
    assert "At 100 % of these tokens the error is above half of the value" in said


def test_without_an_error_nothing_is_made_up():
    data = run(tokens().assign(epistemic_se=float("nan")), info())
    assert text(data, advise=False).startswith("No token has both a standard error of epistemic and a value")
    assert cost_line(data, costs_of(data, SETTINGS)) == ""
