"""A run of three small shards with everything that a score table must carry, and the road that writes it.

Used by the tests of the score tables, of the reader and of the run folder, and by the processes that those kill.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from uncertainty.run_folder import RunFolder
from uncertainty.run_info import RunInfo
from uncertainty.score_schema import kept_types
from uncertainty.score_tables import FOOTER_KEY, shard_tables
from uncertainty.scores import MEASURE_COLUMNS, ExampleText, TokenScores

SETTINGS = {"model": {"id": "toy", "revision": None}, "rate": 0.1, "passes": 20, "seed": 0}
RECORD = {"versions": {"torch": "2.13"}, "command": ["unc-score", "--out", "toy run"]}
N_SHARDS = 3
PIECES = ["Hel", "lo", "<0xF0>", "<0x9F>", "مرحبا", "<b>", " \n", "$x_1$", "</s>"]
BROKEN = "broken-1"


def info(**settings: Any) -> RunInfo:
    return RunInfo({**SETTINGS, **settings}, RECORD)


def text(name: str, n_prompt: int, pieces: Sequence[str], kept: dict[str, Any] | None = None) -> ExampleText:
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    return ExampleText(
        id=name,
        prompt="Q: 1 + 1?" if n_prompt else "",
        completion="".join(pieces),
        messages=[{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "Ünïcode"}],
        input_ids=[*range(100, 100 + n_prompt), *(hash_free_id(piece) for piece in pieces)],
        truncated=name.endswith("2"),
        n_prompt_tokens=n_prompt,
        turn=[1] * len(pieces),
        position=list(range(n_prompt, n_prompt + len(pieces))),
        tokens=list(pieces),
        char_start=[0, *ends[:-1]],
        char_end=ends,
        is_special=[piece == "</s>" for piece in pieces],
        kept=kept or {},
    )


def hash_free_id(piece: str) -> int:
    """An id that is the same in every process, as Python's own hash of a string is not."""
    return sum(piece.encode()) % 1000


def texts(shard: int) -> list[ExampleText]:
    # The second example of each shard has no prompt: its first token has no prediction.
    made = [
        text(f"row-{shard}-0", 3, PIECES, {"topic": "sums", "difficulty": shard}),
        text(f"row-{shard}-1", 0, PIECES[:4], {"topic": None, "difficulty": 0.5}),
        text(f"row-{shard}-2", 2, PIECES[2:], {"topic": ["a", 1], "difficulty": None}),
    ]
    return [*made, text(BROKEN, 1, PIECES)] if shard == 1 else made


def scores(examples: Sequence[ExampleText], *, seed: int = 0, unusable: Sequence[str] = (BROKEN,)) -> list[TokenScores]:
    """Two blocks with the examples backwards: the engine sorts by length, the table must not."""
    backwards = list(reversed(examples))
    half = len(backwards) // 2
    blocks = (backwards[:half], backwards[half:])
    return [block_scores(block, seed, unusable) for block in blocks]


def block_scores(block: Sequence[ExampleText], seed: int, unusable: Sequence[str]) -> TokenScores:
    broken = {example.id: "logits are not finite" for example in block if example.id in unusable}
    rows = [
        (index, position, example.input_ids[position])
        for index, example in enumerate(block)
        if example.id not in broken
        for position in reversed(example.position)
    ]
    index_N, position_N, token_id_N = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    measures = {name: np.full(len(rows), np.nan) for name in MEASURE_COLUMNS}
    for row, (index, position, _) in enumerate(rows):
        if position:
            rng = np.random.default_rng([seed, position, *block[index].id.encode()])
            for name in MEASURE_COLUMNS:
                measures[name][row] = rng.gamma(0.4, 2.0)
    rank_N = np.where(position_N > 0, token_id_N % 7, -1)
    passes_N = np.where(position_N > 0, 20, 0)
    return TokenScores(
        ids=tuple(example.id for example in block),
        example_N=index_N,
        position_N=position_N,
        token_id_N=token_id_N,
        n_passes_N=passes_N,
        label_rank_N=rank_N,
        measures=measures,
        unusable=broken,
    )


def kept() -> dict[str, Any]:
    return kept_types(example.kept for shard in range(N_SHARDS) for example in texts(shard))


def commit(folder: RunFolder, shard: int, seed: int = 0) -> None:
    examples = texts(shard)
    blocks = scores(examples, seed=seed)
    skipped = [
        {"id": name, "row": 1, "reason": "nonfinite", "detail": why} for b in blocks for name, why in b.unusable.items()
    ]
    folder.commit(shard, *shard_tables(blocks, examples, kept()), skipped)


def score_toy(path: Path, *, overwrite: bool = False, **settings: Any) -> list[int]:
    """Score or resume the toy run as the command does; the shards that had to be computed."""
    run = info(**settings)
    with RunFolder.open(path, run, N_SHARDS, overwrite=overwrite) as folder:
        for shard in folder.todo:
            commit(folder, shard, seed=run.settings["seed"])
        folder.finish(skipped=[{"id": "row-9", "row": 2, "reason": "empty_completion", "detail": "no text"}])
        return list(folder.todo)


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a run folder but the lock."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def footer(file: Path) -> dict[str, Any]:
    """What the footer of a parquet file says of its run."""
    return json.loads(pq.read_metadata(file).metadata[FOOTER_KEY.encode()])
