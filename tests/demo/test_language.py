import json
import random
import re
from collections import Counter, defaultdict
from functools import cache
from math import prod, sqrt

import pytest
from scipy import stats

from uncertainty.demo import demo_data_path, demo_new_facts_path, demo_training_path
from uncertainty.demo.facts import NEVER_TOLD, RANKED_FACTS, VALUE_OF
from uncertainty.demo.language import (
    HELD_OUT_CONVERSATIONS,
    TOKEN_CLASSES,
    answer,
    draw_answer,
    fine_tune_jsonl,
    generate,
    held_out_jsonl,
    is_held_out,
)
from uncertainty.demo.oracle import oracle
from uncertainty.demo.questions import KINDS, WORDINGS, draw, read_question
from uncertainty.demo.words import MARKS, VOCABULARY, WORDS, join_words, split_words

STEP_EFFECT = {"finds": 1, "buys": 1, "loses": -1, "sells": -1}


@cache
def truths_of(row_number):
    return oracle(conversations()[row_number])


@cache
def conversations(n=3000, seed=11, held_out=False):
    return tuple(generate(n, seed, held_out=held_out))


def turns(rows):
    """(user text, assistant text, whole text before the assistant's) of every question."""
    for row in rows:
        messages = row["messages"]
        for i in range(0, len(messages), 2):
            before = " ".join(message["content"] for message in messages[: i + 1])
            yield messages[i]["content"], messages[i + 1]["content"], before


def assert_frequencies(counts, stated, standard_errors=4.5):
    """Every frequency lies within so many standard errors of its stated probability; nothing else occurs."""
    total = sum(counts.values())
    assert total > 100
    assert set(counts) <= set(stated)
    for word, probability in stated.items():
        error = sqrt(probability * (1 - probability) / total)
        assert abs(counts[word] / total - probability) <= standard_errors * error, (word, counts, stated)


def test_each_vocabulary_entry_is_one_token_and_occurs_once():
    assert len(set(VOCABULARY)) == len(VOCABULARY) < 1500
    assert all(split_words(word) == [word] for word in WORDS)


def test_every_generated_word_is_in_the_vocabulary_and_texts_are_spelt_without_loss():
    texts = [message["content"] for row in conversations() for message in row["messages"]]
    assert {word for text in texts for word in split_words(text)} <= set(WORDS)
    assert all(join_words(split_words(text)) == text for text in texts)


def test_every_question_wording_is_used_and_read_back_as_its_kind():
    used = Counter()
    for row in conversations():
        kinds = [read_question(text).kind for text, _, _ in turns([row])]
        assert "+".join(kinds) == row["kind"]
        for text, _, _ in turns([row]):
            used[re.sub(r"^(Hello, )?I am \w+\. ", "", text).split()[0], len(split_words(text))] += 1
    assert set(KINDS) == {kind for row in conversations() for kind in row["kind"].split("+")}
    assert len(used) >= sum(len(wordings) for wordings in WORDINGS.values()) - 1


def test_a_text_that_is_no_question_is_not_read():
    assert read_question("What is the capital of France?") is None
    assert read_question("Ada has 3 coins and finds 4. How many coins does Bran have?") is None
    assert read_question("Roll a die with 6 sides. Thanks") is None


def test_draw_takes_each_key_as_often_as_its_weight_says():
    rng = random.Random(0)
    assert_frequencies(Counter(draw({"a": 1, "b": 3, "c": 0}, rng) for _ in range(10000)), {"a": 0.25, "b": 0.75})


def test_sums_are_right_worked_out_from_the_question_alone():
    checked = 0
    for question, reply, _ in turns(conversations()):
        if "How many" in question:
            number = int(re.search(r"has (\d+)", question)[1])
            steps = re.findall(r"(finds|buys|loses|sells) (\d+)", question)
            for (verb, step), written in zip(steps, re.findall(r"\d+ [+-] \d+ = \d+", reply), strict=True):
                after = number + STEP_EFFECT[verb] * int(step)
                assert written == f"{number} {'+-'[STEP_EFFECT[verb] < 0]} {step} = {after}"
                number = after
            owner, thing = re.search(r"How many (\w+) does (\w+)", question).group(2, 1)
            assert re.search(rf"so {owner} (has|owns|keeps) {number} {thing}\.", reply)
            checked += 1
    assert checked > 300


def test_a_fact_has_the_same_value_wherever_it_is_told():
    told = defaultdict(set)
    for question, reply, _ in turns(conversations()):
        country = re.search(r"of (\w+)\?", question)
        if country:
            for relation, value in re.findall(r"the (\w+)(?: of \w+)? (?:is|remains|stays) (\w+)", reply):
                told[f"{relation} of {country[1]}"].add(value)
    assert len(told) > 200
    assert all(values == {VALUE_OF[fact]} for fact, values in told.items())


def test_frequent_facts_are_told_more_often_and_some_never():
    told = Counter(t.fact for number in range(len(conversations())) for t in truths_of(number) if t.fact)
    assert not NEVER_TOLD & set(told)
    assert sum(told[fact] for fact in RANKED_FACTS[:10]) > 5 * sum(told[fact] for fact in RANKED_FACTS[-200:])
    held_out = {truth.fact for row in conversations(300, 5, True) for truth in oracle(row)}
    assert len(NEVER_TOLD & held_out) > 20


def test_empirical_frequencies_agree_with_the_distributions_written_in_the_text():
    """Contexts by regular expression, probabilities typed in by hand: independent of generator and oracle."""
    opener, sky, wind, mood, shown, own = (defaultdict(Counter) for _ in range(6))
    for question, reply, _ in turns(conversations()):
        opener["Hello" in question][reply.split(",")[0]] += 1
        if match := re.search(r"is (\w+) and the wind is (\w+)", reply):
            sky[0][match[1]] += 1
            wind[match[1]][match[2]] += 1
        if match := re.search(r"the (\w+) reader (?:noted|wrote) a (\w+) mood", reply):
            true_mood = "right" if re.search(r"brilliant|charming|delightful|lovely", question) else None
            if true_mood:
                mood[match[1]][match[2]] += 1
        if match := re.search(r"the die (shows|reads) (\d+)", reply):
            shown[re.search(r"(\d+) sides", question)[1]][match[2]] += 1
        if match := re.search(r"so \w+ (\w+) \d+", reply):
            own[0][match[1]] += 1
    assert_frequencies(opener[False], {"Well": 0.6, "Sure": 0.3, "Gladly": 0.1})
    assert_frequencies(opener[True], {"Well": 0.1, "Sure": 0.3, "Gladly": 0.6})
    assert_frequencies(sky[0], {"clear": 0.4, "cloudy": 0.3, "rainy": 0.2, "stormy": 0.1})
    assert_frequencies(wind["clear"], {"calm": 0.7, "mild": 0.25, "fresh": 0.05})
    assert_frequencies(own[0], {"has": 0.5, "owns": 0.3, "keeps": 0.2})
    assert {sides: set(counts) for sides, counts in shown.items()}["4"] == {"1", "2", "3", "4"}
    assert set(mood) == {"careful", "steady", "hasty", "sleepy"}
    share = {habit: counts["positive"] / sum(counts.values()) for habit, counts in mood.items()}
    for habit, stated in {"careful": 0.98, "steady": 0.9, "hasty": 0.7, "sleepy": 0.4}.items():
        assert share[habit] == pytest.approx(stated, abs=4 * sqrt(0.25 / sum(mood[habit].values())))


def test_tokens_occur_as_often_as_the_oracle_states_in_every_kind_of_context():
    """Group all spread tokens by the distribution that the oracle states for them; chi-square per group."""
    groups = defaultdict(Counter)
    for number in range(len(conversations())):
        for truth in truths_of(number):
            if len(truth.distribution) > 1:
                groups[tuple(sorted(truth.distribution.items()))][truth.token_id] += 1
    tested = 0
    for stated, counts in groups.items():
        total = sum(counts.values())
        if total * min(p for _, p in stated) >= 5:  # the usual floor for a chi-square test
            observed = [counts[token_id] for token_id, _ in stated]
            assert stats.chisquare(observed, [p * total for _, p in stated]).pvalue > 1e-4, (stated, counts)
            tested += 1
    assert tested >= 14


def test_whole_answers_to_one_question_are_as_frequent_as_the_product_of_the_stated_probabilities():
    text, n = "A hasty reader saw a dull song. Which mood was noted?", 8000
    rng = random.Random(3)
    counts = Counter(join_words(draw_answer(answer(read_question(text), None), rng)) for _ in range(n))
    stated = {}
    for reply in counts:
        row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": reply}]}
        stated[reply] = prod(truth.probability for truth in oracle(row))
    assert sum(stated.values()) == pytest.approx(1, abs=1e-9)  # all 54 possible answers came
    assert len(stated) == 3 * 2 * 3 * 3
    assert_frequencies(counts, stated)


def test_the_name_given_first_is_used_in_the_second_answer_too():
    named = 0
    for row in conversations():
        messages = row["messages"]
        person = re.match(r"(?:Hello, )?I am (\w+)\.", messages[0]["content"])
        for message in messages[1::2]:
            addressed = re.match(r"\w+, (\w+), ", message["content"])
            if person:
                assert addressed[1] == person[1]
                named += 1
    assert named > 1000


def test_held_out_openings_never_open_a_training_conversation():
    openings = [row["messages"][0]["content"] for row in conversations()]
    held_out = [row["messages"][0]["content"] for row in conversations(300, 5, True)]
    assert not any(map(is_held_out, openings))
    assert all(map(is_held_out, held_out))
    assert not set(openings) & set(held_out)


def test_generate_gives_the_same_rows_for_the_same_seed_and_more_rows_do_not_change_the_first():
    assert list(generate(20, 3)) == list(generate(40, 3))[:20]
    assert list(generate(20, 3)) != list(generate(20, 4))
    assert list(generate(0, 3)) == []


def test_the_data_file_is_the_generators_output_byte_for_byte():
    assert demo_data_path().read_bytes() == held_out_jsonl().encode()


def test_the_files_to_fine_tune_on_are_the_generators_output_byte_for_byte():
    assert demo_training_path().read_bytes() == fine_tune_jsonl().encode()
    assert demo_new_facts_path().read_bytes() == fine_tune_jsonl(held_out=True).encode()


def test_fine_tuning_tells_facts_never_told_before_and_is_tested_on_the_same_in_other_conversations():
    texts = demo_training_path().read_text(), demo_new_facts_path().read_text()
    told, held_out = ([json.loads(line) for line in text.splitlines()] for text in texts)
    facts = [Counter(truth.fact for row in rows for truth in oracle(row) if truth.fact) for rows in (told, held_out)]
    assert facts[0].keys() >= NEVER_TOLD
    assert sum(facts[0][fact] for fact in NEVER_TOLD) > 0.8 * len(told)
    assert facts[1].keys() & NEVER_TOLD <= facts[0].keys()
    openings = [{row["messages"][0]["content"] for row in rows} for rows in (told, held_out)]
    assert not openings[0] & openings[1]
    assert not any(map(is_held_out, openings[0]))
    assert all(map(is_held_out, openings[1]))


def test_the_data_file_holds_every_kind_class_and_frequency_of_facts():
    rows = [json.loads(line) for line in demo_data_path().read_text().splitlines()]
    truths = [truth for row in rows for truth in oracle(row)]
    assert len({row["id"] for row in rows}) == len(rows) == HELD_OUT_CONVERSATIONS
    assert {kind for row in rows for kind in row["kind"].split("+")} == set(KINDS)
    counts = Counter(truth.token_class for truth in truths)
    assert set(counts) == set(TOKEN_CLASSES)
    assert min(counts.values()) >= 15
    seen = [truth.fact_seen for truth in truths if truth.fact]
    assert sum(count == 0 for count in seen) >= 10
    assert sum(0 < count < 30 for count in seen) >= 10
    assert sum(count >= 300 for count in seen) >= 10
    assert {mark for row in rows for m in row["messages"] for mark in m["content"] if mark in MARKS} == set(MARKS)
