"""Memory bounds of the engine's loop: what they are, what keeps to them, and the peak that they predict.

Dimension key: K members, N completion tokens, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from uncertainty.model import hidden_size, vocabulary_size

READOUT_BYTES = {"cpu": 128 << 20, "cuda": 2 << 30}  # one slice of logits, all members together
TOKENS_PER_BATCH = {"cpu": 8192, "cuda": 32768}
HIDDEN_BYTES = {"cpu": 1 << 30, "cuda": 4 << 30}  # states of all members of the batches that are worked on together

T = TypeVar("T")


@dataclass(frozen=True)
class Budget:
    """Memory bounds of the loop. They decide speed and peak memory, never the scores.

    Attributes:
        tokens_per_batch: rows times length of one forward pass.
        readout_bytes: bytes of one read-out slice, all members together.
        hidden_bytes: bytes of the hidden states of all members of the batches that run together, where members are
            drawn one at a time.
    """

    tokens_per_batch: int
    readout_bytes: int
    hidden_bytes: int = HIDDEN_BYTES["cpu"]

    @staticmethod
    def for_device(device: torch.device, tokens_per_batch: int | None = None) -> Budget:
        """The defaults of a kind of device."""
        kind = device.type if device.type in TOKENS_PER_BATCH else "cuda"
        return Budget(tokens_per_batch or TOKENS_PER_BATCH[kind], READOUT_BYTES[kind], HIDDEN_BYTES[kind])

    def window_tokens(self, model: Any, passes: int) -> int:
        """Completion tokens whose states of all members, and of the deterministic pass, fit ``hidden_bytes``."""
        return self.hidden_bytes // ((passes + 1) * hidden_size(model) * (torch.finfo(model.dtype).bits // 8))


def predicted_peak(
    model: Any,
    batches: Sequence[tuple[int, int, int]],
    *,
    passes: int,
    budget: Budget,
    largest_round: int = 0,
    window_tokens: int = 0,
    member_bytes: int = 0,
) -> dict[str, int]:
    """Predicted peak memory in bytes, by part, for ``batches`` of (sequences, longest length, completion tokens).

    Where passes are drawn in rounds, ``largest_round`` is how many the largest has. Where members are drawn one at a
    time, ``window_tokens`` are the completion tokens of the largest window. ``member_bytes`` are the family's.
    """
    config = model.config.get_text_config()
    size = torch.finfo(model.dtype).bits // 8
    width = hidden_size(model)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width
    rows = max((max(budget.tokens_per_batch, b * t) for b, t, _ in batches), default=0)
    kept = max(window_tokens, max((n for _, _, n in batches), default=0))
    held = passes + 1 + largest_round  # a round's states stand beside those of all rounds until they are put there
    slice_bytes = max(budget.readout_bytes, 4 * (passes + 1) * vocabulary_size(model))
    from_16_bit = 4 * vocabulary_size(model) * width if size < 4 and model.device.type == "cpu" else 0
    return {
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
        "members": member_bytes,
        "forward": rows * (8 * width + 3 * inner) * size,
        "hidden states": held * kept * width * size,
        "read-out": slice_bytes + from_16_bit,
    }


def windows(items: Iterable[T], tokens: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Cut a stream into runs of consecutive items with at most ``most`` tokens together, at least one item each.

    >>> list(windows([5, 1, 1, 9, 2], lambda item: item, 6))
    [[5, 1], [1], [9], [2]]
    """
    run: list[T] = []
    held = 0
    for item in items:
        count = tokens(item)
        if run and held + count > most:
            yield run
            run, held = [], 0
        run.append(item)
        held += count
    if run:
        yield run


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory ran out, on a GPU or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
