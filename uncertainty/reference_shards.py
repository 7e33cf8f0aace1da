"""Hidden states on disk, one block per example: shards with receipts, written durably and read at random.

Dimension key: N completion tokens, D hidden size.

A shard is the blocks of some examples behind each other, raw numbers in the reference's own dtype. Its receipt is
written after it and says what each block is; a shard without one does not exist. So a build that is killed goes on at
the first shard that lacks one.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uncertainty.data.batches import IGNORE, Batch
from uncertainty.data.render import Example
from uncertainty.durable import replace_file
from uncertainty.errors import InputError
from uncertainty.model import DTYPES
from uncertainty.run_info import canonical_json, one_line

HEADER = "reference_cache.json"
FORMAT = "token-uncertainty reference cache"
VERSION = 1
MEND = "run the build again: only what is damaged is made anew"


class Block(NamedTuple):
    """Where an example's hidden states stand: ``n_tokens`` rows from row ``start`` of shard ``shard``."""

    shard: int
    start: int
    n_tokens: int
    crc32: int


@dataclass(frozen=True)
class Shards:
    """The shards of one cache.

    Attributes:
        folder: of the cache.
        fingerprint: of what they were made from; a receipt with another one is not theirs.
        hidden_size: D.
        dtype: of the numbers, a key of ``DTYPES``.
    """

    folder: Path
    fingerprint: str
    hidden_size: int
    dtype: str

    @property
    def bytes_per_token(self) -> int:
        """Of one row."""
        return self.hidden_size * DTYPES[self.dtype].itemsize

    def data(self, shard: int) -> Path:
        """The file of a shard's numbers."""
        return self.folder / "shards" / f"{shard:05}.bin"

    def receipt(self, shard: int) -> Path:
        """The file that says what they are."""
        return self.folder / "shards" / f"{shard:05}.json"

    def write(self, shard: int, keys: Sequence[str], hidden: Sequence[Tensor]) -> None:
        """Write one shard, then its receipt; both survive a power failure when this returns.

        Raises:
            OSError: the disk refused.
        """
        pieces = [_bytes(one_ND) for one_ND in hidden]
        content = b"".join(pieces)
        sizes = [len(one_ND) for one_ND in hidden]
        receipt = {
            "fingerprint": self.fingerprint,
            "sha256": hashlib.sha256(content).hexdigest(),
            "blocks": [[key, n, zlib.crc32(piece)] for key, n, piece in zip(keys, sizes, pieces, strict=True)],
        }
        temporary = self.folder / "tmp"
        replace_file(self.data(shard), content, temporary)
        replace_file(self.receipt(shard), json.dumps(receipt).encode("ascii") + b"\n", temporary)

    def blocks(self, shard: int) -> dict[str, Block]:
        """What the receipt of a shard says is in it.

        Raises:
            InputError: there is no receipt, it is damaged, or the numbers are of another length.
        """
        path = self.receipt(shard)
        try:
            receipt = json.loads(path.read_bytes())
            rows = [(str(key), int(n), int(crc)) for key, n, crc in receipt["blocks"]]
            of_us = receipt["fingerprint"] == self.fingerprint
        except FileNotFoundError as error:
            raise InputError(f"{path} is missing, the cache was not finished; {MEND}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({one_line(error)}); {MEND}") from error
        if not of_us:
            raise InputError(f"{path} belongs to another cache; {MEND}")
        found, start = {}, 0
        for key, n, crc in rows:
            found[key] = Block(shard, start, n, crc)
            start += n
        size = self.data(shard).stat().st_size if self.data(shard).is_file() else 0
        if size != start * self.bytes_per_token:
            raise InputError(
                f"{self.data(shard)} is damaged ({size} bytes, {start * self.bytes_per_token} expected); {MEND}"
            )
        return found

    def is_whole(self, shard: int, keys: Sequence[str]) -> bool:
        """Whether a shard holds exactly these examples, every byte of it as it was written."""
        try:
            if list(self.blocks(shard)) != list(keys):
                return False
            with self.data(shard).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return bool(json.loads(self.receipt(shard).read_bytes())["sha256"] == digest)
        except (InputError, OSError, ValueError, KeyError):
            return False

    def read(self, block: Block) -> Tensor:
        """The hidden states of a block, ``[n_tokens, D]``, bit for bit as they were written.

        Raises:
            InputError: the bytes are not those that were written.
        """
        path = self.data(block.shard)
        first = block.start * self.bytes_per_token
        try:
            content = _mapped(path)[first : first + block.n_tokens * self.bytes_per_token].tobytes()
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({one_line(error)}); {MEND}") from error
        if zlib.crc32(content) != block.crc32:
            raise InputError(f"{path} is damaged (a checksum differs); {MEND}")
        if not content:
            return torch.empty((0, self.hidden_size), dtype=DTYPES[self.dtype])
        flat = torch.frombuffer(bytearray(content), dtype=DTYPES[self.dtype])
        return flat.view(block.n_tokens, self.hidden_size)


def is_cache(name: str | Path) -> bool:
    """Whether ``name`` is a folder with a reference cache."""
    return (Path(name).expanduser() / HEADER).is_file()


def read_header(folder: Path) -> dict[str, Any]:
    """What a cache says of itself.

    Raises:
        InputError: there is no cache, its header is damaged, or it was written by another version.
    """
    path = folder / HEADER
    try:
        header = json.loads(path.read_bytes())
        if header["format"] != FORMAT or header["version"] != VERSION:
            raise InputError(f"{path} is not a reference cache of version {VERSION}; build it again, elsewhere")
        settings, fingerprint = header["settings"], header["fingerprint"]
        damaged = fingerprint != fingerprint_of(settings)
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no {HEADER}; give a folder that a reference cache was built in") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is damaged ({one_line(error)}); delete the folder and build the cache again"
        ) from error
    if damaged:
        raise InputError(f"{path} is damaged (its fingerprint differs); delete the folder and build the cache again")
    return dict(settings)


def header_content(settings: dict[str, Any]) -> bytes:
    """The file that says what a cache was made from."""
    header = {"format": FORMAT, "version": VERSION, "fingerprint": fingerprint_of(settings), "settings": settings}
    return json.dumps(header, indent=2).encode("ascii") + b"\n"


def fingerprint_of(settings: dict[str, Any]) -> str:
    """Hex sha256 of what a cache was made from; every receipt carries it."""
    return hashlib.sha256(canonical_json(settings)).hexdigest()


def example_key(name: str, input_ids: npt.ArrayLike, completion: npt.ArrayLike) -> str:
    """What an example is to a cache: its id, its tokens and which of them are completion; 32 hex digits."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass") + b"\0")
    digest.update(np.asarray(input_ids, dtype="<i8").tobytes())
    digest.update(np.asarray(completion, dtype="<u1").tobytes())
    return digest.hexdigest()[:32]


def key_of(example: Example) -> str:
    """``example_key`` of a rendered example."""
    return example_key(example.id, example.input_ids, example.completion)


def keys_of(batch: Batch) -> Iterator[str]:
    """``example_key`` of every example of a batch, in the order of ``ids``, packed or padded."""
    for name, row, start, length in zip(batch.ids, batch.rows, batch.starts, batch.lengths, strict=True):
        span = slice(start, start + length)
        completion = (batch.labels_BT[row, span] != IGNORE).cpu().numpy()
        yield example_key(name, batch.input_ids_BT[row, span].cpu().numpy(), completion)


def plan_shards(sizes: Sequence[int], largest: int) -> list[range]:
    """Cut examples into runs of at most ``largest`` bytes, at least one example each."""
    cuts, filled = [0], 0
    for index, size in enumerate(sizes):
        if index > cuts[-1] and filled + size > largest:
            cuts.append(index)
            filled = 0
        filled += size
    return [range(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(sizes)], strict=True)]


def predicted_tokens(examples: Iterable[Example]) -> list[int]:
    """Rows that each example's block has: completion tokens after the first position."""
    return [sum(example.completion[1:]) for example in examples]


def _bytes(hidden_ND: Tensor) -> bytes:
    return hidden_ND.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


@lru_cache(maxsize=1024)
def _map(path: Path, changed: int) -> np.ndarray:
    return np.memmap(path, dtype=np.uint8, mode="r")


def _mapped(path: Path) -> np.ndarray:
    status = path.stat()
    return np.zeros(0, np.uint8) if status.st_size == 0 else _map(path, status.st_mtime_ns)
