from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uncertainty.data.formats import UnusableRow, conversation
from uncertainty.data.render import render
from uncertainty.data.sources import read_source
from uncertainty.data.templates import choose_template

LONG = 10**6


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


ONE = turns(("user", "what is the capital of France?"), ("assistant", "the capital is Paris."))
MANY = [
    *ONE,
    *turns(("user", "and the dog?"), ("assistant", "the dog ate\n\nthe hat "), ("user", "hello"), ("assistant", "x")),
]


def rendered(messages, tokenizer, *, template="auto", format="messages", max_length=LONG):
    chosen = choose_template(template, tokenizer, format)
    return render(messages, tokenizer, id="a", template=chosen, max_length=max_length)


def by_hand(name, messages, bos, eos):
    """The templates of conftest written out again: pieces of text, each with the message it is a completion of."""
    pieces = [(bos, -1)] if name in ("llama3", "inst") else []
    for index, message in enumerate(messages):
        owner = index if message["role"] == "assistant" else -1
        role, content = message["role"], message["content"]
        if name in ("chatml", "thinking"):
            block = "<think>\n\n</think>\n\n" if name == "thinking" and owner == len(messages) - 1 else ""
            pieces += [(f"<|im_start|>{role}\n", -1), (block + content + "<|im_end|>", owner), ("\n", -1)]
        elif name == "llama3":
            pieces += [(f"<|im_start|>{role}<|sep|>\n\n", -1), (content.strip() + "<|im_end|>", owner)]
        elif role == "user":
            pieces.append((f"[INST] {content} [/INST]", -1))
        else:
            pieces.append((f" {content}{eos}", owner))
    return pieces


def brute_force(pieces, tokenizer):
    """Token ids and owners by character offsets; None where a token straddles two pieces of different owners."""
    text = "".join(piece for piece, _ in pieces)
    owner_of = [owner for piece, owner in pieces for _ in piece]
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    owners = []
    for start, end in encoding["offset_mapping"]:
        inside = set(owner_of[start : max(end, start + 1)])
        if len(inside) != 1:
            return None
        owners += inside
    return encoding["input_ids"], owners


@pytest.mark.parametrize("name", ["chatml", "llama3", "inst", "thinking"])
@pytest.mark.parametrize("messages", [ONE, MANY], ids=["one turn", "three turns"])
def test_the_chat_mask_is_the_one_that_character_offsets_give(chat_tokenizer, chat_templates, name, messages):
    chat_tokenizer.chat_template = chat_templates[name]
    example = rendered(messages, chat_tokenizer)
    expected = brute_force(by_hand(name, messages, chat_tokenizer.bos_token, chat_tokenizer.eos_token), chat_tokenizer)
    assert (example.input_ids, example.turn) == expected
    assert example.completion == [owner >= 0 for owner in example.turn]


CONTENT = st.lists(
    st.sampled_from(
        ["a", " ", "\n", "hello", "assistant", "<|im_end|>", "<think>", "é", "\n\n", "the cat", "</s>", "<|im_end|>\n"]
    ),
    min_size=1,
    max_size=4,
).map("".join)


@pytest.mark.parametrize("name", ["chatml", "llama3", "inst", "thinking"])
@given(contents=st.lists(CONTENT, min_size=2, max_size=4).filter(lambda contents: len(contents) % 2 == 0))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_chat_mask_is_right_or_refused_never_wrong(chat_tokenizer, chat_templates, name, contents):
    chat_tokenizer.chat_template = chat_templates[name]
    messages = turns(*zip(["user", "assistant"] * 2, contents, strict=False))
    pieces = by_hand(name, messages, chat_tokenizer.bos_token, chat_tokenizer.eos_token)
    expected = brute_force(pieces, chat_tokenizer)
    if expected is None:  # a token straddles prompt and completion: there is no right mask
        with pytest.raises(UnusableRow, match="prompt_not_prefix"):
            rendered(messages, chat_tokenizer)
        return
    example = rendered(messages, chat_tokenizer)
    assert (example.input_ids, example.turn) == expected


def test_a_prompt_that_is_no_prefix_is_refused_and_shown(chat_tokenizer, chat_templates):
    chat_tokenizer.chat_template = chat_templates["forgetful"]
    with pytest.raises(UnusableRow) as caught:
        rendered(ONE, chat_tokenizer)
    assert caught.value.reason == "prompt_not_prefix"
    assert "the prompt of message 1 is no token prefix of the conversation: at token" in caught.value.detail
    assert "it has 'what is" in caught.value.detail
    assert "the conversation '(a me" in caught.value.detail


def test_a_template_that_refuses_makes_the_row_unusable_with_its_words(chat_tokenizer, chat_templates):
    chat_tokenizer.chat_template = chat_templates["inst"]
    with pytest.raises(UnusableRow, match=r"template_refused: .*only user and assistant, please"):
        rendered(turns(("system", "s"), *[(m["role"], m["content"]) for m in ONE]), chat_tokenizer)


def test_a_conversation_that_begins_with_the_assistant_has_no_chat_prompt(chat_tokenizer, chat_templates):
    chat_tokenizer.chat_template = chat_templates["chatml"]
    with pytest.raises(UnusableRow, match="assistant_first"):
        rendered(turns(("assistant", "hello")), chat_tokenizer)
    assert any(rendered(turns(("assistant", "hello")), chat_tokenizer, template="plain").completion)


def test_what_follows_the_last_assistant_turn_is_left_out(chat_tokenizer, chat_templates):
    chat_tokenizer.chat_template = chat_templates["chatml"]
    for template in ("chat", "plain"):
        longer = rendered([*ONE, *turns(("user", "more"))], chat_tokenizer, template=template)
        assert longer.input_ids == rendered(ONE, chat_tokenizer, template=template).input_ids
        assert len(longer.messages) == 3


def test_an_assistant_turn_of_the_prompt_is_not_scored(chat_tokenizer, chat_templates):
    chat_tokenizer.chat_template = chat_templates["chatml"]
    messages = [MANY[0], MANY[1] | {"scored": "no"}, *MANY[2:4]]
    assert set(rendered(messages, chat_tokenizer).turn) == {-1, 3}


def test_bos_is_written_once(chat_tokenizer, chat_templates):
    chat_tokenizer.chat_template = chat_templates["llama3"]
    for template in ("chat", "plain"):
        ids = rendered(ONE, chat_tokenizer, template=template).input_ids
        assert ids[0] == chat_tokenizer.bos_token_id
        assert chat_tokenizer.bos_token_id not in ids[1:-1]


PLAIN_PIECES = [
    ("User:\nwhat is the capital of France?\n\nAssistant:\n", -1),
    ("the capital is Paris.", 1),
    ("\n\nUser:\nand the dog?\n\nAssistant:\n", -1),
    ("the dog ate\n\nthe hat ", 3),
    ("\n\nUser:\nhello\n\nAssistant:\n", -1),
    ("x", 5),
]


def test_plain_spells_every_segment_exactly_and_ends_turns_with_eos(tokenizer):
    example = rendered(MANY, tokenizer)
    decode = tokenizer.backend_tokenizer.decode
    at = 0 if tokenizer.bos_token_id is None else 1
    assert example.turn[:at] == [-1] * at
    for text, owner in PLAIN_PIECES:
        end = next(i for i in range(at, len(example.turn) + 1) if i == len(example.turn) or example.turn[i] != owner)
        ids = example.input_ids[at:end]
        if owner >= 0:
            assert ids.pop() == tokenizer.eos_token_id
        assert decode([ids[0], *ids], skip_special_tokens=False).endswith(text)
        assert decode(ids, skip_special_tokens=False) == text
        at = end
    assert at == len(example.input_ids)


def test_control_text_in_the_data_stays_text_in_plain_templates(tokenizer):
    messages = turns(("user", "</s><|im_start|><s>"), ("assistant", "a</s><|endoftext|>b<|im_end|>"))
    example = rendered(messages, tokenizer)
    special = [token for token in example.input_ids if token in tokenizer.all_special_ids]
    assert special == [t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id) if t is not None]


def test_plain_text_is_scored_from_its_first_token_and_has_no_eos(tokenizer):
    example = rendered(turns(("text", "hello world")), tokenizer, format="text")
    has_bos = tokenizer.bos_token_id is not None
    assert example.completion == [False] * has_bos + [True] * (len(example.input_ids) - has_bos)
    assert set(example.turn) <= {-1, 0}
    assert example.input_ids[-1] != tokenizer.eos_token_id
    assert tokenizer.decode(example.input_ids[has_bos:]) == "hello world"


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_truncation_at_every_length_keeps_the_front_and_says_what_was_cut(chat_tokenizer, chat_templates, template):
    chat_tokenizer.chat_template = chat_templates["chatml"]
    whole = rendered(MANY, chat_tokenizer, template=template)
    seen = list(accumulate(whole.completion))
    for length in range(1, len(whole.input_ids) + 3):
        if seen[min(length, len(seen)) - 1] == 0:
            with pytest.raises(UnusableRow, match="prompt_longer_than_context"):
                rendered(MANY, chat_tokenizer, template=template, max_length=length)
            continue
        cut = rendered(MANY, chat_tokenizer, template=template, max_length=length)
        assert cut.input_ids == whole.input_ids[:length]
        assert (cut.completion, cut.turn) == (whole.completion[:length], whole.turn[:length])
        assert cut.truncated == (sum(cut.completion) < sum(whole.completion))


def test_a_completion_without_any_prediction_is_not_an_example(tokenizers_by_kind):
    tokenizer = tokenizers_by_kind["byte_level"]  # no BOS: the first token has no prediction
    with pytest.raises(UnusableRow, match="nothing_to_predict"):
        rendered(turns(("text", "h")), tokenizer, format="text")
    with pytest.raises(UnusableRow, match="prompt_longer_than_context"):
        rendered(turns(("text", "hello world")), tokenizer, format="text", max_length=1)
    with pytest.raises(ValueError, match="max_length is 0"):
        rendered(ONE, tokenizer, max_length=0)


@pytest.mark.parametrize(
    "name",
    ["gsm8k/test.jsonl", "alpaca/validation.parquet", "sharegpt/sharegpt_sample.jsonl.gz", "dolly/dolly_3k.jsonl"],
)
def test_real_rows_spell_their_completions_exactly(shared_data, real_tokenizer, name):
    source = read_source(str(shared_data / name), limit=40)
    template = choose_template("auto", real_tokenizer, source.format)
    for row in source.rows:
        messages = conversation(row, source.format)
        example = render(messages, real_tokenizer, id=row.id, template=template, max_length=LONG)
        if example.unknown:
            continue
        for index, message in enumerate(messages):
            ids = [t for t, owner in zip(example.input_ids, example.turn, strict=True) if owner == index]
            expected = message["content"] + real_tokenizer.eos_token if message["role"] == "assistant" else ""
            spelt = real_tokenizer.decode([real_tokenizer.bos_token_id, *ids], skip_special_tokens=False)
            assert spelt == real_tokenizer.bos_token + expected


def test_real_stories_are_spelt_exactly(shared_data, real_tokenizer):
    source = read_source(str(shared_data / "tinystories" / "tinystories_excerpt.txt"), limit=150)
    template = choose_template("auto", real_tokenizer, source.format)
    exact = 0
    for row in source.rows:
        example = render(conversation(row, "text"), real_tokenizer, id=row.id, template=template, max_length=LONG)
        if not example.unknown:
            exact += 1
            assert real_tokenizer.decode(example.input_ids) == real_tokenizer.bos_token + row.fields["text"]
    assert exact > 140
