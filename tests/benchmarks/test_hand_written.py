"""The loops that the benchmark compares with: the right formulas, and the model left as it was."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from uncertainty.measures import decompose, token_loss

PASSES = 12
LENGTHS = (9, 14, 14, 5, 11)


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "hand_written.py"
    spec = importlib.util.spec_from_file_location("hand_written", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hand_written = _load()
LOOPS = {"stack": hand_written.stack, "running_sums": hand_written.running_sums}


@pytest.fixture(scope="module")
def input_ids() -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(3, 112, (length,), generator=generator).tolist() for length in LENGTHS]


def members(model: Any, input_ids: list[list[int]], batch_size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [K + 1, N, V] of the passes that the loops draw from ``seed``, the deterministic one last."""
    torch.manual_seed(seed)
    batches = []
    for start in range(0, len(input_ids), batch_size):
        rows = input_ids[start : start + batch_size]
        width = max(map(len, rows))
        ids_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        with torch.no_grad(), hand_written.dropout_on(model, 0.2):
            drawn = [model(input_ids=ids_BT, attention_mask=mask_BT).logits for _ in range(PASSES)]
        with torch.no_grad():
            drawn.append(model(input_ids=ids_BT, attention_mask=mask_BT).logits)
        for row, ids in enumerate(rows):
            batches.append(torch.stack([logits[row, : len(ids) - 1] for logits in drawn]))
    label_N = torch.tensor([token for ids in input_ids for token in ids[1:]])
    return torch.cat(batches, dim=1).log_softmax(-1), label_N


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_loop_gives_the_formulas_on_the_passes_it_drew(
    name: str, batch_size: int, tiny_model: Callable[[str], Any], input_ids: list[list[int]]
) -> None:
    model = tiny_model("llama")
    log_probs_KNV, label_N = members(model, input_ids, batch_size, seed=7)
    torch.manual_seed(7)
    scores = LOOPS[name](model, input_ids, batch_size=batch_size, passes=PASSES, rate=0.2)

    p_KNV = log_probs_KNV[:-1].double().exp().numpy()
    total_N = scipy.stats.entropy(p_KNV.mean(0), axis=-1)
    aleatoric_N = scipy.stats.entropy(p_KNV, axis=-1).mean(0)
    np.testing.assert_allclose(scores["total"], total_N, rtol=2e-6)
    np.testing.assert_allclose(scores["aleatoric"], aleatoric_N, rtol=2e-6)
    np.testing.assert_allclose(scores["epistemic"], total_N - aleatoric_N, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(scores["loss"], token_loss(log_probs_KNV[-1], label_N), rtol=2e-6, atol=1e-6)
    assert scores["epistemic"].max() > 0.01


@pytest.mark.parametrize("name", LOOPS)
def test_the_loop_and_our_measures_agree(
    name: str, tiny_model: Callable[[str], Any], input_ids: list[list[int]]
) -> None:
    model = tiny_model("gemma2")
    log_probs_KNV, label_N = members(model, input_ids, 3, seed=1)
    ours = decompose(log_probs_KNV[:-1], label_N)
    torch.manual_seed(1)
    scores = LOOPS[name](model, input_ids, batch_size=3, passes=PASSES, rate=0.2)
    np.testing.assert_allclose(scores["total"], ours.total_N, rtol=2e-6)
    np.testing.assert_allclose(scores["aleatoric"], ours.aleatoric_N, rtol=2e-6)
    np.testing.assert_allclose(scores["epistemic"], ours.epistemic_N, atol=2e-6)


@pytest.mark.parametrize("name", LOOPS)
def test_only_the_scored_tokens_are_scored(
    name: str, tiny_model: Callable[[str], Any], input_ids: list[list[int]]
) -> None:
    model = tiny_model("llama")
    scored = [[position >= 4 for position in range(len(ids))] for ids in input_ids]
    kept = np.concatenate([np.array(flags[1:]) for flags in scored])
    torch.manual_seed(2)
    every = LOOPS[name](model, input_ids, batch_size=2, passes=3)
    torch.manual_seed(2)
    some = LOOPS[name](model, input_ids, batch_size=2, passes=3, scored=scored)
    for column in every:
        np.testing.assert_allclose(some[column], every[column][kept], rtol=1e-6, atol=1e-6)


def test_dropout_goes_on_and_off_again(tiny_model: Callable[[str], Any], input_ids: list[list[int]]) -> None:
    model = tiny_model("llama")
    before = [(module.training, getattr(module, "attention_dropout", None)) for module in model.modules()]
    ids_BT = torch.tensor([input_ids[1]])
    with torch.no_grad():
        quiet = model(input_ids=ids_BT).logits
        with hand_written.dropout_on(model, 0.3):
            assert not torch.equal(model(input_ids=ids_BT).logits, model(input_ids=ids_BT).logits)
        assert torch.equal(model(input_ids=ids_BT).logits, quiet)
        with pytest.raises(RuntimeError, match="on purpose"), hand_written.dropout_on(model, 0.3):
            raise RuntimeError("on purpose")
    assert [(module.training, getattr(module, "attention_dropout", None)) for module in model.modules()] == before


def test_a_model_without_attention_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no module"), hand_written.dropout_on(torch.nn.Linear(2, 2), 0.1):
        pass
