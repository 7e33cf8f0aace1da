"""What a reader sees of each measure, wherever it is drawn or written: title, short name, unit, meaning, colour.

The one place of it: a measure that is added to ``uncertainty/measure_columns.py`` gets its line here. What passes are
called, and the deterministic pass, hangs on the family that the run was drawn by: ``NAMES`` are those of dropout,
``names_of`` gives those of any.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from analysis.family_words import DROPOUT, FamilyWords
from uncertainty.errors import InputError
from uncertainty.scores import ADDED_COLUMNS, ALL_COLUMNS


@dataclass(frozen=True)
class Name:
    """One measure as it is shown.

    Attributes:
        title: over a panel, in a list to choose from.
        short: over a column of a table.
        label: on an axis, without its unit.
        meaning: half a sentence.
        colour: of its marks; holds in light and dark, and for colour-blind readers.
        is_share: from 0 to 1, and of a size to be read as a percentage.
        selects: tokens are sensibly selected by high values of it.
    """

    title: str
    short: str
    label: str
    meaning: str
    colour: str
    is_share: bool = False
    selects: bool = False


# Okabe and Ito's palette, the two darkest a little lighter: 3:1 or more on white and on #16191d.
_PURPLE, _GREEN, _GOLD, _BLUE, _RED, _GREY, _PINK, _TEAL, _OLIVE = (
    "#7a6a9f", "#0b8f6a", "#b8860b", "#1f7fc0", "#d55e00", "#8a8f98", "#a45fa8", "#4c8f9a", "#7d8a2e",
)  # fmt: skip
# {off}, {passes} and the like: see family_words.FamilyWords.
_NAMES: dict[str, Name] = {
    "loss": Name(
        "Loss", "Loss", "loss", "surprise at the token: −log of its probability, {off}", _PURPLE, selects=True
    ),
    "entropy": Name("Entropy", "Entropy", "entropy", "spread of the prediction, {off}", _GREEN, selects=True),
    "total": Name(
        "Total uncertainty",
        "Total",
        "total",
        "spread of the prediction averaged over the {over}",
        _GOLD,
        selects=True,
    ),
    "aleatoric": Name(
        "Aleatoric uncertainty",
        "Aleatoric",
        "aleatoric",
        "mean spread of the {passes}' predictions: the text could go on in several ways",
        _BLUE,
        selects=True,
    ),
    "epistemic": Name(
        "Epistemic uncertainty (BALD)",
        "Epistemic",
        "epistemic",
        "how far the {passes} disagree: the model does not know",
        _RED,
        selects=True,
    ),
    "epistemic_se": Name(
        "Standard error of epistemic uncertainty",
        "Epistemic SE",
        "s.e. of epistemic",
        "Monte Carlo noise of the epistemic value",
        _GREY,
    ),
    "mc_loss": Name(
        "Loss of the averaged prediction",
        "MC loss",
        "loss of the average",
        "−log of the token's probability averaged over the {passes}",
        _PINK,
        selects=True,
    ),
    "label_prob": Name(
        "Probability of the token",
        "Probability",
        "probability of the token",
        "probability of the token, {off}",
        _TEAL,
        is_share=True,
    ),
    "margin": Name(
        "Margin of the first choice",
        "Margin",
        "margin",
        "probability of the first choice less that of the second, {off}",
        _OLIVE,
        is_share=True,
    ),
    "epistemic_corrected": Name(
        "Epistemic uncertainty without its bias",
        "Corrected epistemic",
        "corrected epistemic",
        "epistemic without what too few {passes} take off it",
        _RED,
        selects=True,
    ),
    "epistemic_low": Name(
        "Lower end of the interval of epistemic",
        "Epistemic from",
        "epistemic, lower end",
        "lower end of the 95 % interval of epistemic",
        _RED,
        selects=True,
    ),
    "epistemic_high": Name(
        "Upper end of the interval of epistemic",
        "Epistemic to",
        "epistemic, upper end",
        "upper end of the 95 % interval of epistemic",
        _RED,
        selects=True,
    ),
    "epistemic_bound": Name(
        "Upper bound of epistemic",
        "Epistemic bound",
        "bound of epistemic",
        "mean divergence of a {one} from the average of the others: in expectation epistemic or more",
        _RED,
    ),
    "unresolved": Name(
        "Epistemic uncertainty not resolved",
        "Unresolved",
        "unresolved",
        "the {passes} are too few to know epistemic here",
        _GREY,
        is_share=True,
    ),
    "expected_pairwise_kl": Name(
        "Pairwise divergence of the {passes}",
        "Pairwise KL",
        "pairwise KL",
        "mean divergence of two different {passes}",
        _PINK,
        selects=True,
    ),
    "reverse_mutual_information": Name(
        "Reverse mutual information",
        "Reverse MI",
        "reverse MI",
        "mean divergence of the average from the {passes}",
        _PINK,
        selects=True,
    ),
    "expected_kl_to_deterministic": Name(
        "Divergence of the {passes} from {base}",
        "KL to {base}",
        "KL to {base}",
        "mean divergence of the {passes} from the prediction {of_base}",
        _PINK,
        selects=True,
    ),
    "label_prob_variance": Name(
        "Variance of the token's probability",
        "Var. of probability",
        "var. of token's p",
        "variance over the {passes} of the token's probability",
        _TEAL,
        selects=True,
    ),
    "prob_variance": Name(
        "Variance of the prediction",
        "Var. of prediction",
        "var. of prediction",
        "variance over the {passes} of all probabilities together",
        _TEAL,
        selects=True,
    ),
    "mean_prob_sd": Name(
        "Mean deviation of the prediction",
        "Mean sd",
        "mean sd of p",
        "standard deviation over the {passes} of a probability, mean over the vocabulary",
        _TEAL,
        selects=True,
    ),
    "variation_ratio": Name(
        "Variation ratio",
        "Variation ratio",
        "variation ratio",
        "share of the {passes} with another first choice than most",
        _BLUE,
        is_share=True,
        selects=True,
    ),
    "disagreement": Name(
        "Disagreement of first choices",
        "Disagreement",
        "disagreement",
        "share of the pairs of {passes} with different first choices",
        _BLUE,
        is_share=True,
        selects=True,
    ),
    "zero_one_epistemic": Name(
        "Zero-one epistemic uncertainty",
        "Zero-one",
        "zero-one epistemic",
        "what knowing the right {one} would add to the chance of a right guess",
        _BLUE,
        selects=True,
    ),
}


def names_of(words: FamilyWords) -> dict[str, Name]:
    """The names of all measures in a run of a family.

    >>> from analysis.family_words import DROPOUT
    >>> names_of(DROPOUT)["entropy"].meaning
    'spread of the prediction, dropout off'
    """
    said, texts = vars(words), ("title", "short", "label", "meaning")
    return {
        measure: replace(name, **{text: getattr(name, text).format(**said) for text in texts})
        for measure, name in _NAMES.items()
    }


NAMES = names_of(DROPOUT)
COLOURS = {measure: name.colour for measure, name in NAMES.items()}


def unit(measure: str) -> str:
    """The unit as it is written after a value: "nats", "probability²", or nothing for what is from 0 to 1."""
    return {"nats": "nats", "probability^2": "probability²"}.get(ALL_COLUMNS[measure].unit, "")


def axis_label(measure: str, names: Mapping[str, Name] = NAMES) -> str:
    """Name and unit of a measure, as an axis says them."""
    written = unit(measure)
    return f"{names[measure].label} ({written})" if written else names[measure].label


def in_a_sentence(measure: str, names: Mapping[str, Name] = NAMES) -> str:
    """The short name inside a sentence.

    >>> in_a_sentence("aleatoric"), in_a_sentence("mc_loss"), in_a_sentence("epistemic_se")
    ('aleatoric', 'MC loss', 'epistemic SE')
    """
    short = names[measure].short
    return short if short[1].isupper() else short[0].lower() + short[1:]


def measure_name(name: str) -> str:
    """The score table's name of a measure; ``bald`` is ``epistemic``.

    Raises:
        InputError: no such measure; names the nearest one.
    """
    name = "epistemic" if name == "bald" else name
    if name not in NAMES:
        near = difflib.get_close_matches(name, [*NAMES, "bald"], n=1, cutoff=0.4)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"unknown measure {name!r}; {meant}there are {', '.join(NAMES)}")
    return name


def require_measure(name: str, columns: Container[str], where: str) -> str:
    """``measure_name``, of a measure that these columns hold.

    Raises:
        InputError: no such measure, or the run was scored without it.
    """
    name = measure_name(name)
    if name not in columns:
        added = f" with --measures {name}" if name in ADDED_COLUMNS else ""
        raise InputError(f"{where} was scored without {name}; score it again{added}")
    return name
