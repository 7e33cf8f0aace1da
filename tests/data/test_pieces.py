import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from uncertainty.data.pieces import spell

TEXTS = [
    "hello world, the cat",
    "  two\n\n\tspaces ",
    "مرحبا بالعالم",
    "你好，世界",
    "a 👩‍👧‍👦 b é e\u0301",
    "a real \ufffd here",
    "the \u2581 mark <|im_end|> </s> <0x41>",
]


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def check(tokenizer, ids):
    """Everything that holds of any sequence of tokens; the spans lie in order and cover the text."""
    pieces = spell(tokenizer, ids)
    assert pieces.text == decoded(tokenizer, ids)
    covered = 0
    for start, end in zip(pieces.char_start, pieces.char_end, strict=True):
        assert 0 <= start <= end <= len(pieces.text)
        assert start <= covered
        covered = max(covered, end)
    assert covered == len(pieces.text)
    assert pieces.char_start == sorted(pieces.char_start)
    assert len(pieces.tokens) == len(pieces.is_special) == len(ids)
    return pieces


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_spell_the_text(tokenizer, text):
    pieces = check(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
    for token, start, end in zip(pieces.tokens, pieces.char_start, pieces.char_end, strict=True):
        assert token == pieces.text[start:end] or "<0x" in token or not pieces.text[start:end]


def test_tokens_of_one_character_share_its_span_and_are_spelt_as_bytes(tokenizer):
    ids = tokenizer("a€b😀", add_special_tokens=False)["input_ids"]
    pieces = check(tokenizer, ids)
    spans = list(zip(pieces.tokens, pieces.char_start, pieces.char_end, strict=True))
    euro, smile = pieces.text.index("€"), pieces.text.index("😀")
    expected = [(f"<0x{byte:02X}>", euro, euro + 1) for byte in "€".encode()]
    expected += [("b", euro + 1, euro + 2)]
    expected += [(f"<0x{byte:02X}>", smile, smile + 1) for byte in "😀".encode()]
    assert spans[-8:] == expected


def test_a_token_with_a_whole_character_and_half_of_another_has_both():
    vocabulary = {"a": 0, "Ġ": 1, "â": 2, "Ġâ": 3, "Ĥ¬": 4}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", "â")]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    pieces = check(PreTrainedTokenizerFast(tokenizer_object=backend), [0, 3, 4, 0])
    assert pieces.text == "a €a"
    assert pieces.tokens == ["a", " <0xE2>", "<0x82><0xAC>", "a"]
    assert (pieces.char_start, pieces.char_end) == ([0, 1, 2, 3], [1, 3, 3, 4])


def test_invalid_bytes_keep_a_place_and_their_bytes(tokenizer):
    names = ["â", "Ĥ"] if "â" in tokenizer.get_vocab() else ["<0xE2>", "<0x82>"]
    hello = tokenizer("hello", add_special_tokens=False)["input_ids"]
    pieces = check(tokenizer, [*hello, *tokenizer.convert_tokens_to_ids(names), *hello])
    at = len(hello)
    assert pieces.tokens[at : at + 2] == ["<0xE2>", "<0x82>"]
    assert all(
        set(pieces.text[s:e]) == {"\ufffd"}
        for s, e in list(zip(pieces.char_start, pieces.char_end, strict=True))[at : at + 2]
    )
    assert pieces.text[pieces.char_start[at + 2] :].strip() == "hello"


@given(data=st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_tokens_is_spelt_as_the_tokenizer_decodes_it(tokenizer, data):
    check(tokenizer, data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=30)))


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_cut_between_characters_only_where_tokens_are(tokenizer, data):
    text = data.draw(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=15))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = check(tokenizer, ids)
    for index, (start, end) in enumerate(zip(pieces.char_start, pieces.char_end, strict=True)):
        before, upto = decoded(tokenizer, ids[:index]), decoded(tokenizer, ids[: index + 1])
        if "\ufffd" not in before and "\ufffd" not in upto:
            assert (start, end) == (len(before), len(upto))


def test_special_tokens_are_marked_and_literal(tokenizer):
    ids = [tokenizer.eos_token_id, *tokenizer("hello", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    pieces = check(tokenizer, ids)
    assert pieces.is_special == [True, *[False] * (len(ids) - 2), True]
    assert pieces.tokens[0] == pieces.tokens[-1] == tokenizer.eos_token


def test_nothing_is_spelt_by_no_tokens(tokenizer):
    assert spell(tokenizer, []).tokens == []


def test_word_level_tokenizers_with_joined_words_are_spelt_too():
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "▁hello": 1, "▁world": 2, ".": 3}, unk_token="<unk>"))
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    pieces = check(PreTrainedTokenizerFast(tokenizer_object=backend), [1, 2, 3, 1, 2])
    assert pieces.tokens == ["hello", " world", ".", " hello", " world"]


@pytest.mark.parametrize("kind", ["text", "bytes", "invalid"])
def test_time_grows_about_linearly(tokenizer, kind):
    first = tokenizer.convert_tokens_to_ids("â" if "â" in tokenizer.get_vocab() else "<0xE2>")
    if kind == "invalid":
        ids = [first] * 4000
    else:
        text = "the cat sat on the mat " if kind == "text" else "你好世界"
        ids = (tokenizer(text, add_special_tokens=False)["input_ids"] * 2000)[:4000]
    short, long = (min(_seconds(tokenizer, ids[:count]) for _ in range(3)) for count in (500, 4000))
    assert long < 8 * short * 4  # a quadratic way would take 64 times as long


def _seconds(tokenizer, ids):
    start = time.process_time()
    spell(tokenizer, ids)
    return time.process_time() - start
