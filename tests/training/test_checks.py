"""The start-up self-test: silent on an exact trainer, loud on a wrong divisor."""

import pytest
import torch
from conftest import TINY, build
from random_examples import examples as random_examples
from training_toys import example, recipe_of, trainer_of

from uncertainty.errors import InputError
from uncertainty.reference import ModelReference
from uncertainty.selection_rules import Rule
from uncertainty.training.checks import check_accumulation


def trainer(folder, goal="masked-mle", rule=None, model=None, examples=None, **options):
    model = model or TINY["llama"]()
    reference = ModelReference(TINY["llama"](), {})
    with torch.no_grad():
        reference.model.lm_head.weight.mul_(0.5)
    return trainer_of(
        model, recipe_of(goal, rule, reference), examples or random_examples(model, 9), folder, batch=8, **options
    )


@pytest.mark.parametrize(
    ("goal", "rule"),
    [
        ("mle", None),
        ("masked-mle", Rule(level="document", fraction=0.5)),
        ("masked-mle+distill", Rule(by="kl")),
        ("masked-distill", Rule(by="random", keep="sampled")),
    ],
)
def test_the_gradient_of_one_step_does_not_depend_on_its_split(goal, rule, tmp_path):
    assert 0 < check_accumulation(trainer(tmp_path, goal, rule)) < 1e-5


def test_packed_steps_and_models_with_dropout_pass_too(tmp_path):
    config = TINY["llama"]().config
    config.attention_dropout = 0.3
    model = build(config).train()
    assert 0 < check_accumulation(trainer(tmp_path, model=model, packing=True)) < 1e-5


@pytest.mark.parametrize("goal", ["mle", "masked-mle", "masked-mle+distill"])
def test_a_loss_divided_by_each_micro_batch_is_found(goal, tmp_path, monkeypatch):
    wrong = trainer(tmp_path, goal)
    exact = wrong.compute_loss

    def mean_of_means(model, inputs, return_outputs=False, num_items_in_batch=None):
        own = len(inputs["micro"].at.label_N)
        return exact(model, inputs, return_outputs, num_items_in_batch=own)

    monkeypatch.setattr(wrong, "compute_loss", mean_of_means)
    with pytest.raises(InputError, match=r"the gradient of one step changes by [0-9.e+-]+ of its norm") as caught:
        check_accumulation(wrong)
    assert "\n" not in str(caught.value)


def test_a_gradient_that_is_not_a_number_is_found(tmp_path, monkeypatch):
    wrong = trainer(tmp_path)
    exact = wrong.compute_loss
    monkeypatch.setattr(wrong, "compute_loss", lambda *args, **options: exact(*args, **options) * float("nan"))
    with pytest.raises(InputError, match="changes by nan"):
        check_accumulation(wrong)


def test_what_does_depend_on_the_split_is_not_compared(tmp_path):
    assert check_accumulation(trainer(tmp_path, rule=Rule(scope="micro"))) == 0
    assert check_accumulation(trainer(tmp_path, rule=Rule(scope="running"))) == 0


def test_less_than_two_examples_with_a_completion_are_not_compared(tmp_path):
    one = [example("a", [4, 5, 6], 1), example("b", [4, 5, 6], 3)]
    assert check_accumulation(trainer(tmp_path, examples=one)) == 0


def test_the_check_leaves_everything_as_it_was(tmp_path):
    checked = trainer(tmp_path)
    checked.steps.record = record = object()
    model = checked.model.train()
    model.model.layers[1].eval()
    checked.drops = True
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    numbers = torch.random.get_rng_state()
    check_accumulation(checked)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), numbers)
    assert (checked.world, checked.drops, checked.steps.record) == (1, True, record)
    assert "forward" not in vars(model)
