"""The reference's final hidden states on disk: made once, read by every run that learns from the same reference.

Dimension key: N completion tokens, V vocabulary, D hidden size.

The head turns a final hidden state into the whole distribution, so D numbers a token lose nothing, at any temperature
and with a soft cap, where V logits or a truncated list would be larger or wrong. The head itself is stored too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uncertainty.data.batches import Batch, collate, plan_batches, targets
from uncertainty.data.render import Example
from uncertainty.durable import lock_folder, make_folder, replace_file
from uncertainty.errors import InputError
from uncertainty.head import Head, head_of
from uncertainty.model import DTYPES
from uncertainty.reference import Reference
from uncertainty.reference_shards import (
    HEADER,
    Block,
    Shards,
    fingerprint_of,
    header_content,
    is_cache,
    key_of,
    keys_of,
    plan_shards,
    predicted_tokens,
    read_header,
)
from uncertainty.run_info import differences, plain
from uncertainty.stored_head import head_content, head_facts, head_sha256, load_head

HEAD = "head.safetensors"
SHARD_BYTES = 2**26


@dataclass(frozen=True)
class CacheBuild:
    """What a build did: shards found whole, shards written, and those of them that were there but damaged."""

    kept: int
    written: int
    mended: tuple[str, ...]


def predicted_bytes(examples: Sequence[Example], hidden_size: int, dtype: torch.dtype) -> int:
    """Size of the hidden states that a cache of ``examples`` will hold, in bytes; the head comes on top."""
    return sum(predicted_tokens(examples)) * hidden_size * dtype.itemsize


def build_cache(
    folder: str | Path,
    reference: Reference,
    examples: Sequence[Example],
    *,
    vocabulary_sha256: str,
    tokens_per_batch: int = 4096,
    shard_bytes: int = SHARD_BYTES,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> CacheBuild:
    """Write the hidden states of ``examples``; what is there and whole is kept, so that a killed build goes on.

    Args:
        folder: new, empty, or of an earlier build of the same.
        reference: a live one.
        examples: at least one; equal ones are stored once.
        vocabulary_sha256: of the reference's tokenizer, what a reader's tokenizer is compared with.
        tokens_per_batch: budget of one forward pass, in tokens. Part of the cache's identity: it decides which
            examples share a forward, and so the last bits.
        shard_bytes: the largest shard; memory holds one at a time.
        on_shard: called with (shards done, shards in all).

    Raises:
        InputError: the folder holds something else, is being written by another process, or a state is not finite.
        OSError: the disk refused.
    """
    path = Path(folder).expanduser()
    examples = list({key_of(example): example for example in examples}.values())
    settings = _settings(reference, examples, vocabulary_sha256, tokens_per_batch, shard_bytes)
    make_folder(path)
    lock = lock_folder(path)
    try:
        shards = _open_for_writing(path, settings, head_of(reference.model))
        sizes = [n * shards.bytes_per_token for n in predicted_tokens(examples)]
        plan = plan_shards(sizes, shard_bytes)
        kept, mended = 0, []
        for number, span in enumerate(plan):
            part = [examples[index] for index in span]
            keys = [key_of(example) for example in part]
            if shards.is_whole(number, keys):
                kept += 1
            else:
                if shards.receipt(number).is_file():
                    mended.append(shards.data(number).name)
                shards.write(number, keys, _states(reference, part, tokens_per_batch))
            on_shard(number + 1, len(plan))
        return CacheBuild(kept, len(plan) - kept, tuple(mended))
    finally:
        os.close(lock)


class CachedReference:
    """A reference read from disk, bit for bit as it was computed.

    Args:
        folder: of ``build_cache``.
        student: the model in training. Where its head is frozen and equal to the cached one it reads the hidden states,
            and no second head is held in memory.
        examples: what will be trained on; each must be in the cache.
        device: where the hidden states are wanted; the student's by default.

    Raises:
        InputError: not a whole cache, or of other examples.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        student: Any = None,
        examples: Sequence[Example] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.settings = read_header(self.folder)
        if device is None:
            device = torch.device("cpu") if student is None else next(student.parameters()).device
        self._device = torch.device(device)
        self._student = student
        self._shards = _shards(self.folder, self.settings)
        self._blocks: dict[str, Block] = {}
        for number in range(self.settings["data"]["shards"]):
            self._blocks |= self._shards.blocks(number)
        if examples is not None:
            self.check_covers(examples)

    @property
    def record(self) -> dict[str, Any]:
        """The reference that was cached, and the data."""
        return {
            "kind": "cache",
            "name": str(self.folder),
            "reference": self.settings["reference"],
            "data_sha256": self.settings["data"]["sha256"],
            "dtype": self.settings["dtype"],
        }

    @property
    def vocabulary_sha256(self) -> str:
        """Of the reference's tokenizer."""
        return str(self.settings["vocabulary_sha256"])

    @cached_property
    def model(self) -> Any:
        """The student, if its head is the reference's and stays so; else the head that was stored."""
        if self._student is not None:
            own = head_of(self._student)
            if not own.weight_VD.requires_grad and head_sha256(own) == self.settings["head"]["sha256"]:
                return self._student
        return load_head(self.folder / HEAD, self.settings["head"], self._device)

    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states ``[N, D]`` in the order of ``targets(batch)``.

        An example without targets, such as the one that stands in where a step has fewer examples than processes and
        micro-batches, has no state and need not be in the cache.

        Raises:
            InputError: an example is not in the cache, or a file is damaged.
        """
        with_targets = set(targets(batch).example_N.tolist())
        states = [torch.zeros(0, self.settings["hidden_size"], dtype=getattr(torch, self.settings["dtype"]))]
        for index, (name, key) in enumerate(zip(batch.ids, keys_of(batch), strict=True)):
            if index not in with_targets:
                continue
            if key not in self._blocks:
                raise InputError(self._lacks(name))
            states.append(self._shards.read(self._blocks[key]))
        return torch.cat(states).to(self._device)

    def check_covers(self, examples: Sequence[Example]) -> None:
        """Refuse data that is not in the cache, before a run starts on it.

        Raises:
            InputError: names the first example, and says how many there are.
        """
        missing = [example.id for example in examples if key_of(example) not in self._blocks]
        if missing:
            raise InputError(f"{self._lacks(missing[0])} ({len(missing)} of {len(examples)} examples are missing)")

    def _lacks(self, name: str) -> str:
        return (
            f"the reference cache {self.folder} does not hold example {name} with these tokens and this completion; "
            "build a cache of this data, with the same template and maximum length"
        )


def _settings(
    reference: Reference, examples: Sequence[Example], vocabulary: str, tokens_per_batch: int, shard_bytes: int
) -> dict[str, Any]:
    if not examples:
        raise InputError("there is no example to cache the reference's hidden states of")
    shortest = min(examples, key=lambda example: len(example.input_ids))
    probe_ND = reference.hidden(collate([shortest]))
    dtype = str(probe_ND.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise InputError(f"hidden states of dtype {dtype} cannot be cached; use one of {', '.join(DTYPES)}")
    tokens = predicted_tokens(examples)
    width = probe_ND.shape[1] * probe_ND.dtype.itemsize
    return plain(
        {
            "reference": reference.record,
            "vocabulary_sha256": vocabulary,
            "dtype": dtype,
            "hidden_size": probe_ND.shape[1],
            "head": head_facts(head_of(reference.model)),
            "data": {
                "sha256": hashlib.sha256("\n".join(map(key_of, examples)).encode("ascii")).hexdigest(),
                "examples": len(examples),
                "tokens": sum(tokens),
                "shards": len(plan_shards([n * width for n in tokens], shard_bytes)),
            },
            "tokens_per_batch": tokens_per_batch,
            "shard_bytes": shard_bytes,
        },
        "the cache's header",
    )


def _open_for_writing(folder: Path, settings: dict[str, Any], head: Head) -> Shards:
    if is_cache(folder):
        changed = differences(read_header(folder), settings)
        if changed:
            raise InputError(
                f"{folder} holds a cache of something else ({'; '.join(changed[:3])}); choose another folder"
            )
    elif any(entry.name not in (".lock", "tmp", "shards", HEAD) for entry in folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no reference cache; choose another folder")
    for name in ("tmp", "shards"):
        make_folder(folder / name)
    for left in (folder / "tmp").iterdir():  # of a build that was killed
        left.unlink()
    if not is_cache(folder) or not (folder / HEAD).is_file():
        replace_file(folder / HEAD, head_content(head), folder / "tmp")
    if not is_cache(folder):
        replace_file(folder / HEADER, header_content(settings), folder / "tmp")
    return _shards(folder, settings)


def _states(reference: Reference, examples: Sequence[Example], tokens_per_batch: int) -> list[Tensor]:
    """Hidden states of each example, in order; examples of nearly one length share a forward."""
    found: dict[int, Tensor] = {}
    lengths = [len(example.input_ids) for example in examples]
    for group in plan_batches(lengths, tokens_per_batch=tokens_per_batch, passes=1):
        batch = collate([examples[index] for index in group])
        hidden_ND = reference.hidden(batch).cpu()
        example_N = targets(batch).example_N
        for place, index in enumerate(group):
            found[index] = hidden_ND[example_N == place]
            if not bool(torch.isfinite(found[index]).all()):
                raise InputError(
                    f"the reference gives hidden states that are not finite for example {examples[index].id}; try "
                    "--dtype bfloat16 or float32"
                )
    return [found[index] for index in range(len(examples))]


def _shards(folder: Path, settings: dict[str, Any]) -> Shards:
    return Shards(folder, fingerprint_of(settings), settings["hidden_size"], settings["dtype"])
