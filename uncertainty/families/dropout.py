"""Monte Carlo dropout: members are the masks of a model's dropout sites (Gal and Ghahramani 2016).

Dimension key: R rows (one pass of one example each), H heads, T positions, D hidden size.

Inside ``McDropout.active(model)`` the model can draw a member for each row of a forward pass; on leaving, every
flag, rate, hook and attention implementation is as before. ``model.train()`` is never called: it would also switch on
gradient checkpointing, layer drop and router jitter. Two ways of drawing:

- ``keyed`` (default): masks from ``keyed.py``. A row's member depends on (seed, example, pass, site, position) only.
  Its masks are ``iid`` (every pass draws anew) or ``balanced`` over the passes (``balanced.py``).
- ``kernel``: the stock kernels' own dropout, from torch's generator seeded per forward. It may be faster on a GPU and
  is repeatable for a fixed batch plan only; its effective rate is the kernel's (fused attention kernels of recent GPUs
  round it to 8 or even 4 bits).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from uncertainty import pass_groups
from uncertainty.errors import InputError
from uncertainty.families import balanced, keyed
from uncertainty.families.keyed_attention import keyed_attention_sites
from uncertainty.families.rows import Rows
from uncertainty.families.sites import Site, eval_mode, functional_dropout, plan_sites

GATED = ("attention", "module")  # mechanisms that the kernel mode switches by a module's own flag and rate

Rng = Literal["keyed", "kernel"]
Masks = Literal["iid", "balanced"]


@dataclass(frozen=True)
class McDropout:
    """Monte Carlo dropout as a stochastic family.

    Attributes:
        rate: dropout probability of every site, in [0, 1), used to a multiple of 1/65536 (0.1 is 0.100006) in the
            keyed mode. 0 is the control: all members equal.
        sites: ``native`` (all sites that the architecture has, the paper's setting), or one or several of
            ``attention``, ``residual``, ``embedding``, ``mlp``; what the architecture lacks is injected.
        rng: ``keyed`` or ``kernel``, see the module.
        masks: ``iid``, the paper's setting, or ``balanced`` over the passes, which lowers the error (keyed only).
        groups: of balanced masks, how many independent groups the passes are drawn in; None for the number that
            ``pass_groups.group_sizes`` takes.

    Source: arXiv:2503.16511, section on Monte Carlo dropout (rate 0.1, 100 passes).
    """

    rate: float = 0.1
    sites: str | tuple[str, ...] = "native"
    rng: Rng = "keyed"
    masks: Masks = "iid"
    groups: int | None = None

    shares_forward: ClassVar[bool] = True
    n_members: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate < 1.0:
            raise InputError(f"--rate {self.rate} is not a dropout rate; give a number from 0 up to, not including, 1")
        if 0.0 < self.rate < 1 / pass_groups.RESOLUTION or pass_groups.threshold(self.rate) == pass_groups.RESOLUTION:
            raise InputError(f"--rate {self.rate} is too near 0 or 1; rates are multiples of 1/65536")
        if self.rng not in ("keyed", "kernel"):
            raise InputError(f"--rng {self.rng} is not known; choose keyed or kernel")
        if self.masks not in ("iid", "balanced"):
            raise InputError(f"--masks {self.masks} is not known; choose iid or balanced")
        if self.masks == "balanced" and self.rng == "kernel":
            raise InputError("--masks balanced needs masks of our own; give --rng keyed, or --masks iid")
        if self.groups is not None and self.groups < 1:
            raise InputError(f"{self.groups} groups of balanced masks are too few; give at least 1")

    @property
    def deterministic(self) -> bool:
        """Whether all members are equal by construction."""
        return self.rate == 0.0

    @property
    def keyed(self) -> bool:
        """Whether a member depends on (seed, example, pass) only, not on which rows share its forward."""
        return self.rng == "keyed"

    def member_bytes(self, model: Any) -> int:
        """Nothing is held beside the model: masks are made where they are used."""
        return 0

    @contextmanager
    def active(self, model: Any, *, seed: int = 0) -> Iterator[DropoutMembers]:
        """Make ``model`` ready to be stochastic: ``with members.draw(rows)`` says which members a forward runs.

        Raises:
            InputError: no such site, see ``plan_sites``.
        """
        sites = plan_sites(model, self.sites)
        members = DropoutMembers(self, sites, seed, next(model.parameters()).device)
        with ExitStack() as stack:
            stack.enter_context(eval_mode(model))
            stack.enter_context((_keyed_sites if self.rng == "keyed" else _kernel_sites)(model, members))
            yield members


@dataclass
class DropoutMembers:
    """The state inside the context: which rows are drawn, and how often each site has fired.

    Attributes:
        family: the settings.
        sites: the sites in use.
        seed: the run's seed.
        device: where masks are made.
        fired: for each site name, the number of forward passes in which it acted since ``draw``.
    """

    family: McDropout
    sites: list[Site]
    seed: int
    device: torch.device
    fired: dict[str, int] = field(default_factory=dict)
    _keys: keyed.RowKeys | None = None
    _starts_R: Tensor | None = None

    @contextmanager
    def draw(self, rows: Rows) -> Iterator[None]:
        """Forward passes inside this context run these members, row by row; outside it the model is deterministic."""
        self.fired = dict.fromkeys((site.name for site in self.sites), 0)
        self._keys = self._row_keys(rows)
        self._starts_R = None if rows.starts is None else torch.tensor(rows.starts)
        try:
            with self._switched_on(rows):
                yield
        finally:
            self._keys = None

    @contextmanager
    def _switched_on(self, rows: Rows) -> Iterator[None]:
        """Open the gates of the stock kernels, with torch's generator seeded for this forward and then put back."""
        if self.family.rng == "keyed":
            yield
            return
        gated = [site.module for site in self.sites if site.mechanism in GATED]
        try:
            for module in gated:
                module.training = True  # this module's own flag only: .train() would reach its children
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(_forward_seed(self.seed, rows))
                yield
        finally:
            for module in gated:
                module.training = False

    def _row_keys(self, rows: Rows) -> keyed.RowKeys:
        examples = [keyed.name_key(name) for name in rows.ids]
        if self.family.masks == "iid":
            return keyed.row_keys(self.seed, examples, rows.passes, self.device)
        if rows.total is None or max(rows.passes) >= rows.total:
            raise InputError(f"balanced masks need the number of passes: pass {max(rows.passes)} of {rows.total}")
        sizes = pass_groups.group_sizes(rows.total, self.family.rate, self.family.groups)
        return balanced.row_keys(self.seed, examples, rows.passes, sizes, self.device)

    @property
    def drawing(self) -> bool:
        """Whether forward passes are stochastic now."""
        return self._keys is not None

    @property
    def kept_share(self) -> float:
        """The share of units that keyed masks keep on average; what is kept is divided by it."""
        return 1.0 - pass_groups.exact_rate(self.family.rate)

    def silent_sites(self) -> list[str]:
        """Sites that did not act in the forward passes since ``draw``."""
        return [name for name, count in self.fired.items() if count == 0]

    def groups(self, passes: int) -> tuple[int, ...]:
        """The group of each of ``passes`` passes; those of different groups are independent of each other.

        Every pass is a group of its own under iid masks. So it is said to be under balanced masks in a single group:
        their error is at most that of independent passes, and nothing within the group tells how much less.
        """
        sizes = [1] * passes
        if self.family.masks == "balanced":
            sizes = pass_groups.group_sizes(passes, self.family.rate, self.family.groups)
        return tuple(range(passes)) if len(sizes) == 1 else tuple(g for g, n in enumerate(sizes) for _ in range(n))

    def heads(self, passes: int) -> None:
        """The model's own vocabulary head reads all members."""

    def report(self) -> dict[str, Any]:
        """What a run's record says of the family."""
        exact = pass_groups.exact_rate(self.family.rate) if self.family.rng == "keyed" else self.family.rate
        return {
            "family": "dropout",
            "rate": self.family.rate,
            "rng": self.family.rng,
            "masks": self.family.masks,
            "sites": [site.record(exact) for site in self.sites],
        }

    def drop_features(self, site: Site, x_RTD: Tensor) -> Tensor:
        """Dropout of one activation at a hooked site."""
        if not self.drawing:
            return x_RTD
        self.fired[site.name] += 1
        if self.family.rng == "kernel":
            return nn.functional.dropout(x_RTD, self.family.rate, training=True)
        keys = self._keys_at(site)
        rows, width = keys.rows, x_RTD.shape[-1]
        length = x_RTD.numel() // (rows * width)
        keep = keyed.keep_features(keys, length, width, self.family.rate, self._starts_R)
        # Some layers (OPT's) flatten rows and positions; rows come first either way.
        return x_RTD * keep.view(x_RTD.shape) / self.kept_share

    def keep_attention(self, site: Site, heads: int, rows: slice, block: range) -> Tensor:
        """Which attention weights of some rows and a block of queries survive; keys up to the end of the block."""
        keys = self._keys_at(site)
        starts_R = None if self._starts_R is None else self._starts_R[rows]
        return keyed.keep_attention(keys.part(rows), heads, block, block.stop, self.family.rate, starts_R)

    def _keys_at(self, site: Site) -> keyed.RowKeys:
        if self._keys is None:
            raise RuntimeError("no members are drawn")
        return self._keys.at_site(keyed.name_key(site.name))


@contextmanager
def _keyed_sites(model: Any, members: DropoutMembers) -> Iterator[None]:
    attention = [site for site in members.sites if site.mechanism == "attention"]
    with ExitStack() as stack:
        stack.enter_context(_hooks(model, members))
        if attention:
            stack.enter_context(keyed_attention_sites(model, members, attention))
        yield


@contextmanager
def _kernel_sites(model: Any, members: DropoutMembers) -> Iterator[None]:
    gated = [site for site in members.sites if site.mechanism in GATED]
    holders = [getattr(site.module, site.rate_name) if site.mechanism == "attention" else site.module for site in gated]
    before: list[float] = [holder.p if isinstance(holder, nn.Dropout) else holder for holder in holders]  # type: ignore[misc]
    with ExitStack() as stack:
        for site, holder, rate in zip(gated, holders, before, strict=True):
            stack.callback(_set_rate, site, holder, rate)
            stack.callback(site.module.register_forward_hook(_counter(members, site)).remove)
            _set_rate(site, holder, members.family.rate)
        stack.enter_context(_hooks(model, members, skip=GATED))
        yield


@contextmanager
def _hooks(model: Any, members: DropoutMembers, skip: Sequence[str] = ()) -> Iterator[None]:
    """Hooks of the sites that are reached by a module's input or output, and interception of functional ones."""

    def on_output(site: Site) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (members.drop_features(site, output[0]), *output[1:])
            return members.drop_features(site, output)

        return hook

    def on_input(site: Site) -> Any:
        return lambda module, args: (members.drop_features(site, args[0]), *args[1:])

    functional = {(id(s.module), int(s.name.rsplit("#")[1])): s for s in members.sites if s.mechanism == "functional"}

    def intercept(owner: nn.Module, ordinal: int, x: Tensor, rate: float) -> Tensor:
        site = functional.get((id(owner), ordinal))
        return x if site is None else members.drop_features(site, x)

    with ExitStack() as stack:
        for site in members.sites:
            if site.mechanism in ("module", "output") and site.mechanism not in skip:
                stack.callback(site.module.register_forward_hook(on_output(site)).remove)
            elif site.mechanism == "input":
                stack.callback(site.module.register_forward_pre_hook(on_input(site)).remove)
        if functional:
            stack.enter_context(functional_dropout(list(model.modules()), intercept))
        yield


def _counter(members: DropoutMembers, site: Site) -> Any:
    def count(module: nn.Module, args: Any, output: Any) -> None:
        if module.training:
            members.fired[site.name] += 1

    return count


def _set_rate(site: Site, holder: Any, rate: float) -> None:
    if isinstance(holder, nn.Dropout):
        holder.p = rate
    else:
        setattr(site.module, site.rate_name, rate)


def _forward_seed(seed: int, rows: Rows) -> int:
    digest = hashlib.blake2b(repr((seed, rows.ids, rows.passes)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
