"""What is proved of a model and a family before the first batch is scored.

Dimension key: B sequences, T positions, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from uncertainty.data.batches import Batch, collate
from uncertainty.data.render import Example
from uncertainty.engine import Members, StochasticFamily, inputs_of, member_rows
from uncertainty.errors import InputError
from uncertainty.model import TOLERANCE, final_hidden, not_finite, relative_difference

PROBED = 8  # members that are drawn to see whether they differ
REPEATED = 1e-4  # one computation done twice: GPUs may add up in another order


@torch.inference_mode()
def probe_batch(model: Any, examples: Sequence[Example]) -> Batch:
    """The example of median length, alone, or the shortest where that one overflows: what checks and timing run on.

    Raises:
        InputError: neither gives finite hidden states.
    """
    order = sorted(examples, key=lambda example: len(example.input_ids))
    for example in (order[len(order) // 2], order[0]):
        batch = collate([example])
        if bool(torch.isfinite(final_hidden(model, *inputs_of(batch, model))).all()):
            return batch
    raise InputError(not_finite(model))


def check_family(model: Any, batch: Batch, family: StochasticFamily, *, seed: int = 0) -> dict[str, Any]:
    """Prove on a first batch that members differ where they should and only there; returns the family's report.

    Two dropout-off passes must agree with each other and with the model outside the family's context, two members must
    differ (unless the family is deterministic), and every planned site must act.

    Raises:
        InputError: says which of these failed, what was looked for and found, and the mend.
    """
    with torch.inference_mode():
        own_BTD = final_hidden(model, *inputs_of(batch, model))
        with family.active(model, seed=seed) as members:
            off_BTD = final_hidden(model, *inputs_of(batch, model))
            again_BTD = final_hidden(model, *inputs_of(batch, model))
            what = "the family's deterministic pass and the model's own"
            _require_equal(model, _real(batch, off_BTD), _real(batch, own_BTD), what, TOLERANCE[model.dtype])
            _require_equal(model, again_BTD, off_BTD, "two passes with dropout off", REPEATED)
            if not family.deterministic:
                _require_members(model, batch, members)
            return members.report()


def _real(batch: Batch, hidden_BTD: Tensor) -> Tensor:
    if batch.attention_mask_BT is None:
        return hidden_BTD.float()
    return hidden_BTD[batch.attention_mask_BT.bool().to(hidden_BTD.device)].float()


def _require_equal(model: Any, ours: Tensor, own: Tensor, what: str, tolerance: float) -> None:
    difference = relative_difference(ours, own)
    if not difference <= tolerance:
        raise InputError(
            f"{what} differ by {difference:.3g} of their norm for {type(model).__name__}; something else than the "
            "planned sites is random, or its attention has a part that --rng keyed does not know: try --rng kernel"
        )


def _require_members(model: Any, batch: Batch, members: Members) -> None:
    """At least two of eight members must differ (at a small rate two may agree by chance), and all sites act."""
    states = []
    for number in range(PROBED):
        with members.draw(member_rows(batch, (number,), PROBED)):
            states.append(_real(batch, final_hidden(model, *inputs_of(batch, model))))
        silent = members.silent_sites()
        planned = len(members.report()["sites"])
        if silent:
            raise InputError(
                f"{len(silent)} of {planned} planned sites of {type(model).__name__} did not act (first: {silent[0]}); "
                "its modules do not call them through transformers' attention interface: try --rng kernel, or "
                "--sites residual"
            )
        if not torch.equal(states[0], states[-1]):
            return
    raise InputError(
        f"eight members of {type(model).__name__} are equal with {planned} sites switched on: epistemic uncertainty "
        "would be zero everywhere; raise --rate, or choose other --sites"
    )
