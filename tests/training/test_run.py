"""A training run from the settings to the folder: references, resume after a kill, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import save_tiny
from safetensors.torch import load_file
from training_runs import SMALL, make_inputs, result, train, write_questions
from transformers import TrainerCallback

from uncertainty.errors import InputError
from uncertainty.reference_shards import is_cache
from uncertainty.scoring import score_dataset
from uncertainty.training.curriculum_rows import read_curriculum
from uncertainty.training.folder import TrainFolder, read_card, read_evaluations
from uncertainty.training.run import run_training
from uncertainty.training.settings import TrainSettings

TESTS = Path(__file__).parents[1]
PAPER = "masked-mle+distill"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """The paper's objective with its reference made first: to be read, not changed."""
    return train(inputs, tmp_path_factory.mktemp("finished") / "run", objective=PAPER)


def weights(run):
    return load_file(run.path / "adapter" / "adapter_model.safetensors")


def furthest(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


class Stop(TrainerCallback):
    """Dies after a step, as a crash does: nothing is tidied up."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def say_all(inputs, out, **changes):
    """Train through ``run_training``; what it said."""
    model, data, held_out = inputs
    said = []
    settings = {"model": str(model), "dataset": str(data), "eval_data": (f"held={held_out}",)}
    run_training(TrainSettings(**SMALL | settings | changes), out, say=said.append)
    return said


# --- a whole run


def test_a_run_leaves_adapter_reference_record_and_card(finished):
    path = finished.path
    assert finished.model == path / "adapter"
    names = {entry.name for entry in path.iterdir()} - {".lock"}
    assert names == {"adapter", "reference", "checkpoints", "curriculum.jsonl", "metrics.jsonl", "train.json"}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        entry.name for entry in (path / "adapter").iterdir()
    }
    assert not list((path / "adapter").glob("*.bin"))
    rows = read_curriculum(path)
    assert rows["step"].tolist() == [2, 4, 5]
    # 4 + 4 + 1 examples, then 4 + 4 again: the count is that of the steps of one quarter each, rounded
    assert (rows["fraction_kept"] - 0.25).abs().max() < 0.05
    assert rows["kl_rest"].notna().all()
    assert [entry.name for entry in sorted((path / "checkpoints").iterdir())] == ["checkpoint-4", "checkpoint-5"]


@pytest.mark.slow
def test_the_card_holds_what_repeats_the_run(finished, inputs, tmp_path):
    card = read_card(finished.path)
    assert card.status == "complete"
    assert card.totals["steps"] == 5
    assert card.totals["reference"]["kind"] == "adapter"
    assert card.totals["checks"]["reference_self_kl"] < 1e-6
    assert card.totals["checks"]["accumulation_relative_difference"] < 1e-3
    assert card.settings["packages"]["torch"] == torch.__version__
    assert card.settings["content"]["model"].keys() >= {"model.safetensors", "tokenizer.json"}
    assert list(card.settings["data"]["files"]) == ["train.jsonl"]
    again = dict(card.record["resolved"])
    again |= {name: tuple(again[name]) for name in ("band", "eval_data", "report_to")}
    repeated = run_training(TrainSettings(**again), tmp_path / "again")
    assert result(repeated.path) == result(finished.path)


def test_the_student_and_its_reference_learn(finished):
    for run in (finished.path, finished.path / "reference"):
        before, after, kl = read_evaluations(run)["held"]
        assert after < before - 1
        assert (kl is None) == (run != finished.path)
    card = read_card(finished.path / "reference")
    assert (card.settings["objective"], card.totals["reference"]) == ("mle", None)


def test_the_result_is_scored_like_any_model(finished, inputs, tmp_path):
    model, _, held_out = inputs
    scored = [score_dataset(name, held_out, tmp_path / Path(name).name, passes=2) for name in (model, finished.model)]
    means = [run.scores()["loss"].mean() for run in scored]
    before, after, _ = read_evaluations(finished.path)["held"]
    assert means == pytest.approx([before, after], rel=1e-4)


def test_a_finished_run_given_again_loads_no_model(finished, inputs, monkeypatch):
    monkeypatch.setattr("uncertainty.training.run.load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    before = result(finished.path)
    said = say_all(inputs, finished.path, objective=PAPER)
    assert said == [f"{finished.path} holds this run, finished: nothing was left to do"]
    assert result(finished.path) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "masked-mle", "select_by": "entropy", "level": "document"},
        {"objective": "masked-mle", "select_by": "random", "fraction": "linear:1:0.25"},
        {"objective": "mle", "packing": True},
        {"objective": "mle", "gradient_checkpointing": True, "epochs": 1.0, "max_steps": None},
    ],
)
def test_controls_run_through(changes, inputs, tmp_path):
    run = train(inputs, tmp_path / "run", **changes)
    before, after, _ = read_evaluations(run.path)["held"]
    assert after < before


# --- the reference


def test_the_reference_of_an_earlier_run_serves_again(finished, inputs, tmp_path):
    again = train(inputs, tmp_path / "run", objective=PAPER, reference=str(finished.path / "reference" / "adapter"))
    assert not (again.path / "reference").exists()
    assert furthest(weights(again), weights(finished)) == 0


@pytest.mark.slow
def test_a_cache_is_built_once_read_by_the_next_run_and_equals_the_live_reference(finished, inputs, tmp_path):
    adapter, cache = str(finished.path / "reference" / "adapter"), str(tmp_path / "cache")
    built = train(inputs, tmp_path / "built", objective=PAPER, reference=adapter, reference_cache=cache)
    assert is_cache(cache)
    read = train(inputs, tmp_path / "read", objective=PAPER, reference=cache)
    assert furthest(weights(built), weights(read)) == 0
    assert furthest(weights(read), weights(finished)) < 1e-4
    assert read_evaluations(read.path)["held"] == pytest.approx(read_evaluations(finished.path)["held"], rel=1e-3)
    assert read_card(read.path).totals["reference"]["kind"] == "cache"


@pytest.mark.slow
def test_a_cache_without_the_held_out_data_trains_and_says_what_is_not_measured(finished, inputs, tmp_path):
    adapter, cache = str(finished.path / "reference" / "adapter"), str(tmp_path / "cache")
    train(inputs, tmp_path / "built", objective=PAPER, reference=adapter, reference_cache=cache, eval_data=())
    said = say_all(inputs, tmp_path / "read", objective=PAPER, reference=cache)
    assert [line for line in said if "no KL to the reference is measured on held-out data" in line]
    assert read_evaluations(tmp_path / "read")["held"][2] is None


@pytest.mark.slow
def test_the_base_and_a_model_folder_are_references_too(inputs, tmp_path):
    base = train(inputs, tmp_path / "base", objective=PAPER, reference="base")
    folder = train(inputs, tmp_path / "folder", objective=PAPER, reference=str(inputs[0]))
    assert furthest(weights(base), weights(folder)) < 1e-4
    kinds = [read_card(run.path).totals["reference"]["kind"] for run in (base, folder)]
    assert kinds == ["base", "model"]


@pytest.mark.slow
def test_full_fine_tuning_gives_a_model_folder_that_is_scored(inputs, tmp_path):
    run = train(inputs, tmp_path / "run", objective=PAPER, tuning="full", learning_rate=1e-3)
    assert run.model == tmp_path / "run" / "model"
    assert (run.path / "reference" / "model" / "config.json").is_file()
    _, after, kl = read_evaluations(run.path)["held"]
    assert kl > 0
    loss = score_dataset(run.model, inputs[2], tmp_path / "scores", passes=2).scores()["loss"].mean()
    assert loss == pytest.approx(after, rel=1e-4)


@pytest.mark.slow
def test_probes_are_score_tables_of_the_model_on_its_way(inputs, tmp_path):
    from uncertainty.scores import read_scores

    run = train(inputs, tmp_path / "run", objective="mle", probe=3, probe_passes=2)
    folders = sorted((run.path / "probe").iterdir())
    assert [folder.name for folder in folders] == ["step-000000", "step-000002", "step-000004", "step-000005"]
    losses = [read_scores(folder)["loss"].mean() for folder in folders]
    assert losses == sorted(losses, reverse=True)
    without = train(inputs, tmp_path / "without", objective="mle")
    assert furthest(weights(run), weights(without)) == 0


# --- going on


@pytest.mark.parametrize(
    ("objective", "step"),
    [("mle", 3), *(pytest.param(*case, marks=pytest.mark.slow) for case in [("mle", 0), (PAPER, 1), (PAPER, 4)])],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(objective, step, inputs, finished, tmp_path):
    whole = finished.path if objective == PAPER else train(inputs, tmp_path / "whole", objective="mle").path
    with pytest.raises(KeyboardInterrupt):
        train(inputs, tmp_path / "run", objective=objective, callbacks=[Stop(step)])
    said = say_all(inputs, tmp_path / "run", objective=objective)
    assert any(line.startswith("going on ") for line in said)
    assert result(tmp_path / "run") == result(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "first", "step"), [("mle", 5, 61), (PAPER, 17, 173)])
def test_a_run_killed_anywhere_goes_on_to_the_same_bytes(objective, first, step, tmp_path):
    command = [sys.executable, TESTS / "training_runs.py", objective, tmp_path, str(first), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-2]) >= 3


@pytest.mark.slow
def test_an_interrupted_run_on_4_bits_goes_on_to_the_same_bytes(inputs, tmp_path):
    pytest.importorskip("bitsandbytes")
    asked = {"objective": PAPER, "tuning": "qlora", "gradient_checkpointing": True}
    whole = train(inputs, tmp_path / "whole", **asked)
    with pytest.raises(KeyboardInterrupt):
        train(inputs, tmp_path / "run", callbacks=[Stop(3)], **asked)
    assert "going on after step 3" in say_all(inputs, tmp_path / "run", **asked)
    assert result(tmp_path / "run") == result(whole.path)
    assert whole.info.settings["packages"]["bitsandbytes"]
    before, after, _ = read_evaluations(whole.path)["held"]
    assert after < before - 0.1


@pytest.mark.slow
def test_a_reference_on_4_bits_is_the_same_from_the_disk(inputs, tmp_path):
    pytest.importorskip("bitsandbytes")
    asked = {"objective": PAPER, "tuning": "qlora", "reference": "base"}
    computed = train(inputs, tmp_path / "computed", **asked)
    kept = train(inputs, tmp_path / "kept", reference_cache=str(tmp_path / "cache"), **asked)
    assert is_cache(tmp_path / "cache")
    assert furthest(weights(computed), weights(kept)) < 1e-4


@pytest.mark.slow
def test_what_was_learnt_on_4_bits_is_learnt_by_the_base_it_is_merged_into(inputs, tmp_path):
    pytest.importorskip("bitsandbytes")
    run = train(inputs, tmp_path / "run", objective="mle", tuning="qlora")
    before, after, _ = read_evaluations(run.path)["held"]
    loss = score_dataset(run.model, inputs[2], tmp_path / "scores", device="cpu", passes=2).scores()["loss"].mean()
    assert abs(loss - after) < 0.3 * (before - after)


def interrupted(inputs, path):
    """A run with checkpoints of steps 2 and 3, that stopped in its fourth step."""
    with pytest.raises(KeyboardInterrupt):
        train(inputs, path, objective="mle", callbacks=[Stop(3)])
    return path / "checkpoints"


@pytest.mark.parametrize(
    "fault", ["flipped byte", *(pytest.param(f, marks=pytest.mark.slow) for f in ("missing file", "no receipt"))]
)
def test_a_damaged_newest_checkpoint_gives_way_and_is_named(fault, inputs, tmp_path):
    newest = interrupted(inputs, tmp_path / "run") / "checkpoint-3"
    if fault == "flipped byte":
        content = bytearray((newest / "optimizer.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (newest / "optimizer.pt").write_bytes(content)
    else:
        (newest / ("receipt.json" if fault == "no receipt" else "adapter_model.safetensors")).unlink()
    said = say_all(inputs, tmp_path / "run", objective="mle")
    assert [line for line in said if "a checkpoint is not whole and is not used: checkpoint-3: " in line]
    assert "going on after step 2" in said
    assert result(tmp_path / "run") == result(train(inputs, tmp_path / "whole", objective="mle").path)


@pytest.mark.slow
def test_with_all_checkpoints_damaged_it_starts_from_the_beginning(inputs, tmp_path):
    for checkpoint in interrupted(inputs, tmp_path / "run").iterdir():
        (checkpoint / "trainer_state.json").write_text("{}")
    said = say_all(inputs, tmp_path / "run", objective="mle")
    assert "going on from the beginning: there is no whole checkpoint" in said
    assert result(tmp_path / "run") == result(train(inputs, tmp_path / "whole", objective="mle").path)


@pytest.mark.slow
def test_a_model_made_anew_under_the_same_name_is_another_run(inputs, tmp_path):
    model = shutil.copytree(inputs[0], tmp_path / "model")
    mine = (model, *inputs[1:])
    train(mine, tmp_path / "run", objective="mle", max_steps=1)
    shutil.rmtree(model)
    save_tiny("qwen2", tmp_path).rename(model)
    with pytest.raises(InputError, match=r"other settings \(content.model.config.json: "):
        train(mine, tmp_path / "run", objective="mle", max_steps=1)
    train(mine, tmp_path / "run", objective="mle", max_steps=1, overwrite=True)


# --- what is refused: one line, and nothing is left

REFUSED = {
    "--fraction": ({"objective": "masked-mle", "fraction": "1.5"}, "fraction"),
    "--fraction 0": ({"objective": "masked-mle", "fraction": "0"}, "fraction"),
    "objective": ({"objective": "masked-mel"}, "choose one of mle, masked-mle, "),
    "signal": ({"objective": "masked-mle", "select_by": "los"}, "loss"),
    "cut away": ({"objective": "mle", "max_length": 5}, "max-length"),
    "no file": ({"objective": "mle", "eval_data": ("a=/nowhere/a.jsonl",)}, r"--eval-data a: .*/nowhere/a.jsonl"),
    "targets": ({"objective": "mle", "lora_targets": "nope"}, "has no module nope"),
    "void by objective": ({"objective": "distill", "reference": "base"}, "nothing for objective distill"),
    "void by signal": ({"objective": "masked-mle", "select_by": "rho", "reference": "base"}, "selection by rho"),
    "no such reference": ({"objective": PAPER, "reference": "/nowhere/at/all"}, "/nowhere/at/all"),
    "no table": ({"objective": "weighted"}, "--scores RUN and --column"),
    "logger": ({"objective": "mle", "report_to": ("comet_nope",)}, "--report-to comet_nope"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_one_line_and_leaves_nothing(case, inputs, tmp_path):
    changes, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as refused:
        train(inputs, tmp_path / "run", **changes)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_4_bits_without_bitsandbytes_are_refused_before_anything_is_read(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)
    with pytest.raises(InputError, match=r"--tuning qlora\) need a recent bitsandbytes, which is not installed; pip"):
        train((Path("/nowhere"), *inputs[1:]), tmp_path / "run", tuning="qlora")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_another_vocabulary_is_refused(inputs, tmp_path):
    from conftest import byte_level_tokenizer

    other = save_tiny("llama", tmp_path)
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(InputError, match="another vocabulary than the student"):
        train(inputs, tmp_path / "run", objective=PAPER, reference=str(other))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_names_the_examples(inputs, tmp_path):
    with pytest.raises(InputError, match=r"the loss of step \d is not finite \(examples q\d") as refused:
        train(inputs, tmp_path / "run", objective="mle", learning_rate=1e30, clip=0.0)
    assert "lower --learning-rate" in str(refused.value)


def test_weights_that_end_up_not_finite_are_no_result(inputs, tmp_path):
    class Spoil(TrainerCallback):
        def on_train_end(self, args, state, control, model=None, **kwargs):
            next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))

    with pytest.raises(InputError, match="the trained weights are not finite"):
        train(inputs, tmp_path / "run", objective="mle", callbacks=[Spoil()])
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_folder_in_use_is_refused(inputs, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(inputs, tmp_path / "run", objective="mle", callbacks=[Stop(0)])
    with TrainFolder.open(tmp_path / "run", read_card(tmp_path / "run")):
        with pytest.raises(InputError, match="is being written by process"):
            train(inputs, tmp_path / "run", objective="mle")


@pytest.mark.slow
def test_tensorboard_gets_the_numbers_where_it_is_installed(inputs, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    train(inputs, tmp_path / "run", objective="mle", report_to=("tensorboard",))
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_no_reference_is_left_trainable_or_in_the_result(finished):
    config = json.loads((finished.model / "adapter_config.json").read_text())
    assert config["r"] == 4
    assert not [path for path in finished.model.rglob("*") if "reference" in path.name]


@pytest.mark.slow
def test_data_of_one_example_trains(inputs, tmp_path):
    one = write_questions(tmp_path / "one.jsonl", 1)
    run = train((inputs[0], one, inputs[2]), tmp_path / "run", objective="mle", epochs=1.0)
    assert read_card(run.path).totals["steps"] == 1
