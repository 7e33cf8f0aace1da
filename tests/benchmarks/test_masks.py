"""The measurement of masks: its standard errors against the product's, its truth, and the texts it cuts."""

import argparse

import pytest
import torch
from conftest import TINY
from random_examples import examples

from benchmarks import masks
from uncertainty import measures
from uncertainty.families.dropout import McDropout


@pytest.fixture(scope="module")
def drawn():
    model = TINY["llama"]()
    rows = masks.shorten(examples(model, 6, seed=3), 0, 2, 3)
    return masks.members(model, rows, McDropout(0.1), 0)


def test_the_group_errors_are_those_of_the_product(drawn):
    log_probs_KNV, label_N = drawn
    run = masks.one_run(log_probs_KNV, label_N, 10)
    expected_N = measures.bald_standard_error(log_probs_KNV, groups=10)
    torch.testing.assert_close(run.errors["group jackknife"], expected_N, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(run.errors["group means"], expected_N, rtol=0.3, atol=1e-5)


def test_a_pool_of_runs_is_the_run_of_all_their_passes(drawn):
    log_probs_KNV, label_N = drawn
    halves = [masks.one_run(log_probs_KNV[k : k + 50], label_N, 10) for k in (0, 50)]
    torch.testing.assert_close(masks.pooled(halves), measures.bald(log_probs_KNV), rtol=1e-4, atol=1e-6)


def test_texts_are_cut_after_so_many_completion_tokens():
    rows = examples(TINY["llama"](), 6, seed=3)
    for row in masks.shorten(rows, 0, 3, 3):
        assert sum(row.completion) == 3
        assert row.completion[-1]
        whole = next(other for other in rows if other.id == row.id)
        assert whole.input_ids[: len(row.input_ids)] == row.input_ids
    assert masks.shorten(rows, 1, 2, 3) == masks.shorten(rows, 0, 3, 3)[1:]
    with pytest.raises(SystemExit, match="ask for fewer --tokens"):
        masks.shorten(rows, 0, 3, 1000)


def test_balanced_masks_have_the_smaller_variance_and_iid_ones_the_ratio_one():
    model = TINY["llama"]()
    rows = masks.shorten(examples(model, 6, seed=3), 0, 2, 3)
    options = argparse.Namespace(sites="native", runs=5, rare=None)
    found = masks.compare(model, rows, 0.1, options)
    assert found["tokens"] == 6
    for passes in ("20", "100"):
        assert set(found[passes]["iid"]["variance_ratio"].values()) == {1.0}
    assert found["100"]["balanced 10x10"]["variance_ratio"]["total"] > 1.2
    assert "| 0.1 | 100 | balanced 10x10 |" in masks.table({"0.1": found})
