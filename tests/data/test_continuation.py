import gc
import json
import weakref

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from uncertainty.data.continuation import contains_special_text, continuation, control_tokens
from uncertainty.data.formats import UnusableRow
from uncertainty.errors import InputError

TEXTS = [
    "hello world",
    " hello",
    "  two  spaces ",
    "\n\nhello\n",
    "\tx",
    "</s> <s> <|im_start|>user<|im_end|> <unk> <0x41>",
    "naïve 你好 مرحبا 👩‍👧‍👦 \U0001f468\u200d\U0001f469",
    "x" * 300,
]


def in_context(tokenizer, ids):
    """What ids spell after a first token, which decoders treat in a way of its own."""
    first = tokenizer("x", add_special_tokens=False)["input_ids"]
    decode = tokenizer.backend_tokenizer.decode
    return decode(first + ids, skip_special_tokens=False).removeprefix(decode(first, skip_special_tokens=False))


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_spelt_exactly_with_nothing_before_it_and_no_control_token(tokenizer, text):
    ids = continuation(tokenizer).encode(text)
    assert in_context(tokenizer, ids) == text
    assert not set(ids) & set(control_tokens(tokenizer).values())


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=20))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_spelt_as_the_tokenizer_normalises_it(tokenizer, text):
    normalizer = tokenizer.backend_tokenizer.normalizer
    ids = continuation(tokenizer).encode(text)
    nfc = json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"]["type"] == "NFC"
    assert in_context(tokenizer, ids) == (normalizer.normalize_str(text) if nfc else text)


@pytest.mark.parametrize("text", ["Once upon a time", " a", "It was.\n\nThe end", "a <|end_story|> b </s> c"])
def test_real_tokenizers_put_no_stray_space_before_text(real_tokenizer, text):
    encoder = continuation(real_tokenizer)
    ids = encoder.encode(text)
    whole = real_tokenizer.decode([real_tokenizer.bos_token_id, *ids], skip_special_tokens=False)
    spelt = real_tokenizer.convert_ids_to_tokens(ids)
    if encoder.unknown not in ids:  # "/" is outside the smaller vocabulary
        assert whole == real_tokenizer.bos_token + text
    assert spelt[0][0] == ("▁" if text[0] == " " else text[0])
    assert not set(ids) & encoder.control


def test_the_tokenizers_themselves_do_put_a_stray_space_there(real_tokenizer):
    """What the copy is for: should this ever fail, the copy may have become needless."""
    ids = real_tokenizer("Once upon a time")["input_ids"]
    assert real_tokenizer.decode(ids) == f"{real_tokenizer.bos_token} Once upon a time"


def test_characters_outside_the_vocabulary_become_the_unknown_token_and_do_not_vanish(shared_data):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data.parent / "models" / "tinystories-656k")
    ids = continuation(tokenizer).encode("48/2 = 24 ÷😀 1")
    assert tokenizer.convert_ids_to_tokens(ids).count("<unk>") == 3
    assert in_context(tokenizer, ids) == "48<unk>2 <unk> 24 <unk> 1"


def test_a_byte_level_tokenizer_that_adds_a_space_does_not_add_it_here(backends):
    spec = json.loads(backends["byte_level"])
    spec["pre_tokenizer"]["add_prefix_space"] = True
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))
    assert tokenizer.decode(tokenizer("hello")["input_ids"]) == " hello"
    assert in_context(tokenizer, continuation(tokenizer).encode("hello")) == "hello"


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_metaspace_tokenizer_does_not_add_its_space_here(backends, scheme):
    spec = json.loads(backends["byte_fallback"])
    spec["normalizer"] = None
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))
    assert tokenizer.decode(tokenizer("hello")["input_ids"]) == "<s> hello"
    assert in_context(tokenizer, continuation(tokenizer).encode("hello")) == "hello"


def words(pre_tokenizer, **options):
    vocabulary = {"<unk>": 0, "</s>": 1, "hello": 2, "world": 3, "x": 4}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizer
    backend.add_special_tokens(["<unk>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", **options)


def test_a_tokenizer_that_cannot_spell_text_back_is_refused_row_by_row():
    tokenizer = words(pre_tokenizers.Whitespace(), unk_token="<unk>")
    with pytest.raises(UnusableRow) as caught:
        continuation(tokenizer).encode("hello world")  # it decodes to " hello world"
    assert caught.value.reason == "text_not_reversible"


def test_a_control_token_read_out_of_plain_text_is_refused():
    tokenizer = words(pre_tokenizers.WhitespaceSplit(), unk_token="<unk>")
    with pytest.raises(UnusableRow) as caught:
        continuation(tokenizer).encode("hello </s>")  # a word of the vocabulary
    assert caught.value.reason == "control_token_in_text"


def test_a_tokenizer_without_a_fast_form_is_refused():
    class Slow:
        chat_template = None

        def __len__(self):
            return 0

    with pytest.raises(InputError, match=r"the tokenizer Slow has no tokenizer\.json"):
        continuation(Slow())


def test_the_tokenizer_itself_is_left_as_it_was(tokenizer):
    before = tokenizer.backend_tokenizer.to_str(), tokenizer("</s> a <|im_end|>")["input_ids"]
    continuation(tokenizer).encode("</s> hello <|im_end|>")
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer("</s> a <|im_end|>")["input_ids"]) == before


def test_what_is_derived_is_kept_with_the_tokenizer_and_renewed_when_it_changes(tokenizer):
    first = continuation(tokenizer)
    assert continuation(tokenizer) is first
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    assert "<|new|>" in control_tokens(tokenizer)
    assert continuation(tokenizer) is not first


def test_nothing_keeps_a_tokenizer_alive(backends):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backends["byte_level"]))
    continuation(tokenizer).encode("hello")
    gone = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert gone() is None


def test_added_tokens_that_the_chat_template_writes_are_control_tokens(tokenizer):
    tokenizer.add_tokens(["<|turn|>", "<think>"])
    assert "<|turn|>" not in control_tokens(tokenizer)
    tokenizer.chat_template = "{{ '<|turn|>' }}{{ messages[0]['content'] }}"
    assert "<|turn|>" in control_tokens(tokenizer)
    assert "<think>" not in control_tokens(tokenizer)
    assert contains_special_text([{"role": "user", "content": "a <|turn|> b"}], tokenizer)
    assert not contains_special_text([{"role": "user", "content": "a <think> b"}], tokenizer)
