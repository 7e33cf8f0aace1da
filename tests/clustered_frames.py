"""Frames of tokens that hang together by example, with the truth about them known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

# correlation of (epistemic, loss, entropy) within and between examples, before the share of each is known
Matrix = np.ndarray


def matrix(loss: float, entropy: float, loss_entropy: float) -> Matrix:
    """Correlations of epistemic with loss, of epistemic with entropy, of loss with entropy."""
    return np.array([[1, loss, entropy], [loss, 1, loss_entropy], [entropy, loss_entropy, 1]], dtype=float)


WITHIN = matrix(0.5, 0.4, 0.6)
BETWEEN = matrix(-0.5, -0.4, 0.6)


def lengths(n_examples: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Negative binomial lengths, as uneven as those of real completions (coefficient of variation about .7)."""
    return rng.negative_binomial(2, 2 / (1 + mean), n_examples) + 1


def clustered(
    n_examples: int,
    *,
    share: float = 0.3,
    mean: float = 60,
    between: Matrix = BETWEEN,
    within: Matrix = WITHIN,
    seed: int,
) -> pd.DataFrame:
    """Gaussian measures of which ``share`` of the variance lies between examples: see ``true_correlations``."""
    rng = np.random.default_rng(seed)
    code_N = np.repeat(np.arange(n_examples), lengths(n_examples, mean, rng))
    of_example = rng.multivariate_normal(np.zeros(3), between, n_examples)[code_N]
    of_token = rng.multivariate_normal(np.zeros(3), within, len(code_N))
    values = (math.sqrt(share) * of_example + math.sqrt(1 - share) * of_token).astype(np.float32)
    return pd.DataFrame({"example": code_N, "epistemic": values[:, 0], "loss": values[:, 1], "entropy": values[:, 2]})


def two_kinds(n_examples: int, *, mean: float = 20, seed: int) -> pd.DataFrame:
    """Easy and hard tokens in shares that differ by example; among the hard ones loss goes against epistemic.

    How many easy tokens there are decides the ranks of all others: intervals at fixed ranks are a third too narrow.
    """
    rng = np.random.default_rng(seed)
    code_N = np.repeat(np.arange(n_examples), lengths(n_examples, mean, rng))
    is_hard_N = rng.random(len(code_N)) < rng.beta(2, 2, n_examples)[code_N]
    epistemic, loss, entropy = rng.standard_normal((3, len(code_N)))
    loss -= np.where(is_hard_N, 0.8 * epistemic, 0)
    easy_N = np.where(is_hard_N, 0, -5)
    values = {"epistemic": epistemic + easy_N, "loss": loss + easy_N, "entropy": entropy + easy_N}
    return pd.DataFrame({"example": code_N} | values)


def true_correlations(share: float = 0.3, between: Matrix = BETWEEN, within: Matrix = WITHIN) -> Matrix:
    """Pearson's correlations of the tokens of ``clustered``."""
    return share * between + (1 - share) * within


def spearman_of(pearson: float) -> float:
    """Spearman's correlation of a Gaussian pair."""
    return 6 / math.pi * math.asin(pearson / 2)


def kendall_of(pearson: float) -> float:
    """Kendall's tau of a Gaussian pair."""
    return 2 / math.pi * math.asin(pearson)


def scores(n_examples: int = 50, *, seed: int = 0, tied: bool = False) -> pd.DataFrame:
    """A frame with every measure of a run, skewed as real ones are; ``tied`` rounds them so that many agree."""
    rng = np.random.default_rng(seed)
    code_N = np.repeat(np.arange(n_examples), lengths(n_examples, 20, rng))
    n_tokens = len(code_N)
    entropy = np.exp(rng.normal(-1, 1.5, n_tokens) + 0.5 * rng.standard_normal(n_examples)[code_N])
    loss = entropy * rng.exponential(1, n_tokens)
    epistemic = 0.05 * entropy**0.7 * np.exp(0.6 * rng.standard_normal(n_tokens))
    aleatoric = entropy * np.exp(0.1 * rng.standard_normal(n_tokens))
    frame = pd.DataFrame(
        {
            "example": code_N,
            "loss": loss,
            "entropy": entropy,
            "total": aleatoric + epistemic,
            "aleatoric": aleatoric,
            "epistemic": epistemic,
            "epistemic_se": 0.2 * epistemic,
            "mc_loss": loss,
            "label_prob": np.exp(-loss),
            "margin": np.exp(-2 * entropy),
        }
    )
    measures = frame.columns[1:]
    frame[measures] = frame[measures].astype(np.float32)
    return frame.round(dict.fromkeys(measures, 1)) if tied else frame


def shuffled(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The same rows in another order, as shards read in another order would come."""
    return frame.sample(frac=1, random_state=seed)
