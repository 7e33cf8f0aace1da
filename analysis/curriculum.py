"""Several runs over the same tokens, such as checkpoints of one training: how the tokens worth training on change.

The *high set* of a run is the top fraction of its tokens by a measure (the paper trains on the top 25 % by loss, and
its figure 4 shows how that set changes with training). Here: what kinds of tokens it holds in each run, and how much
two runs' sets overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.by_example import number_examples, t_interval
from analysis.ranks import rank
from analysis.strata import top_weights
from analysis.top_sets import TopSet, chance, find
from uncertainty.errors import InputError

FRACTION = 0.25
KEYS = ("example", "turn", "position", "token_id")

SHARE_COLUMNS = ("run", "measure", "class", "share_of_tokens", "share_of_high_set", "enrichment")
OVERLAP_COLUMNS = (
    "measure",
    "run_a",
    "run_b",
    "jaccard",  # 0 to 1: tokens in both high sets over tokens in either
    "low",  # cluster influence-function t interval on the arc sine scale of shares
    "high",
    "chance",  # of two sets of this size drawn at random: fraction / (2 - fraction)
    "kept",  # share of run_a's high set that is in run_b's as well
    "n_tokens",
    "n_examples",
    "warning",
)


def check_same_tokens(
    first: pd.DataFrame,
    second: pd.DataFrame,
    names: tuple[str, str],
    ids: tuple[Sequence[str], Sequence[str]] | None = None,
) -> None:
    """Refuse two token tables that are not of the same tokens in the same order.

    Args:
        first: ``KEYS``, one row per token.
        second: likewise.
        names: what to call them.
        ids: the example ids behind the codes in ``example``; None where equal codes mean equal examples.

    Raises:
        InputError: names both and the first difference.
    """
    a, b = names
    mend = "runs are compared token by token only where data, template and tokenizer are the same"
    if ids is not None and list(ids[0]) != list(ids[1]):
        only = sorted(set(ids[0]) ^ set(ids[1]))
        what = f"example {only[0]!r} is in one of them only" if only else "their examples stand in different orders"
        raise InputError(f"{a} and {b} are not of the same examples: {what}; {mend}")
    if len(first) != len(second):
        raise InputError(f"{a} and {b} are not of the same tokens: {len(first):,} against {len(second):,}; {mend}")
    for key in KEYS:
        different = np.flatnonzero(first[key].to_numpy() != second[key].to_numpy())
        if len(different):
            row = int(different[0])
            found = f"{first[key].iloc[row]} against {second[key].iloc[row]}"
            raise InputError(f"{a} and {b} are not of the same tokens: at token {row:,} {key} is {found}; {mend}")


def high_weights(values: Sequence[np.ndarray], fraction: float = FRACTION) -> list[np.ndarray]:
    """How much each token belongs to each run's high set, 0 to 1, among the tokens that all runs predict.

    Args:
        values: a measure per run, over the same tokens; NaN where nothing is predicted.
        fraction: of the tokens.
    """
    missing = np.any([np.isnan(one) for one in values], axis=0)
    return [top_weights(np.where(missing, np.nan, one), fraction) for one in values]


def class_shares(
    names: Sequence[str],
    values: Sequence[np.ndarray],
    classes: pd.Categorical,
    measure: str,
    fraction: float = FRACTION,
) -> pd.DataFrame:
    """What kinds of tokens each run's high set holds.

    Args:
        names: of the runs.
        values: the measure per run, over the same tokens.
        classes: the kind of each token.
        measure: its name.
        fraction: of the tokens, that make the high set.

    Returns:
        ``SHARE_COLUMNS``, one row per run and class that occurs; shares of the predicted tokens, 0 to 1.
    """
    rows = []
    predicted = ~np.any([np.isnan(one) for one in values], axis=0)
    of_all = np.bincount(classes.codes[predicted], minlength=len(classes.categories)) / max(predicted.sum(), 1)
    for name, weights in zip(names, high_weights(values, fraction), strict=True):
        of_set = np.bincount(classes.codes, weights=weights, minlength=len(classes.categories)) / weights.sum()
        rows += [
            (name, measure, str(category), float(all_), float(set_), float(set_ / all_))
            for category, all_, set_ in zip(classes.categories, of_all, of_set, strict=True)
            if all_ > 0
        ]
    return pd.DataFrame(rows, columns=list(SHARE_COLUMNS))


def overlaps(
    names: Sequence[str],
    values: Sequence[np.ndarray],
    example: pd.Series,
    measure: str,
    *,
    fraction: float = FRACTION,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Jaccard overlap of the high sets of every two runs, with an interval by example.

    Tokens tied at the edge of a set belong to it in part, see ``top_sets``. The intervals know that the edges move
    with the tokens.

    Args:
        names: of the runs.
        values: the measure per run, over the same tokens.
        example: which example each token belongs to.
        measure: its name.
        fraction: of the tokens, that make a high set.
        confidence: coverage asked of the intervals.

    Returns:
        ``OVERLAP_COLUMNS``, one row per pair of runs, in order.
    """
    by_chance = chance(fraction)["jaccard"]
    known = ~np.any([np.isnan(one) for one in values], axis=0)
    examples = number_examples(example[known])
    ranks = [rank(one[known]) for one in values]
    rows = []
    for i, first in enumerate(ranks):
        target = TopSet(first, fraction)
        for j in range(i + 1, len(ranks)):
            found = find(target, ranks[j])
            jaccard, kept = found["jaccard"], found["precision"].value
            influence = examples.sums(jaccard.influence_N)
            limits = t_interval(jaccard.value, influence, examples, confidence, "share")
            named = (measure, names[i], names[j], jaccard.value, limits.low, limits.high)
            rows.append((*named, by_chance, kept, examples.n_tokens, examples.n_examples, limits.warning))
    return pd.DataFrame(rows, columns=list(OVERLAP_COLUMNS))
