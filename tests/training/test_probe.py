"""A model scored in the middle of training: the scores are those of unc-score, and training does not notice."""

import copy
import dataclasses
import doctest
import json
import random

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import save_tiny
from peft import LoraConfig, get_peft_model

from uncertainty.errors import InputError
from uncertainty.loading import load_model
from uncertainty.model import LoadedModel
from uncertainty.prepare import prepare
from uncertainty.scores import read_examples, read_run, read_scores
from uncertainty.scoring import open_job, run_job
from uncertainty.settings import ScoreSettings
from uncertainty.training import probe as probe_module
from uncertainty.training.probe import open_probe, probe_folder, run_probe

MEASURES = ("loss", "entropy", "total", "aleatoric", "epistemic", "mc_loss")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    rows = [{"question": f"{i} + {i} = ?", "answer": f"It is {2 * i}, since {i} twice."} for i in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings_of(folder, data, **other):
    return ScoreSettings(str(folder), str(data), **({"passes": 3, "device": "cpu"} | other))


def student(folder, dropout=0.0):
    """A LoRA on the tiny model whose second factor is not zero, in training mode with gradient checkpointing."""
    loaded = load_model(folder, device="cpu")
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(loaded.model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    return model.train()


def opened(model, folder, data, **other):
    return open_probe(model, prepare(settings_of(folder, data, **other)), run="run 1", name="tiny")


def trained(folder, data, probe_at, out, *, steps=4):
    """A few steps of training with dropout and two micro-batches; probes between and within steps."""
    model = student(folder, dropout=0.2)
    probe = opened(model, folder, data) if probe_at else None
    torch.manual_seed(2)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(steps):
        if step in probe_at:
            run_probe(probe, step, out / f"step-{step}")
        for half in range(2):
            if half == 1 and step in probe_at:  # gradients are half done
                run_probe(probe, step + 100, out / f"step-{step}-within")
            ids = torch.randint(4, 300, (2, 12))
            loss = model(input_ids=ids, labels=ids).loss / 2
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses, [p.detach().clone() for p in model.parameters()], torch.get_rng_state()


def test_training_goes_on_bit_identically_with_and_without_probes(folder, data, tmp_path):
    losses, weights, rng = trained(folder, data, (), tmp_path)
    losses_2, weights_2, rng_2 = trained(folder, data, (0, 2), tmp_path)
    assert losses == losses_2
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_2, strict=True))
    assert torch.equal(rng, rng_2)
    assert len(set(losses)) == len(losses)
    first, later = (read_scores(tmp_path / f"step-{step}") for step in (0, 2))
    assert not np.allclose(first["loss"], later["loss"])


@pytest.mark.parametrize("rng", ["keyed", "kernel"])
def test_nothing_about_the_model_or_the_random_numbers_changes(folder, data, tmp_path, rng):
    model = student(folder, dropout=0.1)
    model.base_model.model.model.layers[1].eval()  # a mixture of modes stays one
    ids = torch.arange(4, 24)[None]
    model(input_ids=ids, labels=ids).loss.backward()

    def state():
        return {
            "modes": [module.training for module in model.modules()],
            "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
            "trainable": [p.requires_grad for p in model.parameters()],
            "gradients": [None if p.grad is None else p.grad.clone().tolist() for p in model.parameters()],
            "tensors": {name: tensor.clone().tolist() for name, tensor in model.state_dict().items()},
            "buffers": [(name, buffer.tolist(), buffer.is_inference()) for name, buffer in model.named_buffers()],
            "attention": model.config._attn_implementation,
            "cache": model.config.use_cache,
            "generators": (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),
            "grad mode": torch.is_grad_enabled(),
            "active": model.active_adapters,
        }

    before = copy.deepcopy(state())
    probe = opened(model, folder, data, rng=rng)
    assert state() == before
    run_probe(probe, 5, tmp_path / "run")
    assert state() == before


def test_a_probe_scores_what_unc_score_scores_of_the_merged_model(folder, data, tmp_path):
    model = student(folder)
    probe = opened(model, folder, data, passes=6)
    found = run_probe(probe, 7, tmp_path / "probe").scores()
    merged = model.merge_and_unload().eval()
    settings = settings_of(folder, data, passes=6)
    prepared = prepare(settings)
    loaded = LoadedModel(merged, prepared.tokenizer, probe.job.loaded.record)
    expected = run_job(open_job(prepared, loaded), tmp_path / "score").scores()
    assert list(found.columns) == list(expected.columns)
    assert found.dtypes.equals(expected.dtypes)
    for name in MEASURES:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5)
    assert (found["epistemic"] > 1e-3).any()
    columns = ["example_id", "token", "turn", "position"]
    pd.testing.assert_frame_equal(found[columns], expected[columns])
    assert (
        read_examples(tmp_path / "probe")["completion"].tolist()
        == read_examples(tmp_path / "score")["completion"].tolist()
    )


def test_the_run_says_which_step_of_which_training_it_is(folder, data, tmp_path):
    probe = opened(student(folder), folder, data)
    run = run_probe(probe, 120, probe_folder(tmp_path, 120))
    info = read_run(tmp_path / "probe" / "step-000120")
    assert info.settings["training"] == {"run": "run 1", "step": 120}
    assert info.record["model"]["name"] == "tiny, step 120"
    assert info.status == "complete"
    assert info.settings["passes"] == 3
    assert run.path == probe_folder(tmp_path, 120)


def test_a_finished_probe_is_kept_and_one_of_another_step_or_run_refused(folder, data, tmp_path):
    model = student(folder)
    probe = opened(model, folder, data)
    run_probe(probe, 3, tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.parquet")}
    calls: list = []
    # Resumed in another process: opened anew, and the folder of the model may have moved.
    again = open_probe(model, prepare(settings_of(folder, data)), run="run 1", name="elsewhere")
    run_probe(again, 3, tmp_path / "run", on_progress=calls.append)
    assert calls == []
    assert files == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.parquet")}
    with pytest.raises(InputError, match=r"training\.step: 3 -> 4"):
        run_probe(probe, 4, tmp_path / "run")
    with pytest.raises(InputError, match=r"training\.run"):
        run_probe(dataclasses.replace(probe, run="run 2"), 3, tmp_path / "run")


def test_an_interrupted_probe_is_completed(folder, data, tmp_path):
    probe = opened(student(folder), folder, data, shard_examples=2)
    whole = run_probe(probe, 1, tmp_path / "whole").scores()

    def stop(progress):
        if progress.examples > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_probe(probe, 1, tmp_path / "cut", on_progress=stop)
    assert all(module.training for module in probe.job.loaded.model.modules())
    pd.testing.assert_frame_equal(run_probe(probe, 1, tmp_path / "cut").scores(), whole)


def test_a_buffer_made_anew_inside_a_forward_pass_can_be_trained_with(folder, data, tmp_path):
    model = student(folder)
    rotary = model.base_model.model.model.rotary_emb

    def renew(module, args, output):
        module.register_buffer("inv_freq", module.inv_freq * 1.0, persistent=False)

    handle = rotary.register_forward_hook(renew)
    run_probe(opened(model, folder, data), 1, tmp_path / "run")
    handle.remove()
    assert not rotary.inv_freq.is_inference()
    ids = torch.arange(4, 24)[None]
    model(input_ids=ids, labels=ids).loss.backward()


def test_a_model_under_full_fine_tuning_is_probed_as_it_is(folder, data, tmp_path):
    model = load_model(folder, device="cpu").model.train()
    run_probe(opened(model, folder, data), 0, tmp_path / "run")
    assert all(module.training for module in model.modules())
    with pytest.raises(InputError, match="not a Sequential; unwrap it first"):
        opened(torch.nn.Sequential(model), folder, data)


def test_weights_that_diverged_stop_with_one_line(folder, data, tmp_path):
    model = student(folder)
    probe = opened(model, folder, data)
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B" in n).fill_(float("nan"))
    with pytest.raises(InputError, match="results that are not finite") as caught:
        run_probe(probe, 9, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_doctests_hold():
    assert doctest.testmod(probe_module).failed == 0
