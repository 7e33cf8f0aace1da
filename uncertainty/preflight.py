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

    Two passes without a member must agree with each other and with the model outside the family's context, two members
    must differ (unless the family is deterministic), every planned site must act, a member drawn again must be the
    same, and the model must be as before: between members, and bit for bit on leaving.

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
            _require_equal(model, again_BTD, off_BTD, "two passes without a member", REPEATED)
            report = members.report()
            if not family.deterministic:
                _require_members(model, batch, members, family.n_members or PROBED, report)
                after_BTD = final_hidden(model, *inputs_of(batch, model))
                _require_equal(model, after_BTD, off_BTD, "passes without a member, before and after members", REPEATED)
        left_BTD = final_hidden(model, *inputs_of(batch, model))
    _require_as_before(model, left_BTD, own_BTD)
    return report


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


def _require_as_before(model: Any, left_BTD: Tensor, own_BTD: Tensor) -> None:
    # The weights and the kernels are the same, so on a CPU every bit is; on a GPU sums may be in another order.
    if left_BTD.is_cpu and not torch.equal(left_BTD, own_BTD):
        raise InputError(
            f"{type(model).__name__} is not as it was before its members were drawn; something in its modules holds "
            "state from one forward pass to the next"
        )
    if not left_BTD.is_cpu:
        _require_equal(model, left_BTD, own_BTD, "the model's passes before and after members were drawn", REPEATED)


def _state(model: Any, batch: Batch, members: Members, number: int, total: int) -> Tensor:
    with members.draw(member_rows(batch, (number,), total)) as drawn:
        inputs = inputs_of(batch, model)
        return _real(batch, final_hidden(model if drawn is None else drawn, *inputs))


def _require_members(model: Any, batch: Batch, members: Members, total: int, report: dict[str, Any]) -> None:
    """At least two of eight members must differ (at a small rate two may agree by chance), and all sites act."""
    states: list[Tensor] = []
    planned = len(report.get("sites", ()))
    for number in range(min(PROBED, total)):
        states.append(_state(model, batch, members, number, total))
        silent = members.silent_sites()
        if silent:
            raise InputError(
                f"{len(silent)} of {planned} planned sites of {type(model).__name__} did not act (first: {silent[0]}); "
                "its modules do not call them through transformers' attention interface: try --rng kernel, or "
                "--sites residual"
            )
        if not torch.equal(states[0], states[-1]):
            again = _state(model, batch, members, 0, total)
            _require_equal(model, again, states[0], "two draws of one member", REPEATED)
            return
    count = "eight" if len(states) == PROBED else str(len(states))
    what = f" with {planned} sites switched on" if planned else ""
    mend = "raise --rate, or choose other --sites" if planned else "give --members that differ"
    raise InputError(
        f"{count} members of {type(model).__name__} are equal{what}: epistemic uncertainty would be zero everywhere; "
        f"{mend}"
    )
