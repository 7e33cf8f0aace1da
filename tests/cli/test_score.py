"""``unc-score`` from the first word to the last: what a user gives, sees and finds on disk.

Commands run in this process where they can. What must die runs in forks (``score_forks.py``); what needs a fresh
interpreter (imports, sockets, a broken pipe) is a process of its own.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from bad_requests import BAD, FILES, GOOD, break_models
from conftest import byte_level_tokenizer, save_tiny
from safetensors.torch import load_file, save_file
from score_runs import END, KINDS, QUESTIONS, Done, contents, long_questions, scored_files, write_lines

from uncertainty import read_examples, read_run, read_scores, score_dataset
from uncertainty.cli.score import main
from uncertainty.errors import InputError
from uncertainty.model import adopt_model
from uncertainty.prepare import OFFLINE, prepare
from uncertainty.score_schema import TOKEN_SCHEMA
from uncertainty.scores import MEASURE_COLUMNS
from uncertainty.settings import ScoreSettings

TESTS = Path(__file__).parents[1]
PROCESS = [sys.executable, "-m", "uncertainty.cli.score"]
# The state of the source tree would come into every record, and it may change under a test.
ALONE = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))} | {
    "OMP_NUM_THREADS": "1",
    "GIT_DIR": "/nowhere",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with the tiny model ``llama-chat``, and ``llama-plain`` without a chat template."""
    folder = tmp_path_factory.mktemp("models")
    for chat_template in (True, False):
        save_tiny("llama", folder, chat_template=chat_template)
    return folder


@pytest.fixture(scope="module")
def model(models):
    return models / "llama-chat"


@pytest.fixture(autouse=True)
def unchanged_environment(monkeypatch):
    """The command may set these for its own process: put them back."""
    for name in OFFLINE:
        monkeypatch.setenv(name, "1")


@pytest.fixture
def unc_score(capsys):
    """Run the command here; numbers and paths may stand among the arguments."""

    def run(*arguments) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Done(code, out, err)

    return run


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A run over QUESTIONS in shards of two, with its command: to be read, not changed."""
    folder = tmp_path_factory.mktemp("finished")
    data = write_lines(folder / "questions.jsonl", QUESTIONS)
    command = [
        "--model",
        model,
        "--dataset",
        data,
        "--passes",
        4,
        "--shard-examples",
        2,
        "--keep-columns",
        "topic,level",
    ]
    command = [str(word) for word in [*command, "--out", folder / "run"]]
    assert main(command) == 0
    return folder / "run", command


# --- what can be scored

QUICK = ("messages .jsonl", "sharegpt .jsonl.gz", "alpaca .parquet", "paragraphs of .txt", "a split of a folder")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_every_kind_of_data_set_is_scored(kind, model, tmp_path, unc_score):
    (tmp_path / "data").mkdir()
    data = KINDS[kind].write(tmp_path / "data")
    done = unc_score(
        "--model", model, "--dataset", data, "--passes", 2, "--out", tmp_path / "run", *KINDS[kind].options
    )
    assert done.code == 0, done.err
    assert f"format {KINDS[kind].format} (" in done.err
    assert read_examples(tmp_path / "run")["completion"].tolist() == KINDS[kind].completions
    assert read_run(tmp_path / "run").settings["data"]["format"] == KINDS[kind].format


@pytest.mark.slow
def test_a_saved_data_set_is_scored(model, tmp_path, unc_score):
    datasets = pytest.importorskip("datasets")
    saved = datasets.DatasetDict({"test": datasets.Dataset.from_list(GOOD)})
    saved.save_to_disk(str(tmp_path / "saved"))
    for split in ([], ["--split", "test"]):
        out = tmp_path / f"run{len(split)}"
        done = unc_score("--model", model, "--dataset", tmp_path / "saved", "--passes", 2, "--out", out, *split)
        assert done.code == 0, done.err
        assert read_examples(out)["completion"].tolist() == [f"b b b{END}", f"d{END}"]


@pytest.mark.slow
@pytest.mark.parametrize("chat_template", [True, False])
@pytest.mark.parametrize("family", ["gemma2", "phi3", "qwen3", "gpt2"])
def test_folders_of_other_families_are_scored(family, chat_template, tiny_folder, tmp_path, unc_score):
    folder = tiny_folder(family, tmp_path, chat_template=chat_template)
    data = write_lines(tmp_path / "data.jsonl", GOOD)
    done = unc_score("--model", folder, "--dataset", data, "--passes", 4, "--rate", 0.2, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert f"template: {'chat (chat)' if chat_template else 'plain (plain)'}" in done.err
    scores = read_scores(tmp_path / "run")
    assert (scores["epistemic"] > 0).any()
    assert np.isfinite(scores[list(MEASURE_COLUMNS)].to_numpy()).all()
    assert read_examples(tmp_path / "run")["completion"].tolist() == [f"b b b{END}", f"d{END}"]


REAL = {
    "gsm8k/test.jsonl": "gsm8k",
    "alpaca/train.parquet": "alpaca",
    "alpaca/alpaca_en_demo.json": "alpaca",
    "alpaca_libre/train.jsonl": "alpaca",
    "dolly/dolly_3k.jsonl": "alpaca",
    "sharegpt/sharegpt_sample.jsonl.gz": "sharegpt",
    "sharegpt/glaive_toolcall_en_demo.json": "sharegpt",
    "sharegpt/dummy_conversation.json": "sharegpt",
    "tinystories/tinystories_excerpt.txt": "text",
    "tinystories/tinystories_cs336_sample.txt": "text",
    "books/validation.parquet": "text",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
@pytest.mark.parametrize("file", REAL)
def test_real_data_is_scored_with_real_models(file, name, shared_data, shared_models, tmp_path, unc_score):
    data = shared_data / file
    if not data.is_file():
        pytest.skip(f"needs the shared file {data}, which is not part of this repository")
    request = ["--model", shared_models / name, "--dataset", data, "--limit", 3, "--passes", 3]
    done = unc_score(*request, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert f"format {REAL[file]} (" in done.err
    scores, examples = read_scores(tmp_path / "run"), read_examples(tmp_path / "run")
    skipped = (tmp_path / "run/skipped.jsonl").read_text().splitlines()
    assert len(examples) + len(skipped) == 3
    assert_spelt(scores, examples)
    if file.startswith("tinystories"):  # what they were trained on, at 2 to 4 nats a token
        assert scores["loss"].mean() < 5
    assert (scores["epistemic"] >= 0).all()
    assert (scores["epistemic"] > 0).mean() > 0.9


def test_where_dropout_acts_can_be_chosen(model, tmp_path, unc_score):
    data = write_lines(tmp_path / "data.jsonl", GOOD)
    request = ["--model", model, "--dataset", data, "--passes", 2, "--out", tmp_path / "run"]
    done = unc_score(*request, "--sites", "attention,residual,embedding,mlp")
    assert done.code == 0, done.err
    for line in ("2 native attention", "4 injected residual", "1 injected embedding", "2 injected mlp"):
        assert f"dropout: {line} sites at rate 0.1" in done.err
    kinds = {(site["kind"], site["origin"]) for site in read_run(tmp_path / "run").settings["family"]["sites"]}
    injected = {(kind, "injected") for kind in ("residual", "embedding", "mlp")}
    assert kinds == injected | {("attention", "native")}


# --- the table


def assert_spelt(scores, examples):
    """Offsets of the tokens cut the completion text into the tokens, in order and without a gap."""
    text = examples.set_index("id")["completion"]
    for name, tokens in scores.groupby("example_id", sort=False):
        cuts = [text[name][a:b] for a, b in zip(tokens["char_start"], tokens["char_end"], strict=True)]
        byte = tokens["token"].str.fullmatch(r"<0x[0-9A-F]{2}>").to_numpy()
        for cut, token, is_byte in zip(cuts, tokens["token"], byte, strict=True):
            assert is_byte or "\ufffd" in token or cut == token
        assert tokens["char_start"].is_monotonic_increasing
        assert tokens["char_start"].iloc[0] == 0
        assert tokens["char_end"].iloc[-1] == len(text[name])
        ends = tokens["char_end"].cummax().shift(fill_value=0)
        assert (tokens["char_start"] <= ends).all()


def test_the_token_table_has_the_columns_types_and_units_that_are_documented(finished):
    run, _ = finished
    for file in sorted((run / "tokens").iterdir()):
        assert pq.read_schema(file).remove_metadata().equals(TOKEN_SCHEMA.remove_metadata())
    schema = pq.read_schema(run / "tokens/part-00000.parquet")
    named = ["example_id", "turn", "position", "index_in_completion", "token_id", "token", "char_start", "char_end"]
    assert schema.names == [*named, "is_special", *MEASURE_COLUMNS, "label_rank", "n_passes"]
    assert {schema.field(name).type for name in MEASURE_COLUMNS} == {pa.float32()}
    for name in MEASURE_COLUMNS:
        assert schema.field(name).metadata[b"unit"] == (b"probability" if name in ("label_prob", "margin") else b"nats")


def test_there_is_one_row_for_each_token_of_the_completion_mask(finished, model):
    run, command = finished
    scores, examples = read_scores(run), read_examples(run)
    prepared = prepare(ScoreSettings(model=str(model), dataset=command[command.index("--dataset") + 1]))
    assert examples["id"].tolist() == [example.id for example in prepared.examples] == ["sum", "größe", "last"]
    for example in prepared.examples:
        positions = [p for p, inside in enumerate(example.completion) if inside]
        rows = scores[scores["example_id"] == example.id]
        assert rows["position"].tolist() == positions
        assert rows["token_id"].tolist() == [example.input_ids[p] for p in positions]
        assert rows["turn"].tolist() == [1] * len(positions)
        assert rows["index_in_completion"].tolist() == list(range(len(positions)))
        assert rows["is_special"].tolist() == [False] * (len(positions) - 1) + [True]
    assert examples["n_completion_tokens"].tolist() == scores.groupby("example_id", sort=False).size().tolist()


def test_offsets_cut_the_completion_into_its_tokens(finished):
    run, _ = finished
    scores, examples = read_scores(run), read_examples(run)
    assert examples["completion"].tolist() == [
        row["answer"] + END for row in QUESTIONS if (row["answer"] or "").strip()
    ]
    assert_spelt(scores, examples)
    emoji = scores[(scores["example_id"] == "größe") & scores["token"].str.startswith("<0xF0")]
    assert len(emoji) == 1  # a character of four bytes, of which this tokenizer has no token


def test_measures_keep_their_bounds_and_nothing_is_null_without_reason(finished):
    run, _ = finished
    scores = read_scores(run)
    assert scores.notna().all(axis=None)
    assert (scores["epistemic"] >= 0).all()
    assert (scores["epistemic"] <= min(np.log(4), np.log(308)) + 1e-6).all()
    assert (scores["epistemic"] <= scores["total"] + 1e-6).all()
    np.testing.assert_allclose(scores["total"] - scores["aleatoric"], scores["epistemic"], atol=1e-5)
    np.testing.assert_allclose(np.exp(-scores["loss"]), scores["label_prob"], atol=1e-6)
    assert (scores["n_passes"] == 4).all()


def test_the_first_token_of_a_text_without_bos_is_null_and_only_it(models, tmp_path, unc_score):
    folder = shutil.copytree(models / "llama-plain", tmp_path / "model")
    tokenizer = byte_level_tokenizer(chat_template=False)
    tokenizer.bos_token = None
    tokenizer.save_pretrained(folder)
    (tmp_path / "story.txt").write_text("Once upon a time\n\nThe end\n")
    out = tmp_path / "run"
    done = unc_score("--model", folder, "--dataset", tmp_path / "story.txt", "--passes", 3, "--out", out)
    assert done.code == 0, done.err
    scores = read_scores(out)
    first = scores["position"] == 0
    assert first.sum() == 2
    for name in (*MEASURE_COLUMNS, "label_rank"):
        assert scores.loc[first, name].isna().all()
        assert scores.loc[~first, name].notna().all()
    assert (scores.loc[first, "n_passes"] == 0).all()


def test_a_single_pass_has_no_standard_error_and_no_epistemic_uncertainty(model, tmp_path, unc_score):
    data = write_lines(tmp_path / "data.jsonl", GOOD)
    request = ["--model", model, "--dataset", data, "--out", tmp_path / "run"]
    assert unc_score(*request, "--passes", 1).code == 0
    scores = read_scores(tmp_path / "run")
    assert scores["epistemic_se"].isna().all()
    assert (scores["epistemic"] == 0).all()
    assert unc_score(*request, "--rate", 0, "--passes", 3, "--overwrite").code == 0
    scores = read_scores(tmp_path / "run")
    assert (scores["epistemic"] == 0).all()
    np.testing.assert_allclose(scores["aleatoric"], scores["entropy"], atol=1e-6)


def test_examples_carry_text_counts_sums_and_kept_columns(finished):
    run, command = finished
    scores, examples = read_scores(run), read_examples(run)
    assert examples["topic"].tolist() == ["sums", "Maße", "sums"]
    assert examples["level"].tolist() == [1, 3, 5]
    assert json.loads(examples["messages"][0]) == [
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "assistant", "content": "2 + 3 = 5\n#### 5"},
    ]
    sums = scores.groupby("example_id", sort=False)["epistemic"].sum()
    np.testing.assert_allclose(examples["sum_epistemic"], sums, rtol=1e-5)
    assert not examples["truncated"].any()
    skipped = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
    assert [(row["row"], row["id"], row["reason"]) for row in skipped] == [
        (1, "empty", "empty_completion"),
        (3, "none", "missing_completion"),
    ]
    assert read_run(run).record["command"] == ["unc-score", *command]


def test_pandas_polars_and_duckdb_open_the_table_in_a_line(finished, monkeypatch):
    run, _ = finished
    monkeypatch.chdir(run)
    mean = read_scores(run)["epistemic"].mean()
    assert pd.read_parquet("tokens")["epistemic"].mean() == pytest.approx(mean)
    assert pyarrow.dataset.dataset("tokens").count_rows() == len(read_scores(run))
    polars = pytest.importorskip("polars")
    assert polars.read_parquet("tokens/*.parquet")["epistemic"].mean() == pytest.approx(mean, rel=1e-5)
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql("select avg(epistemic), count(*) from 'tokens/*.parquet'").fetchall()
    assert found == [(pytest.approx(mean, rel=1e-5), len(read_scores(run)))]


@pytest.mark.slow
def test_datasets_opens_the_table_in_a_line(finished, monkeypatch, tmp_path):
    run, _ = finished
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(run)
    table = datasets.load_dataset("parquet", data_files="tokens/*.parquet", split="train", cache_dir=str(tmp_path))
    assert table["token"][:] == read_scores(run)["token"].tolist()


# --- what is said


def test_results_go_to_stdout_and_everything_else_to_stderr(finished, unc_score, tmp_path):
    _, command = finished
    done = unc_score(*command[:-1], tmp_path / "a run")
    out = re.sub(r"took .*", "took", done.out)
    assert out.startswith("3 examples, ")
    for part in ("skipped rows: empty_completion 1, missing_completion 1", "epistemic ", "rank correlation"):
        assert part in out
    assert f"next:     unc-heatmap '{tmp_path / 'a run'}' --top epistemic" in out
    for notice in ("data: ", "template: ", "model: ", "dropout: ", "plan: 4 passes", "estimate: ", "skipped: 2 rows"):
        assert re.search(f"^{notice}", done.err, flags=re.MULTILINE), notice
        assert notice not in out
    assert "[[2 + 3 = 5" in done.err  # the first example, its completion marked
    assert re.findall(r"^(tokens|examples|run): +(.+)$", out, flags=re.MULTILINE) == [
        ("tokens", f"{tmp_path / 'a run'}/tokens/*.parquet"),
        ("examples", f"{tmp_path / 'a run'}/examples/*.parquet"),
        ("run", f"{tmp_path / 'a run'}/run.json"),
    ]


def test_the_mask_is_shown_before_any_weights_are_loaded(model, tmp_path, unc_score):
    folder = shutil.copytree(model, tmp_path / "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    data = write_lines(tmp_path / "data.jsonl", QUESTIONS)
    out = tmp_path / "run"
    done = unc_score("--model", folder, "--dataset", data, "--show", 2, "--out", out)
    assert done.code == 0, done.err
    assert done.out.count("[[") == 2
    assert f"<|im_start|>assistant↵\n[[2 + 3 = 5↵\n#### 5{END}]]" in done.out
    assert "4 · 6 ist 24 😀 — 好" in done.out
    assert "example größe · " in done.out
    assert not out.exists()


@pytest.mark.parametrize("no_color", [False, True])
def test_colour_is_for_terminals_that_want_it(no_color, model, tmp_path, unc_score, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    data = write_lines(tmp_path / "data.jsonl", GOOD)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    done = unc_score("--model", model, "--dataset", data, "--show", 1)
    assert ("\x1b[" in done.out) is not no_color
    assert ("[[b b b" in done.out) is no_color


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(finished, unc_score, monkeypatch, tmp_path):
    _, command = finished
    assert "example/s" not in unc_score(*command[:-1], tmp_path / "file").err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = unc_score(*command[:-1], tmp_path / "terminal").err
    assert re.search(r"3/3 \[.*tokens/s x 4 passes\]", shown.rpartition("\r")[2])


def test_help_needs_no_torch_and_little_time():
    program = """
        import resource, sys
        from uncertainty.cli.score import main
        assert main(["--help"]) == 0
        usage = resource.getrusage(resource.RUSAGE_SELF)
        loaded = [name for name in ("torch", "transformers", "numpy", "pandas", "pyarrow") if name in sys.modules]
        print(loaded, usage.ru_utime + usage.ru_stime, file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    loaded, seconds = done.stderr.rsplit(" ", 1)
    assert ast.literal_eval(loaded) == []
    assert float(seconds) < 0.5
    assert done.stdout.startswith("usage: unc-score [options]")
    assert "default: 100" in done.stdout


def test_print_config_and_config_are_the_same_run(finished, unc_score, tmp_path):
    _, command = finished
    printed = unc_score(*command, "--print-config")
    (tmp_path / "run.yaml").write_text(printed.out)
    assert unc_score("--config", tmp_path / "run.yaml", "--print-config").out == printed.out
    again = unc_score("--config", tmp_path / "run.yaml")
    assert again.code == 0
    assert "all of it was scored before" in again.err
    other = unc_score("--config", tmp_path / "run.yaml", "--passes", 5)
    assert other.code == 2
    assert "passes: 4 -> 5" in other.last


def test_both_spellings_of_an_option_are_one(finished, unc_score):
    _, command = finished
    again = unc_score(*[word.replace("--shard-examples", "--shard_examples") for word in command])
    assert again.code == 0
    assert "all of it was scored before" in again.err


def test_the_run_folder_is_named_after_model_and_data(model, tmp_path, unc_score, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "my data.v2.jsonl", GOOD)
    assert unc_score("--model", model, "--dataset", "my data.v2.jsonl", "--passes", 2).code == 0
    assert read_run("out/llama-chat-my-data").status == "complete"


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(finished):
    _, command = finished
    asked = shlex.join([*PROCESS, *command, "--show", "3"])
    # true is gone before the command has started, so its first line meets a closed pipe every time.
    shell = f"{asked} 2>stderr.txt | true; echo ${{PIPESTATUS[0]}}"
    folder = finished[0].parent
    done = subprocess.run(["bash", "-c", shell], cwd=folder, env=ALONE, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["141"]
    assert not re.search("Traceback|Exception|rror", (folder / "stderr.txt").read_text())


# --- a run folder that is there already


def test_a_finished_run_is_summed_up_again_and_not_scored(finished, unc_score, monkeypatch):
    run, command = finished
    before = contents(run)
    monkeypatch.setattr("uncertainty.scoring.score", lambda *a, **k: pytest.fail("it was scored again"))
    done = unc_score(*command)
    assert done.code == 0
    assert done.last == "all of it was scored before: nothing was left to do"
    assert done.out.startswith("3 examples, ")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("option", "difference"),
    [
        (["--passes", "5"], "passes: 4 -> 5"),
        (["--rate", "0.3"], "family.rate: 0.1 -> 0.3"),
        (["--sites", "residual"], "family.sites: "),
        (["--rng", "kernel"], 'family.rng: "keyed" -> "kernel"'),
        (["--seed", "1"], "seed: 0 -> 1"),
        (["--template", "plain"], 'data.template.name: "chat" -> "plain"'),
        (["--max-length", "100"], "data.max_length: 512 -> 100"),
        (["--vocabulary", "tokenizer"], 'vocabulary: "model" -> "tokenizer"'),
        (["--limit", "3"], "limit: null -> 3"),
        (["--shard-examples", "1"], "shard_examples: 2 -> 1"),
        (["--keep-columns", "topic"], "keep_columns: "),
    ],
)
def test_other_settings_are_refused_and_named(option, difference, finished, unc_score):
    run, command = finished
    before = contents(run)
    done = unc_score(*command, *option)
    assert done.code == 2
    assert done.out == ""
    assert re.search(
        rf"^unc-score: {re.escape(str(run))} holds a run with other settings: .*{re.escape(difference)}", done.last
    )
    assert done.last.endswith("; add --overwrite to replace it or choose another --out")
    assert contents(run) == before


@pytest.mark.slow
def test_another_model_or_other_data_under_the_same_name_is_refused(finished, unc_score, tmp_path):
    _, command = finished
    folder = shutil.copytree(command[command.index("--model") + 1], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] * 2}, folder / "model.safetensors")
    done = unc_score(*command, "--model", folder)
    assert (done.code, "model.files.model.safetensors" in done.last) == (2, True)
    data = write_lines(tmp_path / "questions.jsonl", [*QUESTIONS[:2], *QUESTIONS[3:]])
    done = unc_score(*command, "--dataset", data)
    assert (done.code, "data.files.questions.jsonl" in done.last) == (2, True)


def test_overwrite_starts_anew_and_touches_nothing_else(finished, unc_score, tmp_path):
    run, command = finished
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "notes.txt").write_text("mine")
    done = unc_score(*command[:-1], copy, "--passes", 5, "--shard-examples", 9, "--overwrite")
    assert done.code == 0, done.err
    assert sorted(p.name for p in (copy / "tokens").iterdir()) == ["part-00000.parquet"]
    assert (read_scores(copy)["n_passes"] == 5).all()
    assert (copy / "notes.txt").read_text() == "mine"


def test_a_damaged_shard_alone_is_scored_again(finished, unc_score, tmp_path):
    run, command = finished
    mended = shutil.copytree(run, tmp_path / "run")
    damaged, sound = (mended / f"tokens/part-0000{shard}.parquet" for shard in (1, 0))
    damaged.write_bytes(damaged.read_bytes()[:-9] + bytes(9))
    kept = sound.stat().st_mtime_ns
    done = unc_score(*command[:-1], mended)
    assert done.code == 0, done.err
    assert "all of it was scored before" not in done.err
    assert sound.stat().st_mtime_ns == kept
    pd.testing.assert_frame_equal(read_scores(mended), read_scores(run), check_exact=True)


def test_the_size_of_a_batch_does_not_change_the_scores(finished, unc_score, tmp_path):
    run, command = finished
    for tokens in (1, 100):
        done = unc_score(*command, "--tokens-per-batch", tokens, "--out", tmp_path / str(tokens))
        assert done.code == 0, done.err
        found, expected = read_scores(tmp_path / str(tokens)), read_scores(run)
        pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=0, atol=1e-5)
    assert "all of it was scored before" in unc_score(*command, "--tokens-per-batch", 100).err


def test_the_size_of_a_batch_decides_the_masks_of_stock_kernels(finished, unc_score, tmp_path):
    _, command = finished
    request = [*command, "--rng", "kernel", "--out", tmp_path / "run"]
    assert unc_score(*request, "--tokens-per-batch", 4096).code == 0
    assert "all of it was scored before" in unc_score(*request, "--tokens-per-batch", 4096).err
    other = unc_score(*request, "--tokens-per-batch", 512)
    assert (other.code, "tokens_per_batch: 4096 -> 512" in other.last) == (2, True)


# --- what a user can get wrong


@pytest.fixture(scope="module")
def place(models, tmp_path_factory):
    """A folder with everything BAD names, and a finished run that nothing may touch."""
    folder = tmp_path_factory.mktemp("place")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    shutil.copytree(models / "llama-chat", folder / "model")
    shutil.copytree(models / "llama-plain", folder / "plain")
    break_models(folder / "model", folder)
    score_dataset(folder / "model", folder / "good.jsonl", folder / "run", passes=2)
    return folder


@pytest.mark.parametrize("wrong", BAD)
def test_a_wrong_request_gets_one_line_and_costs_nothing(wrong, place, unc_score, monkeypatch):
    monkeypatch.chdir(place)
    before = contents(place)
    options, line = BAD[wrong]
    good = ["--model", "model", "--dataset", "good.jsonl", "--passes", "2", "--out", "run"]
    done = unc_score(*good, *options)
    assert (done.code, done.out) == (2, "")
    assert re.search(rf"^unc-score: .*{line}", done.last), done.last
    assert done.err.count("unc-score: ") == 1
    assert contents(place) == before


def test_a_run_folder_in_use_is_refused(finished, unc_score, tmp_path):
    from uncertainty.durable import lock_folder

    run, command = finished
    lock = lock_folder(run)
    try:
        done = unc_score(*command)
    finally:
        os.close(lock)
    assert done.code == 2
    assert str(run) in done.last


def test_half_precision_that_overflows_skips_the_example_and_not_the_run(tmp_path, unc_score):
    folder = save_tiny("gpt2", tmp_path, chat_template=False)
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"][:, 0] = 6e3
    weights["transformer.wpe.weight"][150:, 0] = 6e4  # their sum is beyond float16
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    rows = [*GOOD, *GOOD, {"question": "a?", "answer": "many words " * 24}]
    data = write_lines(tmp_path / "data.jsonl", rows)
    for size in (1, 256):  # a shard of one broken example too
        out = tmp_path / f"run{size}"
        request = ["--model", folder, "--dataset", data, "--passes", 2, "--dtype", "float16", "--shard-examples", size]
        done = unc_score(*request, "--out", out)
        assert done.code == 0, done.err
        assert "skipped rows: not_finite 1" in done.out
        (skipped,) = map(json.loads, (out / "skipped.jsonl").read_text().splitlines())
        assert (skipped["row"], skipped["reason"]) == (4, "not_finite")
        assert "is not finite at position" in skipped["detail"]
        assert read_examples(out)["id"].tolist() == ["0", "1", "2", "3"]
    all_broken = write_lines(tmp_path / "broken.jsonl", rows[-1:] * 3)
    request[3] = all_broken
    done = unc_score(*request, "--out", tmp_path / "stopped")
    assert (done.code, done.err.count("unc-score: ")) == (2, 1)


def test_a_late_shard_of_one_short_example_may_be_certain(model, tmp_path, unc_score):
    story = tmp_path / "story.txt"
    story.write_text("Once upon a time there was a long story. " * 6 + "\n\na\n")
    request = ["--model", model, "--dataset", story, "--passes", 2, "--rate", 0.001, "--shard-examples", 1]
    done = unc_score(*request, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    scores = read_scores(tmp_path / "run")
    assert scores.groupby("example_id")["epistemic"].max().gt(0).tolist() == [True, False]
    story.write_text("a\n\n" + "Once upon a time there was a long story. " * 6)
    done = unc_score(*request, "--out", tmp_path / "stopped")
    assert done.code == 2
    assert "epistemic uncertainty is zero at all 1 tokens of a shard" in done.last


# --- interrupted


class Forks:
    """``score_forks.py`` at work: one command at a time, each in a process of its own."""

    def __init__(self) -> None:
        program = [sys.executable, str(TESTS / "score_forks.py")]
        environment = {**ALONE, **dict.fromkeys(OFFLINE, "1")}
        self.process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, argv, cwd, **interruption) -> Done:
        request = {"argv": [str(word) for word in argv], "cwd": str(cwd), **interruption}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, "the process that forks has died"
        return Done(**json.loads(answer))


@pytest.fixture(scope="module")
def forks():
    one = Forks()
    yield one
    one.process.stdin.close()
    assert one.process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def whole(forks, model, tmp_path_factory):
    """A run in seven shards that nothing interrupted, and its command; the run folder is relative."""
    folder = tmp_path_factory.mktemp("whole")
    data = long_questions(folder / "long.jsonl", 14)
    command = ["--model", model, "--dataset", data, "--passes", 40, "--shard-examples", 2, "--out", "run"]
    done = forks(command, folder)
    assert done.code == 0, done.err
    assert len(list((folder / "run/receipts").iterdir())) == 7
    return folder / "run", command


MOMENTS = [
    ("run/run.json", 0.0),
    ("run/tokens/part-00000.parquet", 0.0),
    ("run/receipts/part-00000.json", 0.0),
    ("run/receipts/part-00001.json", 0.05),
    ("run/examples/part-00003.parquet", 0.0),
    ("run/receipts/part-00005.json", 0.01),
    ("run/skipped.jsonl", 0.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("when", "after"), MOMENTS)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(when, after, whole, forks, tmp_path):
    run, command = whole
    killed = forks(command, tmp_path, signal="SIGKILL", when=when, after=after)
    assert killed.code == -9, f"{when} came too late: {killed.err}"
    if read_run(tmp_path / "run").status != "complete":
        with pytest.raises(InputError, match="is an unfinished run"):
            read_scores(tmp_path / "run")
    committed = {p: p.stat().st_mtime_ns for p in (tmp_path / "run/receipts").glob("*.json")}
    again = forks(command, tmp_path)
    assert again.code == 0, again.err
    assert scored_files(tmp_path / "run") == scored_files(run)
    assert {p: p.stat().st_mtime_ns for p in committed} == committed  # finished shards were not scored again
    assert not (tmp_path / "run/.tmp").exists()
    one, other = read_run(tmp_path / "run"), read_run(run)
    assert (one.settings, one.record, one.totals) == (other.settings, other.record, other.totals)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_comes_to_its_end(whole, forks, tmp_path):
    run, command = whole
    for shard in range(7):
        killed = forks(command, tmp_path, signal="SIGKILL", when=f"run/receipts/part-{shard:05d}.json")
        assert killed.code in (-9, 0)
    assert forks(command, tmp_path).code == 0
    assert scored_files(tmp_path / "run") == scored_files(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_says_how_to_go_on(name, whole, forks, tmp_path):
    run, command = whole
    stopped = forks(command, tmp_path, signal=name, when="run/receipts/part-00002.json", after=0.02)
    assert (stopped.code, stopped.out) == (130, "")
    assert stopped.last == "interrupted; finished shards are safe in run. The same command goes on from there."
    again = forks(command, tmp_path)
    assert again.code == 0
    assert scored_files(tmp_path / "run") == scored_files(run)


@pytest.mark.slow
def test_an_interrupted_overwrite_does_not_ask_to_be_repeated(whole, forks, tmp_path):
    run, command = whole
    shutil.copytree(run, tmp_path / "run")
    anew = [*command, "--seed", 1, "--overwrite"]
    # The old receipts go first, so that the first new one shows that scoring has begun.
    (tmp_path / "run/receipts/part-00000.json").unlink()
    stopped = forks(anew, tmp_path, signal="SIGINT", when="run/receipts/part-00000.json")
    assert stopped.code == 130
    assert stopped.last.endswith("The same command without --overwrite goes on from there.")
    kept = (tmp_path / "run/receipts/part-00000.json").stat().st_mtime_ns
    again = forks(anew[:-1], tmp_path)
    assert again.code == 0, again.err
    assert (tmp_path / "run/receipts/part-00000.json").stat().st_mtime_ns == kept
    assert "note: a part of this run was made under other circumstances: command: " in again.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_before_scoring_is_one_line_too(name, whole, forks, tmp_path):
    _, command = whole
    stopped = forks(command, tmp_path, signal=name, said="first example, completion marked:")
    assert stopped.code == 130
    assert stopped.last == "interrupted before scoring began. The same command starts again."
    assert "Traceback" not in stopped.err
    assert not (tmp_path / "run").exists()


# --- without a network


SPY = """
    import os, socket, traceback

    def refuse(name):
        def call(*arguments, **options):
            with open(os.environ["SOCKET_SPY"], "a") as file:
                file.write(f"{name} {arguments!r}\\n" + "".join(traceback.format_stack(limit=8)))
            raise OSError(f"{name}: there is no network here")
        return call

    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        setattr(socket, name, refuse(name))
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, refuse(name))
"""


@pytest.fixture
def without_network(tmp_path):
    """Run Python in a process that may open no socket; gives what it did and its attempts."""
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy/sitecustomize.py").write_text(textwrap.dedent(SPY))
    log = tmp_path / "attempts.txt"
    environment = {
        **ALONE,
        "PYTHONPATH": str(tmp_path / "spy"),
        "SOCKET_SPY": str(log),
        "HF_HOME": str(tmp_path / "hf"),
    }

    def run(*arguments):
        log.unlink(missing_ok=True)
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr), log.read_text() if log.exists() else ""

    return run


@pytest.mark.slow
def test_the_spy_sees_an_attempt(without_network):
    done, attempts = without_network("-c", "import urllib.request as u; u.urlopen('http://example.org')")
    assert done.code == 1
    assert "create_connection" in attempts or "getaddrinfo" in attempts


@pytest.mark.slow
def test_with_local_paths_no_socket_is_opened(without_network, model, tmp_path):
    data = write_lines(tmp_path / "data.jsonl", GOOD)
    request = ["--model", model, "--dataset", data, "--passes", 2, "--out", tmp_path / "run"]
    done, attempts = without_network("-m", "uncertainty.cli.score", *request)
    assert done.code == 0, done.err
    assert attempts == ""


@pytest.mark.slow
def test_from_python_no_socket_is_opened_and_no_variable_is_left(without_network, models, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(GOOD).save_to_disk(str(tmp_path / "saved"))
    for family in ("gemma2", "gpt2"):
        save_tiny(family, tmp_path)
    (tmp_path / "program.py").write_text(
        textwrap.dedent(f"""
            import os
            before = dict(os.environ)
            from uncertainty import score_dataset
            score_dataset({str(models / "llama-plain")!r}, "saved", "one", passes=2)
            score_dataset("gemma2-chat", "saved", "two", passes=2)
            score_dataset("gpt2-chat", "saved", "three", passes=2)
            score_dataset(out="demo", passes=2, limit=2)
            print([name for name in os.environ if name.startswith(("HF", "TRANS")) and name not in before])
        """)
    )
    done, attempts = without_network("program.py")
    assert (done.code, done.out, attempts) == (0, "[]\n", ""), done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_name", "dataset", "line"),
    [
        ("nobody/nothing", "data.jsonl", "nobody/nothing is not a folder here and not in the hub cache, and https://"),
        (None, "nobody/nothing", "nobody/nothing is not in the cache and HF_HUB_OFFLINE is set; give a local file"),
    ],
)
def test_a_hub_id_without_a_network_fails_at_once(model_name, dataset, line, without_network, model, tmp_path):
    write_lines(tmp_path / "data.jsonl", GOOD)
    request = ["--model", model_name or model, "--dataset", dataset, "--passes", 2]
    done, attempts = without_network("-m", "uncertainty.cli.score", *request)
    assert (done.code, done.out) == (2, "")
    assert done.last.startswith(f"unc-score: {line}"), done.err
    assert "Retrying" not in done.err
    # One look at the hub and no more: a library left to itself tries again for half a minute.
    assert len(re.findall(r"^(?:create_connection|getaddrinfo|connect) ", attempts, flags=re.MULTILINE)) == 1


# --- the same from Python


def test_own_objects_are_scored_in_five_lines_and_left_as_they_were(model, tmp_path):
    data = write_lines(tmp_path / "data.jsonl", GOOD)
    names = {"folder": str(model), "data": str(data), "out": str(tmp_path / "run")}
    own = transformers.AutoModelForCausalLM.from_pretrained(model).train()
    own.lm_head.weight.requires_grad_(False)
    names |= {"own": own, "tokenizer": transformers.AutoTokenizer.from_pretrained(model)}

    def state():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in own.modules()]
        rates = [getattr(m, "attention_dropout", None) for m in own.modules()]
        flags = [m.training for m in own.modules()], [p.requires_grad for p in own.parameters()]
        return hooks, rates, flags, own.config._attn_implementation, torch.get_default_dtype(), torch.get_num_threads()

    before, weights = state(), {name: value.clone() for name, value in own.state_dict().items()}
    random = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    exec(
        textwrap.dedent("""
            from uncertainty import read_scores, score_dataset
            from uncertainty.model import adopt_model
            run = score_dataset(adopt_model(own, tokenizer), data, out, passes=3)
            scores = read_scores(out)
            worst = scores.sort_values("epistemic").tail(3)
        """),
        names,
    )
    assert len(names["worst"]) == 3
    assert state() == before
    assert all(torch.equal(value, weights[name]) for name, value in own.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random[0])
    assert np.random.get_state()[1].tolist() == random[1]
    from_folder = score_dataset(model, data, tmp_path / "folder", passes=3)
    pd.testing.assert_frame_equal(from_folder.scores(), names["scores"])


def test_a_model_that_was_trained_on_does_not_get_its_old_scores_back(model, tmp_path):
    data = write_lines(tmp_path / "data.jsonl", GOOD)
    own = transformers.AutoModelForCausalLM.from_pretrained(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    score_dataset(adopt_model(own, tokenizer), data, tmp_path / "run", passes=2)
    calls = []
    score_dataset(adopt_model(own, tokenizer), data, tmp_path / "run", passes=2, on_progress=calls.append)
    assert calls == []
    with torch.no_grad():
        own.model.norm.weight.mul_(1.5)
    with pytest.raises(InputError, match=r"other settings: model\.weights_sha256: "):
        score_dataset(adopt_model(own, tokenizer), data, tmp_path / "run", passes=2)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"rate": 1.5}, "--rate 1.5 is not a dropout rate"),
        ({"sites": "everywhere"}, "--sites everywhere is not known"),
        ({"passes": 0}, "--passes 0 is too small"),
        ({"format": "alpacca"}, "--format alpacca is unknown; .*did you mean alpaca"),
    ],
)
def test_python_gets_the_same_lines_as_errors(settings, line, model, tmp_path):
    data = write_lines(tmp_path / "data.jsonl", GOOD)
    with pytest.raises(InputError, match=line):
        score_dataset(model, data, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_setting_that_does_not_exist_is_a_type_error(model, tmp_path):
    with pytest.raises(TypeError, match="pases"):
        score_dataset(model, write_lines(tmp_path / "data.jsonl", GOOD), tmp_path / "run", pases=3)
