"""Balanced masks: every unit is dropped in as near as may be exactly rate * K of K passes (a Latin hypercube).

Dimension key: R rows (one pass of one example each), W words of a table of permutations, K passes of a group.

In iid masks a unit (one attention weight, one channel of one position) draws a number in [0, 1) for each pass, and is
dropped where that is below the rate; by chance it is dropped 4 times in 100 passes, or 17. Here the K numbers of a unit
are ``(u + pi(k) / K) mod 1``: one number ``u`` of its own, and equally spaced steps in an order ``pi`` of its own. So

- each number by itself is uniform: any single pass is a draw of plain dropout at exactly the rate;
- each unit is dropped ``floor(rate * K)`` or ``ceil(rate * K)`` times;
- two units are independent of each other;
- two passes are as good as independent: their correlation at a unit is ``-1 / (K - 1)`` as it must be where the sum is
  fixed, whichever two they are. A rotation alone (``pi(k) = k``) would tie neighbouring passes together, and a
  multiplication modulo K those whose difference shares a factor with K; and BALD is a sum over pairs of units and
  passes, so that its noise grows with the squares of these correlations.

As in ``keyed.py`` a mask bit is a pure function of its key and its place, in plain integer arithmetic, so any pass can
be drawn alone, in any batch, on any device. ``u`` comes from the generator of ``keyed.py``, keyed by everything but the
pass; ``pi`` is one of ``4 W`` random permutations, chosen by the same draw. Four neighbours are served by one 64-bit
draw and one look-up, each from permutations of its own.

The passes are drawn in independent groups, see ``group_sizes``; K above is then the size of a group. The number of
passes is a part of the key: a run with another number draws other masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from uncertainty.families import keyed
from uncertainty.pass_groups import RESOLUTION

WORDS = 1024  # rows of a table, 8 bytes a pass each: one pass's stay in a core's nearest cache
_INDEX_BITS = 10  # 2**10 = WORDS
_SPREAD = -0x3B314601E57A13AD  # odd; the top bits of draw * _SPREAD hang on all four lanes of the draw


class Keys(NamedTuple):
    """Keys of rows under balanced masks: two 64-bit keys without the pass, and each pass's steps.

    Attributes:
        first_R: int64.
        second_R: int64.
        steps_RW: int64, four 16-bit steps in each: ``pi(k) / K`` in units of 2^-16 under four permutations.
    """

    first_R: Tensor
    second_R: Tensor
    steps_RW: Tensor

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
        return Keys(*keyed.site_keys(keyed.Keys(self.first_R, self.second_R), site_key), self.steps_RW)

    def part(self, rows: slice) -> Keys:
        """The keys of some of the rows."""
        return Keys(*(part[rows] for part in self))

    def lanes(self, counters: Tensor) -> Tensor:
        """``counters [..., C]`` -> int16 ``[R, ..., 4 C]``, see ``keyed.RowKeys``."""
        draws = keyed.draw(counters, self.first_R, self.second_R)
        words = (draws * _SPREAD) >> (64 - _INDEX_BITS)
        words &= WORDS - 1
        words += torch.arange(len(draws), device=draws.device).view(-1, *(1,) * counters.dim()) * WORDS
        steps = torch.take(self.steps_RW, words)
        return draws.view(torch.int16).add_(steps.view(torch.int16))  # modulo 2^16, which is modulo 1


def row_keys(
    seed: int, example_keys: Sequence[int], passes: Sequence[int], sizes: Sequence[int], device: torch.device
) -> Keys:
    """Keys of rows: row r is pass ``passes[r]`` of the example whose key is ``example_keys[r]``.

    ``sizes`` are those of the groups of all passes, from ``group_sizes``.
    """
    place_K = [(g, k) for g, size in enumerate(sizes) for k in range(size)]
    group_R = [place_K[k][0] for k in passes]
    plain = keyed.row_keys(seed, example_keys, group_R, device, f" balanced {sum(sizes)} in {len(sizes)}")
    steps = {k: step_table(sizes[place_K[k][0]])[place_K[k][1]] for k in set(passes)}
    return Keys(*plain, torch.stack([steps[k] for k in passes]).to(device))


@lru_cache(maxsize=8)
def step_table(size: int) -> Tensor:
    """``4 * WORDS`` random permutations of ``size`` passes as steps around the circle, ``[size, WORDS]`` int64.

    A step is rounded down to a multiple of 2^-16, which leaves the counts of drops exact: for whole numbers x,
    ``floor(y) >= x`` where ``y >= x``. The same table in every run: what is random about a unit is in its key.
    """
    count = keyed.LANES * WORDS
    key_1, key_2 = (torch.tensor([keyed.name_key(f"steps of {size} key {i}")]) for i in range(2))
    draws = keyed.draw(torch.arange(count * size), key_1, key_2).view(count, size)
    order = draws.argsort(dim=1, stable=True)
    steps = order * RESOLUTION // size
    signed = torch.where(steps >= RESOLUTION // 2, steps - RESOLUTION, steps).to(torch.int16)
    by_pass = signed.view(WORDS, keyed.LANES, size).permute(2, 0, 1)
    return by_pass.reshape(-1).view(torch.int64).view(size, WORDS)
