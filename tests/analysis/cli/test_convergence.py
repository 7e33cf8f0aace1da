"""``unc-convergence``: from a run or a model to the table, the figure and the sentences."""

import dataclasses
import json
import shutil
import subprocess
import sys
import typing

import conftest
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from analysis.cli.convergence import ConvergenceOptions, main
from uncertainty.cli.score import ScoreOptions
from uncertainty.scores import read_scores
from uncertainty.scoring import score_dataset

OWN = {"target", "passes", "limit", "out"} | {"counts", "confidence", "agreement", "overlap", "top", "level"}
FILES = ["convergence.csv", "convergence.json", "convergence.pdf", "convergence.png"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rows = [{"id": f"q{n}", "question": f"What is {n} and 2?", "answer": f"It is {n + 2}."} for n in range(14)]
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return conftest.save_tiny("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def scored(model, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored") / "run"
    return score_dataset(model, dataset, folder, passes=20, rate=0.2, seed=3, measures=("epistemic_corrected",)).path


def table_of(folder):
    return pd.read_csv(folder / "convergence.csv").set_index(["estimate", "passes"])


def test_shared_options_are_those_of_scoring():
    hints, theirs = typing.get_type_hints(ConvergenceOptions), typing.get_type_hints(ScoreOptions)
    own = {field.name: field for field in dataclasses.fields(ConvergenceOptions)}
    scoring = {field.name: field for field in dataclasses.fields(ScoreOptions)}
    assert own.keys() - scoring.keys() == OWN - scoring.keys()
    for name in (own.keys() & scoring.keys()) - OWN:
        assert (hints[name], own[name].default) == (theirs[name], scoring[name].default)


def test_help_imports_nothing_heavy():
    heavy = "{'torch', 'pandas', 'numpy', 'matplotlib', 'pyarrow', 'transformers'}"
    code = "import sys\nfrom analysis.cli.convergence import main\nmain(['--help'])\n"
    code += f"assert not {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_is_drawn_again_with_its_settings(scored, capsys):
    assert main([str(scored)]) == 0
    out = scored.with_name("run-convergence")
    assert sorted(file.name for file in out.iterdir()) == FILES
    table, scores = table_of(out), read_scores(scored)
    assert sorted(set(table.index.get_level_values("passes"))) == [5, 10, 20]
    # All passes of all examples are those of the run: the same seed, the same masks.
    for name in ("epistemic", "epistemic_corrected"):
        assert table.loc[(name, 20), "mean"] == pytest.approx(scores[name].mean(), rel=1e-5)
    assert table.loc[("epistemic", 10), "runs"] == 2
    printed = capsys.readouterr().out
    assert printed.startswith("14 examples, ")
    assert "To rank tokens by epistemic" in printed
    assert matplotlib.image.imread(out / "convergence.png").shape[2] == 4
    told = json.loads((out / "convergence.json").read_text())
    assert told["run"] == str(scored)
    assert told["settings"]["seed"] == 3
    assert [need["purpose"] for need in told["needs"]] == ["ranking", "selection", "level", "level"]


def test_examples_are_spread_and_passes_may_be_others(scored, tmp_path, capsys):
    assert main([str(scored), "--limit", "4", "--passes", "12", "--counts", "6", "--out", str(tmp_path / "c")]) == 0
    table, scores = table_of(tmp_path / "c"), read_scores(scored)
    assert sorted(set(table.index.get_level_values("passes"))) == [6, 12]
    chosen = scores["example_id"].isin(["q0", "q3", "q7", "q10"])
    assert table["n_tokens"].iloc[0] == int((chosen & scores["loss"].notna()).sum())
    assert np.isnan(table.loc[("epistemic", 6), "agreement_low"])  # four examples give no interval


def test_a_model_and_its_data_are_drawn_without_a_run(model, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [str(model), "--dataset", str(dataset), "--passes", "100", "--masks", "balanced", "--limit", "3"]
    assert main(arguments) == 0
    (out,) = (tmp_path / "out").iterdir()
    assert out.name == f"{model.name}-sums-convergence"
    table = table_of(out)
    assert sorted(set(table.index.get_level_values("passes"))) == [10, 20, 50, 100]
    assert ("epistemic_corrected", 10) not in table.index  # one group of balanced masks knows nothing of its bias


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rate", "0.3"], "--rate is the run's own; leave it out, or give the model and --dataset"),
        (["--masks", "balanced"], "--masks is the run's own"),
        (["--passes", "2"], "--passes 2 is too few to cut"),
        (["--counts", "1,5"], "--counts: 1 is too small"),
        (["--agreement", "1"], "--agreement 1 is not between 0 and 1"),
        (["--limit", "0"], "--limit 0 is too small"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(scored, more, message, capsys):
    assert main([str(scored), *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"unc-convergence: {message}")
    assert said.count("\n") == 1


def test_a_run_whose_model_or_data_has_changed_is_refused(model, dataset, tmp_path, capsys):
    own, rows = tmp_path / "model", tmp_path / "rows.jsonl"
    shutil.copytree(model, own)
    shutil.copy(dataset, rows)
    run = score_dataset(own, rows, tmp_path / "run", passes=4, limit=3).path
    rows.write_text(rows.read_text().replace("What is", "Tell me"))
    assert main([str(run)]) == 2
    assert f"the data of {run} has changed since it was scored (files)" in capsys.readouterr().err
    shutil.copy(dataset, rows)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert main([str(run)]) == 2
    assert f"the model of {run} has changed since it was scored (files)" in capsys.readouterr().err
