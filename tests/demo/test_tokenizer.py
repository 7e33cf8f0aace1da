import json
import os

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from uncertainty.demo import demo_data_path, demo_model_path
from uncertainty.demo.oracle import oracle
from uncertainty.demo.tokenizer import CHAT_TEMPLATE, token_ids, word_tokenizer
from uncertainty.demo.words import ID_OF, SPECIAL_TOKENS, VOCABULARY


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo_model_path())


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in demo_data_path().read_text().splitlines()]


def ids_of(tokenizer, messages, *, open_turn=False):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=open_turn, return_dict=False)


def test_the_committed_tokenizer_is_the_one_that_the_code_builds(tokenizer):
    committed = json.loads(Tokenizer.from_file(os.fspath(demo_model_path() / "tokenizer.json")).to_str())
    built = json.loads(word_tokenizer().to_str())
    assert committed.pop("post_processor")["special_tokens"] == {}  # transformers writes one that adds nothing
    assert built.pop("post_processor") is None
    assert committed == built
    assert tokenizer.get_vocab() == token_ids()
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_ids_are_the_languages_and_special_tokens_come_first(tokenizer):
    assert [tokenizer.convert_ids_to_tokens(i).removeprefix("▁") for i in range(len(tokenizer))] == list(VOCABULARY)
    assert sorted(tokenizer.all_special_ids) == list(range(len(SPECIAL_TOKENS)))
    assert {tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token} <= set(SPECIAL_TOKENS)
    assert tokenizer.eos_token_id == ID_OF["<|end|>"]


def test_messages_come_back_from_their_ids_unchanged(tokenizer, rows):
    for text in (message["content"] for row in rows for message in row["messages"]):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_whole_conversations_come_back_from_their_ids_unchanged(tokenizer, rows):
    for row in rows:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        ids = ids_of(tokenizer, row["messages"])
        assert tokenizer.decode(ids) == text
        assert tokenizer(text, add_special_tokens=False).input_ids == ids


def test_the_prompt_is_a_token_prefix_and_the_rest_is_what_the_oracle_reads(tokenizer, rows):
    for row in rows:
        truths = oracle(row)
        for turn in range(1, len(row["messages"]), 2):
            prompt = ids_of(tokenizer, row["messages"][:turn], open_turn=True)
            whole = ids_of(tokenizer, row["messages"][: turn + 1])
            assert whole[: len(prompt)] == prompt
            assert whole[len(prompt) :] == [truth.token_id for truth in truths if truth.turn == turn]


def test_a_word_outside_the_language_is_unknown(tokenizer):
    assert tokenizer("the capital of France", add_special_tokens=False).input_ids[-1] == ID_OF["<|unk|>"]


def test_a_role_that_the_model_does_not_know_is_refused(tokenizer):
    with pytest.raises(Exception, match="roles user and assistant, not system"):
        ids_of(tokenizer, [{"role": "system", "content": "Be kind."}])


def test_examples_are_short_enough_for_the_model(tokenizer, rows):
    assert max(len(ids_of(tokenizer, row["messages"])) for row in rows) <= 128 < tokenizer.model_max_length
