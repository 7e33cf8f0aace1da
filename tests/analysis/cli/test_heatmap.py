import subprocess
import sys

import matplotlib.image
import pytest
import toy_run

from analysis.cli.heatmap import main
from uncertainty.scores import read_examples


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "toy"
    toy_run.score_toy(path)
    return path


@pytest.fixture(autouse=True)
def no_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")


def test_help_and_options_import_nothing_heavy():
    heavy = "{'torch', 'pandas', 'numpy', 'matplotlib', 'pyarrow', 'rich', 'transformers'}"
    code = f"import sys\nfrom analysis.cli.heatmap import main\nmain(['--help'])\nassert not {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: unc-heatmap")
    for name in ("--example", "--index", "--top", "--measures", "--scale", "--out", "--colour-map", "--width"):
        assert name in done.stdout


def test_drawing_imports_no_torch(run, tmp_path):
    code = (
        "import sys\nfrom analysis.cli.heatmap import main\n"
        f"assert main([{str(run)!r}, '--out', {str(tmp_path / 'x.png')!r}]) == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_options_the_first_example_is_shown_in_the_terminal(run, capsys):
    assert main([str(run)]) == 0
    shown = capsys.readouterr().out
    assert "Example row-0-0" in shown
    assert [title for title in ("Loss", "Entropy", "Aleatoric", "Epistemic") if title in shown] == [
        "Loss", "Entropy", "Aleatoric", "Epistemic",
    ]  # fmt: skip
    assert "20 dropout passes" in shown
    assert "\x1b" not in shown


def test_examples_are_chosen_by_id_by_place_and_by_measure(run, capsys):
    examples = read_examples(run)
    top = examples["id"][examples["mean_epistemic"].idxmax()]
    for arguments, name in (
        (["--example", "row-1-2"], "row-1-2"),
        (["--index", "3"], examples["id"][3]),
        (["--top", "bald"], top),
    ):
        assert main([str(run), *arguments]) == 0
        assert f"Example {name}\n" in capsys.readouterr().out


def test_colours_can_be_forced_and_the_width_chosen(run, capsys):
    assert main([str(run), "--colour", "always", "--width", "30", "--measures", "loss"]) == 0
    assert "\x1b[38;5;" in capsys.readouterr().out


@pytest.mark.parametrize(("format", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_picture_goes_by_the_ending_of_out(run, tmp_path, capsys, format, magic):
    out = tmp_path / f"x.{format}"
    assert main([str(run), "--out", str(out), "--measures", "loss,bald"]) == 0
    assert out.read_bytes().startswith(magic)
    assert capsys.readouterr().out == f"{out}: loss, epistemic of example 'row-0-0'\n"


def test_without_out_a_picture_is_named_after_its_example(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(run), "--format", "png", "--width", "3.25", "--dpi", "100"]) == 0
    assert matplotlib.image.imread("heatmap-row-0-0.png").shape[1] == 325


def test_text_can_go_to_a_file(run, tmp_path):
    assert main([str(run), "--out", str(tmp_path / "x.txt")]) == 0
    assert "Example row-0-0" in (tmp_path / "x.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--example", "row-1-3"], "has no scored example 'row-1-3'; of its 9 the nearest are 'row-1-2', 'row-1-1'"),
        (["--index", "9"], "has no example 9; its 9 examples are 0 to 8"),
        (["--top", "epistemc"], "unknown measure 'epistemc'; did you mean 'epistemic'?"),
        (["--measures", "loss,entropie"], "unknown measure 'entropie'; did you mean 'entropy'?"),
        (["--example", "row-0-0", "--index", "1"], "--example and --index each choose an example"),
        (["--out", "x.gif"], "its ending is none of .png, .pdf, .svg, .html, .txt"),
        (["--out", "x.pdf", "--format", "png"], "ends in .pdf but --format is png"),
        (["--out", "no/such/folder/x.png"], "no/such/folder/x.png cannot be written"),
        (["--out", "no/such/folder/x.txt"], "no/such/folder/x.txt cannot be written"),
        (["--colour-map", "jet"], "colour map 'jet' is not ordered by lightness"),
        (["--clip", "101"], "clip percentile 101"),
        (["--out", "x.png", "--width", "90"], "cannot be 90 inches wide"),
        (["--out", "x.png", "--font", "No Such Font"], "font 'No Such Font' is not installed"),
        (["--mesures", "loss"], "--mesures"),
        (["--out", "x.html", "--format", "png"], "ends in .html but --format is png"),
        (["--out", "no/such/folder/x.html"], "no/such/folder/x.html cannot be written"),
        (["--out", "x.html", "--width", "5"], "--width: an html page is as wide as the reader's window"),
        (["--against", "no/such/run"], "no/such/run"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_exit_code_2(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(run), *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.startswith("unc-heatmap: ")
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "holds no run.json" in said[0]
    assert "does not exist" in said[1]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same examples with other values."""
    path = tmp_path_factory.mktemp("run") / "base"
    toy_run.score_toy(path, seed=1)
    return path


def test_a_page_goes_by_the_ending_of_out_and_shows_all_measures(run, tmp_path, capsys):
    out = tmp_path / "x.html"
    assert main([str(run), "--out", str(out), "--measures", "loss,bald"]) == 0
    assert capsys.readouterr().out == f"{out}: loss, epistemic of example 'row-0-0'\n"
    page = out.read_text(encoding="utf-8")
    assert page.count("<section") == 2
    assert "20 dropout passes" in page


def test_without_out_a_page_is_named_after_its_example(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(run), "--format", "html"]) == 0
    assert (tmp_path / "heatmap-row-0-0.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("ending", ["txt", "html", "png", "svg"])
def test_two_runs_are_compared_in_every_format(run, other, tmp_path, capsys, ending):
    out = tmp_path / f"x.{ending}"
    assert main([str(run), "--against", str(other), "--index", "3", "--measures", "loss", "--out", str(out)]) == 0
    assert out.stat().st_size > 500
    if ending == "txt":
        shown = out.read_text(encoding="utf-8")
        assert [line.split("  ")[0] for line in shown.splitlines() if line.startswith("Loss")] == [
            "Loss · base", "Loss · toy", "Loss · difference",
        ]  # fmt: skip
        assert "The difference is toy minus base." in shown
    else:
        said = f"{out}: loss of example 'row-1-0' in base and toy, and the difference\n"
        assert capsys.readouterr().out == said


def test_runs_with_other_tokens_are_refused_with_the_place_where_they_part(run, tmp_path, capsys, monkeypatch):
    pieces = list(toy_run.PIECES)
    pieces[4] = "other"
    monkeypatch.setattr(toy_run, "PIECES", pieces)
    toy_run.score_toy(tmp_path / "parted")
    assert main([str(run), "--against", str(tmp_path / "parted")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "example 'row-0-0' parts at position 7: id " in said
    assert "'مرحبا' in toy" in said
    assert "'other' in parted" in said


def test_a_run_is_not_held_against_itself(run, capsys):
    assert main([str(run), "--against", str(run)]) == 2
    assert "is the run itself" in capsys.readouterr().err
