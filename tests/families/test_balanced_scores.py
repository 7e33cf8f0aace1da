"""Scores under balanced masks: independent of the batch plan, quieter than under iid masks, resumable, on record."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, save_tiny
from random_examples import examples
from score_runs import write_lines

from uncertainty import measures
from uncertainty.budget import Budget
from uncertainty.cli.score import main
from uncertainty.data.batches import collate
from uncertainty.engine import score
from uncertainty.families.dropout import McDropout
from uncertainty.scores import read_scores

QUESTIONS = [
    {"question": f"How much is {n} and {n}?", "answer": f"{n} + {n} = {2 * n}.\n#### {2 * n}"} for n in range(5)
]


def epistemic(model, rows, family, *, passes, seed=0, tokens_per_batch=1 << 20, side="right", together=True):
    """Epistemic uncertainty of every token, examples in order."""
    batches = [collate(rows, side=side)] if together else [collate([row]) for row in rows]
    found = score(model, batches, family, passes=passes, seed=seed, budget=Budget(tokens_per_batch, 1 << 30))
    return np.concatenate([block.measures["epistemic"] for block in found])


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize("masks", ["iid", "balanced"])
def test_scores_do_not_depend_on_the_batch_plan(name, masks, tiny_model):
    model, family = tiny_model(name), McDropout(rate=0.2, masks=masks)
    rows = examples(model, 3)
    expected = epistemic(model, rows, family, passes=7)
    plans = [{"together": False}, {"side": "left"}, {"tokens_per_batch": 1}, {"tokens_per_batch": 200}]
    for plan in plans if name != "opt" else plans[:1] + plans[2:]:  # OPT counts its positions from the first column
        np.testing.assert_allclose(epistemic(model, rows, family, passes=7, **plan), expected, rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tiny_model):
    model, family = tiny_model("llama"), McDropout(rate=0.2, masks="balanced")
    rows = examples(model, 2)
    once, again, other = (epistemic(model, rows, family, passes=7, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(once, again, equal_nan=True)
    assert not np.allclose(once, other, equal_nan=True)


def test_runs_under_balanced_masks_vary_less():
    """Twelve runs under each: the variance of total uncertainty, a geometric mean over tokens."""
    model = TINY["llama"]()
    rows = examples(model, 2)
    spread = {}
    for masks in ("iid", "balanced"):
        totals = []
        for seed in range(12):
            blocks = score(model, [collate(rows)], McDropout(rate=0.1, masks=masks), passes=50, seed=seed)
            totals.append(np.concatenate([block.measures["total"] for block in blocks]))
        spread[masks] = np.nanvar(totals, axis=0, ddof=1)
    some = spread["iid"] > 0  # position 0 has no prediction
    ratio = np.log(spread["iid"][some] / spread["balanced"][some]).mean()
    assert np.exp(ratio) > 1.5


@pytest.mark.parametrize(("passes", "groups"), [(7, 1), (50, 5)])
def test_the_standard_error_is_that_of_the_independent_groups(passes, groups, tiny_model, monkeypatch):
    """One group tells nothing of its error: its passes are then taken as independent, which is on the safe side."""
    asked = []
    decompose = measures.decompose
    monkeypatch.setattr(measures, "decompose", lambda *a, **k: asked.append(k["groups"]) or decompose(*a, **k))
    model = tiny_model("llama")
    blocks = score(model, [collate(examples(model, 2))], McDropout(0.1, masks="balanced"), passes=passes)
    error = np.concatenate([block.measures["epistemic_se"] for block in blocks])
    assert set(asked) == ({None} if groups == 1 else {(passes // groups,) * groups})
    assert np.isfinite(error[~np.isnan(error)]).all()
    assert np.nanmax(error) > 0


@pytest.fixture
def command(tmp_path):
    model = save_tiny("llama", tmp_path)
    data = write_lines(tmp_path / "questions.jsonl", QUESTIONS)
    words = ["--model", model, "--dataset", data, "--passes", 50, "--shard-examples", 2, "--masks", "balanced"]
    return [str(word) for word in words]


def test_the_command_scores_under_balanced_masks_and_puts_them_on_record(command, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*command, "--out", str(out)]) == 0
    assert "50 passes, balanced masks (keyed), seed 0" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["settings"]["family"]["masks"] == "balanced"
    found = read_scores(out)
    assert (found["n_passes"] == 50).all()
    assert found["epistemic_se"].notna().all()
    before = found.copy()
    shard = sorted((out / "tokens").glob("*.parquet"))[-1]
    # killed before the last shard: the same command makes it again, the same
    for path in (shard, out / "examples" / shard.name):
        path.unlink()
    assert main([*command, "--out", str(out), "--tokens-per-batch", "100"]) == 0
    pd.testing.assert_frame_equal(read_scores(out), before, check_exact=False, rtol=0, atol=1e-5)
    assert main([*command, "--out", str(out), "--masks", "iid"]) == 2
    assert 'family.masks: "balanced" -> "iid"' in capsys.readouterr().err


def test_masks_of_stock_kernels_cannot_be_balanced(command, tmp_path, capsys):
    assert main([*command, "--rng", "kernel", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.strip().endswith("give --rng keyed, or --masks iid")
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_scores_on_a_gpu_are_those_of_the_cpu():
    model, family = TINY["llama"](), McDropout(rate=0.2, masks="balanced")
    rows = examples(model, 2)
    expected = epistemic(model, rows, family, passes=10)
    found = epistemic(model.to("cuda"), rows, family, passes=10)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
