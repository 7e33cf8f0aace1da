"""The batched Monte Carlo loop: where a model, randomness and memory meet.

Dimension key: B sequences, T positions, N completion tokens, K members, V vocabulary, D hidden size, P passes of one
forward, M tokens of one read-out slice.

The member axis is carried by final hidden states, not by logits. The backbone runs for all K members and only the
states at positions that predict completion tokens are kept (``hidden_KND``); the vocabulary is then read out for a few
tokens at a time, all members together, under a byte budget. So every measure is its formula on a whole
``log_probs_KMV`` block, and peak memory does not grow with K * N * V.

Where members cannot share a forward (ensembles, weight noise) drawing one is dear, so each runs over many batches, as
many as the budget for hidden states allows, before the next is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from uncertainty import measures
from uncertainty.adaptive import score_in_rounds
from uncertainty.budget import Budget, out_of_memory, windows
from uncertainty.data.batches import IGNORE, Batch, predictors, targets
from uncertainty.errors import InputError
from uncertainty.head import Head, logits_of
from uncertainty.measured_tokens import assemble
from uncertainty.model import final_hidden, readout, vocabulary_size
from uncertainty.scores import TokenScores
from uncertainty.stopping import TargetError, round_ends

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

    def draw(self, rows: Rows) -> AbstractContextManager[Any]:
        """Inside this context forward passes run these members, row by row; outside it the deterministic model.

        It gives the model to run, or None for the one that was made ready.
        """

    def groups(self, passes: int) -> tuple[int, ...]:
        """The group of each of ``passes`` passes, consecutive; those of different groups are independent."""

    def silent_sites(self) -> list[str]:
        """Sites that did not act in the forward passes since ``draw``; empty when all did."""

    def heads(self, passes: int) -> Sequence[Head] | None:
        """The vocabulary head of each member, all of which were drawn; None where all have the model's own."""

    def report(self) -> dict[str, Any]:
        """What a run's record says of the family, under ``family`` its name."""


class StochasticFamily(Protocol):
    """A way of drawing members of a model. ``active`` makes it ready; on leaving, the model is exactly as before."""

    @property
    def deterministic(self) -> bool:
        """All members are equal by construction (the control)."""

    @property
    def keyed(self) -> bool:
        """A member depends on (seed, example, pass) only, not on which rows share its forward."""

    @property
    def shares_forward(self) -> bool:
        """Rows of one forward may be of different passes; else members are drawn one at a time."""

    @property
    def n_members(self) -> int | None:
        """How many members there are to draw, each once; None for as many as are asked for."""

    def member_bytes(self, model: Any) -> int:
        """Bytes that members take beside the model."""

    def active(self, model: Any, *, seed: int = 0) -> AbstractContextManager[Members]:
        """Make the model ready to draw members."""


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
    target: TargetError | None = None,
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
        target: draw an example's passes in rounds and stop where its error is small enough; ``passes`` is the most.

    Yields:
        the scores of one batch at a time, examples in the batch's order. Where the forward pass runs out of memory
        the number of rows per forward is halved and the work goes on. Where members are drawn one at a time, the
        batches of a window come together.

    Raises:
        InputError: ``passes`` is below 1 or not the number of members of an ensemble, a single row does not fit into
            memory, or the family's members cannot be drawn in rounds.
    """
    if passes < 1:
        raise InputError(f"--passes {passes} is too few; give at least 1 (the paper's setting is 100)")
    if family.n_members not in (None, passes):
        raise InputError(f"--passes {passes} is not the number of members, {family.n_members}; each is drawn once")
    budget = budget or Budget.for_device(next(model.parameters()).device)
    with family.active(model, seed=seed) as members:
        loop = Loop(model, members, family.keyed, budget, vocabulary, tuple(measures), family.shares_forward)
        ends = (passes,) if target is None else _round_ends(members, family, passes)
        if family.shares_forward or target is not None:
            for batch in batches:
                yield loop.score(batch, ends, target)
            return
        for window in windows(batches, _completion_tokens, budget.window_tokens(model, passes)):
            yield from loop.score_by_member(window, passes)


@torch.inference_mode()
def read_members(
    model: Any,
    batches: Iterable[Batch],
    family: StochasticFamily,
    measure: Callable[[Tensor, tuple[int, ...] | None], dict[str, Tensor]],
    *,
    passes: int = 100,
    seed: int = 0,
    budget: Budget | None = None,
    vocabulary: int | None = None,
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """Any function of the members' log-probabilities, a slice of tokens at a time: what no score table holds.

    Args:
        model: see ``score``, as for all that is not named here.
        batches: see ``score``.
        family: see ``score``.
        measure: takes ``log_probs_KMV``, to be read only until it returns, and the sizes of the groups of members drawn
            together (None where every member is drawn by itself); gives name -> tensor with the tokens last.
        passes: K.
        seed: of the members.
        budget: memory bounds.
        vocabulary: read out only the first so many tokens.

    Yields:
        a batch, and name -> tensor over its completion tokens, in the order of ``targets``, on the CPU.
    """
    budget = budget or Budget.for_device(next(model.parameters()).device)
    with family.active(model, seed=seed) as members:
        loop = Loop(model, members, family.keyed, budget, vocabulary, shares_forward=family.shares_forward)
        groups = drawn_together(members.groups(passes))
        for batch in batches:
            slices = loop.hidden(batch, range(passes)).split(loop.slice_size(passes), dim=1)
            heads = members.heads(passes)
            found = [measure(loop.log_probs(hidden_KMD, heads), groups) for hidden_KMD in slices]
            yield batch, {name: torch.cat([part[name].cpu() for part in found], dim=-1) for name in found[0]}


class Loop:
    """The state of one run of the loop: the model, its members, and a budget that may shrink."""

    def __init__(
        self,
        model: Any,
        members: Members,
        keyed: bool,
        budget: Budget,
        vocabulary: int | None,
        added: tuple[str, ...] = (),
        shares_forward: bool = True,
    ) -> None:
        self.model = model
        self.members = members
        self.keyed = keyed
        self.budget = budget
        self.vocabulary = vocabulary
        self.added = added
        self.shares_forward = shares_forward
        self.heads: Sequence[Head] | None = None
        self.scratch = torch.empty(0)

    @torch.inference_mode()
    def score(self, batch: Batch, ends: Sequence[int], target: TargetError | None) -> TokenScores:
        """All measures of a batch whose members share its forward passes."""
        off_ND = self.hidden(batch, OFF)[0]
        if target is not None:
            values, passes_N = score_in_rounds(self, batch, off_ND, ends, target)
            return assemble(batch, passes_N.numpy(), values, self.added)
        hidden_KND = self.hidden(batch, range(ends[-1]))
        values = self.read(off_ND, hidden_KND, targets(batch).label_N.to(off_ND.device))
        return assemble(batch, ends[-1], values, self.added)

    @torch.inference_mode()
    def score_by_member(self, window: Sequence[Batch], passes: int) -> list[TokenScores]:
        """Run every batch under one member before the next is drawn, then read out batch by batch."""
        off = [self.hidden(batch, OFF)[0] for batch in window]
        kept = [off_ND.new_empty((passes, *off_ND.shape)) for off_ND in off]
        for number in range(passes):
            for batch, hidden_KND in zip(window, kept, strict=True):
                hidden_KND[number] = self.hidden(batch, (number,), passes)[0]
        self.heads = self.members.heads(passes)
        found = []
        for batch, off_ND, hidden_KND in zip(window, off, kept, strict=True):
            values = self.read(off_ND, hidden_KND, targets(batch).label_N.to(off_ND.device))
            found.append(assemble(batch, passes, values, self.added))
        return found

    def hidden(self, batch: Batch, passes: Sequence[int], total: int | None = None) -> Tensor:
        """States that predict the batch's completion tokens, ``[K, N, D]``; ``OFF`` is the deterministic pass.

        ``total`` is how many passes there are in all, where these are not all.
        """
        kept_KND, done = None, 0
        while done < len(passes):
            at_once = max(1, self.budget.tokens_per_batch // batch.input_ids_BT.numel()) if self.shares_forward else 1
            now = passes[done : done + at_once]
            try:
                hidden_PND = self.forward(batch, now, total or len(passes))
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
        with self.members.draw(member_rows(batch, passes, total)) if passes != OFF else nullcontext() as drawn:
            hidden_RTD = final_hidden(self.model if drawn is None else drawn, *inputs)
        row_N, column_N = (index.to(ids_BT.device) for index in predictors(batch, targets(batch)))
        return hidden_RTD.unflatten(0, (count, len(batch.ids)))[:, row_N, column_N]

    def read(
        self,
        off_ND: Tensor,
        hidden_KND: Tensor,
        label_N: Tensor,
        *,
        total: int | None = None,
        at: Tensor | None = None,
        added: tuple[str, ...] | None = None,
    ) -> dict[str, Tensor]:
        """Read the vocabulary out a slice of tokens at a time and measure each slice.

        Args:
            off_ND: states of the deterministic pass.
            hidden_KND: states of the members: the first ones of ``total``, or all of them.
            label_N: token ids.
            total: how many members there are in all.
            at: which of the N tokens, ascending; None for all.
            added: the measures beside those of every run; None for those that the run adds.
        """
        count = len(hidden_KND)
        groups = drawn_together(self.members.groups(total or count)[:count])
        names = self.added if added is None else added
        at = torch.arange(len(label_N)) if at is None else at
        slices = []
        for here in at.to(off_ND.device).split(self.slice_size(count)):
            hidden_KMD = hidden_KND.index_select(1, here)
            slices.append(self.measure(off_ND[here], hidden_KMD, label_N[here], groups, names))
        return {name: torch.cat([part[name] for part in slices]).cpu() for name in slices[0]} if len(at) else {}

    def slice_size(self, members: int) -> int:
        """Tokens of one read-out slice."""
        per_token = 4 * (members + 1) * vocabulary_size(self.model)
        return max(1, self.budget.readout_bytes // per_token)

    def measure(
        self,
        off_MD: Tensor,
        hidden_KMD: Tensor,
        label_M: Tensor,
        groups: tuple[int, ...] | None,
        added: tuple[str, ...],
    ) -> dict[str, Tensor]:
        """All measures of a slice of tokens; ``groups`` are the sizes of those of members drawn together."""
        off_MV = self.log_probs(off_MD)
        found = {
            "loss": measures.token_loss(off_MV, label_M),
            "entropy": measures.entropy(off_MV),
            "label_prob": measures.label_prob(off_MV, label_M),
            "label_rank": measures.label_rank(off_MV, label_M),
            "margin": measures.margin(off_MV),
        }
        if added:
            off_MV = off_MV.clone()  # the members are read into the same memory
        log_probs_KMV = self.log_probs(hidden_KMD, self.heads)
        members = measures.decompose(log_probs_KMV, label_M, groups=groups)
        found |= {name.removesuffix("_N"): value for name, value in members._asdict().items()}
        return found | measures.measure_all(added, log_probs_KMV, off_MV, label_M, groups=groups)

    def log_probs(self, hidden: Tensor, heads: Sequence[Head] | None = None) -> Tensor:
        """Log-probabilities in memory that is used again for the next slice: read them before the next call.

        ``heads`` are those of the members, where they are not the model's own.
        """
        shape = (*hidden.shape[:-1], vocabulary_size(self.model))
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        if self.scratch.numel() < math.prod(shape) or self.scratch.dtype != dtype:
            # Fresh pages for every slice would cost a CPU three times the arithmetic done on them.
            self.scratch = torch.empty(math.prod(shape), dtype=dtype, device=hidden.device)
        out = self.scratch[: math.prod(shape)].view(shape)
        if heads is None:
            readout(self.model, hidden, out=out)
        else:
            for head, hidden_MD, logits_MV in zip(heads, hidden, out, strict=True):
                logits_of(head, hidden_MD, logits_MV)
        logits = out[..., : self.vocabulary]
        return torch.log_softmax(logits, dim=-1, out=logits)

    def _shrink(self, error: RuntimeError, batch: Batch, rows: int) -> None:
        """Halve the rows per forward after running out of memory; any other error goes on."""
        if not out_of_memory(error):
            raise error
        length = batch.input_ids_BT.shape[1]
        if rows == 1:
            raise InputError(
                f"out of memory on a single pass of {len(batch.ids)} example(s) of {length} tokens "
                f"(first id {batch.ids[0]}); shorten with --max-length, give fewer --tokens-per-batch, or use a "
                "smaller --dtype"
            ) from error
        if not self.keyed:
            raise InputError(
                "out of memory, and members of this family depend on which rows share a forward; start again with "
                f"--tokens-per-batch {self.budget.tokens_per_batch // 2}, or use --rng keyed"
            ) from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.budget = replace(self.budget, tokens_per_batch=max(1, rows // 2) * batch.input_ids_BT.numel())


def look_ends(model: Any, family: StochasticFamily, passes: int) -> tuple[int, ...]:
    """After how many passes ``score`` looks whether a target is reached; the last is ``passes``.

    Raises:
        InputError: this family's members cannot be drawn in rounds, or the first look comes after the last pass.
    """
    with family.active(model) as members:
        return _round_ends(members, family, passes)


def _round_ends(members: Members, family: StochasticFamily, passes: int) -> tuple[int, ...]:
    if family.n_members is not None:
        raise InputError("--target-se cannot stop early: an ensemble has as many members as it has; leave it out")
    if not family.keyed:
        raise InputError(
            "--target-se stops each example by itself, and members of this family depend on which rows share a "
            "forward; give --rng keyed, or leave --target-se out"
        )
    ends = round_ends(passes, drawn_together(members.groups(passes)))
    if len(ends) < 2:
        raise InputError(
            f"--target-se can save nothing: with --passes {passes} the first look comes after the last pass; give more "
            "--passes, the most that an example gets, or leave --target-se out"
        )
    return ends


def _completion_tokens(batch: Batch) -> int:
    return int((batch.labels_BT != IGNORE).sum())


def drawn_together(group_K: Sequence[int]) -> tuple[int, ...] | None:
    """Sizes of the groups of consecutive passes that are independent of each other; None where every pass is.

    >>> drawn_together((0, 0, 1, 1, 1)), drawn_together((0, 1, 2))
    ((2, 3), None)
    """
    sizes = tuple(len(list(same)) for _, same in groupby(group_K))
    return None if set(sizes) == {1} else sizes


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
