import subprocess
import sys

import pandas as pd
import pytest
import toy_run
from heatmap_frames import example, tokens
from heatmap_markup import PAYLOADS, read

from analysis.look import Look
from analysis.notebook import heatmap
from uncertainty.errors import InputError
from uncertainty.scores import read_examples, read_scores


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "toy"
    toy_run.score_toy(path)
    return path


@pytest.fixture(scope="module")
def scores(run):
    return read_scores(run)


def test_the_last_line_of_a_cell_displays_itself(run):
    """As a kernel does: run the cell, take its last value, ask it for HTML."""
    cell = "from uncertainty.scores import read_scores\nfrom analysis.notebook import heatmap\n"
    cell += f"scores = read_scores({str(run)!r})\n"
    names: dict[str, object] = {}
    exec(cell, names)
    shown = eval("heatmap(scores, 'row-0-0')", names)
    elements = read(shown._repr_html_())
    assert elements[0].name == "div"
    assert "Example row-0-0" in elements[0].text
    assert "20 dropout passes" in elements[0].text
    assert len([e for e in elements if "title" in e.attributes]) >= 4 * 9


def test_payloads_stay_inert_in_a_notebook():
    everything = "".join(PAYLOADS)
    frame = tokens(PAYLOADS)
    frame.attrs["run"] = {"path": "/none", "fingerprint": "0123456789abcdef"}
    row = pd.DataFrame([example(everything, prompt=everything)])
    shown = heatmap(frame, 0, examples=row)._repr_html_()
    assert {e.name for e in read(shown)} == {"div", "span", "strong"}
    assert not {name for e in read(shown) for name in e.attributes if name.startswith("on")}
    assert "run 0123456789ab" in shown


def test_examples_are_chosen_by_id_and_by_place(run, scores):
    ids = read_examples(run)["id"]
    assert heatmap(scores, 3).heatmap.example_id == ids[3]
    assert heatmap(scores, ids.index[2]).heatmap.example_id == ids[2]  # numpy's integers too
    assert heatmap(scores, "row-1-2").heatmap.example_id == "row-1-2"


def test_texts_can_be_given_and_rows_may_be_in_any_order(run, scores):
    shuffled = scores.sample(frac=1, random_state=0)
    shown = heatmap(shuffled, "row-1-0", examples=read_examples(run))
    assert shown.heatmap.panels[0].values_N == pytest.approx(
        heatmap(scores, "row-1-0").heatmap.panels[0].values_N, nan_ok=True
    )


def test_the_frame_sets_the_scale_and_the_legend_says_so(scores):
    panel = heatmap(scores, 0, look=Look(measures=("loss",), clip_percentile=100)).heatmap.panels[0]
    assert panel.scale.upper == pytest.approx(scores["loss"].max())
    assert panel.legend()[1][0].endswith("(maximum of the frame)")


def test_printing_shows_text_and_a_figure_can_be_had(scores):
    shown = heatmap(scores, 0, look=Look(measures=("loss",)))
    assert str(shown) == repr(shown)
    assert str(shown).startswith("Example row-0-0\n")
    assert "\x1b" not in str(shown)
    assert [ax.get_label() for ax in shown.figure().axes] == ["prompt", "loss", "caption"]
    assert shown.page().startswith("<!DOCTYPE html>")


def test_displaying_needs_no_matplotlib_pyplot_and_no_torch(run):
    code = (
        "import sys\nfrom uncertainty.scores import read_scores\nfrom analysis.notebook import heatmap\n"
        f"heatmap(read_scores({str(run)!r}), 0)._repr_html_()\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "which", "message"),
    [
        (lambda f: f, "row-1-9", "the frame has no example 'row-1-9'; of its 9 the nearest are 'row-1-2'"),
        (lambda f: f, 9, "the frame has no example 9; its 9 examples are 0 to 8"),
        (lambda f: f.drop(columns="char_start"), 0, "has no column 'char_start'; read it with all columns"),
        (lambda f: f.drop(columns="loss"), 0, "has no column 'loss'"),
        (lambda f: pd.concat([f, f]), 0, "holds example 'row-0-0' more than once"),
        (lambda f: pd.DataFrame(f.to_dict("list")), 0, "does not say which run it came from; give the texts too"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(scores, change, which, message):
    with pytest.raises(InputError) as refused:
        heatmap(change(scores), which)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_run_that_is_not_there_any_more_asks_for_the_texts(scores):
    moved = scores.copy()
    moved.attrs["run"] = {"path": "/no/such/run"}
    with pytest.raises(InputError, match="came from /no/such/run, which is not there; give the texts too"):
        heatmap(moved, 0)
    with pytest.raises(InputError, match="has 0 rows of 'row-0-0'"):
        heatmap(moved, 0, examples=pd.DataFrame({"id": ["x"]}))
