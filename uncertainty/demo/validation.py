"""Hold the scores of a demo run against the truth: one table by token class and by how often a fact was told.

Dimension key: N completion tokens, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from uncertainty.demo.language import TOKEN_CLASSES
from uncertainty.demo.oracle import FACT_BIN_STARTS, TokenTruth, fact_group, oracle
from uncertainty.errors import InputError

_KEY: Final = ["example_id", "index_in_completion"]


def oracle_table(
    scores: pd.DataFrame, examples: pd.DataFrame, *, seen: Mapping[str, int] | None = None
) -> pd.DataFrame:
    """Return the scores of a demo run beside the truth, one row per group of tokens.

    Args:
        scores: The token table of a run on demo conversations (`uncertainty.scores.read_scores`).
        examples: The examples table of the same run, for its ``id``, ``messages`` and ``truncated``.
        seen: How often each fact was told in the training of the model; None for the embedded model.

    Returns:
        Index ``group``: "all", the token classes, then facts by how often training told them. Columns:
        ``tokens`` (count); means over the group in nats: ``true_entropy``, ``entropy``, ``aleatoric``,
        ``aleatoric_error`` (mean absolute difference of aleatoric and true entropy), ``epistemic``, ``loss``,
        ``true_loss`` (-log true probability of the label), ``reducible`` (``loss - true_loss``: its mean
        estimates the KL divergence of the model from the truth, and may fall below 0 by sampling noise);
        ``aleatoric_rank_correlation`` (Spearman, of aleatoric and true entropy; NaN where either is constant).

    Raises:
        InputError: An example is not of the demo language, or its rows are not the tokens it should have.
    """
    joined = join_truth(scores, examples, seen=seen)
    rows = {name: _summary(group) for name, group in _groups(joined)}
    return pd.DataFrame.from_dict(rows, orient="index").astype({"tokens": int}).rename_axis("group")


def join_truth(scores: pd.DataFrame, examples: pd.DataFrame, *, seen: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Return the token table with the truth of each token joined on; arguments and Raises as `oracle_table`.

    The columns added: ``token_class``, ``true_entropy`` and ``true_loss`` (nats), ``fact`` and ``fact_group``
    (None for tokens that tell no fact).
    """
    truth = truth_frame(examples, seen=seen)
    joined = scores.merge(truth, on=_KEY, how="outer", validate="one_to_one", indicator="side", suffixes=("", "_true"))
    _refuse(joined, joined["side"] == "left_only", "has a score but no place in the conversation")
    whole = ~joined["example_id"].isin(examples.loc[examples["truncated"], "id"])
    _refuse(joined, (joined["side"] == "right_only") & whole, "stands in the conversation but has no score")
    scored = joined[joined["side"] == "both"]
    _refuse(scored, scored["token_id"] != scored["token_id_true"], "has another token id than the demo tokenizer gives")
    return scored.drop(columns=["side", "token_id_true"]).astype({"token_id": int}).reset_index(drop=True)


def truth_frame(examples: pd.DataFrame, *, seen: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Return the truth of every completion token of the conversations in an examples table; ``seen`` as above."""
    rows = [
        {
            "example_id": example_id,
            "index_in_completion": index,
            "token_id": truth.token_id,
            "token_class": truth.token_class,
            "true_entropy": truth.entropy,
            "true_loss": truth.loss,
            "fact": truth.fact,
            "fact_group": None if truth.fact_seen is None else fact_group(truth.fact_seen),
        }
        for example_id, messages in zip(examples["id"], examples["messages"], strict=True)
        for index, truth in enumerate(oracle({"id": example_id, "messages": json.loads(messages)}, seen=seen))
    ]
    return pd.DataFrame(rows)


def oracle_kl(log_probs_NV: np.ndarray, truths: Sequence[TokenTruth]) -> np.ndarray:
    """Return the reducible error of every token, ``KL(oracle || model) = sum_v p(v) (log p(v) - log q(v))``.

    It is the mean of loss minus true loss over the labels that could stand there, and so, unlike that difference,
    knows nothing of the label that happens to. Where only one label is possible it is that label's loss.

    Args:
        log_probs_NV: The model's log-probabilities; -inf is a probability of 0.
        truths: The truth of the same N tokens.

    Returns:
        float64 N, nats, >= 0; ``inf`` where the model gives a possible token the probability 0.

    Raises:
        ValueError: Not as many rows as truths, or a possible token lies beyond the vocabulary.

    >>> from uncertainty.demo.oracle import TokenTruth
    >>> coin = TokenTruth(1, "0", 0, "draw", math.log(2), {0: 0.5, 1: 0.5}, None, None)
    >>> oracle_kl(np.log([[0.25, 0.5, 0.25]]), [coin]).round(6).tolist()  # log 2 / 2
    [0.346574]
    """
    if log_probs_NV.ndim != 2 or len(log_probs_NV) != len(truths):
        raise ValueError(f"log_probs_NV has shape {log_probs_NV.shape} for {len(truths)} tokens; it takes one row each")
    error_N = np.zeros(len(truths))
    for row, truth in enumerate(truths):
        ids = list(truth.distribution)
        if max(ids) >= log_probs_NV.shape[1]:
            raise ValueError(f"token id {max(ids)} is possible in row {row}, but V is {log_probs_NV.shape[1]}")
        p = np.array(list(truth.distribution.values()))
        # Only possible tokens are looked at, so no 0 * -inf arises.
        error_N[row] = math.fsum(p * (np.log(p) - log_probs_NV[row, ids].astype(np.float64)))
    return np.maximum(error_N, 0.0)  # rounding alone takes it below 0, by 1e-16


def _refuse(joined: pd.DataFrame, wrong: pd.Series, what: str) -> None:
    if wrong.any():
        first = joined[wrong].iloc[0]
        raise InputError(
            f"example {first['example_id']!r}, token {first['index_in_completion']} of the completion {what}; "
            "score the demo conversations with the demo tokenizer and its chat template"
        )


def _groups(joined: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the groups that have tokens, in the order of the table."""
    yield "all", joined
    for column, names in (("token_class", TOKEN_CLASSES), ("fact_group", map(fact_group, FACT_BIN_STARTS))):
        for name in names:
            group = joined[joined[column] == name]
            if len(group):
                yield name, group


def _summary(group: pd.DataFrame) -> dict[str, float]:
    means = group[["true_entropy", "entropy", "aleatoric", "epistemic", "loss", "true_loss"]].astype(float).mean()
    varies = group["true_entropy"].nunique() > 1 and group["aleatoric"].nunique() > 1
    return {
        "tokens": len(group),
        "true_entropy": means["true_entropy"],
        "entropy": means["entropy"],
        "aleatoric": means["aleatoric"],
        "aleatoric_error": (group["aleatoric"] - group["true_entropy"]).abs().mean(),
        "epistemic": means["epistemic"],
        "loss": means["loss"],
        "true_loss": means["true_loss"],
        "reducible": means["loss"] - means["true_loss"],
        "aleatoric_rank_correlation": (
            stats.spearmanr(group["aleatoric"], group["true_entropy"]).statistic if varies else math.nan
        ),
    }
