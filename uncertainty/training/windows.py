"""The order in which a training run sees its data, and the micro-batches that it is cut into.

Dimension key: B sequences, T positions, N completion tokens.

An optimizer step sees one *window* of examples: the next ``batch`` of a permutation that depends on seed and epoch
only. How a window is dealt out to processes and micro-batches is layout: no objective, selection or number depends
on it, so that runs with other hardware, and the runs of a comparison of objectives, see the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from uncertainty.data.batches import Batch, Targets, collate, targets
from uncertainty.data.packing import pack
from uncertainty.data.render import Example
from uncertainty.errors import InputError


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of training.

    Attributes:
        batch: the padded or packed examples; without any completion token where a short window left nothing to do.
        at: its targets.
        number_N: int64, number of each target's example in the data set.
        column_N: float32, what a score table says of each target; None where no column is asked for.
    """

    batch: Batch
    at: Targets
    number_N: Tensor
    column_N: Tensor | None


def micro_batch(batch: Batch, numbers: Sequence[int]) -> MicroBatch:
    """A batch with its targets; ``numbers`` are those of its examples in the data set."""
    at = targets(batch)
    return MicroBatch(batch, at, torch.tensor(numbers, dtype=torch.int64)[at.example_N], None)


class NumberedExamples(Dataset[tuple[int, Example]]):
    """Examples with their number in the data set, which ties and random selection hang on."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> tuple[int, Example]:
        return number, self.examples[number]


class Windows(Sampler[list[int]]):
    """The micro-batches of one process, window by window.

    Each window is cut into micro-batches of ``micro`` examples, dealt out to the processes in turn; a process that a
    short last window leaves without examples gets empty micro-batches, so that all do the same number of passes and
    no example is ever seen twice.

    Attributes:
        epoch: decides the permutation; set before an epoch begins.
    """

    def __init__(self, n_examples: int, *, batch: int, micro: int, seed: int, world: int = 1, rank: int = 0) -> None:
        self.n_examples, self.batch, self.micro, self.seed = n_examples, batch, micro, seed
        self.world, self.rank, self.epoch = world, rank, 0

    @property
    def accumulation(self) -> int:
        """Micro-batches of one process in one optimizer step."""
        return math.ceil(self.batch / (self.micro * self.world))

    @property
    def steps(self) -> int:
        """Optimizer steps of one epoch."""
        return math.ceil(self.n_examples / self.batch)

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        order = permutation(self.n_examples, self.seed, self.epoch)
        for step in range(self.steps):
            window = order[step * self.batch : (step + 1) * self.batch]
            for turn in range(self.accumulation):
                start = (turn * self.world + self.rank) * self.micro
                yield window[start : start + self.micro]

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of an epoch."""
        self.epoch = epoch


def permutation(n_examples: int, seed: int, epoch: int) -> list[int]:
    """The order of the examples in one epoch; the same on every machine, whatever else drew random numbers."""
    return list(np.random.Generator(np.random.PCG64([seed, epoch])).permutation(n_examples).tolist())


class Collator:
    """Examples of one micro-batch -> what ``transformers.Trainer`` carries to ``compute_loss``.

    Args:
        spare: an example to stand in, without any completion token, where a micro-batch is empty.
        pad_id: any id of the vocabulary.
        packing: lay examples end to end in rows of ``width`` tokens instead of padding them.
        width: tokens of a packed row.
        columns: example id -> value of each position of its sequence, NaN where a score table has none.
    """

    def __init__(
        self,
        spare: Example,
        *,
        pad_id: int = 0,
        packing: bool = False,
        width: int = 0,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        head = replace(spare, input_ids=spare.input_ids[:2], turn=spare.turn[:2])
        self.spare = replace(head, completion=[False] * len(head.input_ids))
        self.pad_id, self.packing, self.width, self.columns = pad_id, packing, width, columns

    def __call__(self, rows: Sequence[tuple[int, Example]]) -> dict[str, Any]:
        """The micro-batch of numbered examples."""
        numbers, examples = [number for number, _ in rows] or [-1], [example for _, example in rows] or [self.spare]
        if self.packing:
            width = max(self.width, *(len(example.input_ids) for example in examples))
            batch = pack(examples, width=width, pad_id=self.pad_id)
        else:
            batch = collate(examples, pad_id=self.pad_id)
        micro = micro_batch(batch, numbers)
        micro = replace(micro, column_N=self._column(examples, micro.at))
        # The Trainer counts labels and floating point operations of these two; the rest is ours.
        return {"input_ids": batch.input_ids_BT, "labels": batch.labels_BT, "micro": micro}

    def _column(self, examples: Sequence[Example], at: Targets) -> Tensor | None:
        if self.columns is None:
            return None
        pairs = zip(at.example_N.tolist(), at.position_N.tolist(), strict=True)
        values = [self.columns[examples[index].id][position] for index, position in pairs]
        return torch.tensor(values, dtype=torch.float32)


def training_loader(examples: Sequence[Example], windows: Windows, collator: Collator) -> DataLoader[Any]:
    """A loader of micro-batches; ``len`` is a multiple of the accumulation, so every step is whole."""
    return DataLoader(NumberedExamples(examples), batch_sampler=windows, collate_fn=collator)


def score_column(examples: Sequence[Example], table: Any, column: str, where: str) -> dict[str, np.ndarray]:
    """A column of a score table, laid out by the positions of each example's sequence.

    Args:
        examples: what is trained on.
        table: frame with ``example_id, position, token_id`` and the column.
        column: its name.
        where: how messages call the table.

    Raises:
        InputError: an example or a completion token is not in the table, or is another token there.
    """
    mend = "score the same data with the same template and tokenizer first"
    groups = dict(iter(table.groupby("example_id", sort=False)))
    found: dict[str, np.ndarray] = {}
    for example in examples:
        group = groups.get(example.id)
        if group is None:
            raise InputError(f"{where} has no example {example.id!r}, which is trained on; {mend}")
        values = np.full(len(example.input_ids), np.nan, dtype=np.float32)
        positions = group["position"].to_numpy()
        if positions.max(initial=-1) >= len(values) or any(
            example.input_ids[p] != t for p, t in zip(positions.tolist(), group["token_id"].tolist(), strict=True)
        ):
            raise InputError(f"{where} spells example {example.id!r} with other tokens than the training data; {mend}")
        values[positions] = group[column].to_numpy(dtype=np.float32)
        inside = np.array(example.completion, dtype=bool)
        inside[0] = False  # the first token of a sequence has no prediction and no value
        if np.isnan(values[inside]).any():
            missing = int(np.flatnonzero(inside & np.isnan(values))[0])
            raise InputError(f"{where} has no {column} for position {missing} of example {example.id!r}; {mend}")
        found[example.id] = values
    return found


def check_trainable(examples: Sequence[Example], origin: str) -> None:
    """Refuse data in which no completion token has a prediction.

    Raises:
        InputError: nothing to train on.
    """
    if not any(any(example.completion[1:]) for example in examples):
        raise InputError(
            f"no completion token of {origin} is left to train on (all lie in the prompt, or beyond the cut); "
            "check --template and --max-length with unc-score --show 3"
        )


def count_targets(micro_batches: Sequence[MicroBatch]) -> int:
    """Completion tokens with a prediction."""
    return sum(len(micro.at.label_N) for micro in micro_batches)
