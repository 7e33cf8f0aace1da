"""A scored run of any size whose numbers are known in kind: epistemic is high on numbers, loss on words.

Used by the tests of the report and of what it reads. The texts hold what could break a page: markup, a formula, a
direction override, a dollar sign.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from uncertainty.run_folder import RunFolder
from uncertainty.run_info import RunInfo
from uncertainty.score_tables import shard_tables
from uncertainty.scores import MEASURE_COLUMNS, ExampleText, TokenScores

PIECES = (" cat", "s", " 12", ".", "\n", "<script>alert(1)</script>", "=1+1", " $x_1$", "\u202eabc", "</s>")
SPECIAL = PIECES.index("</s>")


def write_run(path: Path, n_examples: int, *, seed: int = 0, shift: float = 0.0, name: str = "toy") -> Path:
    """Write a finished run in two shards.

    Args:
        path: its folder.
        n_examples: how many; ids ``q-0``, ``q-1``...
        seed: of the scores; the texts and tokens are the same for every seed.
        shift: how far, in standard deviations, the losses of numbers are moved up.
        name: of the model, in the record.
    """
    settings = {"model": {"architecture": "Toy"}, "passes": 20, "seed": seed, "rate": 0.1, "shift": shift}
    info = RunInfo(settings, {"model": {"name": name}, "dataset": {"origin": "toy.jsonl"}})
    half = max(1, n_examples // 2)
    shards = [part for part in (range(half), range(half, n_examples)) if len(part)]
    with RunFolder.open(path, info, len(shards)) as folder:
        for shard, part in enumerate(shards):
            texts = [_text(number) for number in part]
            folder.commit(shard, *shard_tables([_scores(texts, seed, shift)], texts))
        folder.finish(skipped=[{"id": "q-x", "row": 0, "reason": "empty_completion"}])
    return path


def _text(number: int) -> ExampleText:
    rng = np.random.default_rng([1, number])
    chosen = [*rng.integers(0, SPECIAL, size=int(rng.integers(8, 20))).tolist(), SPECIAL]
    tokens = [PIECES[index] for index in chosen]
    ends = np.cumsum([len(token) for token in tokens]).tolist()
    # Every seventh example has no prompt: its first token has no prediction.
    n_prompt = 0 if number % 7 == 3 else 3
    return ExampleText(
        id=f"q-{number}",
        prompt="Why?",
        completion="".join(tokens),
        messages=[],
        input_ids=[99] * n_prompt + chosen,
        truncated=number == 0,
        n_prompt_tokens=n_prompt,
        turn=[1] * len(chosen),
        position=list(range(n_prompt, n_prompt + len(chosen))),
        tokens=tokens,
        char_start=[0, *ends[:-1]],
        char_end=ends,
        is_special=[index == SPECIAL for index in chosen],
    )


def _scores(texts: list[ExampleText], seed: int, shift: float) -> TokenScores:
    example_N = np.concatenate([np.full(len(text.position), index) for index, text in enumerate(texts)])
    position_N = np.concatenate([np.array(text.position) for text in texts])
    token_id_N = np.concatenate([np.array(text.input_ids)[text.position] for text in texts])
    rng = np.random.default_rng([2, seed, len(texts)])
    number_N = token_id_N == PIECES.index(" 12")
    word_N = token_id_N < 2
    aleatoric_N = np.exp(-2 + 1.5 * word_N + rng.normal(size=len(token_id_N)))
    epistemic_N = np.exp(-6 + 3.0 * number_N + 0.7 * rng.normal(size=len(token_id_N)))
    loss_N = aleatoric_N * rng.gamma(2, 0.5, size=len(token_id_N)) * np.exp(shift * number_N)
    values = (loss_N, aleatoric_N, aleatoric_N + epistemic_N, aleatoric_N, epistemic_N, 0.1 * epistemic_N, loss_N)
    predicted_N = position_N > 0
    measures = {
        name: np.where(predicted_N, value, np.nan)
        for name, value in zip(MEASURE_COLUMNS, (*values, np.exp(-loss_N), np.exp(-2 * aleatoric_N)), strict=True)
    }
    return TokenScores(
        ids=tuple(text.id for text in texts),
        example_N=example_N,
        position_N=position_N,
        token_id_N=token_id_N,
        n_passes_N=np.where(predicted_N, 20, 0),
        label_rank_N=np.where(predicted_N, (loss_N > 0.5).astype(int), -1),
        measures=measures,
    )
