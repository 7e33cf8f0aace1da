import json
import os
import subprocess
import sys

import pytest
import scored_run
import toy_run

from analysis.cli.report import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return scored_run.write_run(tmp_path_factory.mktemp("run") / "toy", 40)


def test_help_and_options_import_nothing_heavy():
    heavy = "{'torch', 'pandas', 'numpy', 'matplotlib', 'pyarrow', 'scipy', 'rich', 'transformers'}"
    code = f"import sys\nfrom analysis.cli.report import main\nmain(['--help'])\nassert not {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: unc-report")
    for name in ("--out", "--reference", "--same-tokens", "--confidence", "--replicates", "--kendall-tokens", "--seed"):
        assert name in done.stdout


@pytest.mark.slow
def test_one_command_answers_the_question_and_names_the_page(run, tmp_path, capsys):
    out = tmp_path / "report"
    assert main([str(run), "--out", str(out), "--replicates", "0"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Is loss a valid proxy for epistemic uncertainty here? No")
    assert "How sure is that?" in said.out
    assert "What do I select tokens by?" in said.out
    assert str(out / "report.html") in said.out
    assert all(line.startswith("unc-report: ") for line in said.err.splitlines())
    assert json.loads((out / "report.json").read_bytes())["settings"]["replicates"] == 0


@pytest.mark.slow
def test_a_report_loads_no_model_library_and_opens_no_window(run, tmp_path):
    code = (
        "import sys\nfrom analysis.cli.report import main\n"
        f"assert main([{str(run)!r}, '--out', {str(tmp_path / 'r')!r}, '--replicates', '0']) == 0\n"
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_out_the_report_goes_beside_the_run(tmp_path):
    from analysis.cli.report import ReportOptions

    assert ReportOptions((tmp_path / "gsm8k",)).folder() == tmp_path / "gsm8k-report"
    assert str(ReportOptions((tmp_path / "a", tmp_path / "b")).folder()) == "report"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "RUN is missing"),
        (["{empty}"], "holds no run.json"),
        (["{none}"], "does not exist"),
        (["{unfinished}"], "is an unfinished run: 1 of 3 shards are there"),
        (["{damaged}"], "part-00001.parquet is damaged"),
        (["{run}", "{run}"], "is given twice"),
        (["{run}", "{other}", "--same-tokens"], "toy and other are not of the same examples"),
        (["{run}", "--reference", "{other}"], "are not of the same examples"),
        (["{run}", "--out", "{run}"], "is the folder of a run"),
        (["{run}", "--confidence", "95"], "confidence 95 is not between 0 and 1"),
        (["{run}", "--seed", "-1"], "--seed -1 is negative"),
        (["{run}", "--replicate", "5"], "did you mean --replicates?"),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_exit_code_2(run, tmp_path, monkeypatch, capsys, arguments, message):
    places = {"run": run, "empty": tmp_path / "empty", "none": tmp_path / "none"}
    places["empty"].mkdir()
    if "{unfinished}" in arguments:
        places["unfinished"] = tmp_path / "unfinished"
        with toy_run.RunFolder.open(places["unfinished"], toy_run.info(), toy_run.N_SHARDS) as folder:
            toy_run.commit(folder, 0)
    if "{damaged}" in arguments:
        places["damaged"] = scored_run.write_run(tmp_path / "damaged", 12)
        file = places["damaged"] / "tokens" / "part-00001.parquet"
        file.write_bytes(file.read_bytes()[:-1])
    if "{other}" in arguments:
        places["other"] = scored_run.write_run(tmp_path / "other", 30)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    filled = [one.format(**places) for one in arguments]
    out = [] if "--out" in filled else ["--out", str(here / "report")]
    assert main([*filled, *out]) == 2
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line not in ("unc-report: reading",)]
    assert said.out == ""
    assert len(errors) == 1
    assert errors[0].startswith("unc-report: ")
    assert message in errors[0]
    assert os.listdir(here) == []
