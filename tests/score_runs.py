"""``unc-score`` as a user meets it: small data sets of every kind, and the command in this process.

Used by the tests of the command and by the processes that those kill (``score_forks.py``).
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

END = "<|im_end|>"  # what closes a turn of the tiny chat models
VOLATILE = (".lock",)

QUESTIONS = [
    {"id": "sum", "question": "What is 2 + 3?", "answer": "2 + 3 = 5\n#### 5", "topic": "sums", "level": 1},
    {"id": "empty", "question": "And then?", "answer": " ", "topic": None, "level": 2},
    {"id": "größe", "question": "Wie groß ist 4 · 6?", "answer": "4 · 6 ist 24 😀 — 好", "topic": "Maße", "level": 3},
    {"id": "none", "question": "Nothing?", "answer": None, "topic": "x", "level": 4},
    {"id": "last", "question": "Three apples, minus one?", "answer": "Two.", "topic": "sums", "level": 5},
]


@dataclass(frozen=True)
class Done:
    """What one command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line of stderr."""
        return self.err.rstrip("\n").rpartition("\n")[2]


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as JSON lines, gzipped where the name says so."""
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def long_questions(path: Path, count: int) -> Path:
    """Rows that take a while: ``count`` usable ones of different lengths, two unusable ones among them."""
    rows = [
        {"id": f"q{i}", "question": f"Tom has {i} apples. " * 3, "answer": f"{i} + {i} = {2 * i}\n" * (4 + i % 3)}
        for i in range(count)
    ]
    unusable = [{"id": f"u{i}", "question": "Why?", "answer": answer} for i, answer in enumerate(["", None])]
    return write_lines(path, [rows[0], unusable[0], *rows[1:], unusable[1]])


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run folder but its lock."""
    files = (file for file in sorted(run.rglob("*")) if file.is_file() and file.name not in VOLATILE)
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def scored_files(run: Path) -> dict[str, bytes]:
    """What must not depend on how often a run was interrupted: all but the times, which are in run.json alone."""
    return {name: content for name, content in contents(run).items() if name != "run.json"}


def _messages(folder: Path) -> Path:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "Fine, thanks."},
    ]
    return write_lines(folder / "chat.jsonl", [{"messages": chat}, {"messages": chat[1:3]}])


def _sharegpt(folder: Path) -> Path:
    said = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]
    path = folder / "sharegpt.json"
    path.write_text(json.dumps([{"conversations": said * 2}, {"conversations": said}], indent=1))
    return path


def _sharegpt_gz(folder: Path) -> Path:
    said = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]
    return write_lines(folder / "sharegpt.jsonl.gz", [{"conversations": said}])


def _alpaca_parquet(folder: Path) -> Path:
    path = folder / "alpaca.parquet"
    rows = [{"instruction": "Add.", "input": "1 and 2", "output": "3"}, {"instruction": "Say a.", "output": "a"}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _gsm8k_csv(folder: Path) -> Path:
    path = folder / "gsm8k.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["question", "answer"], ["1 + 1?", "Two,\nor 2"], ["2?", "yes"]])
    return path


def _prompt_completion(folder: Path) -> Path:
    return write_lines(folder / "pairs.jsonl", [{"prompt": "1 + 1 =", "completion": " 2"}])


def _prompt_completion_messages(folder: Path) -> Path:
    user, assistant = {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}
    return write_lines(folder / "pairs.jsonl", [{"prompt": [user], "completion": [assistant]}])


def _story(folder: Path) -> Path:
    path = folder / "story.txt"
    path.write_text("Once upon\na time.\n\nThe end.\n<|endoftext|>\nAnother.\n")
    return path


def _folder(folder: Path) -> Path:
    for name in ("train", "test"):
        write_lines(folder / f"{name}.jsonl", [{"question": name, "answer": f"{name}ed"}])
    return folder


@dataclass(frozen=True)
class Kind:
    """A kind of data set: how it is written, the options it needs, its format and the completions to be scored."""

    write: Callable[[Path], Path]
    format: str
    completions: list[str]
    options: tuple[str, ...] = ()


KINDS = {
    "messages .jsonl": Kind(_messages, "messages", [f"Hello.{END}Fine, thanks.{END}", f"Hello.{END}"]),
    "sharegpt .json": Kind(_sharegpt, "sharegpt", [f"Hello.{END}Hello.{END}", f"Hello.{END}"]),
    "sharegpt .jsonl.gz": Kind(_sharegpt_gz, "sharegpt", [f"Hello.{END}"]),
    "alpaca .parquet": Kind(_alpaca_parquet, "alpaca", [f"3{END}", f"a{END}"]),
    "gsm8k .csv": Kind(_gsm8k_csv, "gsm8k", [f"Two,\nor 2{END}", f"yes{END}"]),
    "prompt-completion .jsonl": Kind(_prompt_completion, "prompt-completion", [f" 2{END}"]),
    "prompt-completion of messages": Kind(
        _prompt_completion_messages, "prompt-completion-messages", [f"Hello.{END}"], ("--format", "prompt-completion")
    ),
    "paragraphs of .txt": Kind(_story, "text", ["Once upon\na time.", "The end.", "Another."]),
    "lines of .txt": Kind(_story, "text", ["Once upon", "a time.", "The end.", "Another."], ("--sample-by", "line")),
    "documents of .txt": Kind(
        _story, "text", ["Once upon\na time.\n\nThe end.", "Another."], ("--sample-by", "document")
    ),
    "a folder": Kind(_folder, "gsm8k", [f"tested{END}", f"trained{END}"]),
    "a split of a folder": Kind(_folder, "gsm8k", [f"trained{END}"], ("--split", "train")),
}
