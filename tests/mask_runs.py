"""Two runs of the same tokens, iid and balanced masks, whose errors are known: chi-squared around a true error.

What one pass of token n would have is ``relative[n] * epistemic[n]``; a balanced pass is worth ``WORTH`` iid ones.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from uncertainty.run_info import RunInfo

WORTH = 4.0
ONE_PASS = 1.5  # error of one iid pass over the value, median


def info(masks: str = "iid", *, passes: int = 100, rate: float = 0.1, **settings: object) -> RunInfo:
    sites = [{"name": "layers.0", "kind": "attention", "origin": "native"}]
    family = {"family": "dropout", "rate": rate, "rng": "keyed", "masks": masks, "sites": sites}
    return RunInfo({"family": family, "passes": passes, "model": {"files": "a"}, "data": {"files": "b"}, **settings})


def tokens(
    masks: str = "iid", *, passes: int = 100, groups: int = 10, n_examples: int = 40, seed: int = 0
) -> pd.DataFrame:
    """25 tokens of each example; their errors from ``groups`` groups of passes."""
    truth = np.random.default_rng(99)
    n_tokens = 25 * n_examples
    epistemic_N = np.exp(truth.normal(-4, 1, n_tokens))
    relative_N = ONE_PASS * np.exp(0.3 * truth.normal(size=n_tokens)) / (1 if masks == "iid" else np.sqrt(WORTH))
    noise = np.random.default_rng([seed, masks == "iid"])
    chi_N = noise.chisquare(groups - 1, n_tokens) / (groups - 1)
    return pd.DataFrame(
        {
            "example": np.repeat(np.arange(n_examples), 25),
            "position": np.tile(np.arange(1, 26), n_examples),
            "epistemic": epistemic_N.astype(np.float32),
            "epistemic_se": (epistemic_N * relative_N * np.sqrt(chi_N / passes)).astype(np.float32),
            "n_passes": passes,
        }
    )
