"""Made-up tokens of a stage of training, with all that the validation against the oracle reads."""

import numpy as np
import pandas as pd

from uncertainty.demo.facts import NEVER_TOLD, RANKED_FACTS


def tokens(seed, rho=1.0):
    """Tokens of 20 examples: structure, facts of which some are never told, choices. KL is epistemic plus noise."""
    rng = np.random.default_rng(seed)
    n = 800
    classes = rng.choice(["structure", "fact", "choice"], n)
    fact = np.where(classes == "fact", rng.choice([RANKED_FACTS[0], min(NEVER_TOLD)], n), None)
    told = {RANKED_FACTS[0]: "fact, told 1000+ times", min(NEVER_TOLD): "fact, told 0 times", None: None}
    kl = rng.gamma(0.5, size=n)
    frame = {
        "example_id": [f"demo-{i:05d}" for i in rng.integers(0, 20, n)],
        "token_class": classes,
        "fact": fact,
        "fact_group": [told[name] for name in fact],
        "oracle_kl": kl,
        "loss": kl + rng.gamma(1.0, size=n),
        "true_loss": np.where(classes == "choice", 0.5, 0.0),
        "entropy": rng.gamma(1.0, size=n),
        "true_entropy": np.where(classes == "choice", rng.uniform(0.2, 1.0, n), 0.0),
        "aleatoric": rng.gamma(1.0, size=n),
        "epistemic": kl + 0.1 * rng.gamma(1.0, size=n),
        "epistemic_se": 0.01,
        "rho": rho * rng.normal(size=n),
    }
    return pd.DataFrame(frame)
