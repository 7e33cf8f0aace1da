"""The trainer: one optimizer step is its equation whatever its layout; then whole runs on tiny models."""

import math

import numpy as np
import pytest
import torch
import transformers
from adapter_folders import SMALL, bare_model, save_adapter, trained_looking
from conftest import TINY, build
from random_examples import examples as random_examples
from training_toys import (
    Kept,
    example,
    layouts,
    plain_selection,
    plain_step,
    plain_tokens,
    recipe_of,
    relative,
    step_gradient,
    trainer_of,
)

from uncertainty.adapters import read_adapter
from uncertainty.data.batches import collate
from uncertainty.engine import score
from uncertainty.errors import InputError
from uncertainty.families.dropout import McDropout
from uncertainty.lora import STUDENT, attach_lora
from uncertainty.reference import REFERENCE, AdapterReference, ModelReference
from uncertainty.selection_rules import Rule
from uncertainty.selection_signals import keyed_uniform
from uncertainty.token_losses import CHUNK_BYTES
from uncertainty.training.student import answering
from uncertainty.training.windows import permutation

FRACTION = 0.3
BOUND = {torch.float32: 3e-6, torch.float64: 1e-9}
COUNT = 5
PACKED = ("llama", "gemma2", "gpt2", "phi3")  # OPT counts positions by itself, and check_packing refuses it


def another(name, dtype=torch.float32):
    """A model of the same shape and other weights."""
    model = TINY[name]().to(dtype)
    drawn = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=drawn, dtype=dtype), alpha=0.05)
    return model


def columns_of(examples):
    """A made-up column of a score table, NaN outside the completion."""
    drawn = np.random.default_rng(3)
    return {
        one.id: np.where(one.completion, drawn.random(len(one.input_ids)), np.nan).astype(np.float32)
        for one in examples
    }


def values_of(by, level, tokens, columns, examples):
    places = [(token.number, token.position) for token in tokens]
    if by == "random":
        numbers, positions = torch.tensor(places).unbind(1)
        within = torch.zeros_like(positions) if level == "document" else positions
        return dict(zip(places, keyed_uniform(numbers, within, seed=0, step=0, purpose="random").tolist(), strict=True))
    if by == "column":
        return {place: float(columns[examples[place[0]].id][place[1]]) for place in places}
    return {(token.number, token.position): token.signal(by) for token in tokens}


def check_step(name, dtype, goal, by, level, folder, lambda_=1.0, temperature=1.0):
    model, other = TINY[name]().to(dtype), another(name, dtype).eval()
    examples = random_examples(model, COUNT)
    columns = columns_of(examples) if by == "column" or goal == "weighted" else None
    rule = Rule(by=by, fraction=FRACTION, level=level, column="made-up" if by == "column" else None)
    options = {"distill_weight": lambda_, "temperature": temperature}
    recipe = recipe_of(goal, rule, ModelReference(other, {}), **options)
    trainer = trainer_of(model, recipe, examples, folder, columns=columns)
    model.eval()
    numbered = list(enumerate(examples))
    tokens = plain_tokens(model, numbered, other)
    selected = {(token.number, token.position) for token in tokens}
    weight = None
    if recipe.rule is not None:
        selected = plain_selection(values_of(by, level, tokens, columns, examples), FRACTION, level)
        assert 0 < len(selected) < len(tokens)
    if goal == "weighted":
        weight = values_of("column", level, tokens, columns, examples)
    exact, loss = plain_step(model, tokens, goal, selected, weight, lambda_=lambda_, temperature=temperature)
    for layout, samples in layouts(trainer, numbered, packs=name in PACKED).items():
        ours, total, chosen = step_gradient(trainer, samples)
        assert chosen == selected, layout
        assert relative(ours, exact) <= BOUND[dtype], layout
        assert total == pytest.approx(loss, rel=BOUND[dtype]), layout


SIGNALS = ("loss", "entropy", "rho", "kl", "random", "column")


@pytest.mark.parametrize(
    ("by", "level"),
    [
        *[(by, "token") for by in SIGNALS],
        *[(by, "document") for by in ("loss", "random")],
        *[pytest.param(by, "document", marks=pytest.mark.slow) for by in ("entropy", "rho", "kl", "column")],
    ],
)
def test_a_step_of_the_papers_objective_is_its_equation_in_every_layout(by, level, tmp_path, monkeypatch):
    # Many chunks, so that some guess wrong which of their tokens will be selected.
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 2**12)
    check_step("llama", torch.float32, "masked-mle+distill", by, level, tmp_path)


@pytest.mark.parametrize(
    ("goal", "level"), [("mle", "token"), ("weighted", "token"), ("masked-mle", "token"), ("masked-mle", "document")]
)
def test_a_step_of_the_other_objectives_is_its_equation_in_every_layout(goal, level, tmp_path):
    check_step("llama", torch.float32, goal, "loss", level, tmp_path)


@pytest.mark.parametrize(
    ("name", "goal", "by"),
    [
        pytest.param("gemma2", "masked-mle+distill", "loss", marks=pytest.mark.slow),
        ("gpt2", "masked-mle", "rho"),
        pytest.param("opt", "masked-mle+distill", "entropy", marks=pytest.mark.slow),
        pytest.param("phi3", "mle", "loss", marks=pytest.mark.slow),
    ],
)
def test_a_step_of_other_architectures_is_its_equation(name, goal, by, tmp_path):
    check_step(name, torch.float32, goal, by, "token", tmp_path)


@pytest.mark.parametrize(
    ("goal", "by"), [("masked-mle+distill", "loss"), pytest.param("masked-mle", "kl", marks=pytest.mark.slow)]
)
def test_a_step_in_float64_is_its_equation_to_nine_digits(goal, by, tmp_path):
    check_step("gpt2", torch.float64, goal, by, "token", tmp_path)


def test_lambda_and_temperature_are_those_of_the_equation(tmp_path):
    check_step("llama", torch.float32, "masked-mle+distill", "loss", "token", tmp_path, lambda_=0.3, temperature=2.5)


def table_losses(model, examples, vocabulary=None):
    """(example, position) -> loss, as a score table holds it."""
    found = {}
    for block in score(model, [collate(examples)], McDropout(rate=0.1), passes=2, vocabulary=vocabulary):
        for number, position, loss in zip(block.example_N, block.position_N, block.measures["loss"], strict=True):
            found[int(number), int(position)] = float(loss)
    return found


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_the_loss_that_ranks_tokens_is_that_of_the_score_table_dropout_or_not(rate, tmp_path):
    model = TINY["llama"]()
    model.config.attention_dropout = rate
    model = build(model.config)
    examples = random_examples(model, COUNT)
    table = table_losses(model, examples)
    trainer = trainer_of(model, recipe_of("masked-mle"), examples, tmp_path)
    model.train()
    samples = [trainer.collator(part) for part in ([*enumerate(examples)][:2], [*enumerate(examples)][2:])]
    with answering(model):
        trainer.get_batch_samples(iter(samples), 2, torch.device("cpu"))
    assert all(module.training for module in model.modules())
    ranked = {}
    for one in samples:
        at = one["micro"]
        for place in zip(at.number_N.tolist(), at.at.position_N.tolist(), one["value"].tolist(), strict=True):
            ranked[place[:2]] = place[2]
    assert ranked.keys() == table.keys()
    assert max(abs(ranked[place] - table[place]) for place in table) < 1e-5
    chosen = {place for place in ranked if place in selected_of(samples)}
    assert chosen == plain_selection(table, 0.25, "token")


def test_a_smaller_vocabulary_means_what_it_means_to_scoring(tmp_path):
    model = TINY["llama"]()
    examples = [example("a", [5, 9, 33, 2, 70], 1), example("b", [7, 8, 64], 2)]
    trainer = trainer_of(model, recipe_of("mle", vocabulary=80), examples, tmp_path)
    micro = trainer.collator([*enumerate(examples)])["micro"]
    with answering(model):
        found = trainer.signals(micro).nll_N.tolist()
    exact = table_losses(model, examples, vocabulary=80)
    assert found == pytest.approx([exact[place] for place in sorted(exact)], abs=1e-5)
    assert found != pytest.approx([*table_losses(model, examples).values()], abs=1e-3)


def selected_of(samples):
    found = set()
    for one in samples:
        micro = one["micro"]
        for *place, chosen in zip(
            micro.number_N.tolist(), micro.at.position_N.tolist(), one["selected"].tolist(), strict=True
        ):
            found |= {tuple(place)} if chosen else set()
    return found


def test_a_step_of_one_pass_and_one_of_two_select_the_same(tmp_path):
    """Without dropout the training pass itself ranks the tokens; with it a second pass in eval mode does."""
    model = TINY["llama"]()
    examples = random_examples(model, COUNT)
    trainer = trainer_of(model, recipe_of("masked-mle", Rule(by="entropy")), examples, tmp_path)
    whole = [trainer.collator([*enumerate(examples)])]
    assert not trainer.drops
    single = step_gradient(trainer, whole)
    assert "selected" not in whole[0]
    trainer.drops = True
    double = step_gradient(trainer, whole)
    assert "selected" in whole[0]
    assert single[2] == double[2]
    assert relative(single[0], double[0]) <= BOUND[torch.float32]


@pytest.mark.parametrize(("goal", "denominator"), [("masked-mle", "selected"), ("masked-mle+distill", "all")])
@pytest.mark.parametrize("scope", ["micro", "running"])
def test_the_cheaper_scopes_select_within_micro_batches_and_divide_by_the_share_of_the_step(
    scope, goal, denominator, tmp_path
):
    model, other = TINY["llama"](), another("llama").eval()
    examples = random_examples(model, 6)
    numbered = [*enumerate(examples)]
    trainer = trainer_of(
        model, recipe_of(goal, Rule(fraction=FRACTION, scope=scope), ModelReference(other, {})), examples, tmp_path
    )
    parts = [numbered[:1], numbered[1:]]
    _, total, chosen = step_gradient(trainer, [trainer.collator(part) for part in parts])
    tokens = plain_tokens(model, numbered, other)
    values = values_of("loss", "token", tokens, None, examples)
    exact = plain_selection(values, FRACTION, "token")
    assert chosen != exact
    if scope == "micro":
        per_part = [{place: v for place, v in values.items() if place[0] in dict(part)} for part in parts]
        assert chosen == set().union(*(plain_selection(some, FRACTION, "token") for some in per_part))
    losses = [token.nll for token in tokens if (token.number, token.position) in chosen]
    if denominator == "all":
        losses += [token.cross_entropy() for token in tokens if (token.number, token.position) not in chosen]
    count = FRACTION * len(tokens) if denominator == "selected" else len(tokens)
    assert total == pytest.approx(torch.stack(losses).detach().sum().item() / count, rel=1e-5)


def test_an_optimizer_step_without_any_completion_token_is_refused(tmp_path):
    model = TINY["llama"]()
    blank = [example(f"blank-{i}", [5, 6, 7], 3) for i in range(2)]
    trainer = trainer_of(model, recipe_of("mle"), blank, tmp_path)
    with pytest.raises(InputError) as caught:
        trainer.get_batch_samples(iter([trainer.collator([*enumerate(blank)])]), 1, torch.device("cpu"))
    assert str(caught.value) == (
        "no example of an optimizer step has a completion token (blank-0, blank-1); raise --batch"
    )


@pytest.fixture
def adapters(tiny_folder, tmp_path):
    base = tiny_folder("llama", tmp_path)
    return base, save_adapter(base, tmp_path / "reference", seed=7, settings=SMALL)


def test_the_student_beside_its_adapter_reference_learns_as_from_two_separate_models(adapters, tmp_path):
    from peft import PeftModel

    base, folder = adapters
    model = trained_looking(base, seed=1)
    examples = random_examples(model, COUNT)
    numbered = [*enumerate(examples)]
    reference = AdapterReference(model, read_adapter(folder))
    trainer = trainer_of(model, recipe_of("masked-mle+distill", Rule(by="rho"), reference), examples, tmp_path)
    student = trained_looking(base, seed=1)
    teacher = PeftModel.from_pretrained(bare_model(base), folder).eval()
    tokens = plain_tokens(student, numbered, teacher)
    selected = plain_selection(values_of("rho", "token", tokens, None, examples), 0.25, "token")
    exact, _ = plain_step(student, tokens, "masked-mle+distill", selected)
    for parts in ([numbered], [numbered[:2], numbered[2:]]):
        ours, _, chosen = step_gradient(trainer, [trainer.collator(part) for part in parts])
        assert chosen == selected
        assert relative(ours, exact) <= BOUND[torch.float32]


def test_training_moves_the_student_and_nothing_else(adapters, tmp_path):
    base, folder = adapters
    model = trained_looking(base, seed=1)
    reference = AdapterReference(model, read_adapter(folder))
    examples = random_examples(model, 8)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = trainer_of(
        model, recipe_of("masked-mle+distill", None, reference), examples, tmp_path, max_steps=3, epochs=2.0
    )
    trainer.train()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if f".{STUDENT}." in name}
    assert all(p.grad is None for name, p in model.named_parameters() if f".{REFERENCE}." in name)
    assert not any(p.requires_grad for name, p in model.named_parameters() if f".{REFERENCE}." in name)


def test_a_reference_still_active_at_the_backward_pass_is_refused(adapters, tmp_path):
    base, folder = adapters
    model = trained_looking(base, seed=1)
    reference = AdapterReference(model, read_adapter(folder))

    class Sticky:
        def __init__(self):
            self.model, self.record = model, {}

        def hidden(self, batch):
            hidden_ND = reference.hidden(batch)
            for layer in reference._layers:
                layer._active_adapter = [REFERENCE]
            return hidden_ND

    examples = random_examples(model, 2)
    trainer = trainer_of(model, recipe_of("distill", None, Sticky()), examples, tmp_path)
    with pytest.raises(InputError, match="adapter reference is active where the student 'default' should be"):
        step_gradient(trainer, [trainer.collator([*enumerate(examples)])])


class Spy(transformers.TrainerCallback):
    """What arrives at the optimizer: gradient norms."""

    def __init__(self):
        self.norms = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        grads = [p.grad.double().norm() for p in model.parameters() if p.grad is not None]
        self.norms.append(float(torch.stack(grads).norm()))


def train(folder, *, goal="mle", rule=None, examples=None, model=None, count=10, **options):
    """Train a tiny Llama; gives the trainer and its kept windows."""
    model = model or TINY["llama"]()
    examples = examples or random_examples(model, count)
    kept = Kept()
    reference = ModelReference(another("llama"), {})
    trainer = trainer_of(model, recipe_of(goal, rule, reference), examples, folder, record=kept, **options)
    trainer.train()
    return trainer, kept.windows


@pytest.mark.parametrize("goal", ["mle", "masked-mle", "masked-mle+distill"])
def test_every_objective_sees_the_same_examples_in_the_same_steps(goal, tmp_path):
    _, windows = train(tmp_path, goal=goal, epochs=1.5, seed=3)
    first, second = permutation(10, 3, 0), permutation(10, 3, 1)
    steps = [first[:4], first[4:8], first[8:], second[:4], second[4:8]]  # 1.5 epochs of 3 steps, rounded up
    assert [sorted(set(window.example_N.tolist())) for window in windows] == [sorted(step) for step in steps]
    assert [window.step for window in windows] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([window.epoch for window in windows], [1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])


def test_max_steps_ends_a_run(tmp_path):
    trainer, windows = train(tmp_path, max_steps=2, epochs=5.0)
    assert trainer.state.global_step == len(windows) == 2


def update_of(trainer, before):
    return {name: p.detach().double() - before[name] for name, p in trainer.model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("goal", ["masked-mle", "masked-mle+distill"])
def test_three_steps_end_at_the_same_weights_whatever_the_layout(goal, tmp_path):
    before = {name: p.detach().double().clone() for name, p in TINY["llama"]().named_parameters()}
    options = {"goal": goal, "learning_rate": 1e-3}
    whole, windows = train(tmp_path, micro_batch=4, **options)
    exact = update_of(whole, before)
    for layout in ({"micro_batch": 1}, {"micro_batch": 3}, {"micro_batch": 2, "packing": True}):
        other, others = train(tmp_path, **layout, **options)
        assert relative(update_of(other, before), exact) < 1e-3, layout
        for ours, theirs in zip(others, windows, strict=True):
            assert ours.selected_N.tolist() == theirs.selected_N.tolist()


def test_gradient_checkpointing_ends_at_the_same_weights(tmp_path):
    plain, _ = train(tmp_path, goal="masked-mle+distill", learning_rate=1e-3)
    checkpointed, _ = train(tmp_path, goal="masked-mle+distill", learning_rate=1e-3, gradient_checkpointing=True)
    assert checkpointed.model.is_gradient_checkpointing
    for ours, theirs in zip(plain.model.parameters(), checkpointed.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(tmp_path):
    trainer, _ = train(tmp_path, epochs=4.0, warmup=0.25, learning_rate=2e-4)
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    rises = [step / 3 for step in range(3)]
    falls = [0.5 * (1 + math.cos(math.pi * step / 9)) for step in range(9)]
    np.testing.assert_allclose(rates, 2e-4 * np.array(rises + falls), rtol=1e-6)


def test_gradients_are_clipped_at_the_norm_that_is_asked_for_and_not_at_zero(tmp_path):
    clipped, free = Spy(), Spy()
    train(tmp_path, clip=0.01, callbacks=[clipped])
    train(tmp_path, clip=0.0, callbacks=[free])
    assert len(clipped.norms) == len(free.norms) == 3
    np.testing.assert_allclose(clipped.norms, 0.01, rtol=1e-3)
    assert min(free.norms) > 0.1


def test_a_run_learns(tmp_path):
    _, windows = train(tmp_path, goal="mle", learning_rate=1e-2, epochs=10.0, count=4, micro_batch=4)
    assert windows[-1].nll_N.mean() < 0.7 * windows[0].nll_N.mean()


def test_evaluation_is_the_mean_of_the_score_tables_losses_and_changes_nothing(tmp_path):
    model, other = TINY["llama"](), another("llama").eval()
    examples = random_examples(model, 4)
    held_out = {"a": random_examples(model, 5, seed=8), "b": random_examples(model, 3, seed=9)}
    recipe = recipe_of("masked-mle", None, ModelReference(other, {}))
    trainer = trainer_of(model, recipe, examples, tmp_path, held_out=held_out, held_out_kl=True)
    model.train()
    model.model.layers[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    found = trainer.evaluate()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert "forward" not in vars(model)
    model.eval()
    for name, some in held_out.items():
        losses = list(table_losses(model, some).values())
        assert found[f"eval_{name}_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert found[f"eval_{name}_perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
        tokens = plain_tokens(model, [*enumerate(some)], other)
        assert found[f"eval_{name}_kl"] == pytest.approx(np.mean([t.signal("kl") for t in tokens]), rel=1e-4)


def test_evaluation_runs_before_and_after_training_when_it_is_asked_for(tmp_path):
    held_out = {"a": random_examples(TINY["llama"](), 3, seed=8)}
    trainer, _ = train(tmp_path, held_out=held_out, evaluates=True, learning_rate=1e-3)
    evaluated = [(row["step"], row["eval_a_loss"]) for row in trainer.state.log_history if "eval_a_loss" in row]
    assert [step for step, _ in evaluated] == [0, 3]
    assert evaluated[0][1] != evaluated[1][1]


@pytest.mark.parametrize("goal", ["mle", "masked-mle", "masked-mle+distill"])
def test_a_loss_that_is_not_finite_names_its_examples(goal, tmp_path):
    model = TINY["llama"]()
    examples = random_examples(model, 4)
    poisoned = next(one for one in examples if one.id == "example-2").input_ids[0]
    for one in examples[:2]:
        one.input_ids[:] = [(token if token != poisoned else poisoned + 1) for token in one.input_ids]
    with torch.no_grad():
        model.get_input_embeddings().weight[poisoned] = math.nan
    with pytest.raises(InputError) as caught:
        train(tmp_path, goal=goal, examples=examples, model=model, micro_batch=1)
    assert "step 1 is not finite (examples example-" in str(caught.value)
    assert "example-0" not in str(caught.value)
    assert "example-1" not in str(caught.value)


def test_a_run_leaves_the_model_without_a_trace(adapters, tmp_path):
    base, _ = adapters
    for model in (attach_lora(bare_model(base), SMALL), bare_model(base)):
        inner = model.get_base_model() if hasattr(model, "peft_config") else model
        names = set(vars(inner))
        flags = {name: p.requires_grad for name, p in model.named_parameters()}
        examples = random_examples(model, 4)
        trainer_of(model, recipe_of("masked-mle"), examples, tmp_path).train()
        assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
        assert set(vars(inner)) - names <= {"_is_accelerate_prepared"}  # accelerate's own note; no forward of ours
        out = model(input_ids=torch.tensor([[1, 2, 3]]))
        assert out.logits.shape[-1] == inner.config.vocab_size


def test_what_a_logging_window_selected_is_logged_beside_its_loss(tmp_path):
    class Rows(Kept):
        def row(self):
            return {"fraction_kept": 0.25, "jaccard": None, "threshold": 1.5} if self.windows else None

    rows = []
    model = TINY["llama"]()
    trainer = trainer_of(model, recipe_of("masked-mle"), random_examples(model, 8), tmp_path, record=Rows())
    trainer.on_row = rows.append
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert [(row["fraction_kept"], row["threshold"]) for row in logged] == [(0.25, 1.5)] * 2
    assert not any("jaccard" in row for row in logged)
    assert len(rows) == 3  # two windows of one step, and what the end of training closes
