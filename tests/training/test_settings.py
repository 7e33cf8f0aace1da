"""Settings of a training run: what is refused, and that names are those of the modules that own them."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from uncertainty.demo import demo_data_path, demo_model_path, demo_training_path
from uncertainty.errors import InputError
from uncertainty.objectives import OBJECTIVES
from uncertainty.settings import ScoreSettings
from uncertainty.terms import TAILS as TERM_TAILS
from uncertainty.training.settings import OBJECTIVE_NAMES, TAILS, TrainSettings, check_train_settings


def test_names_are_those_of_the_tables():
    assert tuple(OBJECTIVES) == OBJECTIVE_NAMES
    assert TERM_TAILS == TAILS


def test_the_defaults_are_the_papers_and_are_accepted():
    found = TrainSettings()
    check_train_settings(found)
    assert (found.lora_rank, found.lora_alpha, found.lora_targets) == (32, 64, "all-linear")
    assert (found.learning_rate, found.schedule, found.epochs, found.batch) == (1e-4, "cosine", 1.0, 32)
    assert (found.objective, found.select_by, found.fraction) == ("masked-mle+distill", "loss", "0.25")
    assert (found.distill_weight, found.temperature) == (1.0, 1.0)


BOTH = {"model": "m", "dataset": "d"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "m"}, "--model is given without --dataset; give both (or neither, for the embedded demo)"),
        ({"dataset": "d"}, "--dataset is given without --model; give both (or neither, for the embedded demo)"),
        ({"batch": 0}, "--batch 0 is too small; give at least 1"),
        ({"micro_batch": 0}, "--micro-batch 0 is too small; give at least 1"),
        ({"max_length": 1}, "--max-length 1 is too small; give at least 2"),
        ({"max_steps": 0}, "--max-steps 0 is too small; give at least 1"),
        ({"limit": 0}, "--limit 0 is too small; give at least 1"),
        ({"lora_rank": 0}, "--lora-rank 0 is too small; give at least 1"),
        ({"top_k": 0}, "--top-k 0 is too small; give at least 1"),
        ({"eval_limit": 0}, "--eval-limit 0 is too small; give at least 1"),
        ({"eval_every": 0}, "--eval-every 0 is too small; give at least 1"),
        ({"log_every": 0}, "--log-every 0 is too small; give at least 1"),
        ({"save_every": 0}, "--save-every 0 is too small; give at least 1"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints 0 is too small; give at least 1"),
        ({"probe": -1}, "--probe -1 is too small; give at least 0"),
        ({"probe_every": 0}, "--probe-every 0 is too small; give at least 1"),
        ({"probe_passes": 0}, "--probe-passes 0 is too small; give at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate 0 must be a positive number"),
        ({"learning_rate": float("nan")}, "--learning-rate nan must be a positive number"),
        ({"epochs": float("inf")}, "--epochs inf must be a positive number"),
        ({"temperature": -1.0}, "--temperature -1 must be a positive number"),
        ({"lora_alpha": 0.0}, "--lora-alpha 0 must be a positive number"),
        ({"distill_weight": -0.5}, "--distill-weight -0.5 must be zero or a positive number"),
        ({"weight_decay": -1.0}, "--weight-decay -1 must be zero or a positive number"),
        ({"clip": float("inf")}, "--clip inf must be zero or a positive number"),
        ({"warmup": 1.0}, "--warmup 1 must be at least 0 and below 1"),
        ({"lora_dropout": 1.5}, "--lora-dropout 1.5 must be at least 0 and below 1"),
        ({"beta": 0.0}, "--beta 0 must be between 0 and 1, both left out"),
        ({"beta": float("nan")}, "--beta nan must be between 0 and 1, both left out"),
        ({"tail": "cut"}, "--tail cut is not known; choose one of unnormalised, renormalised, bucket"),
        ({"tuning": "half"}, "--tuning half is not known; choose one of lora, full, qlora"),
        ({"precision": "int8"}, "--precision int8 is not known; choose one of auto, float32, bfloat16"),
        ({"schedule": "step"}, "--schedule step is not known; choose one of cosine, linear, constant"),
        ({"micro_batch": 64}, "--micro-batch 64 is larger than --batch 32; give at most as many"),
        ({"eval_data": ("x=",)}, "--eval-data x=: give a path, or NAME=PATH"),
        ({"eval_data": ("a/test.jsonl", "b/test.jsonl")}, "--eval-data: two sets are called test; name them, as in "),
    ],
)
def test_settings_that_cannot_be_right_are_refused(given, message):
    base = {} if {"model", "dataset"} & given.keys() else BOTH
    with pytest.raises(InputError) as caught:
        check_train_settings(TrainSettings(**(base | given)))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_edges_are_accepted():
    check_train_settings(TrainSettings(**BOTH, clip=0.0, weight_decay=0.0, distill_weight=0.0, warmup=0.0, probe=0))
    check_train_settings(TrainSettings(**BOTH, micro_batch=32, warmup=0.99, beta=0.01, tail="bucket", max_length=2))


def test_held_out_sets_are_named_by_their_files_unless_told():
    found = TrainSettings(**BOTH, eval_data=("x/gsm8k.test.jsonl", "a=b/c=d.jsonl", "folder/set/")).held_out
    assert found == {"gsm8k": "x/gsm8k.test.jsonl", "a": "b/c=d.jsonl", "set": "folder/set/"}
    assert TrainSettings(**BOTH).held_out == {}


def test_without_model_and_data_the_embedded_ones_are_meant():
    demo = TrainSettings()
    assert demo.is_demo
    assert not TrainSettings(**BOTH).is_demo
    assert str(demo_data_path()) in demo.held_out.values()
    assert all(Path(path).is_file() for path in demo.held_out.values())
    assert TrainSettings(eval_data=("a=b.jsonl",)).held_out == {"a": "b.jsonl"}
    assert (demo.data_settings.model, demo.data_settings.dataset) == (str(demo_model_path()), str(demo_training_path()))


def test_model_and_data_are_prepared_as_for_scoring():
    given = TrainSettings(**BOTH, template="plain", limit=7, max_length=9, id_column="key", seed=5, device="cpu")
    found = given.data_settings
    assert isinstance(found, ScoreSettings)
    shared = {field.name for field in fields(ScoreSettings)} & {field.name for field in fields(TrainSettings)}
    assert {"model", "dataset", "template", "limit", "max_length", "id_column", "seed", "device"} <= shared
    assert {name: getattr(found, name) for name in shared} == {name: getattr(given, name) for name in shared}


def test_settings_load_no_model_library():
    program = (
        "import sys, uncertainty.training.settings; print([x for x in ('torch', 'transformers') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
