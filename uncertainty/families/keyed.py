"""Dropout masks from a counter-based generator keyed by (seed, example, pass, site, position).

Dimension key: R rows (one pass of one example each), H heads, T positions, D hidden size.

A mask bit is a pure function of its key and its place in the unpadded sequence. It does not depend on the batch, the
side of the padding, the length of the text after it, the order of the work, or the device. The mixing function is
the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", section 5)
with a second 64-bit key added between its two multiplications, on a Weyl sequence of counters; one 64-bit result
serves four neighbouring elements with 16 bits each. It is plain integer arithmetic in torch, so the CPU and a GPU
draw the same masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from uncertainty.pass_groups import RESOLUTION, threshold

LANES = 4  # 16-bit lanes in one 64-bit draw
_WEYL = -0x61C8864680B583EB  # 2^64 / golden ratio, odd, as a signed 64-bit integer
_MIX_1 = -0x40A7B892E31B1A47
_MIX_2 = -0x6B2FB644ECCEEE15
_FIELD = 20  # bits of a counter for one coordinate: positions and channels up to 2^20
MAX_COORDINATE = LANES << _FIELD


class Keys(NamedTuple):
    """Two 64-bit keys a row, ``[R]`` int64 each."""

    first_R: Tensor
    second_R: Tensor

    @property
    def rows(self) -> int:
        """R."""
        return len(self.first_R)

    @property
    def device(self) -> torch.device:
        """Where masks are made."""
        return self.first_R.device

    def at_site(self, site_key: int) -> Keys:
        """The same rows' keys at one site."""
        return site_keys(self, site_key)

    def part(self, rows: slice) -> Keys:
        """The keys of some of the rows."""
        return Keys(*(part[rows] for part in self))

    def lanes(self, counters: Tensor) -> Tensor:
        """``counters [..., C]`` -> int16 ``[R, ..., 4 C]``: four uniform numbers of each counter under a row's key."""
        return draw(counters, self.first_R, self.second_R).view(torch.int16)


class RowKeys(Protocol):
    """Keys of rows, however their passes hang together: ``Keys`` here, ``balanced.Keys``."""

    @property
    def rows(self) -> int:
        """R."""

    @property
    def device(self) -> torch.device:
        """Where masks are made."""

    def at_site(self, site_key: int) -> RowKeys:
        """The same rows' keys at one site."""

    def part(self, rows: slice) -> RowKeys:
        """The keys of some of the rows."""

    def lanes(self, counters: Tensor) -> Tensor:
        """``counters [..., C]`` -> int16 ``[R, ..., 4 C]``, each uniform and independent of the others of its row."""


def name_key(name: str) -> int:
    """A signed 64-bit key of a name (an example id, a site), the same on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def row_keys(
    seed: int, example_keys: Sequence[int], passes: Sequence[int], device: torch.device, domain: str = ""
) -> Keys:
    """Keys of rows: row r is pass ``passes[r]`` of the example whose ``name_key`` is ``example_keys[r]``.

    Rows under another ``domain`` are independent of these.
    """
    example_R = torch.tensor(example_keys, dtype=torch.int64, device=device)
    pass_R = torch.tensor(passes, dtype=torch.int64, device=device)
    first_R, second_R = (
        _absorb(_absorb(torch.full_like(example_R, name_key(f"seed {seed}{domain} key {i}")), example_R), pass_R)
        for i in range(2)
    )
    return Keys(first_R, second_R)


def site_keys(keys: Keys, site_key: int) -> Keys:
    """The same rows' keys at one site."""
    return Keys(*(_absorb(key_R, torch.full_like(key_R, site_key)) for key_R in keys))


def keep_attention(
    keys: RowKeys, heads: int, queries: range, length: int, rate: float, starts_R: Tensor | None = None
) -> Tensor:
    """Which attention weights survive.

    Args:
        keys: keys of R rows at one attention site.
        heads: H.
        queries: the query positions wanted (a chunk of ``range(T)``), in the padded sequence.
        length: T, the number of key positions, in the padded sequence.
        rate: dropout rate in [0, 1).
        starts_R: the first real position of each row where rows are padded on the left, else None.

    Returns:
        bool ``[R, H, len(queries), T]``.
    """
    device = keys.device
    head_H11 = torch.arange(heads, device=device)[:, None, None] << (2 * _FIELD)
    if starts_R is None:
        query_Q1 = torch.arange(queries.start, queries.stop, device=device)[:, None] << _FIELD
        return _keep(keys, head_H11 | query_Q1, length, rate)
    whole_RHTT = _keep(keys, head_H11 | (torch.arange(length, device=device)[:, None] << _FIELD), length, rate)
    rows = [
        torch.roll(row_HTT, (start, start), (1, 2))[:, queries.start : queries.stop]
        for row_HTT, start in zip(whole_RHTT, starts_R.tolist(), strict=True)
    ]
    return torch.stack(rows)


def keep_features(keys: RowKeys, length: int, width: int, rate: float, starts_R: Tensor | None = None) -> Tensor:
    """Which elements of a ``[R, T, D]`` activation survive; bool of that shape. Arguments as ``keep_attention``."""
    position_T1 = torch.arange(length, device=keys.device)[:, None] << _FIELD
    keep_RTD = _keep(keys, position_T1, width, rate)
    if starts_R is None:
        return keep_RTD
    return torch.stack([torch.roll(row, start, 0) for row, start in zip(keep_RTD, starts_R.tolist(), strict=True)])


def _keep(keys: RowKeys, counters: Tensor, width: int, rate: float) -> Tensor:
    """``counters [..., 1]`` times ``width`` neighbours -> bool ``[R, ..., width]``."""
    if width > MAX_COORDINATE:
        raise ValueError(f"a masked dimension of {width} is wider than the generator's {MAX_COORDINATE}")
    groups = torch.arange((width + LANES - 1) // LANES, device=counters.device)
    # Two's complement: the lane's 16 bits read as a signed number, so the threshold is shifted by 2^15.
    return (keys.lanes(counters | groups) >= threshold(rate) - RESOLUTION // 2)[..., :width]


def draw(counters: Tensor, first_R: Tensor, second_R: Tensor) -> Tensor:
    """``counters [...]`` -> ``[R, ...]`` int64: 64 random bits of each counter under each row's key."""
    shape = (-1,) + (1,) * counters.dim()
    return _mix(counters, first_R.view(shape), second_R.view(shape))


def _mix(counter: Tensor, first: Tensor, second: Tensor) -> Tensor:
    z = counter * _WEYL + first
    z ^= (z >> 30) & 0x3FFFFFFFF  # masks make the arithmetic shift of a signed integer a logical one
    z *= _MIX_1
    z ^= second
    z ^= (z >> 27) & 0x1FFFFFFFFF
    z *= _MIX_2
    z ^= (z >> 31) & 0x1FFFFFFFF
    return z


def _absorb(state: Tensor, word: Tensor) -> Tensor:
    rotated = (state << 32) | ((state >> 32) & 0xFFFFFFFF)
    return _mix(word, state, rotated)
