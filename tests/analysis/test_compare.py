import numpy as np
import pandas as pd
import pytest
import toy_run
from heatmap_frames import FACTS, example, tokens
from heatmap_markup import read

from analysis.compare import Side, comparison, load_comparison, run_labels
from analysis.heatmap_html import heatmap_html
from analysis.look import Look
from uncertainty.errors import InputError
from uncertainty.scores import read_scores

PIECES = ["a", " b", " c"]
LOOK = Look(measures=("loss",), clip_percentile=100)


def side(label, loss, pieces=PIECES, **fields):
    frame = tokens(pieces, loss)
    ids = [1, 2, 3, 4, 5, *(sum(piece.encode()) for piece in pieces)]
    frame["token_id"] = ids[5:]
    return Side(label, frame, example("".join(pieces), input_ids=ids, **fields), frame, FACTS)


def panels(after, before, look=LOOK):
    return comparison(side("after", after), side("before", before), look).panels


def test_each_measure_has_both_runs_on_one_scale_and_their_difference_centred_at_zero():
    before, after, difference = panels(after=[1, 2, 0], before=[3, 2, 4])
    assert [panel.heading for panel in (before, after, difference)] == [
        "Loss · before", "Loss · after", "Loss · difference",
    ]  # fmt: skip
    assert before.scale.upper == after.scale.upper == 4
    assert before.positions.tolist() == [0.75, 0.5, 1]
    assert after.positions.tolist() == [0.25, 0.5, 0]
    assert difference.values_N.tolist() == [-2, 0, -4]
    assert difference.positions.tolist() == [0.25, 0.5, 0]
    assert difference.legend() == ("−4", [
        "+4 nats (maximum of the absolute differences)", "+4 nats (maximum)", "+4 nats",
    ])  # fmt: skip


def test_swapping_the_runs_turns_the_difference_around():
    one, other = panels([1, 2, 0], [3, 2, 4])[2], panels([3, 2, 4], [1, 2, 0])[2]
    assert one.values_N.tolist() == (-other.values_N).tolist()
    assert one.positions == pytest.approx(1 - other.positions)


def test_no_difference_is_white_and_higher_is_red():
    colours = panels([1, 2, 0], [3, 2, 4])[2].colours
    low, middle, high = (colours(position) for position in (0.0, 0.5, 1.0))
    assert min(middle) > 0.95
    assert low[2] > low[0] + 0.2
    assert high[0] > high[2] + 0.2


def test_rounding_of_the_forward_pass_is_no_difference():
    panel = panels([1, 2, 3], [1 + 1e-6, 2, 3 - 1e-6])[2]
    assert panel.values_N.tolist() == [0, 0, 0]
    assert panel.positions.tolist() == [0.5, 0.5, 0.5]
    assert panel.legend() == ("0", ["0 nats (no difference)", "0"])


def test_a_difference_is_missing_where_one_run_has_no_value():
    panel = panels([1, 2, 3], [np.nan, 2, 2])[2]
    assert np.isnan(panel.positions[0])
    assert panel.values_N[1:].tolist() == [0, 1]


def test_the_largest_difference_stands_for_a_character_of_several_tokens():
    panel = panels([1, 2, 0], [3, 1, 4])[2]
    assert panel.shown_position((0, 1)) == panel.positions[0]


def test_differences_of_the_whole_run_set_the_scale_by_example_position_and_token():
    here, there = side("after", [1, 2, 0]), side("before", [3, 2, 4])
    more = tokens(["x"], [9]).assign(example_id="two")
    longer = [
        Side(one.label, one.tokens, one.example, pd.concat([one.reference, more.assign(loss=loss)]), FACTS)
        for one, loss in ((here, 9.0), (there, 1.0))
    ]
    # The rows of one run in another order: they are matched, not counted off.
    longer[0] = Side("after", here.tokens, here.example, longer[0].reference.iloc[::-1], FACTS)
    assert comparison(*longer, LOOK).panels[2].scale.upper == 8
    only = Look(measures=("loss",), clip_percentile=100, reference="example")
    assert comparison(here, there, only).panels[2].scale.upper == 4


def test_tooltips_say_both_values_and_the_change():
    made = comparison(side("after", [1, 2, 0]), side("before", [3, 2, 4]), LOOK)
    assert "loss 3.00 → 1.00 (−2.00) nats" in map(str, made.readings[0])


def test_facts_and_notes_name_both_runs():
    made = comparison(side("after", [1, 2, 0]), side("before", [3, 2, 4]), LOOK)
    assert made.facts == f"after: {FACTS} — before: {FACTS}"
    assert made.notes[0] == "The difference is after minus before."


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (
            side("before", [1, 2, 3], ["a", " x", " c"]),
            "position 6: id 130 ' b' in after, id 152 ' x' in before",
        ),
        (
            side("before", [1, 2], ["a", " b"]),
            "position 7, where one of them ends: 8 tokens in after, 7 in before",
        ),
    ],
)
def test_other_tokens_are_refused_with_the_place_where_they_part(there, message):
    with pytest.raises(InputError, match=message):
        comparison(side("after", [1, 2, 3]), there, LOOK)


def test_another_mask_is_refused():
    there = side("before", [1, 2, 3])
    there = Side("before", there.tokens.iloc[1:], there.example, there.reference, FACTS)
    with pytest.raises(InputError, match="parts at position 5: 'a' in after, not scored in before"):
        comparison(side("after", [1, 2, 3]), there, LOOK)


def test_a_page_has_a_row_for_each_measure_with_three_panels():
    look = Look(measures=("loss", "epistemic"))
    page = heatmap_html(comparison(side("after", [1, 2, 0]), side("before", [3, 2, 4]), look))
    rows = [e for e in read(page) if e.attributes.get("class") == "panels"]
    assert [("Loss" in row.text, "Epistemic" in row.text) for row in rows] == [(True, False), (False, True)]
    assert page.count("<section") == 6


def test_two_run_folders_are_compared(tmp_path):
    for name, seed in (("base", 1), ("tuned", 0)):
        toy_run.score_toy(tmp_path / name, seed=seed)
    made = load_comparison(tmp_path / "tuned", tmp_path / "base", "row-1-0", Look(measures=("loss",)))
    tuned, base = (read_scores(tmp_path / name, example="row-1-0")["loss"] for name in ("tuned", "base"))
    assert made.panels[2].values_N == pytest.approx((tuned - base).to_numpy(), abs=1e-3, nan_ok=True)
    assert made.facts.startswith("tuned: ")


def test_labels_tell_two_runs_apart(tmp_path):
    assert run_labels("x/a", "y/b") == ("a", "b")
    assert run_labels("x/run", "y/run") == ("x/run", "y/run")
    long = run_labels("x" * 200, "x" * 199 + "y")
    assert long[0] != long[1]
    assert max(map(len, long)) < 80
    with pytest.raises(InputError, match="is the run itself"):
        run_labels(tmp_path, tmp_path / "." / ".." / tmp_path.name)
