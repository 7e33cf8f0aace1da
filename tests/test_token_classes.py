"""What a whole vocabulary spells, and what its tokens are where they stand. More by token: analysis/test_strata.py."""

import doctest

import numpy as np
import pytest
from conftest import byte_level_tokenizer

from uncertainty import token_classes
from uncertainty.data.pieces import spell, spell_vocabulary
from uncertainty.token_classes import CLASSES, vocabulary_classes

SPELLED = [" un", "certain", "ty", "\n", " 12", "nd", ".", "</s>", "<0xE2>", "'s", "'"]


def names(found, tokens, follows=None):
    follows = [False] + [True] * (len(tokens) - 1) if follows is None else follows
    codes = found.in_text(np.array([SPELLED.index(token) for token in tokens]), np.array(follows))
    return [CLASSES[code] for code in codes]


@pytest.fixture(scope="module")
def found():
    return vocabulary_classes(SPELLED, [token == "</s>" for token in SPELLED])


def test_doctests_hold():
    assert doctest.testmod(token_classes).failed == 0


def test_letters_go_on_only_where_a_word_stands_right_before_them(found):
    assert names(found, [" un", "certain", "ty", ".", "ty"]) == [
        "word start", "word continuation", "word continuation", "punctuation", "word start",
    ]  # fmt: skip
    assert names(found, [" un", "certain"], [False, False]) == ["word start", "word start"]
    assert names(found, [" 12", "nd", "'s", "'"]) == ["number", "word continuation", "word continuation", "punctuation"]
    assert names(found, ["<0xE2>", "ty", "</s>", "ty", "\n", "nd"]) == [
        "word continuation", "word continuation", "special", "word start", "structural", "word start",
    ]  # fmt: skip


def test_the_first_token_follows_nothing_whatever_is_said(found):
    assert names(found, ["certain"], [True]) == ["word start"]
    assert names(found, []) == []


def test_the_vocabulary_is_not_changed_by_a_look_up(found):
    before = found.code_V.copy()
    names(found, [" un", "certain"])
    assert np.array_equal(found.code_V, before)


def test_ids_outside_the_vocabulary_and_marks_of_another_length_are_refused(found):
    with pytest.raises(ValueError, match="the vocabulary has 0 to 10"):
        found.in_text(np.array([11]), np.array([False]))
    with pytest.raises(ValueError, match="ids -1 to 3"):
        found.in_text(np.array([3, -1]), np.array([False, True]))
    with pytest.raises(ValueError, match="2 spelled entries but 1 marks"):
        vocabulary_classes(["a", "b"], [False])


def test_a_vocabulary_is_spelled_as_its_tokens_are_within_a_text():
    tokenizer = byte_level_tokenizer()
    whole = spell_vocabulary(tokenizer)
    assert len(whole.tokens) == len(whole.is_special) == len(tokenizer)
    text = "The little girl had 12 apples<|im_end|>\n— über <b> 7"
    ids = tokenizer.encode(text, add_special_tokens=False)
    inside = spell(tokenizer, ids)
    assert [whole.is_special[token] for token in ids] == inside.is_special
    # Bytes of a character that is split over tokens have no text of their own; the rest is the same.
    same = [whole.tokens[token] == spelt for token, spelt in zip(ids, inside.tokens, strict=True)]
    assert same == [True] * len(ids)
    assert sum(whole.is_special) == len({"<pad>", "<s>", "<|im_end|>", "<|im_start|>"})


def test_a_word_level_and_a_byte_fallback_vocabulary_are_spelled_too(shared_models):
    from transformers import AutoTokenizer

    from uncertainty.demo import demo_model_path

    for path, text in ((demo_model_path(), " capital"), (shared_models / "stories260K", " little")):
        tokenizer = AutoTokenizer.from_pretrained(path)
        found = spell_vocabulary(tokenizer)
        assert text in found.tokens
        assert all(found.tokens)
        ids = tokenizer.encode("once upon a time, the girl was sad.", add_special_tokens=False)
        inside = spell(tokenizer, ids)
        assert [found.tokens[token] for token in ids[1:]] == inside.tokens[1:]
