"""What one optimizer step selected, gathered from its micro-batches and processes for the curriculum record.

Dimension key: N completion tokens, F columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from uncertainty.token_losses import TokenLosses
from uncertainty.training.curriculum import CurriculumRecord, Window
from uncertainty.training.windows import MicroBatch

# float64 holds every example number, position and token id exactly.
COLUMNS = ("example", "position", "label", "selected", "nll", "value", "kl")


class StepRecord:
    """Collects a step's micro-batches; ``end`` makes the ``Window`` that the curriculum record takes.

    Attributes:
        record: the curriculum record; None collects nothing.
    """

    def __init__(self, record: CurriculumRecord | None) -> None:
        self.record = record
        self._rows: list[Tensor] = []
        self._step, self._fraction, self._has_kl = 0, 1.0, False

    def begin(self, step: int, fraction: float) -> None:
        """Start a step.

        Args:
            step: optimizer steps done before it.
            fraction: the share that it is to select.
        """
        self._rows, self._step, self._fraction = [], step + 1, fraction

    def take(self, micro: MicroBatch, losses: TokenLosses, selected_N: Tensor | None, value_N: Tensor | None) -> None:
        """Take in one micro-batch; without a selection all its tokens count as selected, ranked by their loss."""
        if self.record is None:
            return
        nll_N = losses.nll_N.detach()
        self._has_kl = losses.kl_N is not None
        columns = (
            micro.number_N,
            micro.at.position_N,
            micro.at.label_N,
            torch.ones_like(micro.number_N) if selected_N is None else selected_N,
            nll_N,
            nll_N if value_N is None else value_N,
            torch.zeros_like(nll_N) if losses.kl_N is None else losses.kl_N,
        )
        self._rows.append(torch.stack([column.to("cpu", torch.float64) for column in columns], dim=1))

    def end(self, gather: Callable[[Tensor], Tensor], epoch: float) -> None:
        """Close the step: every process must call it.

        Args:
            gather: concatenates the rows of all processes.
            epoch: passes over the data, this step included.
        """
        if self.record is None:
            return
        rows_NF = gather(torch.cat(self._rows) if self._rows else torch.zeros(0, len(COLUMNS), dtype=torch.float64))
        self._rows = []
        if len(rows_NF) == 0:
            return
        rows = rows_NF.numpy()
        # An order that does not depend on the layout: by example, then position.
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        column = {name: rows[:, index] for index, name in enumerate(COLUMNS)}
        self.record.add(
            Window(
                step=self._step,
                epoch=epoch,
                fraction=self._fraction,
                example_N=column["example"].astype("int64"),
                position_N=column["position"].astype("int64"),
                label_N=column["label"].astype("int64"),
                selected_N=column["selected"] > 0,
                nll_N=column["nll"],
                value_N=column["value"],
                kl_N=column["kl"] if self._has_kl else None,
            )
        )
