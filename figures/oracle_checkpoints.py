"""The demo model at stages of its training, each scored as ``unc-score`` does and held against the truth by token.

Checkpoints and runs are kept in ``out/figures/oracle`` and made only once.

Dimension key: N completion tokens, V vocabulary.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from figures.runs import OWN_RUNS
from uncertainty import score_dataset
from uncertainty.batch_hidden import evaluation, predicting_hidden
from uncertainty.data.batches import collate, targets
from uncertainty.data.render import Example
from uncertainty.demo import demo_data_path
from uncertainty.demo.oracle import FACTS_SEEN_PATH, oracle
from uncertainty.demo.validation import join_truth, oracle_kl
from uncertainty.errors import InputError
from uncertainty.loading import load_model
from uncertainty.model import LoadedModel, readout
from uncertainty.prepare import prepare
from uncertainty.settings import ScoreSettings

OWN = OWN_RUNS / "oracle"
EXAMPLES_AT_ONCE = 32  # of about 60 tokens each: float64 logits of a few MB
SAME_LOSS = 1e-3  # nats; float32 scoring and float64 here differ by 1e-5


@dataclass(frozen=True)
class Stage:
    """The model after so many steps of training, and its run: tokens, scores, truth and reducible error."""

    step: int
    run: Path
    tokens: pd.DataFrame


def stages(
    steps: Sequence[int], given: Path | None, runs: Path, *, passes: int, limit: int | None = None
) -> list[Stage]:
    """Score the checkpoints of the demo model and hold them against the truth.

    Args:
        steps: after how many optimizer steps, ascending; the last is the reference of ``rho``.
        given: folder with the checkpoints ``step-000300`` and so on (of ``python -m uncertainty.demo.train
            --checkpoints``); None makes them.
        runs: where the run folders are, or will be.
        passes: Monte Carlo passes.
        limit: only so many conversations; None for the whole held-out set.

    Returns:
        by step, its tokens: the score table, what ``join_truth`` adds, ``oracle_kl`` (nats), and ``rho``, the loss
        minus that of the last checkpoint on the same token.

    Raises:
        InputError: a checkpoint is missing or is not of the demo's language.
    """
    folders = checkpoints(steps, given)
    scored = [_stage(step, folders[step], runs / f"step-{step:06d}", passes, limit) for step in steps]
    last = scored[-1].tokens["loss"].to_numpy()
    for stage in scored:  # all runs have the same tokens in the same order
        stage.tokens["rho"] = stage.tokens["loss"].to_numpy() - last
    return scored


def checkpoints(steps: Sequence[int], given: Path | None) -> dict[int, Path]:
    """The folder of each checkpoint; without ``given`` they are made, once, if one of them is not there."""
    folders = {step: (given or OWN / "checkpoints") / f"step-{step:06d}" for step in steps}
    missing = [folder for folder in folders.values() if not (folder / FACTS_SEEN_PATH.name).is_file()]
    if missing and given:
        wanted = ",".join(map(str, steps))
        raise InputError(
            f"{missing[0]} is no checkpoint of the demo model; make it with "
            f"python -m uncertainty.demo.train --out {given} --checkpoints {wanted}"
        )
    if missing:
        _make_checkpoints(steps, OWN / "checkpoints")
    return folders


def reducible_errors(loaded: LoadedModel, examples: Sequence[Example], run_examples: pd.DataFrame) -> pd.DataFrame:
    """``KL(oracle || model)`` of every completion token, from the model's whole distribution in float64, dropout off.

    Args:
        loaded: the model; it becomes float64.
        examples: rendered demo conversations.
        run_examples: the examples table of their run, for the conversations.

    Returns:
        one row per token: ``example_id``, ``index_in_completion``, ``oracle_kl`` and ``double_loss`` (nats).

    Raises:
        InputError: an example's completion is not the one that its conversation has in the demo language.
    """
    model = loaded.model.double()
    said = dict(zip(run_examples["id"], run_examples["messages"], strict=True))
    parts = []
    for start in range(0, len(examples), EXAMPLES_AT_ONCE):
        batch = collate(examples[start : start + EXAMPLES_AT_ONCE])
        at = targets(batch)
        with evaluation(model):
            log_probs_NV = readout(model, predicting_hidden(model, batch)).log_softmax(-1).cpu().numpy()
        for number, name in enumerate(batch.ids):
            own_N = (at.example_N == number).numpy()
            label_N = at.label_N.numpy()[own_N]
            # A conversation that was cut to the model's context lacks tokens at its end only.
            truths = oracle({"id": name, "messages": json.loads(said[name])})[: len(label_N)]
            if [truth.token_id for truth in truths] != label_N.tolist():
                raise InputError(f"example {name!r} has other tokens than the demo language; score the demo's own data")
            own_log_probs_NV = log_probs_NV[own_N]
            columns = {
                "example_id": name,
                "index_in_completion": np.arange(len(label_N)),
                "oracle_kl": oracle_kl(own_log_probs_NV, truths),
                "double_loss": -own_log_probs_NV[np.arange(len(label_N)), label_N],
            }
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _stage(step: int, model: Path, run: Path, passes: int, limit: int | None) -> Stage:
    if not (run / "run.json").exists():
        print(f"scoring {run}: about a minute of one core", file=sys.stderr)
    settings = {"model": str(model), "dataset": str(demo_data_path()), "limit": limit}
    scored = score_dataset(out=run, passes=passes, **settings)
    seen = json.loads((model / FACTS_SEEN_PATH.name).read_text(encoding="utf-8"))
    joined = join_truth(scored.scores(), scored.examples(), seen=seen)
    loaded = load_model(model, device="cpu")
    errors = reducible_errors(loaded, prepare(ScoreSettings(**settings), loaded).examples, scored.examples())
    tokens = joined.merge(errors, on=["example_id", "index_in_completion"], how="left", validate="one_to_one")
    apart = (tokens["loss"] - tokens["double_loss"]).abs().max()
    if not apart < SAME_LOSS:
        raise InputError(f"{run} was not scored with {model}: losses differ by {apart:.3g} nats; remove the run")
    if not np.isfinite(tokens["oracle_kl"]).all():
        raise InputError(f"{model} gives a possible token the probability 0: its reducible error is infinite")
    order = ["example_id", "index_in_completion"]
    return Stage(step, run, tokens.drop(columns="double_loss").sort_values(order).reset_index(drop=True))


def _make_checkpoints(steps: Sequence[int], folder: Path) -> None:
    """Train the demo model as the embedded one was, in a process of its own: it wants one thread."""
    print(f"training the demo model into {folder}: about 12 minutes of one core", file=sys.stderr)
    arguments = ["--out", str(folder), "--checkpoints", ",".join(map(str, steps))]
    subprocess.run([sys.executable, "-m", "uncertainty.demo.train", *arguments], check=True)
