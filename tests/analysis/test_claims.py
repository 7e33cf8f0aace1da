"""Verdicts on the paper's claim where the truth is planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from clustered_frames import clustered, matrix, scores

from analysis.claims import CLAIM_COLUMNS, CLAIMS, claims_paragraph, judge_claims
from analysis.correlation import CorrelationSettings, correlate

SETTINGS = CorrelationSettings(replicates=0)


def judged(loss: float, entropy: float, *, n_examples: int = 80) -> pd.DataFrame:
    """Claims on Gaussian measures; aleatoric goes with loss at about .6."""
    structure = matrix(loss, entropy, 0.6)
    frame = clustered(n_examples, share=0.2, mean=30, between=structure, within=structure, seed=1)
    own = np.random.default_rng(2).standard_normal(len(frame))
    frame["aleatoric"] = frame["entropy"] + 0.2 * own
    frame["total"] = frame["aleatoric"] + frame["epistemic"]
    return judge_claims(correlate(frame, settings=SETTINGS).table)


@pytest.mark.parametrize(
    ("loss", "entropy", "over_entropy", "over_aleatoric"),
    [
        (0.8, 0.4, "holds", "holds"),
        (0.3, 0.6, "fails", "fails"),
        (0.5, 0.5, "not resolved", "fails"),
        (0.4, 0.2, "holds", "fails"),
    ],
)
def test_planted_claims_get_their_verdict(loss: float, entropy: float, over_entropy: str, over_aleatoric: str) -> None:
    table = judged(loss, entropy)
    assert tuple(table.columns) == CLAIM_COLUMNS
    assert set(table["claim"]) == set(CLAIMS)
    assert set(table["method"]) == {"spearman", "pearson", "kendall"}
    for claim, verdict in (("over_entropy", over_entropy), ("over_aleatoric", over_aleatoric)):
        assert (table.loc[table["claim"] == claim, "verdict"] == verdict).all()
    assert (table["left"] - table["right"]).to_numpy() == pytest.approx(table["difference"].to_numpy(), abs=1e-12)
    assert ((table["low"] < table["difference"]) & (table["difference"] < table["high"])).all()


def test_a_claim_that_holds_between_negative_correlations_is_warned_of() -> None:
    table = judged(-0.2, -0.5)
    of_entropy = table[table["claim"] == "over_entropy"]
    assert (of_entropy["verdict"] == "holds").all()
    warning = "rho(epistemic, loss) is the larger one but not above 0: the claim holds without its meaning"
    assert (of_entropy["warning"] == warning).all()
    assert claims_paragraph(table).count(warning) == 1
    assert (judged(0.8, 0.4)["warning"] == "").all()


def test_too_few_examples_leave_the_claim_not_resolved_and_say_why() -> None:
    table = judged(0.8, 0.4, n_examples=8)
    assert (table["verdict"] == "not resolved").all()
    assert (table["warning"] == "no interval: 8 examples; it takes 10").all()
    text = claims_paragraph(table)
    assert "not resolved by Spearman (difference 0." in text
    assert text.endswith("Note: no interval: 8 examples; it takes 10.")


def test_a_constant_measure_leaves_the_claim_undefined() -> None:
    table = judge_claims(correlate(scores().assign(loss=np.float32(1)), settings=SETTINGS).table)
    measured = table[~table["corrected"]]
    assert (measured["verdict"] == "undefined").all()
    assert (measured["warning"] == "undefined: loss is constant").all()
    assert "undefined by Pearson" in claims_paragraph(table)


def test_corrected_rows_are_judged_beside_the_measured_ones() -> None:
    found = correlate(scores(), settings=SETTINGS)
    table = judge_claims(found.table)
    assert len(table) == 2 * (3 + 2)
    corrected = table[table["corrected"]].set_index(["claim", "method"])
    measured = table[~table["corrected"]].set_index(["claim", "method"])
    key = ("over_aleatoric", "spearman")
    assert corrected.loc[key, "left"] > measured.loc[key, "left"]
    assert corrected.loc[key, "right"] == measured.loc[key, "right"]
    assert (corrected["left"] - corrected["right"]).to_numpy() == pytest.approx(corrected["difference"].to_numpy())


def test_paragraph_states_each_claim_with_its_numbers() -> None:
    text = claims_paragraph(judged(0.8, 0.4))
    assert text.startswith("rho(epistemic, loss) > rho(epistemic, entropy): holds by Spearman (difference 0.")
    assert "; holds by Pearson (difference 0." in text
    assert "rho(epistemic, loss) > rho(aleatoric, loss): holds by Spearman" in text
    assert "Note:" not in text


def test_paragraph_names_what_the_correction_changes() -> None:
    table = judged(0.5, 0.5)
    both = pd.concat([table, table.assign(corrected=True, verdict="holds")], ignore_index=True)
    assert "With epistemic's Monte Carlo noise taken out: holds by Spearman" in claims_paragraph(both)
    same = pd.concat([table, table.assign(corrected=True)], ignore_index=True)
    assert "taken out" not in claims_paragraph(same)


def test_without_the_correlations_nothing_is_judged_and_the_text_says_so() -> None:
    only = correlate(scores(), pairs=(("epistemic", "loss"),), partials=(), differences=(), settings=SETTINGS)
    table = judge_claims(only.table)
    assert table.empty
    assert tuple(table.columns) == CLAIM_COLUMNS
    assert claims_paragraph(table).startswith("Neither reading of the claim was judged")
