from pathlib import Path

import pytest
import scored_run

from analysis.proxy_advice import LEVELS
from analysis.report_answers import SURE, USE, VALID, Answer, answer_cards, answer_of
from analysis.report_data import RunData, load_runs
from analysis.report_results import Results, results_of
from analysis.report_settings import ReportSettings

SETTINGS = ReportSettings(replicates=0)


def answered(path: Path, n_examples: int, **run: float) -> tuple[RunData, Results]:
    (data,) = load_runs([scored_run.write_run(path, n_examples, **run)])
    return data, results_of(data, SETTINGS, lambda step: None)


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Epistemic is high on numbers, loss on words."""
    return answered(tmp_path_factory.mktemp("run") / "apart", 60)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return answered(tmp_path_factory.mktemp("run") / "few", 8)


def cards(run, results):
    return {card.question: card for card in answer_cards([run], [results], SETTINGS)}


def test_loss_that_goes_elsewhere_is_no_proxy_and_is_not_advised(apart):
    found = cards(*apart)
    assert found[VALID].answer.startswith("No")
    assert found[VALID].tone == "bad"
    assert found[SURE].answer == "Sure: the whole interval says “no”"
    assert found[USE].answer == "Epistemic uncertainty itself: no cheap signal finds these tokens"


def test_the_numbers_are_those_of_the_audit(apart):
    run, results = apart
    table = results.audit.table
    use = (table["signal"] == "loss") & (table["metric"] == "precision") & (table["fraction"] == 0.25)
    row = table[use].iloc[0]
    line = cards(run, results)[VALID].lines[0]
    assert f"{100 * row['estimate']:.0f} % [{100 * row['low']:.0f}, {100 * row['high']:.0f}]" in line
    assert "A random choice reaches 25 %" in line


def test_loss_that_follows_epistemic_is_a_proxy(apart):
    run, _ = apart
    tokens = run.tokens.assign(loss=run.tokens["epistemic"] * 1.5, label_prob=-run.tokens["epistemic"])
    same = RunData(run.name, run.slug, run.path, run.info, tokens, run.ids, run.n_truncated)
    found = cards(same, results_of(same, SETTINGS, lambda step: None))
    assert found[VALID].answer == "Yes: a close stand-in"
    assert found[VALID].tone == "good"
    assert found[USE].answer == "By loss"
    assert any("It looks at the label" in line for line in found[USE].lines)


def test_below_ten_examples_nothing_is_sure(few):
    found = cards(*few)
    assert found[SURE].answer == "Not known: 8 examples are too few for an interval"
    assert any("Only 8 examples: no intervals are given" in line for line in found[SURE].lines)
    assert "[" not in found[VALID].lines[0]


def test_below_thirty_examples_there_is_a_warning(tmp_path):
    found = cards(*answered(tmp_path / "some", 20))
    assert any("Only 20 examples: intervals are likely too narrow below 30" in line for line in found[SURE].lines)


def test_constant_epistemic_has_no_answer(apart):
    run, _ = apart
    tokens = run.tokens.assign(epistemic=run.tokens["epistemic"] * 0, epistemic_se=run.tokens["epistemic"] * 0)
    flat = RunData(run.name, run.slug, run.path, run.info, tokens, run.ids, run.n_truncated)
    found = cards(flat, results_of(flat, SETTINGS, lambda step: None))
    assert found[VALID].answer.startswith("Undefined")
    assert found[SURE].answer == "There is nothing to be sure of"
    assert found[USE].answer == "Nothing to select by: epistemic is constant"


def test_an_interval_over_two_answers_is_not_settled():
    assert not Answer("a weak stand-in", "not a stand-in", "a weak stand-in", "loss").is_settled
    assert Answer("not a stand-in", "worse than a random choice", "not a stand-in", "loss").is_settled
    assert not Answer("not a stand-in", "", "", "loss").is_settled


def test_every_word_of_the_audit_has_an_answer():
    for _, word in LEVELS:
        assert Answer(word, word, word, "loss").word in ("Yes", "Roughly", "Hardly", "No")


def test_several_runs_have_a_line_each_and_one_answer_where_they_agree(apart, few):
    runs, results = zip(apart, few, strict=True)
    valid, sure, use = answer_cards(runs, results, SETTINGS)
    assert [line.partition(":")[0] for line in valid.lines] == ["apart", "few"]
    assert valid.answer == ("No, in every run" if answer_of(few[1]).word == "No" else "It depends on the run")
    assert sure.answer == "Not equally in every run"
    assert len(use.lines) == 2
