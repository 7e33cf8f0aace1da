"""The student's one forward call, and whether train mode can change what it says."""

import pytest
import torch
from conftest import TINY, build
from random_examples import examples as random_examples
from torch import nn

from uncertainty.batch_hidden import predicting_hidden
from uncertainty.data.batches import collate
from uncertainty.lora import LoraSettings, attach_lora
from uncertainty.training.student import Ask, answering, causal_model, has_dropout

IDS = torch.tensor([[1, 5, 9, 4, 8, 7]])


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_model_answers_what_it_is_asked_and_is_itself_again_afterwards(wrapped):
    model = TINY["llama"]()
    bare = model
    model = attach_lora(model, LoraSettings(rank=2)) if wrapped else model
    batch = collate(random_examples(bare, 3))
    plain = model(input_ids=IDS).logits
    with answering(model):
        inner, hidden_ND = model(ask=Ask(batch, lambda inner, hidden_ND: (inner, hidden_ND)))
        assert torch.equal(model(input_ids=IDS).logits, plain)
    assert inner is causal_model(model) is bare
    assert torch.equal(hidden_ND, predicting_hidden(model, batch))
    assert hidden_ND.requires_grad
    assert "forward" not in vars(bare)
    assert torch.equal(model(input_ids=IDS).logits, plain)


def test_a_model_stops_answering_after_an_error():
    model = TINY["llama"]()
    with pytest.raises(ZeroDivisionError), answering(model):
        1 / 0  # noqa: B018
    assert "forward" not in vars(model)


def test_a_forward_that_somebody_else_put_there_stays():
    model = TINY["llama"]()
    own = model.forward
    model.forward = lambda *args, **kwargs: ("theirs", own(*args, **kwargs))
    theirs = model.forward
    with answering(model):
        with answering(model):
            assert model(input_ids=IDS)[0] == "theirs"
        assert model(ask=Ask(collate(random_examples(model, 1)), lambda inner, hidden_ND: "ours")) == "ours"
    assert model.forward is theirs


def differs_in_train_mode(model):
    """The experiment: what the pass says in train mode against eval mode, a few times."""
    with torch.no_grad():
        exact = model.eval()(input_ids=IDS.repeat(4, 5)).logits
        model.train()
        return any(not torch.equal(model(input_ids=IDS.repeat(4, 5)).logits, exact) for _ in range(3))


@pytest.mark.parametrize("name", TINY)
def test_dropout_is_found_where_train_mode_changes_the_pass_and_nowhere_else(name):
    model = TINY[name]()
    assert has_dropout(model) == differs_in_train_mode(model)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "phi3", "cohere"])
def test_attention_dropout_is_found(name):
    config = TINY[name]().config
    config.attention_dropout = 0.3
    model = build(config, attention=config._attn_implementation)
    config.attention_dropout = 0.0  # the modules keep their own copy
    assert differs_in_train_mode(model)
    assert has_dropout(model)


def test_dropout_of_an_adapter_is_found():
    assert has_dropout(attach_lora(TINY["llama"](), LoraSettings(rank=2, dropout=0.1)))
    assert not has_dropout(attach_lora(TINY["llama"](), LoraSettings(rank=2)))


def test_functional_dropout_of_any_name_is_found():
    class Layer(nn.Module):
        def __init__(self, rate):
            super().__init__()
            self.hidden_dropout = rate

    assert has_dropout(nn.Sequential(Layer(0.1)))
    assert not has_dropout(nn.Sequential(Layer(0.0)))
    assert not has_dropout(nn.Sequential(nn.Dropout(0.0), nn.Linear(2, 2)))
