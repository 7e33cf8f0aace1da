import numpy as np
import pytest
import toy_run
from heatmap_frames import FACTS, example, heatmap, tokens

from analysis.heatmap import (
    example_at,
    example_named,
    load_heatmap,
    make_heatmap,
    measure_name,
    run_facts,
    top_example,
)
from analysis.look import Look, Page
from uncertainty.errors import InputError
from uncertainty.scores import RunInfo, read_examples, read_scores


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "toy"
    toy_run.score_toy(path)
    return path


def text_of(block):
    return "".join(cluster.text for cluster in block.clusters)


def test_a_panel_holds_the_values_of_its_measure_in_the_order_of_the_tokens():
    made = heatmap(["a", " b", " c"], loss=[0.5, 0, 2], measures=("epistemic", "loss"))
    assert [panel.measure for panel in made.panels] == ["epistemic", "loss"]
    assert made.panels[1].values_N.tolist() == [0.5, 0, 2]
    assert made.panels[1].positions.tolist() == [0.25, 0, 1]
    assert made.panels[1].unit == "nats"


def test_bald_is_epistemic():
    assert heatmap(["a"], measures=("bald",)).panels[0].measure == "epistemic"


def test_the_scale_of_the_run_differs_from_the_scale_of_the_example():
    rows, everything = tokens(["a", "b"], [1, 2]), tokens(["x"] * 101, np.arange(101))
    look = Look(measures=("loss",))
    of_run = make_heatmap(rows, example("ab"), everything, look, FACTS).panels[0]
    assert of_run.legend() == ("0", ["99 nats (99th percentile of the run)", "99 nats (99th percentile)", "99 nats"])
    of_example = make_heatmap(rows, example("ab"), rows, Look(measures=("loss",), reference="example"), FACTS).panels[0]
    assert of_example.legend()[1][0] == "2 nats (99th percentile of this example)"


@pytest.mark.parametrize(
    ("clip", "said"), [(100, "maximum"), (91, "91st"), (92, "92nd"), (93, "93rd"), (99.5, "99.5th")]
)
def test_the_legend_says_where_the_scale_ends(clip, said):
    assert said in heatmap(["a", "b"], clip_percentile=clip).panels[0].legend()[1][0]


def test_a_probability_scale_ends_at_one_and_has_no_unit():
    panel = heatmap(["a", "b"], measures=("label_prob",)).panels[0]
    assert panel.legend() == ("0", ["1"])
    assert panel.positions.tolist() == pytest.approx([1, np.exp(-2)])


def test_a_percentile_legend_gives_the_values_that_the_percentiles_are():
    panel = heatmap(["a"] * 101, loss=np.arange(101) / 10, scale="percentile").panels[0]
    assert panel.legend()[1][0] == "100th percentile of the run (50th: 5, 99th: 9.9 nats)"


def test_notes_count_what_is_clipped_and_what_is_not_predicted():
    made = heatmap(["a", "b", "c", "d"], loss=[np.nan, 0, 1, 5], clip_percentile=50)
    assert "Tokens beyond the end of the scale have the colour of its end (loss 1 of 4)." in made.notes
    assert "1 token is not predicted (nothing stands before) and left uncoloured." in made.notes


def test_a_measure_without_values_is_said_to_have_none():
    frame = tokens(["a", "b"]).assign(epistemic_se=np.float32(np.nan))
    made = make_heatmap(frame, example("ab"), frame, Look(measures=("loss", "epistemic_se")), FACTS)
    assert made.notes == ("2 of 2 tokens have no value of epistemic_se.",)
    assert np.isnan(made.panels[1].positions).all()


def test_a_truncated_completion_is_said_to_be_one():
    frame = tokens(["a"])
    made = make_heatmap(frame, example("a", truncated=True), frame, Look(measures=("loss",)), FACTS)
    assert made.notes == ("The completion was cut at the maximum length.",)


def test_a_long_prompt_is_cut_in_the_middle_and_none_is_shown_on_request():
    frame = tokens(["a"])
    long = example("a", prompt="x" * 1000)
    cut = make_heatmap(frame, long, frame, Look(measures=("loss",), prompt_characters=100), FACTS)
    assert "[…900 characters left out…]" in "".join(cluster.text for cluster in cut.prompt)
    assert make_heatmap(frame, long, frame, Look(prompt_characters=0), FACTS).prompt == ()


def test_what_was_said_between_two_completions_stands_between_them_uncoloured():
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "ab"},
        {"role": "user", "content": "And\nnow?"},
        {"role": "assistant", "content": "cd"},
    ]
    frame = tokens(["a", "b", "c", "d"], turn=[1, 1, 3, 3])
    made = make_heatmap(frame, example("abcd", messages=messages), frame, Look(measures=("loss",)), FACTS)
    assert [(text_of(block), block.is_completion) for block in made.blocks] == [
        ("ab", True), ("user: And↵now?", False), ("cd", True),
    ]  # fmt: skip
    assert all(cluster.tokens == () for cluster in made.blocks[1].clusters)


def test_an_unknown_measure_names_the_nearest():
    with pytest.raises(InputError, match="unknown measure 'epistemc'; did you mean 'epistemic'"):
        measure_name("epistemc")
    with pytest.raises(InputError, match="unknown measure 'loss_sum'"):
        heatmap(["a"], measures=("loss_sum",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Look(measures=()), "no measure to show"),
        (lambda: Look(clip_percentile=0), "clip percentile 0 is not above 0"),
        (lambda: Look(clip_percentile=100.5), "clip percentile 100.5"),
        (lambda: Look(clip_percentile=float("nan")), "clip percentile nan"),
        (lambda: Look(prompt_characters=-1), "-1 prompt characters"),
        (lambda: Page(width=1), "1 inches wide"),
        (lambda: Page(type_size=100), "type of 100 points"),
        (lambda: Page(dpi=5), "5 dots per inch"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_facts_name_model_data_passes_rate_sites_seed_and_run():
    info = RunInfo(
        settings={"passes": 20, "seed": 3},
        record={
            "model": {"name": "/models/tiny", "dtype": "float32"},
            "dataset": {"origin": "org/data"},
            "resolved": {"rate": 0.1, "sites": "native", "passes": 20, "seed": 3},
        },
    )
    run = f"run {info.fingerprint[:12]}"
    assert run_facts(info) == (
        f"model tiny · data org/data · 20 dropout passes · rate 0.1 · sites native · seed 3 · {run}"
    )


def test_facts_leave_out_what_a_record_does_not_say():
    info = RunInfo(settings={"passes": 5})
    assert run_facts(info) == f"5 dropout passes · run {info.fingerprint[:12]}"


def test_a_loaded_heatmap_has_the_values_of_the_run(run):
    made = load_heatmap(run, "row-1-0", Look(measures=("loss", "epistemic")))
    rows = read_scores(run, example="row-1-0")
    assert made.panels[1].values_N.tolist() == rows["epistemic"].tolist()
    assert made.panels[0].scale.upper == pytest.approx(
        np.nanpercentile(read_scores(run, columns=["loss"])["loss"], 99, method="higher")
    )
    assert "20 dropout passes" in made.facts


def test_an_example_is_found_by_id_by_place_and_by_measure(run):
    examples = read_examples(run)
    assert example_named(run, "row-1-2") == "row-1-2"
    assert example_at(run, 4) == examples["id"][4]
    assert top_example(run, "bald") == examples["id"][examples["mean_epistemic"].idxmax()]


def test_an_example_that_is_not_there_names_the_nearest(run):
    with pytest.raises(InputError, match=r"has no scored example 'row-1-3'; of its 9 the nearest are 'row-"):
        example_named(run, "row-1-3")
    with pytest.raises(InputError, match="has no example 9; its 9 examples are 0 to 8"):
        example_at(run, 9)
    with pytest.raises(InputError, match="has no example -1"):
        example_at(run, -1)
    with pytest.raises(InputError, match="unknown measure 'los'"):
        top_example(run, "los")
