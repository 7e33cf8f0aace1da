"""The families that can be chosen: from the command to the run folder, and what each does not take."""

import json

import numpy as np
import pytest
from adapter_folders import save_adapter
from conftest import save_tiny
from family_members import save_checkpoint

from uncertainty import read_run, read_scores
from uncertainty.cli.score import main
from uncertainty.errors import InputError
from uncertainty.families.dropout import McDropout
from uncertainty.families.weight_noise import WeightNoise
from uncertainty.family_choice import FAMILIES, OPTIONS, family_of
from uncertainty.settings import FAMILY_NAMES, ScoreSettings


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a base, two adapters on it, two checkpoints beside it and a data set."""
    home = tmp_path_factory.mktemp("home")
    base = save_tiny("llama", home).rename(home / "base")
    for seed in range(2):
        save_adapter(base, home / f"adapter-{seed}", seed=seed)
        save_checkpoint(base, home / f"checkpoint-{seed}", seed=seed)
    lines = [{"question": f"{i} + 1?", "answer": f"It is {i + 1}."} for i in range(3)]
    (home / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return home


ADAPTERS = ["--members", "adapter-0,adapter-1"]
CHECKPOINTS = ["--members", "checkpoint-0,checkpoint-1"]
ASKED = {
    "dropout": (
        ["--passes", "3"],
        "dropout: 2 native attention sites at rate 0.1",
        "3 passes, iid masks (keyed), seed 0",
    ),
    "adapter-ensemble": (ADAPTERS, "adapters: 2 members on one base", "plan: 2 passes, an adapter each"),
    "checkpoint-ensemble": (CHECKPOINTS, "checkpoints: 2 members, one at a time", "plan: 2 passes, a model each"),
    "weight-noise": (
        ["--passes", "3", "--rate", "0.05", "--noise", "low-rank:2", "--seed", "4"],
        "noise: low-rank:2 on the weights of 6 mlp layers, 0.05 of each one's root mean square",
        "3 passes, noise shared by all examples, seed 4",
    ),
}


def unc_score(home, out, *options):
    return main(["--model", "base", "--dataset", "data.jsonl", "--out", str(out), "--device", "cpu", *options])


def test_the_table_has_every_family_that_the_settings_name():
    assert tuple(FAMILIES) == FAMILY_NAMES == tuple(ASKED)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_each_family_is_scored_by_the_command_and_says_what_it_draws(name, home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    options, what, plan = ASKED[name]
    assert unc_score(home, tmp_path / "run", "--family", name, *options) == 0
    told = capsys.readouterr().err
    assert what in told
    assert plan in told
    scores, info = read_scores(tmp_path / "run"), read_run(tmp_path / "run")
    assert info.settings["family"]["family"] == name
    assert (scores["n_passes"] == info.settings["passes"]).all()
    assert (scores["epistemic"] > 0).any()
    np.testing.assert_allclose(scores["total"], scores["aleatoric"] + scores["epistemic"], atol=1e-6)
    assert info.timings["estimate"]["peak_bytes.members"] >= 0
    assert unc_score(home, tmp_path / "run", "--family", name, *options) == 0
    assert "all of it was scored before" in capsys.readouterr().err


@pytest.mark.slow
def test_the_deterministic_pass_of_every_family_is_the_model_given(home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    losses = {}
    for name, (options, *_) in ASKED.items():
        unc_score(home, tmp_path / name, "--family", name, *options)
        losses[name] = read_scores(tmp_path / name)["loss"].to_numpy()
    for loss in losses.values():
        np.testing.assert_allclose(loss, losses["dropout"], rtol=1e-5)


def test_other_members_are_another_run_and_moved_ones_the_same(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    run, family = tmp_path / "run", ["--family", "adapter-ensemble"]
    assert unc_score(home, run, *family, *ADAPTERS) == 0
    moved = (home / "adapter-1").rename(home / "elsewhere")
    assert unc_score(home, run, *family, "--members", "adapter-0,elsewhere") == 0
    moved.rename(home / "adapter-1")
    save_adapter(home / "base", home / "adapter-9", seed=9)
    capsys.readouterr()
    assert unc_score(home, run, *family, "--members", "adapter-0,adapter-9") == 2
    assert "run holds a run with other settings: family.members" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--family", "adapter-ensemble"], "needs at least 2 --members"),
        (["--family", "adapter-ensemble", "--members", "adapter-0"], "and has 1; one model has no spread"),
        (["--family", "adapter-ensemble", *ADAPTERS, "--passes", "7"], "--passes 7, but 2 --members are given"),
        (["--family", "adapter-ensemble", "--members", "adapter-0,nope"], "--members nope: the folder does not exist"),
        (["--family", "adapter-ensemble", "--members", "adapter-0,adapter-0"], "hold the same files; give each member"),
        (["--family", "adapter-ensemble", *CHECKPOINTS], "--members checkpoint-0: the folder holds no adapter"),
        (
            ["--family", "checkpoint-ensemble", "--members", "checkpoint-0,nope"],
            "--members nope: there is no such folder",
        ),
        (["--family", "checkpoint-ensemble", "--members", "checkpoint-0,@main"], "base is a folder, which has no rev"),
        (
            ["--family", "adapter-ensemble", *ADAPTERS, "--rate", "0.3"],
            "--rate 0.3 is not an option of --family adapter",
        ),
        (["--family", "weight-noise", "--masks", "balanced"], "--masks balanced is not an option of --family weight"),
        (["--family", "weight-noise", "--noise", "pink"], "--noise pink is not known; choose gaussian"),
        (["--family", "weight-noise", "--sites", "embedding"], "--sites embedding takes no weight noise"),
        (["--family", "weight-noise", *ADAPTERS], "--members adapter-0,adapter-1 is not an option of --family weight"),
        (["--noise", "low-rank:4"], "--noise low-rank:4 is not an option of --family dropout; leave it out"),
        (["--family", "checkpoint-ensemble", *CHECKPOINTS, "--target-se", "5%"], "--target-se 5% is not an option"),
        (["--family", "swag"], "--family: 'swag' is not one of dropout, adapter-ensemble"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(options, words, home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    assert unc_score(home, tmp_path / "run", *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unc-score: ")]
    assert len(lines) == 1
    assert words in lines[0]


def test_settings_become_the_family_they_name():
    assert family_of(ScoreSettings(rate=0.3, masks="balanced")) == McDropout(0.3, masks="balanced")
    assert family_of(ScoreSettings(family="weight-noise", sites="mlp")) == WeightNoise(0.1, "mlp")


def test_every_option_is_one_that_some_family_takes_and_some_does_not():
    for option in OPTIONS:
        takers = [name for name, choice in FAMILIES.items() if option in choice.options]
        assert 0 < len(takers) < len(FAMILIES)
    with pytest.raises(InputError, match="--seed 3 is not an option of --family adapter-ensemble"):
        family_of(ScoreSettings(family="adapter-ensemble", members=("a", "b"), seed=3))
