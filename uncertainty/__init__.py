"""Token-level uncertainty for causal language models.

``score_dataset`` scores every completion token of a data set by Monte Carlo dropout; ``read_scores`` and
``read_examples`` read what it wrote, as a pandas frame. The formulas stand in ``measures.py``: read that file first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uncertainty.scores import read_examples, read_run, read_scores
    from uncertainty.scoring import score_dataset

__all__ = ["read_examples", "read_run", "read_scores", "score_dataset"]

# Looked up when first used: importing the package must not import torch.
_HOMES = {
    "read_examples": "uncertainty.scores",
    "read_run": "uncertainty.scores",
    "read_scores": "uncertainty.scores",
    "score_dataset": "uncertainty.scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
