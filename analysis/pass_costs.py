"""What a standard error of epistemic costs in passes, by a run's own errors.

Passes that are drawn independently of each other, or in independent groups of one size, give a squared error that falls
as 1 / passes. So ``error^2 * passes`` is what one pass would have, and a run tells it whatever its number of passes:

    passes for a relative error r    exp(mean over tokens of log(error^2 * passes / epistemic^2)) / r^2

A geometric mean over tokens, as in docs/masks.md, because a mean would be that of the one or two tokens that rare masks
turn over. A squared error of G groups is that of the truth times chi^2 / (G - 1) of as many
degrees of freedom, whose logarithm is below 0 in the mean; that is taken off.

Suffix N: tokens above ``NEGLIGIBLE`` nats.

Source: Bartlett and Kendall 1946 for the logarithm of a variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from analysis.by_example import Examples, Interval, few_examples, number_examples, t_interval
from analysis.family_words import masks_of
from uncertainty.pass_groups import group_sizes, jackknife_sizes, most_groups
from uncertainty.scores import RunInfo
from uncertainty.stopping import NEGLIGIBLE

TARGETS = (0.2, 0.1, 0.05)  # standard error of epistemic over its value
RARE = 0.5  # from there on rare masks make the value, and a few groups do not know the error
COST_COLUMNS = (
    "relative_error",  # the standard error of epistemic over its value that is asked for
    "passes",  # that a typical token takes: geometric mean; NaN where it cannot be told
    "low",  # interval by example
    "high",
    "passes_nine_in_ten",  # enough for nine tokens in ten, by their own errors
    "share_within",  # of the tokens, that this run knows so well
    "n_tokens",  # at or above 0.001 nats, with an error
    "n_examples",
    "n_effective",
    "warning",
)


@dataclass(frozen=True, eq=False)
class PassErrors:
    """The Monte Carlo errors of some tokens.

    Attributes:
        owner: the example of each token.
        epistemic_N: nats.
        error_N: standard error of it, nats, above 0.
        passes_N: that went into it.
        degrees_N: of freedom of the error.
    """

    owner: Examples
    epistemic_N: np.ndarray
    error_N: np.ndarray
    passes_N: np.ndarray
    degrees_N: np.ndarray

    @property
    def one_pass(self) -> np.ndarray:
        """log(error^2 * passes), freed of what few degrees of freedom take off it."""
        bias_N = special.digamma(self.degrees_N / 2) - np.log(self.degrees_N / 2)
        return 2 * np.log(self.error_N) - bias_N + np.log(self.passes_N)

    @property
    def relative_to_value(self) -> np.ndarray:
        """The same relative to epistemic: log of the passes that a relative error of 1 takes."""
        return self.one_pass - 2 * np.log(self.epistemic_N)

    @property
    def relative(self) -> np.ndarray:
        """Standard error over value, as the run has them."""
        return self.error_N / self.epistemic_N


def groups_of_run(info: RunInfo) -> int | None:
    """Independent groups that all passes of a balanced run fall into; None where every pass is drawn by itself.

    1: nothing in the run tells its error, and ``epistemic_se`` is that of as many independent passes.
    """
    if masks_of(info) != "balanced":
        return None
    passes, rate = int(info.settings["passes"]), float(info.settings["family"]["rate"])
    # As family_choice: with a target, groups are as small as they may be.
    resolved = info.record.get("resolved")
    targeted = isinstance(resolved, dict) and resolved.get("target_se") is not None
    return len(group_sizes(passes, rate, most_groups(passes, rate) if targeted else None))


def enough_passes(info: RunInfo) -> int:
    """The next larger number of passes, in tens, that falls into groups whose spread tells the error."""
    passes, rate = int(info.settings["passes"]), float(info.settings["family"]["rate"])
    tens = range(10 * (passes // 10 + 1), 100_000, 10)
    return next((count for count in tens if len(group_sizes(count, rate)) > 1), 100_000)


def pass_errors(tokens: pd.DataFrame, info: RunInfo) -> PassErrors | None:
    """The errors of the tokens of a run, but for those below 0.001 nats; None where there is no such token.

    Args:
        tokens: ``example``, ``epistemic``, ``epistemic_se``, ``n_passes``.
        info: of the run.
    """
    if "epistemic_se" not in tokens:
        return None
    use = ((tokens["epistemic"] >= NEGLIGIBLE) & (tokens["epistemic_se"] > 0)).to_numpy()
    if not use.any():
        return None
    values = (tokens[name].to_numpy()[use].astype(np.float64) for name in ("epistemic", "epistemic_se", "n_passes"))
    epistemic_N, error_N, passes_N = values
    degrees_N = _degrees(passes_N, groups_of_run(info), info)
    return PassErrors(number_examples(tokens["example"][use]), epistemic_N, error_N, passes_N, degrees_N)


def cost_table(errors: PassErrors | None, confidence: float) -> pd.DataFrame:
    """How many passes a relative error takes, one row of ``COST_COLUMNS`` for each of ``TARGETS``."""
    if errors is None:
        return pd.DataFrame(columns=list(COST_COLUMNS))
    mean, interval = mean_by_example(errors.relative_to_value, errors.owner, confidence)
    # A token's own error is the noisier part of this, so what nine in ten take is rather too many than too few.
    most = float(np.quantile(2 * np.log(errors.relative) + np.log(errors.passes_N), 0.9))
    rows = [
        {
            "relative_error": target,
            "passes": math.exp(mean) / target**2,
            "low": math.exp(interval.low) / target**2,
            "high": math.exp(interval.high) / target**2,
            "passes_nine_in_ten": math.exp(most) / target**2,
            "share_within": float(np.mean(errors.relative <= target)),
            **errors.owner.counts(),
            "warning": interval.warning,
        }
        for target in TARGETS
    ]
    return pd.DataFrame(rows, columns=list(COST_COLUMNS))


def typical_error(errors: PassErrors) -> float:
    """Standard error over value at a typical token of the run: geometric mean, at the passes that it had."""
    return math.exp(float(np.mean(errors.relative_to_value - np.log(errors.passes_N))) / 2)


def rare_share(errors: PassErrors) -> float:
    """Share of the tokens whose error is above half of the value: their passes cannot be foretold."""
    return float(np.mean(errors.relative > RARE))


def _degrees(passes_N: np.ndarray, groups: int | None, info: RunInfo) -> np.ndarray:
    """Groups less one, of the groups that ``measures.bald_standard_error`` leaves out."""
    if groups is not None and groups > 1:
        return np.maximum(np.round(passes_N * groups / int(info.settings["passes"])) - 1, 1)
    counts, place_N = np.unique(passes_N, return_inverse=True)
    return np.array([max(len(jackknife_sizes(int(count))) - 1, 1) for count in counts], dtype=np.float64)[place_N]


def mean_by_example(values_N: np.ndarray, owner: Examples, confidence: float) -> tuple[float, Interval]:
    """The mean over tokens, and its interval by example."""
    mean = float(values_N.mean())
    if owner.n_examples < 2:
        return mean, Interval(math.nan, math.nan, few_examples(owner))
    return mean, t_interval(mean, owner.sums(values_N - mean), owner, confidence, "plain")
