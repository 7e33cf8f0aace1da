"""The batched Monte Carlo loop: where a model, randomness and memory meet.

Dimension key: B sequences, T positions, N completion tokens, K members, V vocabulary, D hidden size, P passes of one
forward, M tokens of one read-out slice.

The member axis is carried by final hidden states, not by logits. The backbone runs for all K members and only the
states at positions that predict completion tokens are kept (``hidden_KND``); the vocabulary is then read out for a few
tokens at a time, all members together, under a byte budget. So every measure is its formula on a whole
``log_probs_KMV`` block, and peak memory does not grow with K * N * V.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from uncertainty import measures
from uncertainty.data.batches import IGNORE, Batch, predictors, targets
from uncertainty.errors import InputError
from uncertainty.measure_columns import ALL_COLUMNS, columns_of
from uncertainty.model import final_hidden, hidden_size, readout, vocabulary_size
from uncertainty.scores import TokenScores

READOUT_BYTES = {"cpu": 128 << 20, "cuda": 2 << 30}  # one slice of logits, all members together
TOKENS_PER_BATCH = {"cpu": 8192, "cuda": 32768}
OFF = (-1,)  # the passes of a deterministic forward


class Rows(NamedTuple):
    """Which member each row of the next forward is: pass ``passes[r]`` of the example with id ``ids[r]``.

    ``starts`` is the first real position of each row where rows are padded on the left, else None. ``total`` is how
    many passes there are in all (K), which some families must know.
    """

    ids: tuple[str, ...]
    passes: tuple[int, ...]
    starts: tuple[int, ...] | None = None
    total: int | None = None


class Members(Protocol):
    """What a family offers inside its context."""

    def draw(self, rows: Rows) -> AbstractContextManager[None]:
        """Inside this context forward passes run these members, row by row; outside it the deterministic model."""

    def groups(self, passes: int) -> tuple[int, ...]:
        """The group of each of ``passes`` passes, consecutive; those of different groups are independent."""

    def silent_sites(self) -> list[str]:
        """Sites that did not act in the forward passes since ``draw``; empty when all did."""

    def report(self) -> dict[str, Any]:
        """What a run's record says of the family."""


class StochasticFamily(Protocol):
    """A way of drawing members of a model. ``active`` makes it ready; on leaving, the model is exactly as before."""

    @property
    def deterministic(self) -> bool:
        """All members are equal by construction (the control)."""

    @property
    def keyed(self) -> bool:
        """A member depends on (seed, example, pass) only, not on which rows share its forward."""

    def active(self, model: Any, *, seed: int = 0) -> AbstractContextManager[Members]:
        """Make the model ready to draw members."""


@dataclass(frozen=True)
class Budget:
    """Memory bounds of the loop. They decide speed and peak memory, never the scores.

    Attributes:
        tokens_per_batch: rows times length of one forward pass.
        readout_bytes: bytes of one read-out slice, all members together.
    """

    tokens_per_batch: int
    readout_bytes: int

    @staticmethod
    def for_device(device: torch.device, tokens_per_batch: int | None = None) -> Budget:
        """The defaults of a kind of device."""
        kind = device.type if device.type in TOKENS_PER_BATCH else "cuda"
        return Budget(tokens_per_batch or TOKENS_PER_BATCH[kind], READOUT_BYTES[kind])


def score(
    model: Any,
    batches: Iterable[Batch],
    family: StochasticFamily,
    *,
    passes: int = 100,
    seed: int = 0,
    budget: Budget | None = None,
    vocabulary: int | None = None,
    measures: Sequence[str] = (),
) -> Iterator[TokenScores]:
    """Score every completion token of every batch: one deterministic pass and ``passes`` members.

    Args:
        model: a causal language model that passed ``model.adopt_model``.
        batches: padded examples, for example groups of ``plan_batches``.
        family: how members are drawn.
        passes: K, the number of members of each example, at least 1.
        seed: of the members; the deterministic pass uses no randomness.
        budget: memory bounds; None takes the device's defaults.
        vocabulary: read out only the first so many tokens (the tokenizer's, where the logits are padded).
        measures: what to compute beside the columns of every run, names of ``measure_columns.ADDED_COLUMNS``.

    Yields:
        the scores of one batch at a time, examples in the batch's order. Where the forward pass runs out of memory
        the number of rows per forward is halved and the work goes on.

    Raises:
        InputError: ``passes`` is below 1, or a single row does not fit into memory.
    """
    if passes < 1:
        raise InputError(f"--passes {passes} is too few; give at least 1 (the paper's setting is 100)")
    budget = budget or Budget.for_device(next(model.parameters()).device)
    with family.active(model, seed=seed) as members:
        loop = _Loop(model, members, family.keyed, budget, vocabulary, tuple(measures))
        for batch in batches:
            yield loop.score(batch, passes)


@dataclass(frozen=True)
class Calibration:
    """How fast this machine runs this model: seconds per token of a forward pass, and per token read out."""

    seconds_per_row_token: float
    seconds_per_completion_token: float


@torch.inference_mode()
def calibrate(
    model: Any, batch: Batch, family: StochasticFamily, *, passes: int, seed: int, budget: Budget
) -> Calibration:
    """Time one full forward pass and one read-out slice of ``batch``, the shorter of two runs each."""
    with family.active(model, seed=seed) as members:
        loop = _Loop(model, members, family.keyed, budget, None)
        rows = max(1, min(passes, budget.tokens_per_batch // batch.input_ids_BT.numel()))
        forward, hidden_PND = _timed(lambda: loop.hidden(batch, range(rows)), model)
        label_N = targets(batch).label_N.to(hidden_PND.device)
        size = min(len(label_N), loop.slice_size(passes))
        if size == 0:
            return Calibration(forward / (rows * batch.input_ids_BT.numel()), 0.0)
        hidden_KMD = hidden_PND[:1, :size].expand(passes, -1, -1).contiguous()
        read, _ = _timed(lambda: loop.read(hidden_PND[0, :size], hidden_KMD, label_N[:size]), model)
    return Calibration(forward / (rows * batch.input_ids_BT.numel()), read / size)


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


def predicted_peak(
    model: Any, batches: Sequence[tuple[int, int, int]], *, passes: int, budget: Budget
) -> dict[str, int]:
    """Predicted peak memory in bytes, by part, for ``batches`` of (sequences, longest length, completion tokens)."""
    config = model.config.get_text_config()
    size = torch.finfo(model.dtype).bits // 8
    width = hidden_size(model)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    rows = max((max(budget.tokens_per_batch, b * t) for b, t, _ in batches), default=0)
    kept = max((n for _, _, n in batches), default=0)
    slice_bytes = max(budget.readout_bytes, 4 * (passes + 1) * vocabulary_size(model))
    from_16_bit = 4 * vocabulary_size(model) * width if size < 4 and model.device.type == "cpu" else 0
    return {
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
        "forward": rows * (8 * width + 3 * inner) * size,
        "hidden states": (passes + 1) * kept * width * size,
        "read-out": slice_bytes + from_16_bit,
    }


class _Loop:
    """The state of one run of the loop: the model, its members, and a budget that may shrink."""

    def __init__(
        self,
        model: Any,
        members: Members,
        keyed: bool,
        budget: Budget,
        vocabulary: int | None,
        added: tuple[str, ...] = (),
    ) -> None:
        self.model = model
        self.members = members
        self.keyed = keyed
        self.budget = budget
        self.vocabulary = vocabulary
        self.added = added
        self.scratch = torch.empty(0)

    @torch.inference_mode()
    def score(self, batch: Batch, passes: int) -> TokenScores:
        at = targets(batch)
        off_ND = self.hidden(batch, OFF)[0]
        hidden_KND = self.hidden(batch, range(passes))
        return _assemble(batch, passes, self.read(off_ND, hidden_KND, at.label_N.to(off_ND.device)), self.added)

    def hidden(self, batch: Batch, passes: Sequence[int]) -> Tensor:
        """States that predict the batch's completion tokens, ``[K, N, D]``; ``OFF`` is the deterministic pass."""
        kept_KND, done = None, 0
        while done < len(passes):
            at_once = max(1, self.budget.tokens_per_batch // batch.input_ids_BT.numel())
            now = passes[done : done + at_once]
            try:
                hidden_PND = self.forward(batch, now, len(passes))
            except RuntimeError as error:
                self._shrink(error, batch, len(now))
                continue
            if kept_KND is None:
                kept_KND = hidden_PND.new_empty((len(passes), *hidden_PND.shape[1:]))
            kept_KND[done : done + len(now)] = hidden_PND
            done += len(now)
        assert kept_KND is not None, "there is at least one pass"
        return kept_KND

    def forward(self, batch: Batch, passes: Sequence[int], total: int) -> Tensor:
        """One forward pass of the backbone: every example of the batch under each of ``passes``, out of ``total``."""
        count = len(passes)
        ids_BT, mask_BT = inputs_of(batch, self.model)
        inputs = (ids_BT.repeat(count, 1), None if mask_BT is None else mask_BT.repeat(count, 1))
        with self.members.draw(member_rows(batch, passes, total)) if passes != OFF else nullcontext():
            hidden_RTD = final_hidden(self.model, *inputs)
        row_N, column_N = (index.to(ids_BT.device) for index in predictors(batch, targets(batch)))
        return hidden_RTD.unflatten(0, (count, len(batch.ids)))[:, row_N, column_N]

    def read(self, off_ND: Tensor, hidden_KND: Tensor, label_N: Tensor) -> dict[str, Tensor]:
        """Read the vocabulary out a slice of tokens at a time and measure each slice."""
        size = self.slice_size(len(hidden_KND))
        slices = [
            self.measure(off_ND[n : n + size], hidden_KND[:, n : n + size], label_N[n : n + size])
            for n in range(0, len(label_N), size)
        ]
        if not slices:
            return {}
        return {name: torch.cat([part[name] for part in slices]).cpu() for name in slices[0]}

    def slice_size(self, members: int) -> int:
        """Tokens of one read-out slice."""
        per_token = 4 * (members + 1) * vocabulary_size(self.model)
        return max(1, self.budget.readout_bytes // per_token)

    def measure(self, off_MD: Tensor, hidden_KMD: Tensor, label_M: Tensor) -> dict[str, Tensor]:
        """All measures of a slice of tokens."""
        off_MV = self.log_probs(off_MD)
        found = {
            "loss": measures.token_loss(off_MV, label_M),
            "entropy": measures.entropy(off_MV),
            "label_prob": measures.label_prob(off_MV, label_M),
            "label_rank": measures.label_rank(off_MV, label_M),
            "margin": measures.margin(off_MV),
        }
        if self.added:
            off_MV = off_MV.clone()  # the members are read into the same memory
        log_probs_KMV = self.log_probs(hidden_KMD)
        groups = drawn_together(self.members.groups(len(hidden_KMD)))
        members = measures.decompose(log_probs_KMV, label_M, groups=groups)
        found |= {name.removesuffix("_N"): value for name, value in members._asdict().items()}
        return found | measures.measure_all(self.added, log_probs_KMV, off_MV, label_M, groups=groups)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities in memory that is used again for the next slice: read them before the next call."""
        shape = (*hidden.shape[:-1], vocabulary_size(self.model))
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        if self.scratch.numel() < math.prod(shape) or self.scratch.dtype != dtype:
            # Fresh pages for every slice would cost a CPU three times the arithmetic done on them.
            self.scratch = torch.empty(math.prod(shape), dtype=dtype, device=hidden.device)
        logits = readout(self.model, hidden, out=self.scratch[: math.prod(shape)].view(shape))[..., : self.vocabulary]
        return torch.log_softmax(logits, dim=-1, out=logits)

    def _shrink(self, error: RuntimeError, batch: Batch, rows: int) -> None:
        """Halve the rows per forward after running out of memory; any other error goes on."""
        if not out_of_memory(error):
            raise error
        length = batch.input_ids_BT.shape[1]
        if rows == 1:
            raise InputError(
                f"out of memory on a single pass of {len(batch.ids)} example(s) of {length} tokens "
                f"(first id {batch.ids[0]}); shorten with --max-length or use a smaller --dtype"
            ) from error
        if not self.keyed:
            raise InputError(
                "out of memory, and members of this family depend on which rows share a forward; start again with "
                f"--tokens-per-batch {self.budget.tokens_per_batch // 2}, or use --rng keyed"
            ) from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.budget = replace(self.budget, tokens_per_batch=max(1, rows // 2) * batch.input_ids_BT.numel())


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory ran out, on a GPU or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def drawn_together(group_K: Sequence[int]) -> tuple[int, ...] | None:
    """Sizes of the groups of consecutive passes that are independent of each other; None where every pass is.

    >>> drawn_together((0, 0, 1, 1, 1)), drawn_together((0, 1, 2))
    ((2, 3), None)
    """
    sizes = tuple(len(list(same)) for _, same in groupby(group_K))
    return None if set(sizes) == {1} else sizes


def _assemble(batch: Batch, passes: int, values: dict[str, Tensor], added: Sequence[str] = ()) -> TokenScores:
    """Put measured tokens and those without a prediction (position 0) in one table; set aside broken examples."""
    starts = np.array(batch.starts)
    labels_BT = batch.labels_BT.numpy()
    example_N, column_N = (labels_BT != IGNORE).nonzero()
    position_N = column_N - starts[example_N]
    predicted = position_N > 0
    table = {name: np.full(len(example_N), np.nan) for name in columns_of(added)}
    for name, column in table.items():
        if name in values:
            column[predicted] = values[name].double().numpy()
    rank_N = np.full(len(example_N), -1, dtype=np.int64)
    if values:
        rank_N[predicted] = values["label_rank"].numpy()
    unusable = _unusable(batch, example_N, position_N, predicted, table)
    keep = ~np.isin(example_N, [batch.ids.index(name) for name in unusable])
    return TokenScores(
        ids=batch.ids,
        example_N=example_N[keep],
        position_N=position_N[keep],
        token_id_N=labels_BT[example_N, column_N][keep],
        n_passes_N=np.where(predicted, passes, 0)[keep],
        label_rank_N=rank_N[keep],
        measures={name: column[keep] for name, column in table.items()},
        unusable=unusable,
    )


def _unusable(
    batch: Batch, example_N: np.ndarray, position_N: np.ndarray, predicted: np.ndarray, table: dict[str, Any]
) -> dict[str, str]:
    # A measure of their spread that few or dependent members leave without a value is NaN at every token: that is no
    # fault of the example's. Where the logits are broken, loss and total are not finite either.
    known = {n: v for n, v in table.items() if ALL_COLUMNS[n].members < 2 or not np.isnan(v[predicted]).all()}
    finite = np.all([np.isfinite(values) for values in known.values()], axis=0)
    found: dict[str, str] = {}
    for index in np.flatnonzero(predicted & ~finite):
        name = batch.ids[example_N[index]]
        bad = next(n for n, v in known.items() if not np.isfinite(v[index]))
        found.setdefault(name, f"{bad} is not finite at position {position_N[index]}")
    return found


def member_rows(batch: Batch, passes: Sequence[int], total: int | None = None) -> Rows:
    """Every example of the batch under the first of ``passes`` (out of ``total``), then under the second, and so on."""
    count = len(passes)
    starts = batch.starts * count if batch.side == "left" else None
    return Rows(batch.ids * count, tuple(k for k in passes for _ in batch.ids), starts, total)


def inputs_of(batch: Batch, model: Any) -> tuple[Tensor, Tensor | None]:
    """Token ids and attention mask of a batch on the model's device."""
    device = next(model.parameters()).device
    mask_BT = batch.attention_mask_BT
    return batch.input_ids_BT.to(device), None if mask_BT is None else mask_BT.to(device)
