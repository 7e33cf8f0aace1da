"""From settings to rendered examples: skipped rows, notices, the context, and the text of an example."""

import json
import os

import pytest

from uncertainty.data.render import Example
from uncertainty.data.sources import Row
from uncertainty.errors import InputError
from uncertainty.prepare import example_text, go_offline, prepare
from uncertainty.settings import ScoreSettings


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings(folder, data, **more):
    return ScoreSettings(model=str(folder), dataset=data, **more)


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return tiny_folder("llama", tmp_path / "model")


def test_rows_without_a_completion_are_skipped_and_counted(folder, tmp_path):
    rows = [{"question": "1+1?", "answer": "2"}, {"question": "x", "answer": ""}, {"question": "y", "answer": "z"}]
    prepared = prepare(settings(folder, write(tmp_path / "d.jsonl", rows)))
    assert [example.id for example in prepared.examples] == ["0", "2"]
    assert [row.number for row in prepared.rows] == [0, 2]
    assert [(skip["row"], skip["reason"]) for skip in prepared.skipped] == [(1, "empty_completion")]
    assert prepared.completion_tokens == sum(sum(e.completion) for e in prepared.examples) > 0


def test_no_usable_row_stops_with_the_reasons(folder, tmp_path):
    data = write(tmp_path / "d.jsonl", [{"question": "x", "answer": ""}] * 2)
    with pytest.raises(InputError, match=r"no row of .* can be scored \(empty_completion 2; first: "):
        prepare(settings(folder, data))


def test_a_cut_completion_is_flagged_and_noticed(folder, tmp_path):
    data = write(tmp_path / "d.jsonl", [{"question": "x", "answer": "many words " * 20}])
    prepared = prepare(settings(folder, data, max_length=30))
    assert prepared.examples[0].truncated
    assert len(prepared.examples[0].input_ids) == 30
    assert "1 examples are longer than 30 tokens" in prepared.notices[0]


def test_a_length_beyond_the_context_is_refused(folder, tmp_path):
    data = write(tmp_path / "d.jsonl", [{"question": "x", "answer": "y"}])
    context = prepare(settings(folder, data)).max_length
    with pytest.raises(InputError, match=f"longer than the model's context of {context} tokens"):
        prepare(settings(folder, data, max_length=context + 1))


def test_columns_to_keep_must_exist(folder, tmp_path):
    data = write(tmp_path / "d.jsonl", [{"question": "x", "answer": "y", "level": 3}])
    with pytest.raises(InputError, match=r"--keep-columns lvl: .* it has question, answer, level"):
        prepare(settings(folder, data, keep_columns=("lvl",)))
    prepared = prepare(settings(folder, data, keep_columns=("level",)))
    text = example_text(prepared.examples[0], prepared.rows[0], prepared.tokenizer, ("level",))
    assert text.kept == {"level": 3}


def test_offsets_of_completion_tokens_spell_the_completion(folder, tmp_path):
    rows = [
        {"messages": [{"role": r, "content": c} for r, c in turns]}
        for turns in (
            [("user", "hi"), ("assistant", "Hello \U0001f469‍\U0001f467 there")],
            [("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "deux é")],
        )
    ]
    prepared = prepare(settings(folder, write(tmp_path / "d.jsonl", rows)))
    for example, row in zip(prepared.examples, prepared.rows, strict=True):
        text = example_text(example, row, prepared.tokenizer, ())
        assert text.position == [p for p, inside in enumerate(example.completion) if inside]
        assert text.n_prompt_tokens + len(text.position) == len(example.input_ids)
        spelled, reached = "", 0
        for start, end in zip(text.char_start, text.char_end, strict=True):
            spelled += text.completion[max(start, reached) : end]
            reached = max(reached, end)
        assert spelled == text.completion
    first = example_text(prepared.examples[0], prepared.rows[0], prepared.tokenizer, ())
    assert "Hello \U0001f469‍\U0001f467 there" in first.completion
    second = example_text(prepared.examples[1], prepared.rows[1], prepared.tokenizer, ())
    assert second.completion.count("<|im_end|>") == 2
    assert second.completion.startswith("one")
    assert "b" not in second.completion
    assert set(second.turn) == {1, 3}


def test_the_text_of_an_example_that_is_all_completion_has_no_prompt(folder, tmp_path):
    prepared = prepare(settings(folder, write(tmp_path / "d.jsonl", [{"text": "only text"}])))
    text = example_text(prepared.examples[0], prepared.rows[0], prepared.tokenizer, ())
    assert text.completion == "only text"
    assert isinstance(prepared.rows[0], Row)
    assert isinstance(prepared.examples[0], Example)


def test_local_paths_switch_the_hub_off_and_hub_ids_do_not(folder, tmp_path, monkeypatch):
    data = write(tmp_path / "d.jsonl", [{"text": "x"}])
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    go_offline(ScoreSettings(model="org/name", dataset=data))
    assert "HF_HUB_OFFLINE" not in os.environ
    go_offline(settings(folder, data))
    assert os.environ.pop("HF_HUB_OFFLINE") == "1"
    for name in ("HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.pop(name, None)
