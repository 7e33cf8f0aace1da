"""Runs with more measures than the default ones, and older ones with fewer, through everything that reads a run."""

import dataclasses

import numpy as np
import pytest
import scored_run

from analysis.explorer import load_page
from analysis.family_words import FAMILIES
from analysis.heatmap import load_heatmap, top_example
from analysis.look import Look
from analysis.measure_names import NAMES, axis_label, in_a_sentence, measure_name, names_of, unit
from analysis.report_data import load_runs
from analysis.report_figures import distributions_figure
from analysis.report_results import results_of
from analysis.report_settings import ReportSettings
from uncertainty import score_tables
from uncertainty.errors import InputError
from uncertainty.scores import ADDED_COLUMNS, MEASURE_COLUMNS, run_measures


def write(path, monkeypatch, change, added=()):
    """A run of the toy's examples with other columns: written by the package's own writer."""
    true = score_tables.shard_tables

    def shard_tables(blocks, texts):
        return change(*true([_more(block, added) for block in blocks], texts, None, added))

    monkeypatch.setattr(scored_run, "shard_tables", shard_tables)
    return scored_run.write_run(path, 12)


def _more(block, added):
    base = block.measures["epistemic"]
    more = {name: np.clip(base, 0, 1) if NAMES[name].is_share else 1.5 * base for name in added}
    return dataclasses.replace(block, measures=block.measures | more)


@pytest.fixture
def old(tmp_path, monkeypatch):
    def without_margin(tokens, examples):
        gone = [name for name in examples.column_names if name.endswith("_margin")]
        return tokens.drop_columns(["margin"]), examples.drop_columns(gone)

    return write(tmp_path / "old", monkeypatch, without_margin)


@pytest.fixture
def rich(tmp_path, monkeypatch):
    return write(tmp_path / "rich", monkeypatch, lambda *tables: tables, ADDED_COLUMNS)


def test_a_run_says_which_measures_it_has(old, rich):
    assert run_measures(old) == tuple(name for name in MEASURE_COLUMNS if name != "margin")
    assert run_measures(rich) == (*MEASURE_COLUMNS, *ADDED_COLUMNS)


@pytest.mark.parametrize("which", ["old", "rich"])
def test_report_heatmap_and_explorer_read_it(which, request):
    path = request.getfixturevalue(which)
    (run,) = load_runs([path])
    found = results_of(run, ReportSettings(), lambda _: None)
    assert set(found.quantiles["measure"]) == set(run_measures(path))
    assert ("margin" in set(found.audit.table["signal"])) == (which == "rich")
    figure = distributions_figure(run.tokens, found.means, found.variance)
    assert sum(bool(ax.get_xlabel()) for ax in figure.axes) == len(run_measures(path))
    page = load_page(path)
    assert [one["name"] for one in page["measures"]] == list(run_measures(path))
    heatmap = load_heatmap(path, "q-1", Look(measures=run_measures(path)))
    assert [panel.measure for panel in heatmap.panels] == list(run_measures(path))


def test_a_measure_that_the_run_was_not_scored_with_is_named(old):
    for reference in ("run", "example"):
        with pytest.raises(InputError, match=r"was scored without margin; score it again$"):
            load_heatmap(old, "q-1", Look(measures=("margin",), reference=reference))
    with pytest.raises(InputError, match="without unresolved; score it again with --measures unresolved"):
        top_example(old, "unresolved")


def test_names_units_and_sentences():
    assert axis_label("loss") == "loss (nats)"
    assert axis_label("label_prob") == "probability of the token"
    assert unit("prob_variance") == "probability²"
    assert (in_a_sentence("mc_loss"), in_a_sentence("epistemic")) == ("MC loss", "epistemic")
    assert measure_name("bald") == "epistemic"
    with pytest.raises(InputError, match="unknown measure 'margn'; did you mean 'margin'"):
        measure_name("margn")


def test_dropout_runs_keep_their_words():
    assert NAMES["loss"].meaning == "surprise at the token: −log of its probability, dropout off"
    assert NAMES["expected_kl_to_deterministic"].title == "Divergence of the passes from dropout off"


@pytest.mark.parametrize("words", FAMILIES[1:], ids=lambda words: words.family)
def test_other_families_never_say_dropout(words):
    names = names_of(words)
    assert list(names) == list(NAMES)
    said = " ".join(f"{name.title} {name.short} {name.label} {name.meaning}" for name in names.values())
    assert "dropout" not in said
    assert "{" not in said
    assert ("passes" in said) != words.is_given
    assert axis_label("expected_kl_to_deterministic", names) == f"KL to {words.base} (nats)"
