"""How much of epistemic's spread over tokens is Monte Carlo noise, from the standard error of every token.

The noise of a finite number of passes shrinks every correlation of epistemic with a measure that does not share it:
measured = true * sqrt(reliability). ``epistemic_se`` says how large that noise is, token by token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.by_example import Examples
from analysis.ranks import Ranks, rank
from analysis.row_draws import row_normals

LOW_RELIABILITY = 0.8  # below: the first-order correction is no longer to be trusted
LEAST_RELIABILITY = 0.2  # below: no correction


@dataclass(frozen=True)
class Reliability:
    """Reliability of epistemic on one scale.

    Attributes:
        method: "spearman" (ranks) or "pearson" (nats).
        value: correlation to be expected between two independent scorings with as many passes; NaN if undefined.
        warning: "" or what to think of it.
    """

    method: str
    value: float
    warning: str

    @property
    def attenuation(self) -> float:
        """Factor by which the noise shrinks a correlation; NaN where the value does not allow one."""
        return math.sqrt(self.value) if self.value > 0 else math.nan

    @property
    def is_correctable(self) -> bool:
        """Whether a correction by this reliability means anything."""
        return self.value >= LEAST_RELIABILITY


def value_reliability(epistemic_N: np.ndarray, se_N: np.ndarray) -> Reliability:
    """Reliability in nats: 1 - mean(se^2) / variance over tokens.

    Source: classical test theory, Lord and Novick (1968); Spearman (1904) for the correction.
    """
    variance = float(np.var(epistemic_N, dtype=np.float64))
    if variance == 0:
        return Reliability("pearson", math.nan, "undefined: epistemic is constant")
    return _judged("pearson", 1 - float(np.mean(se_N.astype(np.float64) ** 2)) / variance)


def rank_reliability(
    epistemic_N: np.ndarray, se_N: np.ndarray, ranks: Ranks, examples: Examples, seed: int
) -> Reliability:
    """Reliability of the ranks: 2 - 1 / c^2, where c is the rank correlation with a noisier copy.

    The copy has each token's noise a second time, so noise of relative size v leaves c^2 = 1 / (1 + v) and the
    reliability is 1 - v. The noise is log-normal with the token's own relative standard error: epistemic cannot
    be negative, and it is the relative error that is alike across tokens. Against two simulated scorings: within
    .01 of their correlation where that is above .93, within .04 at .84; where the noise is both large and larger for
    some tokens, too high (.97 for .95 on a run's own standard errors doubled).
    """
    if ranks.n_distinct < 2:
        return Reliability("spearman", math.nan, "undefined: epistemic is constant")
    copy_N = noisy_copy(epistemic_N, se_N, examples, seed)
    centred_N, copied_N = ranks.share_N - 0.5, rank(copy_N).share_N - 0.5
    c_squared = float(np.dot(centred_N, copied_N) ** 2 / (np.dot(centred_N, centred_N) * np.dot(copied_N, copied_N)))
    return _judged("spearman", 2 - 1 / c_squared if c_squared > 0 else -math.inf)


def noisy_copy(epistemic_N: np.ndarray, se_N: np.ndarray, examples: Examples, seed: int) -> np.ndarray:
    """Epistemic as another scoring would see it if this one were the truth: log-normal noise of its own se."""
    value_N = epistemic_N.astype(np.float64)
    positive = value_N > 0
    relative_N = np.zeros(len(value_N))
    np.divide(se_N, value_N, out=relative_N, where=positive)
    sigma_N = np.sqrt(np.log1p(relative_N**2))
    normal_N = row_normals([epistemic_N, se_N], examples.code_N, seed)
    return value_N * np.exp(sigma_N * normal_N)


def _judged(method: str, value: float) -> Reliability:
    if value < LEAST_RELIABILITY:
        return Reliability(
            method, value, "epistemic is mostly Monte Carlo noise: no correction; score with more passes"
        )
    if value < LOW_RELIABILITY:
        return Reliability(method, value, "much Monte Carlo noise: corrected values are rough; score with more passes")
    return Reliability(method, value, "")
