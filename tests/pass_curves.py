"""Curves over the number of passes whose truth is known: a value for each token, and noise that falls as in a mean."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.by_example import number_examples
from analysis.convergence import ESTIMATES, PassCurve

PASSES = 200
COUNTS = (5, 10, 20, 50, 100, PASSES)


def curve(n_examples: int = 40, *, seed: int = 0, noise: float = 4.0, bias: float = 1.0) -> PassCurve:
    """A run of 200 passes over examples of 25 tokens.

    Each pass of each token is its truth (mean 4, sd 1) plus noise; the plug-in value of k passes is their mean less
    ``bias / k`` of it, the corrected value their mean.
    """
    rng = np.random.default_rng(seed)
    n_tokens = 25 * n_examples
    truth_N = 4 + np.random.default_rng(99).normal(size=n_tokens)
    pass_KN = truth_N + noise * rng.normal(size=(PASSES, n_tokens))
    corrected = {k: pass_KN.reshape(PASSES // k, k, n_tokens).mean(1) for k in COUNTS}
    plug_in = {k: values_SN * (1 - bias / k) for k, values_SN in corrected.items()}
    owner = number_examples(pd.Series(np.repeat(np.arange(n_examples), 25), name="example"))
    return PassCurve(owner, dict(zip(ESTIMATES, (plug_in, corrected), strict=True)))
