import dataclasses
import io
import json
import subprocess
import sys
import typing
from contextlib import redirect_stderr, redirect_stdout

import conftest
import matplotlib.image
import pandas as pd
import pytest
import toy_run
from sweep_toys import info, write_run, write_sweep

import uncertainty.scoring
from analysis.cli.sweep import SITES, SweepOptions, main
from uncertainty.cli.score import ScoreOptions
from uncertainty.families.sites import KINDS, NATIVE
from uncertainty.scores import read_run, read_scores
from uncertainty.scoring import score_dataset

QUICK = ["--passes", "4", "--rates", "0.1,0.3"]
OWN = {"rates", "sites", "out", "beside", "report_only"}
OF_ONE_RUN = {"rate", "sites", "out", "show", "members", "noise", "target_se"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rows = [{"id": f"q{n}", "question": f"What is {n} and 2?", "answer": f"It is {n + 2}."} for n in range(5)]
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return conftest.save_tiny("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def swept(model, dataset, tmp_path_factory):
    """A small sweep by the command: its folder, what it printed, and how often the model was loaded."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    arguments = ["--model", str(model), "--dataset", str(dataset), "--out", str(folder), *QUICK]
    loaded, load = [], uncertainty.scoring.load_model
    told = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told[0]), redirect_stderr(told[1]):
        patch.setattr(uncertainty.scoring, "load_model", lambda *a, **k: loaded.append(a) or load(*a, **k))
        assert main([*arguments, "--sites", "native,attention+mlp"]) == 0
    return folder, told[0].getvalue(), told[1].getvalue(), len(loaded)


def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.parquet"))}


def test_another_family_is_refused_in_one_line(capsys):
    assert main(["--family", "weight-noise"]) == 2
    said = capsys.readouterr().err
    assert "a sweep is of dropout rates" in said
    assert said.count("\n") == 1


def test_every_option_of_scoring_is_an_option_of_a_sweep_but_those_of_one_run():
    own, scoring = ({field.name for field in dataclasses.fields(one)} for one in (SweepOptions, ScoreOptions))
    assert own - scoring == OWN - OF_ONE_RUN
    assert scoring - own == OF_ONE_RUN - OWN
    hints, their_hints = typing.get_type_hints(SweepOptions), typing.get_type_hints(ScoreOptions)
    shared = (own & scoring) - OWN
    assert {name: hints[name] for name in shared} == {name: their_hints[name] for name in shared}


def test_the_sites_are_those_of_the_model():
    assert (NATIVE, *KINDS) == SITES


def test_help_and_options_import_nothing_heavy():
    heavy = "{'torch', 'pandas', 'numpy', 'matplotlib', 'pyarrow', 'transformers'}"
    code = f"import sys\nfrom analysis.cli.sweep import main\nmain(['--help'])\nassert not {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: unc-sweep")
    for name in ("--rates", "--sites", "--report-only", "--model", "--passes", "--limit"):
        assert name in done.stdout
    assert "--rate X" not in done.stdout


def test_a_sweep_scores_each_rate_and_set_of_sites_as_scoring_alone_would(swept, model, dataset, tmp_path):
    folder, told, said, _ = swept
    runs = sorted(path.parent.name for path in folder.glob("*/run.json"))
    assert runs == ["attention+mlp-0.1", "attention+mlp-0.3", "native-0.1", "native-0.3"]
    alone = score_dataset(model, dataset, tmp_path / "alone", passes=4, rate=0.3, sites="attention,mlp")
    assert read_run(folder / "attention+mlp-0.3").fingerprint == alone.info.fingerprint
    pd.testing.assert_frame_equal(read_scores(folder / "attention+mlp-0.3"), alone.scores())
    assert "sweep: 4 runs" in said
    assert "sensitivity by sites at rate 0.1" in told


def test_the_model_is_loaded_once(swept):
    assert swept[3] == 1


def test_tables_figure_and_their_origin_are_written(swept):
    folder, told, _, _ = swept
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in ("distribution", "steps", "trend", "sites")}
    assert [len(table) for table in tables.values()] == [4, 2, 2, 4]
    origin = json.loads((folder / "sweep.json").read_text())
    assert origin["command"][0] == "unc-sweep"
    assert [run["fingerprint"] for run in origin["runs"]] == [
        read_run(folder / f"{sites}-{rate}").fingerprint for sites in ("attention+mlp", "native") for rate in (0.1, 0.3)
    ]
    assert set(tables["distribution"]["fingerprint"]) == {run["fingerprint"] for run in origin["runs"]}
    assert matplotlib.image.imread(folder / "sweep.png").shape[1] == 2000
    assert (folder / "sweep.pdf").read_bytes().startswith(b"%PDF")
    assert [line.split(":")[0] for line in told.splitlines()[-3:]] == ["tables", "figure", "runs"]


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_was_interrupted(model, dataset, tmp_path, monkeypatch, capsys):
    asked = ["--model", str(model), "--dataset", str(dataset), "--out", str(tmp_path / "sweep"), *QUICK]
    run_job, done = uncertainty.scoring.run_job, []

    def interrupted(job, out, **how):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(out.name)
        return run_job(job, out, **how)

    monkeypatch.setattr(uncertainty.scoring, "run_job", interrupted)
    assert main(asked) == 130
    assert "The same command goes on from there" in capsys.readouterr().err
    before = files(tmp_path / "sweep")
    monkeypatch.setattr(uncertainty.scoring, "run_job", run_job)
    scored = []
    score = uncertainty.scoring.score
    monkeypatch.setattr(uncertainty.scoring, "score", lambda *a, **k: scored.append(a[2].rate) or score(*a, **k))
    assert main(asked) == 0
    assert scored == [0.3]
    after = files(tmp_path / "sweep")
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * len(before)


@pytest.mark.slow
def test_other_rates_are_added_to_a_sweep(model, dataset, tmp_path, capsys):
    asked = ["--model", str(model), "--dataset", str(dataset), "--out", str(tmp_path / "sweep"), "--passes", "4"]
    assert main([*asked, "--rates", "0.3"]) == 0
    assert main([*asked, "--rates", "0.5,0.1"]) == 0
    assert list(pd.read_csv(tmp_path / "sweep" / "distribution.csv")["rate"]) == [0.1, 0.3, 0.5]
    assert "sweep: 2 runs" in capsys.readouterr().err


def test_a_rate_that_cannot_be_scored_stops_before_the_first_run(model, dataset, tmp_path, capsys):
    asked = ["--model", str(model), "--dataset", str(dataset), "--out", str(tmp_path / "sweep"), "--passes", "4"]
    assert main([*asked, "--rates", "0.1,0.999999"]) == 2
    assert "rates are multiples of 1/65536" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_report_only_draws_again_without_torch(tmp_path):
    folder = write_sweep(tmp_path / "sweep", (0.1, 0.5), ("attention", "mlp"))
    code = (
        "import sys\nfrom analysis.cli.sweep import main\n"
        f"assert main(['--report-only', '--out', {str(folder)!r}]) == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    before = toy_run.contents(folder)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rises at every step from rate 0.1 to 0.5 (all rates)" in done.stdout
    after = toy_run.contents(folder)
    written = {"distribution.csv", "steps.csv", "trend.csv", "sites.csv", "sweep.json", "sweep.png", "sweep.pdf"}
    assert set(after) - set(before) == written
    assert {name: after[name] for name in before} == before


def test_two_sweeps_are_drawn_beside_each_other_without_what_is_unfinished(tmp_path, capsys):
    one = write_sweep(tmp_path / "one", (0.1,))
    two = write_sweep(tmp_path / "two", (0.1,), model={"name": "other"})
    write_run(two / "attention-0.2", info(0.2), finish=False)
    assert main(["--report-only", "--out", str(one), "--beside", str(two)]) == 0
    assert len(pd.read_csv(one / "trend.csv")) == 2
    said = capsys.readouterr()
    assert said.out.count("toy on rows, dropout at attention") == 2
    assert said.err == f"note: {two / 'attention-0.2'} is not finished and is left out\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rates", "0.1,1"], "--rates: 1 is not between 0 and 1"),
        (["--rates", "0"], "--rates: 0 is not between 0 and 1"),
        (["--rates", "0.1,,0.2"], "nothing between two commas"),
        (["--rates", ""], "--rates names nothing"),
        (
            ["--sites", "attention,attn+mlp"],
            "--sites: 'attn' is not one of native, attention, residual, embedding, mlp",
        ),
        (["--rate", "0.1"], "unknown option --rate; did you mean --rates?"),
        (["--report-only", "--out", "none"], "none does not exist"),
        (["--model", "./m"], "--model is given without --dataset"),
    ],
)
def test_what_cannot_be_swept_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.startswith("unc-sweep: ")
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
