"""From settings to what a trainer is made of."""

from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import TINY
from training_toys import example

from uncertainty.errors import InputError
from uncertainty.objectives import OBJECTIVES
from uncertainty.terms import Predictions, distillation, jsd, truncated_distillation
from uncertainty.training import setup
from uncertainty.training.settings import TrainSettings
from uncertainty.training.setup import (
    arguments_of,
    check_loggers,
    fit_micro_batch,
    goal_of,
    longest_first,
    lora_of,
    precision_of,
    rule_of,
    total_steps,
    weights_dtype,
)
from uncertainty.training.windows import Windows

CPU = torch.device("cpu")
WEIGHTS = {"scores": "runs/a", "column": "epistemic"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_its_term_and_its_rule(name):
    settings = TrainSettings(objective=name, **(WEIGHTS if OBJECTIVES[name].needs_weights else {}))
    goal, term = goal_of(settings)
    assert goal is OBJECTIVES[name]
    assert (term is None) == (goal.on_rest is None)
    assert (rule_of(settings, goal) is None) == (not goal.needs_selection)


def test_options_of_the_term_arrive_in_it():
    q, p = torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([[0.5, 0.25, 0.25]]).log()
    shown = Predictions(p, torch.tensor([0]), q)
    for tail in ("unnormalised", "renormalised", "bucket"):
        _, term = goal_of(TrainSettings(objective="distill-topk", top_k=1, tail=tail))
        assert torch.equal(term(shown), truncated_distillation(shown, 1, tail))
    _, term = goal_of(TrainSettings(objective="masked-mle+jsd", beta=0.25))
    assert torch.equal(term(shown), partial(jsd, beta=0.25)(shown))
    assert goal_of(TrainSettings())[1] is distillation


def test_the_rule_is_what_the_options_say():
    settings = TrainSettings(
        select_by="column", keep="band", band=(0.5, 0.75), level="document", **WEIGHTS, objective="masked-mle"
    )
    rule = rule_of(settings, goal_of(settings)[0])
    assert (rule.by, rule.keep, rule.band, rule.level, rule.scope) == (
        "column",
        "band",
        (0.5, 0.75),
        "document",
        "step",
    )
    assert rule.column == "epistemic"
    settings = TrainSettings(keep="threshold", threshold=0.693, scope="micro")
    assert rule_of(settings, goal_of(settings)[0]).threshold == 0.693


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": "mlle"}, "objective 'mlle' is not known; choose one of mle, masked-mle, "),
        (
            {"objective": "weighted"},
            "--objective weighted reads a column of a score table; give --scores RUN and --column, such as epistemic",
        ),
        (
            {"select_by": "column", "scores": "runs/a"},
            "--select-by column reads a column of a score table; give --scores RUN and --column, such as epistemic",
        ),
        (
            {"scores": "runs/a"},
            "--scores is given but nothing reads it; add --select-by column or --objective weighted",
        ),
        ({"fraction": "0"}, "the fraction of a schedule must be above 0 and at most 1"),
        ({"fraction": "1.5"}, "the fraction of a schedule must be above 0 and at most 1"),
        ({"select_by": "los"}, "selection: by must be one of loss, entropy, rho, kl, random, column, got 'los'"),
        ({"keep": "band"}, "selection: keep=band needs a band; give one"),
        ({"threshold": 1.0}, "selection: a threshold (1.0) means nothing with keep=top"),
        (
            {"objective": "masked-mle", "scope": "micro", "keep": "threshold", "threshold": 1.0},
            "--scope micro with --keep threshold cannot know what masked-mle divides by; use --scope step",
        ),
        ({"scope": "running", "level": "document"}, "selection: scope=running is for keep=top, level=token only"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, message):
    settings = TrainSettings(**given)
    with pytest.raises(InputError) as caught:
        rule_of(settings, goal_of(settings)[0])
    assert str(caught.value).startswith(message)


def test_the_adapter_is_what_the_options_say():
    found = lora_of(TrainSettings(lora_rank=4, lora_alpha=8.0, lora_dropout=0.1, lora_targets=" q_proj, v_proj ,"))
    assert (found.rank, found.alpha, found.dropout, found.targets) == (4, 8.0, 0.1, ("q_proj", "v_proj"))
    assert lora_of(TrainSettings()).targets == "all-linear"
    with pytest.raises(InputError, match="an adapter without target modules"):
        lora_of(TrainSettings(lora_targets=" , "))


def test_precision_is_sixteen_bit_only_where_a_gpu_can(monkeypatch):
    cuda = torch.device("cuda")
    assert precision_of(TrainSettings(), CPU) == "float32"
    assert precision_of(TrainSettings(precision="bfloat16"), CPU) == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert precision_of(TrainSettings(), cuda) == "bfloat16"
    assert precision_of(TrainSettings(precision="float32"), cuda) == "float32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert precision_of(TrainSettings(), cuda) == "float32"
    with pytest.raises(InputError, match="--precision bfloat16: this GPU has none; use --precision float32"):
        precision_of(TrainSettings(precision="bfloat16"), cuda)


def test_weights_are_sixteen_bit_only_where_they_stay_frozen():
    assert weights_dtype(TrainSettings(), "bfloat16") == "bfloat16"
    assert weights_dtype(TrainSettings(tuning="qlora"), "bfloat16") == "bfloat16"
    assert weights_dtype(TrainSettings(tuning="full"), "bfloat16") == "float32"
    assert weights_dtype(TrainSettings(), "float32") == "float32"


def of_lengths(*lengths):
    return [example(str(i), [5] * n, 1) for i, n in enumerate(lengths)]


def test_the_longest_examples_come_first():
    assert [len(one.input_ids) for one in longest_first(of_lengths(3, 9, 5), 2)] == [9, 5]


@pytest.mark.parametrize(
    ("longest", "batch", "processes", "expected"),
    [
        (16, 32, 1, 32),  # all of the batch
        (16, 24, 1, 16),  # a power of two
        (16, 32, 4, 8),  # the share of a process
        (500, 32, 1, 8),  # 4096 tokens
        (5000, 32, 1, 1),  # at least one
        (16, 2, 4, 1),
    ],
)
def test_on_a_cpu_a_budget_of_tokens_decides(longest, batch, processes, expected):
    settings = TrainSettings(batch=batch)
    examples = of_lengths(3, longest)
    model = torch.nn.Linear(1, 1)
    assert fit_micro_batch(model, examples, settings, processes=processes, with_reference=True) == expected


class OnGpu:
    """A tiny model that says it is on a GPU: only what ``fit_micro_batch`` asks of the device is pretended."""

    def __init__(self, model):
        self.model = model

    def parameters(self):
        return iter([torch.empty(0, device="meta")])


def test_half_as_many_are_tried_each_time_memory_runs_out(monkeypatch):
    tried = []

    def fits(model, examples, with_reference):
        tried.append([len(one.input_ids) for one in examples])
        return len(examples) <= 2

    monkeypatch.setattr(setup, "_fits", fits)
    examples = of_lengths(*range(2, 12))
    assert fit_micro_batch(OnGpu(None), examples, TrainSettings(batch=8), processes=1, with_reference=True) == 2
    assert tried == [[11, 10, 9, 8, 7, 6, 5, 4], [11, 10, 9, 8], [11, 10]]


def test_an_example_that_does_not_fit_alone_is_refused(monkeypatch):
    monkeypatch.setattr(setup, "_fits", lambda *_: False)
    with pytest.raises(InputError) as caught:
        fit_micro_batch(OnGpu(None), of_lengths(11), TrainSettings(batch=8), processes=1, with_reference=False)
    assert str(caught.value) == (
        "one example of 11 tokens does not fit into the memory of meta; use --gradient-checkpointing, a smaller "
        "--max-length or --tuning lora"
    )


@pytest.mark.parametrize("with_reference", [False, True])
def test_a_trial_runs_the_whole_pass_and_leaves_no_gradient(with_reference, monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    model = TINY["llama"]()
    seen = []
    model.lm_head.weight.register_hook(lambda grad: seen.append(float(grad.abs().sum())))
    assert setup._fits(model, of_lengths(5, 9), with_reference)
    assert seen[0] > 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_trial_that_runs_out_of_memory_does_not_fit_and_leaves_no_gradient(where, monkeypatch):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    model = TINY["llama"]()
    if where == "forward":
        model.model.layers[1].register_forward_pre_hook(run_out)
    else:
        model.model.embed_tokens.weight.register_hook(run_out)
    assert not setup._fits(model, of_lengths(5, 9), True)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_another_error_of_a_trial_is_not_taken_for_a_lack_of_memory(monkeypatch):
    def break_down(*_):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    model = TINY["llama"]()
    model.model.layers[1].register_forward_pre_hook(break_down)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        setup._fits(model, of_lengths(5), False)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [(1.0, None, 4), (1.5, None, 6), (0.1, None, 1), (2.0, 3, 3), (0.25, 9, 1), (1.1, None, 5)],
)
def test_steps_of_a_run(epochs, max_steps, expected):
    windows = Windows(13, batch=4, micro=2, seed=0)
    assert total_steps(TrainSettings(epochs=epochs, max_steps=max_steps), windows) == expected


def arguments(folder, **options):
    settings = TrainSettings(**options)
    windows = Windows(13, batch=4, micro=2, seed=0)
    evaluates = {"evaluates": True, "evaluates_first": False}
    return arguments_of(settings, windows, folder, device=CPU, precision="float32", **evaluates)


def test_the_parent_is_told_everything(tmp_path):
    found = arguments(tmp_path, epochs=2.0, warmup=0.25, seed=3, eval_every=5, save_every=7, log_every=2, clip=0.5)
    assert (found.max_steps, found.warmup_steps, found.gradient_accumulation_steps) == (8, 2, 2)
    assert (found.per_device_train_batch_size, found.max_grad_norm, found.weight_decay) == (2, 0.5, 0.0)
    assert (found.seed, found.data_seed) == (3, 3)
    assert (found.eval_steps, found.save_steps, found.logging_steps) == (5, 7, 2)
    assert str(found.lr_scheduler_type.value) == "cosine"
    assert not found.bf16
    assert found.report_to == []
    assert not found.remove_unused_columns
    assert Path(found.output_dir) == tmp_path
    assert arguments(tmp_path).eval_steps == 4  # once, at the end
    assert str(arguments(tmp_path, schedule="constant").lr_scheduler_type.value) == "constant_with_warmup"


def test_checkpointing_of_activations_is_told_by_the_name_of_this_release(tmp_path):
    plain, asked = arguments(tmp_path), arguments(tmp_path, gradient_checkpointing=True)
    name = "activation_checkpointing" if hasattr(plain, "activation_checkpointing") else "gradient_checkpointing"
    assert (getattr(plain, name), getattr(asked, name)) == (False, True)
    assert getattr(asked, f"{name}_kwargs") == {"use_reentrant": False}


def test_a_logger_that_is_not_there_is_refused(monkeypatch):
    check_loggers(())
    with pytest.raises(InputError, match="--report-to abacus: abacus is not supported"):
        check_loggers(("abacus",))
    import transformers.integrations

    monkeypatch.setattr(transformers.integrations, "is_wandb_available", lambda: False)
    with pytest.raises(InputError, match="--report-to wandb: it is not installed; run pip install wandb"):
        check_loggers(("wandb",))
    monkeypatch.setattr(transformers.integrations, "is_wandb_available", lambda: True)
    check_loggers(("wandb",))
