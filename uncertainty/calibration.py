"""How fast this machine runs this model: one forward pass and one read-out slice, timed before a run begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from uncertainty.budget import Budget
from uncertainty.data.batches import Batch, targets
from uncertainty.engine import Loop, Members, StochasticFamily, member_rows


@dataclass(frozen=True)
class Calibration:
    """How fast this machine runs this model.

    Attributes:
        seconds_per_row_token: of a forward pass.
        seconds_per_completion_token: read out, with all its members.
        seconds_per_member: to draw another member, where they are drawn one at a time; else 0.
    """

    seconds_per_row_token: float
    seconds_per_completion_token: float
    seconds_per_member: float = 0.0


@torch.inference_mode()
def calibrate(
    model: Any, batch: Batch, family: StochasticFamily, *, passes: int, seed: int, budget: Budget
) -> Calibration:
    """Time one full forward pass and one read-out slice of ``batch``, the shorter of two runs each."""
    with family.active(model, seed=seed) as members:
        loop = Loop(model, members, family.keyed, budget, None, shares_forward=family.shares_forward)
        drawn = 0.0 if family.shares_forward else _seconds_to_draw(members, batch)
        rows = max(1, min(passes, budget.tokens_per_batch // batch.input_ids_BT.numel()))
        rows = rows if family.shares_forward else 1
        forward, hidden_PND = _timed(lambda: loop.hidden(batch, range(rows)), model)
        label_N = targets(batch).label_N.to(hidden_PND.device)
        size = min(len(label_N), loop.slice_size(passes))
        if size == 0:
            return Calibration(forward / (rows * batch.input_ids_BT.numel()), 0.0, drawn)
        hidden_KMD = hidden_PND[:1, :size].expand(passes, -1, -1).contiguous()
        read, _ = _timed(lambda: loop.read(hidden_PND[0, :size], hidden_KMD, label_N[:size]), model)
    return Calibration(forward / (rows * batch.input_ids_BT.numel()), read / size, drawn)


def _seconds_to_draw(members: Members, batch: Batch) -> float:
    started = time.perf_counter()
    with members.draw(member_rows(batch, (0,))):
        return time.perf_counter() - started


def _timed(work: Callable[[], Any], model: Any) -> tuple[float, Any]:
    """The shorter of two runs, so that the cost of a first run is not counted."""
    best, result = float("inf"), None
    for _ in range(2):
        started = time.perf_counter()
        result = work()
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        best = min(best, time.perf_counter() - started)
    return best, result
