import json
import re

import browser
import pytest
import scored_run

from analysis.colours import contrast, luminance
from analysis.report import make_report
from analysis.report_files import write_report
from analysis.report_settings import ReportSettings

SETTINGS = ReportSettings(replicates=50)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first = scored_run.write_run(folder / "step-0", 40, name="<b>$m_1$</b>")
    return [first, scored_run.write_run(folder / "step-9", 40, seed=1, shift=3.0)]


@pytest.fixture(scope="module")
def both(paths, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    write_report(make_report(paths, SETTINGS, reference=None, same_tokens=True), out, lambda step: None)
    return out


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_one_run_makes_every_table_and_figure_and_the_same_bytes_twice(paths, tmp_path):
    for name in ("a", "b"):
        write_report(make_report(paths[:1], SETTINGS), tmp_path / name, lambda step: None)
    files = contents(tmp_path / "a")
    assert files == contents(tmp_path / "b")
    tables = {name.removeprefix("tables/").removesuffix(".csv") for name in files if name.startswith("tables/")}
    assert tables == {
        "facts", "variance", "levels", "correlations", "claims", "reliability", "proxy_audit", "proxy_differences",
        "strata", "extremes", "pass_costs",
    }  # fmt: skip
    figures = {name.removeprefix("figures/").removesuffix("-step-0.png") for name in files if name.endswith(".png")}
    assert figures == {
        "epistemic-against-loss", "distributions", "correlations", "uncertainty-against-signals", "claims", "noise",
        "proxy-audit", "strata",
    }  # fmt: skip
    assert {name.replace(".png", ".pdf") for name in files if name.endswith(".png")} <= set(files)
    for name in ("report.html", "report.md", "report.json"):
        assert not re.search(rb"\b20\d\d-\d\d-\d\d", files[name])


@pytest.mark.slow
def test_several_runs_stand_side_by_side_with_what_changes_between_them(both, paths):
    found = json.loads((both / "report.json").read_bytes())
    assert [run["name"] for run in found["runs"]] == ["step-0", "step-9"]
    assert [row["run"] for row in found["tables"]["runs"]] == ["step-0", "step-9"]
    assert {row["run"] for row in found["tables"]["correlations"]} == {"step-0", "step-9"}
    assert len(found["tables"]["curriculum_overlap"]) == 3
    page = (both / "report.html").read_text(encoding="utf-8")
    assert "What changes between the runs" in page
    assert page.count("Proxy audit: which cheap signal finds the uncertain tokens</h3>") == 2


@pytest.mark.slow
def test_tokens_and_names_stay_text_on_the_page(both):
    page = (both / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\u202e" not in page
    assert "<script" not in (both / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_quietly_fits_its_window_and_can_be_read(both, scheme):
    with (
        browser.chromium() as chromium,
        browser.open_page(chromium, both / "report.html", color_scheme=scheme, size=(400, 900)) as page,
    ):
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        paper, ink = (
            [int(part) / 255 for part in re.findall(r"\d+", page.evaluate(f"getComputedStyle({of}).{name}"))[:3]]
            for of, name in (("document.documentElement", "backgroundColor"), ("document.body", "color"))
        )
        assert contrast(tuple(paper), tuple(ink)) >= 7
        assert (luminance(tuple(paper)) < 0.1) == (scheme == "dark")
        # The first screen holds the question, the answer and what to do.
        page.set_viewport_size({"width": 1440, "height": 900})
        bottom = page.evaluate("document.querySelector('.cards').getBoundingClientRect().bottom")
        assert bottom <= 900
        assert page.locator(".card .answer").count() == 3


@pytest.mark.slow
def test_without_any_dropout_the_report_says_that_nothing_can_be_said(paths, tmp_path, monkeypatch):
    from analysis import report, report_data

    def flat(paths, reference=None):
        runs = report_data.load_runs(paths, reference)
        for run in runs:
            run.tokens["epistemic"] = run.tokens["epistemic"] * 0
            run.tokens["epistemic_se"] = run.tokens["epistemic_se"] * 0
        return runs

    monkeypatch.setattr(report, "load_runs", flat)
    write_report(make_report(paths[:1], SETTINGS), tmp_path, lambda step: None)
    assert "Undefined: epistemic uncertainty or loss is the same for every token" in (tmp_path / "report.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.slow
@pytest.mark.parametrize("n_examples", [1, 3])
def test_a_handful_of_examples_still_makes_a_report(tmp_path, n_examples):
    path = scored_run.write_run(tmp_path / "few", n_examples)
    write_report(make_report([path], SETTINGS), tmp_path / "out", lambda step: None)
    assert f"{n_examples} examples" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
