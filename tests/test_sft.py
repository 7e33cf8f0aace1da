"""TRL's SFTTrainer with our loss: its gradient is TokenTrainer's, in every layout; the documented lines run."""

import math
import re
from pathlib import Path

import pytest
import torch
from adapter_folders import SMALL, bare_model, save_adapter, trained_looking
from conftest import TINY, byte_level_tokenizer
from random_examples import examples as random_examples
from training_toys import gradients, plain_selection, plain_tokens, relative, step_gradient, trainer_of

from uncertainty.adapters import read_adapter
from uncertainty.batch_hidden import predicting_hidden
from uncertainty.data.batches import collate, targets
from uncertainty.data.packing import pack
from uncertainty.errors import InputError
from uncertainty.model import readout
from uncertainty.reference import AdapterReference, ModelReference
from uncertainty.selection_rules import Rule
from uncertainty.sft import Tally, TokenObjective, batch_of, recipe_of

trl = pytest.importorskip("trl", reason="TRL is an extra of tests and documentation")
datasets = pytest.importorskip("datasets")

DOCS = Path(__file__).parents[1] / "docs" / "trl.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
COUNT = 6


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


class TokenSFTTrainer(TokenObjective, trl.SFTTrainer):
    """The class of the documentation."""


def rows_of(examples):
    labels = [
        [t if inside else -100 for t, inside in zip(one.input_ids, one.completion, strict=True)] for one in examples
    ]
    return datasets.Dataset.from_dict({"input_ids": [one.input_ids for one in examples], "labels": labels})


def sft_of(model, recipe, examples, folder, **options):
    chosen = {"per_device_train_batch_size": COUNT, "gradient_accumulation_steps": 1, "max_steps": 1} | options
    args = trl.SFTConfig(
        str(folder), bf16=False, use_cpu=True, report_to="none", save_strategy="no", max_length=None, logging_steps=1,
        disable_tqdm=True, learning_rate=1e-3, gradient_checkpointing=chosen.pop("gradient_checkpointing", False),
        train_sampling_strategy="sequential", **chosen,
    )  # fmt: skip
    data = rows_of(examples)
    return TokenSFTTrainer(model, args, train_dataset=data, processing_class=byte_level_tokenizer(), recipe=recipe)


class Grabbed(Exception):  # noqa: N818  it is no error
    pass


def first_gradient(trainer):
    """The gradients that arrive at the optimizer in the first step of ``train``."""
    import transformers

    class Grab(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            self.found = gradients(model)
            raise Grabbed

    grab = Grab()
    trainer.add_callback(grab)
    trainer.args.max_grad_norm = 0.0
    with pytest.raises(Grabbed):
        trainer.train()
    return grab.found


LAYOUTS = {
    "whole": {},
    "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3},
    "uneven": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "padding-free": {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "padding_free": True},
    "checkpointed": {"gradient_checkpointing": True},
}


def another():
    model = TINY["llama"]()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    return model


PAPERS = ("masked-mle+distill", Rule(by="loss"))
BY_DOCUMENT = ("masked-mle", Rule(by="rho", level="document"))


@pytest.mark.parametrize(
    ("goal", "rule", "layout"),
    [
        (*PAPERS, "accumulated"),
        (*BY_DOCUMENT, "padding-free"),
        ("mle", None, "uneven"),
        *[pytest.param(*PAPERS, layout, marks=pytest.mark.slow) for layout in LAYOUTS],
        pytest.param(*BY_DOCUMENT, "accumulated", marks=pytest.mark.slow),
    ],
)
def test_one_steps_gradient_is_that_of_the_token_trainer(goal, rule, layout, tmp_path):
    model = TINY["llama"]()
    examples = random_examples(model, COUNT)
    recipe = recipe_of(goal, rule, ModelReference(another(), {}))
    ours = trainer_of(TINY["llama"](), recipe, examples, tmp_path)
    exact, _, _ = step_gradient(ours, [ours.collator([*enumerate(examples)])])
    found = first_gradient(sft_of(model, recipe, examples, tmp_path, **LAYOUTS[layout]))
    assert relative(found, exact) <= 3e-6


@pytest.mark.slow
def test_the_plain_trainers_gradient_is_another(tmp_path):
    """The comparison above is not of two trainers that do the same whatever the recipe."""
    model = TINY["llama"]()
    examples = random_examples(model, COUNT)
    masked = first_gradient(sft_of(model, recipe_of("masked-mle"), examples, tmp_path))
    plain = first_gradient(sft_of(TINY["llama"](), recipe_of("mle"), examples, tmp_path))
    assert relative(masked, plain) > 0.3


def test_a_run_logs_what_it_selected_evaluates_by_trl_and_leaves_the_model_as_trl_does(tmp_path):
    model = TINY["llama"]()
    examples = random_examples(model, COUNT)
    forward = trl.SFTTrainer(
        TINY["llama"](),
        trl.SFTConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none", max_length=None),
        train_dataset=rows_of(examples),
        processing_class=byte_level_tokenizer(),
    )
    trainer = sft_of(model, recipe_of("masked-mle"), examples, tmp_path, max_steps=2)
    theirs = model.forward
    tokens = plain_tokens(model, [*enumerate(examples)])
    trainer.train()
    assert model.forward is theirs
    (first, second) = [row for row in trainer.state.log_history if "fraction_kept" in row]
    values = {(token.number, token.position): token.signal("loss") for token in tokens}
    chosen = plain_selection(values, 0.25, "token")
    assert first["fraction_kept"] == pytest.approx(len(chosen) / len(tokens))
    assert first["nll_selected"] == pytest.approx(sum(values[place] for place in chosen) / len(chosen), rel=1e-5)
    rest = [value for place, value in values.items() if place not in chosen]
    assert first["nll_rest"] == pytest.approx(sum(rest) / len(rest), rel=1e-5)
    assert first["loss"] == pytest.approx(first["nll_selected"], rel=1e-5)
    assert second["nll_selected"] < first["nll_selected"]
    evaluated = trainer.evaluate(rows_of(examples))
    forward.model.load_state_dict(model.state_dict())
    assert evaluated["eval_loss"] == pytest.approx(forward.evaluate(rows_of(examples))["eval_loss"], rel=1e-6)


def test_a_loss_that_is_not_finite_is_refused(tmp_path):
    model = TINY["llama"]()
    examples = random_examples(model, COUNT)
    with torch.no_grad():
        model.lm_head.weight[examples[1].input_ids[-1]] = math.nan
    with pytest.raises(InputError, match=r"the loss of step 1 is not finite \(examples step 1 row 0"):
        sft_of(model, recipe_of("mle"), examples, tmp_path).train()


@pytest.mark.parametrize("kind", ["padded", "even", "packed"])
def test_a_batch_of_trl_is_a_batch_of_ours(kind):
    examples = random_examples(TINY["llama"](), 4)
    if kind == "even":
        examples = examples[:1]
    collator = trl.trainer.sft_trainer.DataCollatorForLanguageModeling(0, padding_free=kind == "packed")
    made = collator(rows_of(examples).to_list())
    exact = pack(examples, width=1000) if kind == "packed" else collate(examples)
    found = batch_of(made)
    assert torch.equal(found.input_ids_BT, exact.input_ids_BT)
    for ours, theirs in zip(targets(found), targets(exact), strict=True):
        assert torch.equal(ours, theirs)
    assert (found.lengths, found.rows, found.starts) == (exact.lengths, exact.rows, exact.starts)
    assert (found.attention_mask_BT is None) == (exact.attention_mask_BT is None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"pixel_values": 1}, "a batch carries pixel_values, which this loss does not pass on; train on text alone"),
        ({"attention_mask": torch.tensor([[0, 1, 1]])}, "the padding of a batch is not at the end of its rows; "),
        (
            {"attention_mask": torch.ones(1, 3), "position_ids": torch.arange(3)[None]},
            "a batch carries positions and a padding mask (sequence parallelism): not supported here",
        ),
    ],
)
def test_a_batch_that_cannot_be_read_is_refused(more, message):
    ids = torch.tensor([[4, 5, 6]])
    with pytest.raises(InputError) as caught:
        batch_of({"input_ids": ids, "labels": ids, **more})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("mle", Rule()), "objective mle takes all tokens alike; give no rule, or another objective"),
        (("distill",), "objective distill needs a reference; give one, such as uncertainty.reference.AdapterReference"),
        (("masked-mle", Rule(by="rho")), "selection by rho needs a reference; give one, such as "),
        (("mlle",), "objective 'mlle' is not known; choose one of mle, "),
    ],
)
def test_a_recipe_that_is_not_whole_is_refused(given, message):
    with pytest.raises(InputError) as caught:
        recipe_of(*given)
    assert str(caught.value).startswith(message)


def test_options_arrive_in_the_recipe():
    found = recipe_of("masked-mle", Rule(by="random"), distill_weight=0.5, temperature=2.0, seed=3)
    assert (found.distill_weight, found.temperature, found.seed) == (0.5, 2.0, 3)
    with pytest.raises(InputError, match="k must be at least 1"):
        recipe_of("distill-topk", reference=ModelReference(another(), {}), top_k=0)


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated")
def test_what_would_be_left_out_silently_is_refused(tmp_path):
    model = TINY["llama"]()
    examples = random_examples(model, 2)
    for recipe in (recipe_of("weighted"), recipe_of("masked-mle", Rule(by="column", column="epistemic"))):
        with pytest.raises(InputError, match="TRL's batches carry no column of a score table"):
            sft_of(model, recipe, examples, tmp_path)
    for option in ({"label_smoothing_factor": 0.1}, {"loss_type": "dft"}):
        with pytest.raises(InputError, match="is not part of the token objectives and would be left out silently"):
            sft_of(TINY["llama"](), recipe_of("mle"), examples, tmp_path, **option)
    with pytest.raises(InputError, match="compute_loss_func would not be called"):
        TokenSFTTrainer(
            TINY["llama"](),
            trl.SFTConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none", max_length=None),
            train_dataset=rows_of(examples),
            processing_class=byte_level_tokenizer(),
            compute_loss_func=print,
            recipe=recipe_of("mle"),
        )


def test_the_tally_is_of_what_came_since_it_was_taken_out():
    tally = Tally()
    assert tally.take_out() == {}


def test_the_documented_trainer_and_loop_run(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tiny_folder("llama", tmp_path)
    model = bare_model(base)
    examples = random_examples(model, COUNT)
    folder = save_adapter(base, tmp_path / "reference", seed=7, settings=SMALL)

    def config(*args, **options):
        """The documentation's, on a CPU and for two steps."""
        ours = {"bf16": False, "use_cpu": True, "report_to": "none", "max_steps": 2, "disable_tqdm": True}
        return trl.SFTConfig(*args, **options, **ours)

    first = BLOCKS[0].replace("from trl import SFTConfig, SFTTrainer", "from trl import SFTTrainer")
    names = {"model": model, "data": rows_of(examples), "tokenizer": byte_level_tokenizer(), "SFTConfig": config}
    exec(compile(first, "trl.md, first block", "exec"), names)
    assert names["trainer"].state.global_step == 2
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 10
    names |= {"model": bare_model(base), "reference_folder": folder}
    exec(compile(BLOCKS[1], "trl.md, second block", "exec"), names)
    assert names["trainer"].state.global_step == 2
    assert names["trainer"].recipe.objective.name == "masked-mle+distill"
    names["model"] = bare_model(base)
    batch = collate(examples)
    names["inputs"] = {
        "input_ids": batch.input_ids_BT, "labels": batch.labels_BT, "attention_mask": batch.attention_mask_BT
    }  # fmt: skip
    exec(compile(BLOCKS[2], "trl.md, third block", "exec"), names)
    with torch.no_grad():
        losses = -readout(names["model"], predicting_hidden(names["model"], batch)).log_softmax(-1)
    nll = losses.gather(1, targets(batch).label_N[:, None])[:, 0]
    count = math.floor(0.25 * len(nll) + 0.5)
    assert float(names["loss"].detach()) == pytest.approx(float(nll.topk(count).values.mean()), rel=1e-5)
    assert names["model"].lm_head.weight.grad is not None


def test_the_student_learns_beside_its_adapter_reference(tiny_folder, tmp_path):
    base = tiny_folder("llama", tmp_path)
    folder = save_adapter(base, tmp_path / "reference", seed=7, settings=SMALL)
    examples = random_examples(bare_model(base), COUNT)
    found = []
    for make in (sft_of, trainer_of):
        model = trained_looking(base, seed=1)
        recipe = recipe_of(reference=AdapterReference(model, read_adapter(folder)))
        trainer = make(model, recipe, examples, tmp_path)
        if make is trainer_of:
            found.append(step_gradient(trainer, [trainer.collator([*enumerate(examples)])])[0])
        else:
            found.append(first_gradient(trainer))
    assert relative(*found) <= 3e-6


def test_prompt_learning_is_refused(tiny_folder, tmp_path):
    import peft

    model = peft.get_peft_model(
        bare_model(tiny_folder("llama", tmp_path)), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    with pytest.raises(InputError, match="prompt learning is not part of the token objectives"):
        sft_of(model, recipe_of("mle"), random_examples(model, 2), tmp_path)
