import json
import re
import subprocess
import sys

import pytest
import toy_run

from analysis.cli.explore import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "toy"
    toy_run.score_toy(path)
    return path


def data_of(page):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"))[1]
    )


def test_help_imports_nothing_heavy():
    heavy = "{'torch', 'pandas', 'numpy', 'matplotlib', 'pyarrow'}"
    code = f"import sys\nfrom analysis.cli.explore import main\nmain(['--help'])\nassert not {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: unc-explore")
    for name in ("--out", "--limit", "--top"):
        assert name in done.stdout


def test_a_page_is_written_without_torch_and_without_a_trace_elsewhere(run, tmp_path):
    out = tmp_path / "page.html"
    code = (
        "import sys\nfrom analysis.cli.explore import main\n"
        f"assert main([{str(run)!r}, '--out', {str(out)!r}]) == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(out))}: 9 examples, \d+ tokens, 0\.\d MB\n", done.stdout)
    assert list(tmp_path.iterdir()) == [out]
    assert len(data_of(out)["examples"]["id"]) == 9


def test_without_out_the_page_is_written_here(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(run), "--limit", "2"]) == 0
    assert capsys.readouterr().out.startswith("explorer.html: 2 examples, ")
    assert data_of(tmp_path / "explorer.html")["about"]["part"] == "2 of the run's 9 examples, the first"


def test_the_page_names_the_run_and_its_command(run, tmp_path):
    assert main([str(run), "--out", str(tmp_path / "x.html"), "--top", "bald", "--limit", "3"]) == 0
    about = data_of(tmp_path / "x.html")["about"]
    assert about["command"] == "unc-score --out 'toy run'"
    assert about["title"] == "toy"
    assert about["part"].endswith("highest mean epistemic")


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    for name in ("a.html", "b.html"):
        assert main([str(run), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0"], "--limit 0 leaves nothing to show; give at least 1"),
        (["--top", "epistemc"], "unknown measure 'epistemc'; did you mean 'epistemic'?"),
        (["--out", "no/such/folder/x.html"], "no/such/folder/x.html cannot be written"),
        (["--limits", "3"], "--limit"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_exit_code_2(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(run), *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.startswith("unc-explore: ")
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "holds no run.json" in capsys.readouterr().err
