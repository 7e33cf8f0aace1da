"""Tiny tokenizers of the two great kinds, and chat templates in the manner of well known ones."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SHARED = Path(__file__).parents[2] / ".." / "shared"
CORPUS = [
    "User: what is the capital of France? Assistant: the capital of France is Paris.",
    "hello world, the cat sat on the mat and the dog ate the hat\n\nhello again",
    "system user assistant think instruction response input below",
] * 4

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}<|sep|>\n\n{{ m['content'] | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|sep|>\n\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant, please') }}{% endif %}{% endfor %}"
)
# an empty thinking block before the last assistant turn only, as Qwen3's template writes it
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# what it writes of a message depends on whether more messages follow
FORGETFUL = (
    "{% for m in messages %}{% if loop.last or m['role'] == 'assistant' %}{{ m['content'] }}"
    "{% else %}(a message){% endif %}<|im_end|>{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "inst": INST, "thinking": THINKING, "forgetful": FORGETFUL}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|sep|>"]


def byte_level() -> Tokenizer:
    """A byte-level BPE, as GPT-2's and Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """A BPE with byte fallback and a dummy prefix space, as Llama-2's."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=150, show_progress=False))
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += sorted(trained.get_vocab(), key=trained.get_vocab().get)
    vocabulary = {name: index for index, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names[:3]])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


@pytest.fixture(scope="session")
def backends():
    """The two kinds, trained once."""
    return {"byte_level": byte_level().to_str(), "byte_fallback": byte_fallback().to_str()}


@pytest.fixture
def tokenizers_by_kind(backends):
    """Fresh tokenizers of both kinds; byte_level has no BOS, byte_fallback has one."""
    return {
        "byte_level": PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(backends["byte_level"]), eos_token="<|endoftext|>"
        ),
        "byte_fallback": PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(backends["byte_fallback"]),
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
        ),
    }


@pytest.fixture(params=["byte_level", "byte_fallback"])
def tokenizer(request, tokenizers_by_kind):
    """Each kind in turn."""
    return tokenizers_by_kind[request.param]


@pytest.fixture
def chat_templates():
    """Chat templates by name."""
    return TEMPLATES


@pytest.fixture(params=["byte_level", "byte_fallback"])
def chat_tokenizer(request, tokenizers_by_kind):
    """Each kind in turn, with the control tokens and the BOS that the chat templates write."""
    tokenizer = tokenizers_by_kind[request.param]
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    tokenizer.bos_token = tokenizer.bos_token or "<|endoftext|>"
    return tokenizer


@pytest.fixture(params=["stories260K", "tinystories-656k"])
def real_tokenizer(request):
    """The tokenizers of the two shared pretrained models."""
    from transformers import AutoTokenizer

    folder = SHARED / "models" / request.param
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def shared_data():
    """The folder of real data sets."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED / 'data'} is not there")
    return SHARED / "data"
