import dataclasses
import doctest
import math

import pytest

from uncertainty import selection_rules
from uncertainty.errors import InputError
from uncertainty.measures import MEASURES
from uncertainty.selection_rules import KEEPS, LABEL_FREE_COLUMNS, LEVELS, SCOPES, SIGNALS, Rule, scheduled_fraction


def test_doctests():
    assert doctest.testmod(selection_rules).failed == 0


def test_the_default_is_the_papers():
    rule = Rule()
    assert (rule.by, rule.keep, rule.fraction, rule.level, rule.scope) == ("loss", "top", 0.25, "token", "step")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"by": "surprise"}, "by must be one of loss, entropy, rho, kl, random, column, got 'surprise'"),
        ({"keep": "middle"}, "keep must be one of top, bottom, band"),
        ({"level": "word"}, "level must be one of token, document"),
        ({"scope": "epoch"}, "scope must be one of step, micro, running"),
        ({"fraction": 0}, "must be above 0 and at most 1, got 0.0"),
        ({"fraction": 1.01}, "must be above 0 and at most 1, got 1.01"),
        ({"fraction": "much"}, "cannot read 'much' as a fraction"),
        ({"keep": "band"}, "keep=band needs a band"),
        ({"band": (0.1, 0.2)}, r"a band \(\(0.1, 0.2\)\) means nothing with keep=top; give keep=band, or no band"),
        ({"keep": "band", "band": (0.5, 0.5)}, "two ascending quantiles"),
        ({"keep": "band", "band": (-0.1, 0.5)}, "two ascending quantiles"),
        ({"keep": "band", "band": (0.5,)}, "two ascending quantiles"),
        ({"keep": "band", "band": (0.1, 0.5, 0.7)}, "two ascending quantiles"),
        ({"keep": "band", "band": (0.5, math.nan)}, "two ascending quantiles"),
        ({"keep": "threshold"}, "keep=threshold needs a threshold"),
        ({"threshold": 1.0}, "means nothing with keep=top; give keep=threshold"),
        ({"keep": "threshold", "threshold": math.nan}, "not a number"),
        ({"by": "column"}, "by=column needs a column"),
        ({"column": "epistemic"}, "means nothing with by=loss; give by=column"),
        ({"keep": "threshold", "threshold": 1.0, "fraction": "linear:1:0.5"}, "no fraction to schedule"),
        ({"scope": "running", "keep": "bottom"}, "scope=running is for keep=top, level=token only"),
        ({"scope": "running", "level": "document"}, "scope=running is for keep=top, level=token only"),
    ],
)
def test_a_rule_that_means_nothing_is_one_line(facts, message):
    with pytest.raises(InputError, match=message) as caught:
        Rule(**facts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("by", SIGNALS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("keep", KEEPS)
def test_all_that_goes_together_is_taken(by, level, scope, keep):
    if scope == "running" and (keep, level) != ("top", "token"):
        return
    own = {"band": {"band": (0.2, 0.4)}, "threshold": {"threshold": 0.0}}.get(keep, {})
    column = {"column": "epistemic"} if by == "column" else {}
    rule = Rule(by=by, level=level, scope=scope, keep=keep, **own, **column)
    assert rule.needs_reference == (by in ("rho", "kl"))
    assert Rule(**dataclasses.asdict(rule)) == rule


def test_a_column_is_label_free_only_if_its_measure_does_not_read_the_label():
    """A new measure that is not listed counts as one that does: the safe side."""
    for name in LABEL_FREE_COLUMNS:
        assert "label_N" not in MEASURES[name].reads
        assert Rule(by="column", column=name).label_free
    for name in ("loss", "mc_loss", "label_prob", "label_rank", "of my own"):
        assert not Rule(by="column", column=name).label_free


def test_the_fraction_follows_its_schedule():
    assert [scheduled_fraction(Rule(fraction="linear:1:0.5"), step, 3) for step in range(3)] == [1.0, 0.75, 0.5]
    assert scheduled_fraction(Rule(), 7, 10) == 0.25
    assert scheduled_fraction(Rule(keep="band", band=(0.25, 0.75)), 0, 1) == 0.5
    assert scheduled_fraction(Rule(keep="threshold", threshold=1.0), 0, 1) == 1.0
