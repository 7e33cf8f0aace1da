"""Adaptive passes: whether the error that was asked for is the one that is reached, and how many passes it saves.

    python benchmarks/stopping.py                       the embedded demo, iid masks
    python benchmarks/stopping.py --masks balanced
    python benchmarks/stopping.py --model FOLDER --dataset FILE

The same examples are drawn under many seeds, to the most passes; the values after each look are kept, and the rule of
``--target-se`` is applied to them, for several targets. (That an adaptive run gives just these values is tested in
``tests/test_adaptive.py``.) The truth of a token is the mean over all seeds of its corrected value after the most
passes; its own seed's part in that is one over their number. Printed for each target:

- passes: mean over examples and seeds;
- reached: share of (token, seed) that had reached the target when their example stopped;
- within 1, within 2: share of those whose true error is within the target, and within twice the target; and in brackets
  the same where the stop is that of another seed, so that nobody chose it by the error: what lies between the two is
  the bias of stopping;
- equal: passes of a fixed run in which as many tokens of all are within the target, and what is saved against it.

Only tokens count whose true epistemic uncertainty is above 0.001 nats (the others are within every target); the rule
looks at all.

Dimension key: S seeds, L looks, N tokens.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from torch import Tensor

from uncertainty import measures
from uncertainty.data.batches import collate, targets
from uncertainty.engine import look_ends, read_members
from uncertainty.estimators import epistemic_corrected
from uncertainty.families.balanced import most_groups
from uncertainty.families.dropout import McDropout
from uncertainty.loading import load_model
from uncertainty.prepare import prepare
from uncertainty.settings import ScoreSettings
from uncertainty.stopping import TargetError, is_enough, parse_target

TARGETS = "0.01,0.005,0.002,50%,25%"
LEAST_NATS = 1e-3
LATER = 50  # passes before the first look, as a mend of stopping too soon


def main() -> int:
    """Draw, apply the rule, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", default="iid", choices=("iid", "balanced"), help="(default: iid)")
    parser.add_argument("--rate", type=float, default=0.1, help="dropout rate (default: 0.1)")
    parser.add_argument("--passes", type=int, default=200, help="the most of an example (default: 200)")
    parser.add_argument("--model", default="", help="folder of the model (the embedded demo when not given)")
    parser.add_argument("--dataset", default="", help="its data set")
    parser.add_argument("--targets", default=TARGETS, help="comma separated")
    parser.add_argument("--seeds", type=int, default=16, help="runs (default: 16)")
    parser.add_argument("--examples", type=int, default=5, help="spread over the held-out set (default: 5)")
    given = parser.parse_args()
    started = time.perf_counter()
    settings = ScoreSettings(model=given.model, dataset=given.dataset, limit=2000)
    prepared = prepare(settings)
    by_length = sorted(prepared.examples, key=lambda example: (len(example.input_ids), example.id))
    # Neither one-word answers nor texts that take minutes: the third and fourth tenth by length.
    some = by_length[len(by_length) // 5 : 2 * len(by_length) // 5]
    chosen = some[:: max(1, len(some) // given.examples)][: given.examples]
    model = load_model(settings.model_source, prepared.tokenizer, device="cpu").model
    groups = most_groups(given.passes, given.rate) if given.masks == "balanced" else None
    family = McDropout(given.rate, masks=given.masks, groups=groups)
    ends = look_ends(model, family, given.passes)

    def measure(log_probs_KMV: Tensor, sizes: tuple[int, ...] | None) -> dict[str, Tensor]:
        looks = []
        for end in ends:
            cut = None if sizes is None else sizes[: int(np.cumsum(sizes).tolist().index(end)) + 1]
            looks.append((measures.bald(log_probs_KMV[:end]), measures.bald_standard_error(log_probs_KMV[:end], cut)))
        corrected_M = epistemic_corrected(log_probs_KMV, sizes)
        value_LM, error_LM = (torch.stack(part) for part in zip(*looks, strict=True))
        return {"value": value_LM, "error": error_LM, "corrected": corrected_M}

    batches = [collate([example]) for example in chosen]
    owner_N = np.concatenate([np.full(len(targets(batch).label_N), n) for n, batch in enumerate(batches)])
    runs = []
    for seed in range(given.seeds):
        parts = [part for _, part in read_members(model, batches, family, measure, passes=given.passes, seed=seed)]
        runs.append({name: torch.cat([part[name] for part in parts], -1).numpy() for name in parts[0]})
    value_SLN, error_SLN, corrected_SN = (
        np.stack([run[name] for run in runs]) for name in ("value", "error", "corrected")
    )
    counted = int((corrected_SN.mean(0) > LEAST_NATS).sum())
    print(
        f"{len(chosen)} examples, {counted} of {len(owner_N)} tokens, {given.seeds} seeds, at most {given.passes} "
        f"passes, {given.masks} masks at rate {given.rate}; looks after {', '.join(map(str, ends))}\n"
    )
    print("| target | first look | passes | reached | within 1 | within 2 | equal | saved |")
    print("|---|---|---|---|---|---|---|---|")
    for text in given.targets.split(","):
        for first in [place for place, end in enumerate(ends[:-1]) if place == 0 or end == LATER]:
            looks = (np.array(ends[first:]), value_SLN[:, first:], error_SLN[:, first:])
            print(table_row(parse_target(text), *looks, corrected_SN.mean(0), owner_N))
    print(f"\n{time.perf_counter() - started:.0f} s, {torch.get_num_threads()} thread, torch {torch.__version__}")
    return 0


def table_row(
    target: TargetError,
    end_L: np.ndarray,
    value_SLN: np.ndarray,
    error_SLN: np.ndarray,
    truth_N: np.ndarray,
    owner_N: np.ndarray,
) -> str:
    """One line of the table; see the module."""
    n_seeds, n_looks, n_tokens = value_SLN.shape
    reached_SLN = target.reached(value_SLN, error_SLN)
    stop_SN = np.full((n_seeds, n_tokens), n_looks - 1)
    for owner in np.unique(owner_N):
        mine = owner_N == owner
        for seed in range(n_seeds):
            enough = [is_enough(int(row.sum()), int(mine.sum())) for row in reached_SLN[seed][:, mine]]
            stop_SN[seed, mine] = enough.index(True) if any(enough) else n_looks - 1
    limit_N = np.broadcast_to(target.value * truth_N.clip(1e-3) if target.relative else target.value, truth_N.shape)
    off_SLN = np.abs(value_SLN - truth_N)

    def at(table_SLN: np.ndarray, look_SN: np.ndarray) -> np.ndarray:
        return np.take_along_axis(table_SLN, look_SN[:, None], 1)[:, 0]

    matters_N = truth_N > LEAST_NATS

    def within(many: int, look_SN: np.ndarray) -> float:
        counted_SN = at(reached_SLN, look_SN) & matters_N
        return float((at(off_SLN, look_SN) <= many * limit_N)[counted_SN].mean())

    other_SN = np.roll(stop_SN, 1, 0)
    passes = np.mean([end_L[stop_SN[:, owner_N == owner][:, 0]].mean() for owner in np.unique(owner_N)])
    good_L = (off_SLN <= limit_N)[:, :, matters_N].mean((0, 2))
    good = (at(off_SLN, stop_SN) <= limit_N)[:, matters_N].mean()
    equal = float(np.interp(good, np.maximum.accumulate(good_L), end_L))
    cells = [
        target.text,
        f"{end_L[0]}",
        f"{passes:.0f}",
        f"{at(reached_SLN, stop_SN)[:, matters_N].mean():.0%}",
        *(f"{within(many, stop_SN):.0%} ({within(many, other_SN):.0%})" for many in (1, 2)),
        f"{equal:.0f}",
        f"{1 - passes / equal:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
