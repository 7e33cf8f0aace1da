import doctest

import pytest

from analysis import family_words
from analysis.family_words import DROPOUT, FAMILIES, family_name, family_summary, masks_of
from analysis.family_words import family_words as words_of
from uncertainty.run_info import RunInfo
from uncertainty.settings import FAMILY_NAMES


def run(family, **record):
    return RunInfo({"family": family, "passes": 4}, record)


def test_doctests_hold():
    assert doctest.testmod(family_words).failed == 0


def test_every_family_that_can_be_scored_has_its_words():
    assert {words.family for words in FAMILIES} == set(FAMILY_NAMES)


@pytest.mark.parametrize("words", FAMILIES[1:], ids=lambda words: words.family)
def test_only_dropout_speaks_of_dropout(words):
    assert not [name for name, text in vars(words).items() if "dropout" in str(text).lower()]
    assert words_of(run({"family": words.family})) is words


def test_an_older_run_was_drawn_by_dropout():
    assert family_name(RunInfo({})) == "dropout"
    assert words_of(RunInfo({})) is DROPOUT
    assert masks_of(RunInfo({})) == masks_of(run({"family": "dropout"})) == "iid"


def test_only_dropout_has_masks():
    assert masks_of(run({"family": "dropout", "masks": "balanced"})) == "balanced"
    assert masks_of(run({"family": "weight-noise", "rate": 0.1})) == ""


def test_members_are_summed_up_by_family():
    sites = [{"kind": "attention", "origin": "native"}] * 2 + [{"kind": "mlp", "origin": "injected"}]
    dropout = {"family": "dropout", "rate": 0.1, "rng": "keyed", "masks": "balanced", "sites": sites}
    found = family_summary(run(dropout))
    assert found == "2 attention sites (native), 1 mlp site (injected), rate 0.1, balanced masks (keyed)"
    noise = {"family": "weight-noise", "rate": 0.05, "noise": "low-rank:8", "sites": sites[:2]}
    assert family_summary(run(noise)) == "2 attention layers, 0.05 of each one's root mean square, low-rank:8"
    members = run({"family": "checkpoint-ensemble", "members": [{}, {}]}, resolved={"members": ["a", "@b"]})
    assert family_summary(members) == "a, @b"
    assert family_summary(run({"family": "adapter-ensemble"})) == ""
    assert family_summary(RunInfo({"rate": 0.2})) == "rate 0.2"
