"""Every figure script: draws from the folders it is given, says what came out, and names what it cannot draw."""

import importlib

import numpy as np
import pytest
import toy_run
from PIL import Image
from sweep_toys import write_sweep

from uncertainty.scores import read_examples, read_run, read_scores

OF_RUNS = (
    "fig02a_heatmap",
    "fig02b_correlation",
    "fig07_heatmap",
    "fig08_token_vs_example",
    "fig09_loss_distributions",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "toy"
    toy_run.score_toy(path)
    return path


def draw(name, *arguments):
    return importlib.import_module(f"figures.{name}").main([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", OF_RUNS)
def test_a_script_draws_from_a_run(name, run, tmp_path, capsys):
    assert draw(name, run, "--out", tmp_path / "x.png") == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert read_run(run).fingerprint[:12] in picture.text["Description"]
        assert len(picture.getcolors(maxcolors=10**6)) > 10
    assert f"{tmp_path / 'x.png'}: " in capsys.readouterr().out


def test_the_dropout_figure_draws_from_sweeps(tmp_path, capsys):
    sweeps = [write_sweep(tmp_path / name, (0.1, 0.5), model={"name": name}) for name in ("one", "two")]
    assert draw("fig10_dropout_rate", *sweeps, "--out", tmp_path / "x.png") == 0
    with Image.open(tmp_path / "x.png") as picture:
        for sweep in sweeps:
            for rate in (0.1, 0.5):
                assert read_run(sweep / f"attention-{rate}").fingerprint[:12] in picture.text["Description"]
    assert capsys.readouterr().out.count("rises at every step from rate 0.1 to 0.5 (all rates)") == 2


@pytest.mark.parametrize("name", [*OF_RUNS, "fig10_dropout_rate"])
def test_what_is_no_run_is_one_line_and_exit_code_2(name, tmp_path, capsys):
    assert draw(name, tmp_path / "none", "--out", tmp_path / "x.png") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{name}: ")
    assert "does not exist" in said
    assert said.count("\n") == 1


def test_the_first_heatmap_shows_the_most_uncertain_example(run, tmp_path, monkeypatch):
    shown = []
    module = importlib.import_module("figures.fig02a_heatmap")
    load = module.load_heatmap
    monkeypatch.setattr(module, "load_heatmap", lambda run, name, look: shown.append(name) or load(run, name, look))
    assert module.main([str(run), "--out", str(tmp_path / "x.png")]) == 0
    examples = read_examples(run)
    assert shown == [examples["id"][examples["mean_epistemic"].idxmax()]]


def test_the_second_heatmap_shows_the_example_in_the_middle(run):
    middle = importlib.import_module("figures.fig07_heatmap").middle_example(run)
    losses = read_examples(run).set_index("id")["mean_loss"]
    assert losses[middle] == np.sort(losses)[(len(losses) - 1) // 2]


def shares_of_the_top_quarter(values):
    """By token, how much of it is in the top quarter; tokens of equal value share what room there is."""
    share, room = np.zeros(len(values)), 0.25 * len(values)
    for value in sorted(set(values), reverse=True):
        tied = values == value
        share[tied] = np.clip(room / tied.sum(), 0, 1)
        room -= min(room, tied.sum())
    return share


def test_tokens_against_examples_says_how_far_the_two_selections_agree(run, tmp_path, capsys):
    assert draw("fig08_token_vs_example", run, "--out", tmp_path / "x.png") == 0
    tokens = read_scores(run).dropna(subset="loss")
    losses = tokens["loss"].astype("float64")
    means = losses.groupby(tokens["example_id"]).transform("mean").round(9)
    by_token, by_example = (shares_of_the_top_quarter(values.to_numpy()) for values in (losses, means))
    both = (by_token * by_example).sum() / by_token.sum()
    assert f"of the top 25% of tokens by loss, {both:.0%} are in the top 25%" in capsys.readouterr().out
