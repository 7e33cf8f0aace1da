"""Checkpoints of the demo model, scored and held against the truth: the reducible error of a run is the model's own."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from figures import oracle_checkpoints
from figures.oracle_checkpoints import checkpoints, reducible_errors, stages
from uncertainty.demo import demo_data_path, demo_model_path
from uncertainty.demo.oracle import FACTS_SEEN_PATH, oracle
from uncertainty.demo.train import Settings, encode, save_checkpoint, train
from uncertainty.errors import InputError
from uncertainty.loading import load_model
from uncertainty.prepare import prepare
from uncertainty.scores import read_examples
from uncertainty.settings import ScoreSettings

STEPS = (2, 5000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints: one after two small steps, and the embedded model as the one after the last."""
    folder = tmp_path_factory.mktemp("checkpoints")
    settings = replace(Settings(), conversations_per_batch=2)
    early = train(settings, stop_after=2)
    save_checkpoint(early.model, early.facts_seen, settings, folder / "step-000002")
    shutil.copytree(demo_model_path(), folder / "step-005000")
    shutil.copy(FACTS_SEEN_PATH, folder / "step-005000")
    return folder


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    return stages(STEPS, folder, tmp_path_factory.mktemp("runs"), passes=3, limit=12)


def test_each_token_carries_its_reducible_error(done, folder):
    """Against each conversation alone through transformers' own logits, and the sum written out."""
    rows = {row["id"]: row for row in map(json.loads, demo_data_path().read_text().splitlines())}
    for stage in done:
        model = AutoModelForCausalLM.from_pretrained(folder / f"step-{stage.step:06d}").double().eval()
        assert stage.tokens["example_id"].nunique() == 12
        for name, tokens in stage.tokens.groupby("example_id"):
            encoded = encode(rows[name])
            with torch.no_grad():
                log_probs_TV = model(input_ids=torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
            places = [place for place, point in enumerate(encoded.points) if point is not None]
            for place, truth, value in zip(places, oracle(rows[name]), tokens["oracle_kl"], strict=True):
                terms = [p * (math.log(p) - log_probs_TV[place - 1, v].item()) for v, p in truth.distribution.items()]
                assert value == pytest.approx(sum(terms), rel=1e-6, abs=1e-9)


def test_the_error_is_the_loss_where_one_label_alone_is_possible_and_falls_with_training(done):
    for stage in done:
        certain = stage.tokens[stage.tokens["true_entropy"] == 0]
        assert certain["oracle_kl"].to_numpy() == pytest.approx(certain["loss"].to_numpy(), rel=1e-4, abs=1e-5)
    early, late = (stage.tokens for stage in done)
    assert early["oracle_kl"].mean() > 10 * late["oracle_kl"].mean()
    assert (late["oracle_kl"] >= 0).all()


def test_rho_is_the_loss_above_that_of_the_last_stage(done):
    early, late = (stage.tokens for stage in done)
    assert (early[["example_id", "index_in_completion"]] == late[["example_id", "index_in_completion"]]).all(axis=None)
    assert early["rho"].to_numpy() == pytest.approx(early["loss"].to_numpy() - late["loss"].to_numpy())
    assert (late["rho"] == 0).all()


def test_facts_are_counted_as_told_up_to_the_checkpoint(done):
    early, late = (stage.tokens["fact_group"].dropna() for stage in done)
    assert set(early) <= {"fact, told 0 times", "fact, told 1-9 times"}
    assert "fact, told 1000+ times" in set(late)


def test_runs_are_scored_once(done, folder, capsys):
    again = stages(STEPS, folder, done[0].run.parent, passes=3, limit=12)
    assert "scoring" not in capsys.readouterr().err
    for one, other in zip(done, again, strict=True):
        assert one.tokens.equals(other.tokens)


def test_a_run_of_another_model_is_refused(done, folder, monkeypatch):
    monkeypatch.setattr(oracle_checkpoints, "load_model", lambda *_, **__: load_model(folder / "step-000002"))
    with pytest.raises(InputError, match=r"was not scored with .*step-005000: losses differ by"):
        stages((5000,), folder, done[0].run.parent, passes=3, limit=12)


def test_a_conversation_of_other_tokens_is_refused(done):
    run = done[-1].run
    loaded = load_model(demo_model_path())
    examples = prepare(ScoreSettings(limit=2), loaded).examples
    table = read_examples(run)
    reducible_errors(loaded, examples, table)
    swapped = table.assign(messages=np.roll(table["messages"].to_numpy(), 1))
    with pytest.raises(InputError, match="has other tokens than the demo language"):
        reducible_errors(loaded, examples, swapped)


def test_a_missing_checkpoint_is_named_with_the_command_that_makes_it(folder):
    with pytest.raises(InputError, match=r"step-000007 is no checkpoint.*--checkpoints 2,7"):
        checkpoints((2, 7), folder)


def test_checkpoints_of_its_own_are_made_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(oracle_checkpoints, "OWN", tmp_path)
    ran = []

    def run(command, check):
        ran.append(command[command.index("-m") + 1 :])
        for step in (3, 4):
            (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
            (tmp_path / "checkpoints" / f"step-{step:06d}" / "facts_seen.json").write_text("{}")

    monkeypatch.setattr(oracle_checkpoints.subprocess, "run", run)
    first = checkpoints((3, 4), None)
    assert checkpoints((3, 4), None) == first
    assert ran == [["uncertainty.demo.train", "--out", str(tmp_path / "checkpoints"), "--checkpoints", "3,4"]]
    assert capsys.readouterr().err.count("about 12 minutes") == 1
