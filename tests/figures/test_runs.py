import matplotlib.image
import numpy as np
import pytest
import toy_run
from matplotlib.figure import Figure
from PIL import Image

from analysis.sweep_runs import find_runs, read_series
from figures import runs
from uncertainty.scores import read_run


def test_the_demo_is_at_hand_everywhere(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "SHARED", tmp_path)
    assert [one.name for one in runs.at_hand()] == ["demo"]
    assert (runs.at_hand()[0].model, runs.at_hand()[0].dataset) == ("", "")


def test_pretrained_models_are_at_hand_where_they_lie_beside_the_checkout(shared_models, shared_data):
    assert [one.name for one in runs.at_hand(["gsm8k"])] == ["demo", "gsm8k-tinystories-656k", "gsm8k-stories260K"]
    assert len(runs.at_hand()) == 5


def test_runs_of_its_own_are_scored_once(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "at_hand", lambda: [runs.AtHand("demo", rows=2)])
    monkeypatch.setattr(runs, "RUN", {"passes": 2})
    (path,) = runs.own_runs()
    assert path == runs.OWN_RUNS / "demo"
    assert read_run(path).totals["examples"] == 2
    before = toy_run.contents(path / "tokens")
    assert "scoring" in capsys.readouterr().err
    assert runs.own_runs() == [path]
    assert "scoring" not in capsys.readouterr().err
    assert toy_run.contents(path / "tokens") == before


def test_a_picture_carries_its_runs_and_few_colours(tmp_path, capsys):
    run = tmp_path / "run"
    toy_run.score_toy(run)
    figure = Figure(figsize=(2, 1), dpi=100)
    figure.add_subplot().plot([0, 1])
    runs.save_picture(figure, "figures/x.py", tmp_path / "x.png", "A title", [run])
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (200, 100)
        assert picture.mode == "P"
        assert picture.text["Title"] == "A title"
        assert read_run(run).fingerprint[:12] in picture.text["Description"]
    assert matplotlib.image.imread(tmp_path / "x.png").std() > 0.05  # not a blank page
    assert capsys.readouterr().out == f"{tmp_path / 'x.png'}: A title\n"


def test_a_heatmap_keeps_all_its_colours(tmp_path):
    run = tmp_path / "run"
    toy_run.score_toy(run)
    figure = Figure(figsize=(6, 1), dpi=100)
    figure.add_axes((0, 0, 1, 1)).imshow(np.arange(512)[None], aspect="auto", cmap="hsv")
    counts = []
    for n_colours in (256, None):
        runs.save_picture(figure, "figures/x.py", tmp_path / "x.png", "A title", [run], n_colours=n_colours)
        with Image.open(tmp_path / "x.png") as picture:
            counts.append(len(picture.convert("RGB").getcolors(maxcolors=10**6)))
            assert read_run(run).fingerprint[:12] in picture.text["Description"]
    # The colour map has 256 colours of its own, and the axis adds some.
    assert counts[0] < 256 <= counts[1]


def test_sweeps_of_its_own_are_laid_out_as_the_command_does(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "at_hand", lambda datasets: [runs.AtHand("demo", sweep_rows=2)])
    monkeypatch.setattr(runs, "RATES", (0.1, 0.5))
    monkeypatch.setattr(runs, "SWEEP", {"passes": 2, "sites": "attention"})
    (folder,) = runs.own_sweeps()
    (one,) = read_series(find_runs(folder)[0])
    assert (one.model, one.sites, one.rates, one.passes) == ("demo", "attention", (0.1, 0.5), 2)
    assert sorted(path.name for path in folder.iterdir()) == ["attention-0.1", "attention-0.5"]


@pytest.mark.parametrize("given", [None, "there.png"])
def test_a_picture_stands_beside_its_script_unless_told_otherwise(given, tmp_path):
    run = tmp_path / "run"
    toy_run.score_toy(run)
    out = tmp_path / given if given else None
    runs.save_picture(Figure(figsize=(1, 1)), str(tmp_path / "fig01.py"), out, "A title", [run])
    assert [file.name for file in tmp_path.glob("*.png")] == [given or "fig01.png"]
