"""The script: a table, a text and a picture from stages of training, and what it refuses."""

from pathlib import Path

import pandas as pd
import pytest
import toy_run
from oracle_tokens import tokens
from PIL import Image

from figures import oracle_validation
from figures.oracle_checkpoints import Stage
from figures.oracle_statistics import COLUMNS, summary, validation_table
from uncertainty.scores import read_run


@pytest.fixture
def done(tmp_path, monkeypatch):
    run = tmp_path / "run"
    toy_run.score_toy(run)
    done = [Stage(step, run, tokens(step)) for step in (100, 160, 300)]
    monkeypatch.setattr(oracle_validation, "stages", lambda *_, **asked: done)
    return done


def test_the_script_writes_table_text_and_picture(done, tmp_path, capsys):
    table, picture = tmp_path / "new" / "t.csv", tmp_path / "x.png"
    assert oracle_validation.main(["--table", str(table), "--out", str(picture), "--fraction", "0.1"]) == 0
    said = capsys.readouterr().out
    expected = validation_table(done, 0.1)
    written = pd.read_csv(table, keep_default_na=False, na_values={"low": [""], "high": [""], "estimate": [""]})
    assert list(written) == list(COLUMNS)
    pd.testing.assert_frame_equal(written, expected, check_dtype=False)
    assert summary(expected, 0.1) in said
    assert f"{picture}: " in said
    with Image.open(picture) as drawn:
        assert read_run(done[0].run).fingerprint[:12] in drawn.text["Description"]
        assert len(drawn.convert("RGB").getcolors(maxcolors=10**6)) > 50


def test_the_panels_show_the_rows_of_the_table(done):
    table = validation_table(done, 0.25)
    figure = oracle_validation.picture(table, 0.25)
    captured = figure.axes[3]
    shown = {line.get_label(): list(line.get_ydata()) for line in captured.get_lines()}
    rows = table[(table["group"] == "all") & (table["statistic"] == "captured") & (table["minus"] == "")]
    for name in ("loss", "entropy", "epistemic"):
        assert shown[name] == rows.loc[rows["x"] == name, "estimate"].tolist()
    assert captured.get_title() == "In the top 25%: all tokens"
    assert [label.get_text() for label in captured.get_xticklabels()] == ["100", "160", "300"]


def test_ticks_keep_their_distance():
    assert oracle_validation._few([100, 120, 200, 300, 1000]) == [100, 200, 1000]


@pytest.mark.parametrize("steps", ["300", "300,100", "100,100"])
def test_stages_out_of_order_are_refused(steps, capsys):
    assert oracle_validation.main(["--steps", steps]) == 2
    assert "--steps takes at least two stages in ascending order" in capsys.readouterr().err


def test_a_folder_without_checkpoints_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert oracle_validation.main(["--checkpoints-from", str(tmp_path), "--runs", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("oracle_validation: ")
    assert "step-000100 is no checkpoint of the demo model" in said
    assert said.count("\n") == 1
    assert not (Path(tmp_path) / "runs").exists()
