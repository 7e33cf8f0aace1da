"""Kinds of tokens: by what they spell, where they stand, in which turn, and how often the run has them.

A *stratum* is a pandas Categorical with one entry per token, its categories in the order in which a reader wants
them. ``stratum_table`` says of each category how many tokens it has, how high each measure is there, and how much of
the uncertain tokens it holds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.by_example import example_column, number_examples, t_interval
from analysis.ranks import rank
from analysis.top_sets import TopSet
from uncertainty.token_classes import CLASSES, vocabulary_classes

_BANDS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_DECADES = (1, 2, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


def token_classes(tokens: pd.DataFrame) -> pd.Categorical:
    """What each token spells: one of ``CLASSES``.

    What letters begin or go on with a word is decided by ``uncertainty.token_classes``, within one turn of one example.

    Args:
        tokens: ``example`` or ``example_id``, ``turn, token, is_special``; an example's tokens together and in order.
    """
    codes, spelled = pd.factorize(tokens["token"])
    n_texts = len(spelled)
    # One text may be a special token here and plain text there: the table has an entry for either.
    table = vocabulary_classes([*spelled, *spelled], np.repeat([False, True], n_texts))
    entry = codes + n_texts * tokens["is_special"].to_numpy(dtype=bool)
    follows = np.zeros(len(tokens), dtype=bool)
    if len(tokens):
        example, turn = pd.factorize(tokens[example_column(tokens)])[0], tokens["turn"].to_numpy()
        follows[1:] = (example[1:] == example[:-1]) & (turn[1:] == turn[:-1])
    return pd.Categorical.from_codes(table.in_text(entry, follows), categories=pd.Index(CLASSES, dtype=object))


def position_bands(tokens: pd.DataFrame) -> pd.Categorical:
    """Place of each token in its completion, counted from 0, in bands that double: ``0``, ``1``, ``2-3``, ``4-7``..."""
    return _banded(tokens["index_in_completion"].to_numpy(), _BANDS)


def turns(tokens: pd.DataFrame) -> pd.Categorical:
    """Message of the conversation that each token belongs to, counted from 0, the user's messages included."""
    found = tokens["turn"].to_numpy()
    values, codes = np.unique(found, return_inverse=True)
    return pd.Categorical.from_codes(codes, categories=pd.Index([str(value) for value in values], dtype=object))


def frequency_bands(tokens: pd.DataFrame) -> pd.Categorical:
    """How often the completions of this run have each token, in decades: ``1``, ``2-9``, ``10-99``...

    It is the count of the token's id in the table itself. How often the model saw it in training is not known here.
    """
    _, codes, counts = np.unique(tokens["token_id"].to_numpy(), return_inverse=True, return_counts=True)
    return _banded(counts[codes], _DECADES)


def top_weights(values: np.ndarray, fraction: float) -> np.ndarray:
    """How much each token belongs to the top fraction: ``top_sets.TopSet`` over the tokens that have a value.

    Args:
        values: one per token; NaN never belongs.
        fraction: of the tokens that have a value, between 0 and 1.

    >>> top_weights(np.array([3.0, 1.0, 1.0, 0.0]), 0.5).tolist()
    [1.0, 0.5, 0.5, 0.0]
    """
    weights = np.zeros(len(values))
    known = ~np.isnan(values)
    if known.any():
        weights[known] = TopSet(rank(np.asarray(values)[known]), fraction).weights
    return weights


def stratum_table(
    tokens: pd.DataFrame,
    stratum: pd.Categorical,
    measures: tuple[str, ...] = ("loss", "entropy", "aleatoric", "epistemic"),
    *,
    fraction: float = 0.25,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Each kind of token: how many, how high its measures are, and how much it has of the top tokens by each.

    Args:
        tokens: ``example`` or ``example_id``, and the measures.
        stratum: the kind of each token.
        measures: columns to look at.
        fraction: of the predicted tokens, that make the top set of a measure.
        confidence: coverage asked of the intervals.

    Returns:
        One row per category that occurs: ``stratum, n_tokens, share`` (of all tokens), ``n_examples`` (that have one),
        and for each measure M: ``mean_M`` over the predicted tokens with an interval by example (``low_M, high_M``;
        NaN where there are too few examples, with the reason in ``warning``), ``top_share_M`` (the category's share
        of the top set of M) and ``enrichment_M`` (that over its share of the predicted tokens; 1 is what chance gives).
    """
    owner = tokens[example_column(tokens)]
    weights = {measure: top_weights(tokens[measure].to_numpy(), fraction) for measure in measures}
    predicted = tokens[measures[0]].notna().to_numpy()
    rows = []
    for code, name in enumerate(stratum.categories):
        inside = stratum.codes == code
        if not inside.any():
            continue
        use = inside & predicted
        row: dict[str, object] = {"stratum": str(name), "n_tokens": int(inside.sum()), "share": float(inside.mean())}
        examples = number_examples(owner[use]) if use.any() else None
        row["n_examples"] = examples.n_examples if examples else 0
        warning = "" if examples else "nothing is predicted here"
        for measure in measures:
            mean = low = high = share = enrichment = float("nan")
            if examples:
                values = tokens[measure].to_numpy()[use].astype(np.float64)
                mean = float(values.mean())
                found = t_interval(mean, examples.sums(values - mean), examples, confidence, "plain")
                low, high, warning = found.low, found.high, found.warning
                share = float(weights[measure][use].sum() / weights[measure].sum())
                enrichment = share / float(use.sum() / predicted.sum())
            row |= {f"mean_{measure}": mean, f"low_{measure}": low, f"high_{measure}": high}
            row |= {f"top_share_{measure}": share, f"enrichment_{measure}": enrichment}
        rows.append(row | {"warning": warning})
    return pd.DataFrame(rows)


def _banded(values: np.ndarray, starts: tuple[int, ...]) -> pd.Categorical:
    """Values in bands that begin at ``starts``, the last one open; bands that do not occur are left out."""
    codes = np.searchsorted(starts, values, side="right") - 1
    found, codes = np.unique(codes, return_inverse=True)
    return pd.Categorical.from_codes(
        codes, categories=pd.Index([_band_name(starts, int(band)) for band in found], dtype=object)
    )


def _band_name(starts: tuple[int, ...], band: int) -> str:
    first = starts[band]
    if band + 1 == len(starts):
        return f"{first:,} and more"
    last = starts[band + 1] - 1
    return f"{first:,}" if last == first else f"{first:,}–{last:,}"


STRATA: dict[str, Callable[[pd.DataFrame], pd.Categorical]] = {
    "class": token_classes,
    "position": position_bands,
    "turn": turns,
    "frequency": frequency_bands,
}
