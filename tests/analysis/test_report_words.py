import numpy as np
import pandas as pd
import pytest

from analysis.correlation import Correlations, CorrelationSettings
from analysis.report_words import claim_sentences, few_examples_warning, noise_sentence, warning_paragraphs


def claims(verdict, difference, low, high, method="spearman", corrected=False, claim="over_entropy"):
    row = {"claim": claim, "statement": "a > b", "method": method, "corrected": corrected, "left": 0.5, "right": 0.3}
    return row | {"difference": difference, "low": low, "high": high, "verdict": verdict, "warning": ""}


@pytest.mark.parametrize(
    ("verdict", "limits", "word", "tone"),
    [
        ("holds", (0.1, 0.3), "Yes", "good"),
        ("fails", (-0.3, -0.1), "No, the other way round", "bad"),
        ("not resolved", (-0.1, 0.3), "Not resolved by this run", "open"),
        ("undefined", (np.nan, np.nan), "Undefined", "open"),
    ],
)
def test_each_verdict_is_said_in_plain_words(verdict, limits, word, tone):
    ((text, found),) = claim_sentences(pd.DataFrame([claims(verdict, 0.2, *limits)]))
    assert text.startswith(f"Does loss follow epistemic uncertainty more closely than entropy does? {word}")
    assert found == tone


def test_the_numbers_and_the_other_methods_are_named():
    table = pd.DataFrame(
        [
            claims("holds", 0.2, 0.1, 0.3),
            claims("not resolved", 0.2, -0.1, 0.3, corrected=True),
            claims("fails", -0.2, -0.3, -0.1, method="pearson"),
        ]
    )
    ((text, _),) = claim_sentences(table)
    assert "Spearman 0.50 with loss against 0.30 with entropy, difference 0.200 [0.100, 0.300]." in text
    assert text.endswith("Pearson: fails; with the Monte Carlo noise taken out: not resolved.")


def test_one_method_alone_leaves_no_loose_end():
    ((text, _),) = claim_sentences(pd.DataFrame([claims("holds", 0.2, 0.1, 0.3, claim="over_aleatoric")]))
    assert text.endswith("difference 0.200 [0.100, 0.300].")


def correlations(*rows):
    columns = ["measure", "method", "reliability", "attenuation", "median_relative_se", "n_tokens", "warning"]
    table = pd.DataFrame(rows, columns=columns)
    return Correlations(pd.DataFrame(), table, (), CorrelationSettings())


def test_noise_is_told_by_its_reliability():
    text = noise_sentence(correlations(("epistemic", "spearman", 0.81, 0.9, 0.2, 100, "")))
    assert "correlate at 0.810 with these" in text
    assert "by the factor 0.900" in text
    assert "20 % of its value" in text


def test_unknown_noise_is_said_to_be_unknown():
    assert "not known" in noise_sentence(correlations())
    assert "undefined: why" in noise_sentence(correlations(("epistemic", "pearson", np.nan, np.nan, 0.2, 9, "why")))


def test_a_warning_is_said_once():
    table = pd.DataFrame({"warning": ["", "few examples", "few examples", "more"]})
    assert [part.text for part in warning_paragraphs(table)] == ["Few examples.", "More."]
    assert warning_paragraphs(pd.DataFrame()) == []


@pytest.mark.parametrize(("n", "word"), [(9, "no intervals"), (10, "too narrow"), (29, "too narrow"), (30, "")])
def test_few_examples_are_warned_of(n, word):
    text = few_examples_warning(n)
    assert (word in text) if word else text == ""
