import pytest

from analysis.run_title import dataset_name, model_name, run_title
from uncertainty.run_info import RunInfo


def info(model, dataset):
    return RunInfo({}, {"model": {"name": model}, "dataset": {"origin": dataset}})


@pytest.mark.parametrize(
    ("model", "dataset", "title"),
    [
        ("google/gemma-2b-it", "tatsu-lab/alpaca", "google/gemma-2b-it on tatsu-lab/alpaca"),
        ("../models/stories260K", "../data/gsm8k/test.jsonl", "stories260K on gsm8k/test.jsonl"),
        ("/home/me/my-model", "/home/me/saved", "my-model on saved"),
        ("/any/where/uncertainty/demo/model", "/any/where/uncertainty/demo/data/held_out.jsonl", "demo"),
    ],
)
def test_a_run_is_called_by_what_says_something(model, dataset, title):
    assert run_title(info(model, dataset)) == title


def test_a_run_that_does_not_say_is_unnamed():
    bare = RunInfo({}, {})
    assert (model_name(bare), dataset_name(bare)) == ("unnamed", "unnamed")
