"""Tiny random models of every family, seeded and made in memory, and the folders and shared data tests stand on.

``TINY`` is the table: name -> a function that builds a model in eval mode. Weights are drawn wide enough that
predictions are far from uniform and the members of an ensemble disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

# Tensors here are tiny: a second thread only waits for the first.
torch.set_num_threads(1)
# The same examples in every run: a suite that fails must fail again.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

SHARED = Path(__file__).parents[1].parent / "shared"

VOCABULARY = 112
LENGTH = 64
SPECIAL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SMALL = {
    **SPECIAL,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
    "initializer_range": 0.3,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "intermediate_size": 64}


def build(config: Any, attention: str = "sdpa") -> Any:
    """A model of random weights, the same at every call, without touching the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.eval()


def llama() -> Any:
    return build(transformers.LlamaConfig(**GROUPED))


def mistral() -> Any:
    return build(transformers.MistralConfig(**GROUPED, sliding_window=16))


def qwen2() -> Any:
    return build(transformers.Qwen2Config(**GROUPED))


def qwen3() -> Any:
    return build(transformers.Qwen3Config(**GROUPED, head_dim=8))


def gemma() -> Any:
    return build(transformers.GemmaConfig(**GROUPED, head_dim=8))


def gemma2() -> Any:
    # The caps are low enough to bend these logits; SDPA has no attention cap.
    caps = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}
    config = transformers.Gemma2Config(**GROUPED, **caps, head_dim=8, query_pre_attn_scalar=8, sliding_window=8)
    return build(config, attention="eager")


def gemma3() -> Any:
    settings = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
    return build(transformers.Gemma3TextConfig(**GROUPED, **settings))


def phi3() -> Any:
    return build(transformers.Phi3Config(**GROUPED))


def gpt2() -> Any:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LENGTH}
    return build(transformers.GPT2Config(**SPECIAL, **sizes, initializer_range=0.3))


def gpt_neox() -> Any:
    return build(transformers.GPTNeoXConfig(**SMALL, intermediate_size=64))


def cohere() -> Any:
    return build(transformers.CohereConfig(**GROUPED, logit_scale=0.75))


def opt() -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": LENGTH}
    return build(transformers.OPTConfig(**SPECIAL, **sizes, ffn_dim=64, word_embed_proj_dim=32, init_std=0.3))


TINY: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "phi3": phi3,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "cohere": cohere,
    "opt": opt,
}

# ChatML, so that the turn's end is a token of its own, as in most chat models.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ["<pad>", "<s>", "<|im_end|>", "<|im_start|>"]
TRAINING_TEXT = [
    "Question: there were 12 apples in the box and she took 7 of them. How many are left? Answer: 12 - 7 = 5.",
    "Once upon a time there was a little girl who said: the answer is in the garden, and then she went home.",
]
PADDED_ROWS = 8


def byte_level_tokenizer(*, chat_template: bool = True) -> Any:
    """A byte-level BPE tokenizer of 300 tokens that can spell any text and puts ``<s>`` in front."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(TRAINING_TEXT, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat_template else None
    return tokenizer


def save_tiny(name: str, folder: Path, *, chat_template: bool = True) -> Path:
    """Save a tiny model and its tokenizer as a model folder; the logits are wider than the tokenizer.

    The context is 512 positions, because a byte-level tokenizer needs about one token a character.
    """
    tokenizer = byte_level_tokenizer(chat_template=chat_template)
    config = TINY[name]().config
    config.vocab_size = len(tokenizer) + PADDED_ROWS
    config.max_position_embeddings = 512  # GPT-2 maps this name to its own n_positions
    model = build(config, attention=config._attn_implementation)
    path = folder / f"{name}-{'chat' if chat_template else 'plain'}"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], Any]:
    """``tiny_model(name)`` gives the model of ``TINY``, built once a session: leave it as you found it."""
    return cache(lambda name: TINY[name]())


@pytest.fixture
def tiny_folder() -> Callable[..., Path]:
    """``tiny_folder(name, tmp_path, chat_template=True)`` saves a tiny model with its tokenizer, gives the folder."""
    return save_tiny


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of small pretrained models, beside the checkout."""
    return _beside_the_checkout("models")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, beside the checkout."""
    return _beside_the_checkout("data")


def _beside_the_checkout(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs the shared folder {folder}, which is not part of this repository")
    return folder
