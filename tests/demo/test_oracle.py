import json
import math
import subprocess
import sys

import pytest
from scipy import stats

from uncertainty.demo import demo_data_path, demo_model_path
from uncertainty.demo.facts import NEVER_TOLD, RANKED_FACTS, VALUE_OF
from uncertainty.demo.language import TOKEN_CLASSES, generate
from uncertainty.demo.oracle import fact_group, facts_seen, oracle
from uncertainty.demo.words import ID_OF, VOCABULARY
from uncertainty.errors import InputError


def conversation(*contents):
    roles = ["user", "assistant"] * 2
    return {"id": "x", "messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


def truth_of(word, truths):
    found = [truth for truth in truths if truth.token == word]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("held_out", [False, True])
def test_every_distribution_sums_to_one_and_holds_the_token_that_came(held_out):
    for row in generate(400, 21, held_out=held_out):
        for truth in oracle(row):
            assert math.fsum(truth.distribution.values()) == pytest.approx(1, abs=1e-12)
            assert min(truth.distribution.values()) > 0
            assert truth.probability > 0
            assert VOCABULARY[truth.token_id] == truth.token
            assert truth.token_class in TOKEN_CLASSES


def test_entropies_agree_with_scipy_and_deterministic_classes_have_none():
    truths = [truth for row in generate(400, 22) for truth in oracle(row)]
    for truth in truths:
        is_spread = truth.token_class in ("choice", "draw", "label")
        assert (truth.entropy > 0) == (len(truth.distribution) > 1) == is_spread
    stated = {tuple(truth.distribution.values()): truth.entropy for truth in truths}
    assert len(stated) > 15
    for probabilities, entropy in stated.items():
        assert entropy == pytest.approx(stats.entropy(probabilities), abs=1e-12)


def test_a_die_has_the_entropy_of_its_sides():
    truth = truth_of("5", oracle(conversation("Roll a die with 6 sides.", "Sure, the die shows 5.")))
    assert truth.token_class == "draw"
    assert truth.entropy == pytest.approx(math.log(6))
    assert truth.distribution == {ID_OF[str(i)]: pytest.approx(1 / 6) for i in range(1, 7)}


def test_a_label_has_the_noise_of_its_reader():
    question = "A hasty reader saw a dull song. Which mood was noted?"
    truth = truth_of("neutral", oracle(conversation(question, "Well, the hasty reader wrote a neutral mood.")))
    assert truth.token_class == "label"
    assert truth.distribution == {
        ID_OF["negative"]: pytest.approx(0.7),
        ID_OF["positive"]: pytest.approx(0.15),
        ID_OF["neutral"]: pytest.approx(0.15),
    }
    assert truth.entropy == pytest.approx(-0.7 * math.log(0.7) - 0.3 * math.log(0.15))


def test_the_wind_depends_on_the_sky_that_was_written():
    question = "What is the weather like in Veldora?"
    calm = oracle(conversation(question, "Well, the sky over Veldora is clear and the wind is fresh."))
    storm = oracle(conversation(question, "Well, the sky over Veldora is stormy and the wind is fresh."))
    assert truth_of("fresh", calm).probability == pytest.approx(0.05)
    assert truth_of("fresh", storm).probability == pytest.approx(0.1)


def test_the_closing_is_a_choice_and_what_follows_it_is_structure():
    truths = oracle(conversation("Roll a die with 6 sides.", "Sure, the die shows 5. Ask me more."))
    assert [(t.token, t.token_class) for t in truths[-5:]] == [
        ("Ask", "choice"),
        ("me", "structure"),
        ("more", "structure"),
        (".", "structure"),
        ("<|end|>", "structure"),
    ]
    assert truths[-5].probability == pytest.approx(0.15)
    ended = oracle(conversation("Roll a die with 6 sides.", "Sure, the die shows 5."))[-1]
    assert (ended.token, ended.token_class, ended.probability) == ("<|end|>", "choice", pytest.approx(0.75))


def test_classes_of_a_sum_and_a_name_carried_into_the_second_turn():
    row = conversation(
        "I am Ada. Bran has 9 eggs and loses 3. How many eggs does Bran have?",
        "Well, Ada, 9 - 3 = 6, so Bran owns 6 eggs.",
        "Roll a die with 4 sides.",
        "Well, Ada, the die reads 4.",
    )
    truths = oracle(row)
    assert [t.turn for t in truths] == [1] * 17 + [3] * 10
    classes = " ".join(truth.token_class for truth in truths[:17])
    assert classes == (
        "choice structure copy structure copy arithmetic copy structure arithmetic structure "
        "structure copy choice copy copy structure choice"
    )
    assert truths[19].token == "Ada"
    assert truths[19].token_class == "copy"


def test_a_fact_says_how_often_it_was_told():
    truths = [truth for line in demo_data_path().read_text().splitlines() for truth in oracle(json.loads(line))]
    for truth in truths:
        assert (truth.fact is None) == (truth.fact_seen is None) == (truth.token_class != "fact")
        assert truth.fact is None or truth.fact_seen == facts_seen()[truth.fact]
    told = oracle(
        conversation("What is the crop of Veldora?", f"Well, the crop of Veldora is {VALUE_OF['crop of Veldora']}."),
        seen=dict.fromkeys(RANKED_FACTS, 77),
    )
    assert [(truth.fact, truth.fact_seen) for truth in told if truth.fact] == [("crop of Veldora", 77)]


def test_the_counts_cover_every_fact_and_are_zero_for_those_never_told():
    assert set(facts_seen()) == set(RANKED_FACTS)
    assert all(facts_seen()[fact] == 0 for fact in NEVER_TOLD)
    assert facts_seen()[RANKED_FACTS[0]] > 1000


@pytest.mark.parametrize(
    ("seen", "group"),
    [
        (0, "0"),
        (1, "1-9"),
        (9, "1-9"),
        (10, "10-29"),
        (299, "100-299"),
        (999, "300-999"),
        (1000, "1000+"),
        (9**9, "1000+"),
    ],
)
def test_facts_are_grouped_by_how_often_they_were_told(seen, group):
    assert fact_group(seen) == f"fact, told {group} times"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (conversation("How are you?", "Fine."), r"'x', turn 0: not a question of the demo language: 'How are you\?'"),
        (conversation("Roll a die with 6 sides.", "Sure, the die shows 7."), "turn 1, token 5: '7' is impossible"),
        (conversation("Roll a die with 6 sides.", "Sure, the die shows"), r"token 5: '<\|end\|>' is impossible"),
        (conversation("Roll a die with 6 sides.", ""), r"token 0: '<\|end\|>' is impossible.*'Well', 'Sure', 'Gladly'"),
        (conversation("Roll a die with 6 sides.", "Sure, the die shows 5.<|end|>"), r"token 7: '<\|end\|>' is imp"),
        (conversation("Roll a die with 6 sides."), "turn 0: the demo language alternates"),
        ({"messages": [{"role": "system", "content": "Be kind."}]}, r"\(no id\).*alternates"),
    ],
)
def test_what_is_not_of_the_language_is_refused_by_place(row, message):
    with pytest.raises(InputError, match=message) as error:
        oracle(row)
    assert "\n" not in str(error.value)


def test_the_demo_without_its_trainer_imports_no_torch():
    code = (
        "import sys, uncertainty.demo, uncertainty.demo.validation, uncertainty.demo.tokenizer, uncertainty.demo.card;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_paths_of_the_demo_exist():
    assert demo_data_path().is_file()
    assert (demo_model_path() / "config.json").is_file()
