"""The measures as columns of a score table: names, units, meanings, and which of them a run adds.

What each one computes stands in ``uncertainty/measures.py``, under the same name. Imports
nothing heavy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from uncertainty.errors import InputError


class MeasureColumn(NamedTuple):
    """One measure of the score table.

    Attributes:
        unit: "nats", "probability", "probability^2" or "0 or 1".
        meaning: in the file's metadata.
        members: how many members it needs for a value at all.
        may_be_unknown: members that hang together may leave it without a value, which then all tokens lack.
    """

    unit: str
    meaning: str
    members: int
    may_be_unknown: bool = False


_COLUMNS = {
    "loss": MeasureColumn("nats", "-log p(token), dropout off", 0),
    "entropy": MeasureColumn("nats", "entropy of the prediction, dropout off", 0),
    "total": MeasureColumn("nats", "entropy of the prediction averaged over the members", 1),
    "aleatoric": MeasureColumn("nats", "mean entropy of the members' predictions", 1),
    "epistemic": MeasureColumn(
        "nats", "BALD: mean KL(member || average), the mutual information of token and member", 1
    ),
    "epistemic_se": MeasureColumn("nats", "Monte Carlo standard error of epistemic", 3, True),
    "mc_loss": MeasureColumn("nats", "-log of the token's probability averaged over the members", 1),
    "label_prob": MeasureColumn("probability", "p(token), dropout off", 0),
    "margin": MeasureColumn("probability", "p(best) - p(second best), dropout off", 0),
}
_ADDED = {
    "epistemic_corrected": MeasureColumn("nats", "epistemic without its bias of order 1/passes: jackknife", 2, True),
    "epistemic_low": MeasureColumn("nats", "lower end of the 95 % interval of epistemic", 3, True),
    "epistemic_high": MeasureColumn("nats", "upper end of the 95 % interval of epistemic", 3, True),
    "epistemic_bound": MeasureColumn(
        "nats", "mean KL(member || average of the others): in expectation epistemic or more", 2, True
    ),
    "unresolved": MeasureColumn(
        "0 or 1", "1 where the interval is wider than epistemic, or epistemic is above half of log(passes)", 1
    ),
    "expected_pairwise_kl": MeasureColumn("nats", "mean KL of two different members", 2),
    "reverse_mutual_information": MeasureColumn("nats", "mean KL(average || member)", 1),
    "expected_kl_to_deterministic": MeasureColumn("nats", "mean KL(member || prediction with dropout off)", 1),
    "label_prob_variance": MeasureColumn("probability^2", "variance of p(token) over the members", 2),
    "prob_variance": MeasureColumn("probability^2", "variance of p over the members, summed over the vocabulary", 2),
    "mean_prob_sd": MeasureColumn("probability", "sd of p over the members, mean over the vocabulary", 2),
    "variation_ratio": MeasureColumn("probability", "members whose first choice is not the most frequent one", 1),
    "disagreement": MeasureColumn("probability", "pairs of members with different first choices", 2),
    "zero_one_epistemic": MeasureColumn(
        "probability", "mean of the members' highest p, less the highest p of their average", 1
    ),
}
MEASURE_COLUMNS = tuple(_COLUMNS)  # of every run
ADDED_COLUMNS = tuple(_ADDED)  # what --measures adds
ALL_COLUMNS: dict[str, MeasureColumn] = _COLUMNS | _ADDED


def columns_of(added: Iterable[str] = ()) -> tuple[str, ...]:
    """The measures of a run that adds these, in the order of its table."""
    added = set(added)
    return (*MEASURE_COLUMNS, *(name for name in ADDED_COLUMNS if name in added))


def measures_among(names: Iterable[str]) -> tuple[str, ...]:
    """The measures among the columns of a table, in the order of ``ALL_COLUMNS``."""
    names = set(names)
    return tuple(name for name in ALL_COLUMNS if name in names)


def parse_measures(asked: Sequence[str]) -> tuple[str, ...]:
    """What ``--measures`` asks for beside the columns of every run, each once and in the order of the table.

    Args:
        asked: names of measures, or "all".

    Raises:
        InputError: a measure that does not exist; names the nearest one.

    >>> parse_measures(["unresolved", "epistemic_corrected", "loss"])
    ('epistemic_corrected', 'unresolved')
    """
    if isinstance(asked, str):
        raise InputError(f"measures is the text {asked!r}; give a tuple of names, such as ('all',)")
    known = (*ALL_COLUMNS, "bald", "all")
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            meant = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"--measures: unknown measure {name!r}; {meant}there are all, {', '.join(ADDED_COLUMNS)}")
    return ADDED_COLUMNS if "all" in asked else tuple(name for name in ADDED_COLUMNS if name in asked)
