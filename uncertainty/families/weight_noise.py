"""Weight noise: a member is the model with random noise on the weights of its linear layers.

Dimension key: R rows (one pass of one example each), C counters, I inputs of a layer, O its outputs, A rank of low-rank
noise.

The noise of a weight has standard deviation ``rate * RMS``, RMS being the root mean square of the weight's own tensor.
Two kinds:

- ``gaussian``: an independent normal number for every weight, added in float32 and rounded to the weight's dtype once.
  One pass's noisy weights are held beside the model's own, which are put back, not recomputed, afterwards.
- ``low-rank:A``: ``B A / sqrt(A)`` with normal ``B [O, A]`` and ``A [A, I]``, of the same spread, added to the layer's
  output. It holds no second set of weights, and drawing it is cheap.

The numbers come from the counter-based generator of ``keyed.py`` under (seed, pass, tensor) and a table of 65,536
quantiles of the normal distribution: the same on every device and in any order. Noise is shared by all examples: a
member depends on (seed, pass) only, never on a batch, and members are drawn one at a time.

The paper does not know this family: the scale is a choice, and what it should be for a model nothing here says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from uncertainty import pass_groups
from uncertainty.errors import InputError
from uncertainty.families import keyed
from uncertainty.families.rows import Rows, only_pass
from uncertainty.families.sites import NATIVE, decoder_layers, eval_mode

KINDS = ("attention", "mlp")  # what --sites may name beside native
GAUSSIAN = "gaussian"
LOW_RANK = re.compile(r"low-rank:([1-9][0-9]*)")
COUNTERS_AT_ONCE = 1 << 20  # four numbers each


@dataclass(frozen=True)
class NoisyLayer:
    """A linear layer whose weight takes noise.

    Attributes:
        name: dotted module name; it keys the noise.
        kind: attention, mlp or other.
        module: an ``nn.Linear``, or a ``Conv1D`` of GPT-2, which keeps its weight transposed.
    """

    name: str
    kind: str
    module: Any

    @property
    def sizes(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        first, second = self.module.weight.shape
        return (second, first) if isinstance(self.module, Conv1D) else (first, second)


@dataclass(frozen=True)
class WeightNoise:
    """Noise on weights as a stochastic family.

    Attributes:
        rate: standard deviation of the noise as a share of the root mean square of each tensor, at least 0; 0 is the
            control: all members equal.
        sites: ``native`` (every linear layer but the vocabulary head), or ``attention``, ``mlp``.
        noise: ``gaussian``, or ``low-rank:A`` with the rank A.
    """

    rate: float = 0.1
    sites: str | tuple[str, ...] = NATIVE
    noise: str = GAUSSIAN

    keyed: ClassVar[bool] = True
    shares_forward: ClassVar[bool] = False
    n_members: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if not (self.rate >= 0.0 and math.isfinite(self.rate)):
            raise InputError(f"--rate {self.rate} is not a scale of noise; give a number from 0, such as 0.1")
        if self.noise != GAUSSIAN and LOW_RANK.fullmatch(self.noise) is None:
            raise InputError(f"--noise {self.noise} is not known; choose {GAUSSIAN}, or low-rank:RANK as in low-rank:8")
        _parse(self.sites)

    @property
    def deterministic(self) -> bool:
        """Whether all members are equal by construction."""
        return self.rate == 0.0

    @property
    def rank(self) -> int | None:
        """Of low-rank noise; None for an independent number per weight."""
        found = LOW_RANK.fullmatch(self.noise)
        return int(found[1]) if found else None

    def member_bytes(self, model: Any) -> int:
        """Bytes of one pass's noisy weights, or factors, held beside the model."""
        weights = [layer.module.weight for layer in noisy_layers(model, self.sites)]
        numbers = (w.numel() if self.rank is None else self.rank * sum(w.shape) for w in weights)
        return sum(number * w.element_size() for number, w in zip(numbers, weights, strict=True))

    @contextmanager
    def active(self, model: Any, *, seed: int = 0) -> Iterator[NoiseMembers]:
        """Make ``model`` ready to take noise; on leaving, its parameters are the very same objects as before.

        Raises:
            InputError: it has no such layers, or their weights are quantised.
        """
        members = NoiseMembers(self, noisy_layers(model, self.sites), seed)
        with ExitStack() as stack:
            stack.enter_context(eval_mode(model))
            if self.rank is not None:
                for layer in members.layers:
                    stack.callback(layer.module.register_forward_hook(members.add_to(layer)).remove)
            yield members


@dataclass
class NoiseMembers:
    """The state inside the context: the layers, and the noise of the pass that was drawn last.

    Attributes:
        family: the settings.
        layers: that take noise.
        seed: the run's seed.
        fired: with low-rank noise, for each layer how often it was added since ``draw``.
    """

    family: WeightNoise
    layers: list[NoisyLayer]
    seed: int
    fired: dict[str, int] = field(default_factory=dict)
    _number: int | None = None
    _drawing: bool = False
    _weights: dict[int, nn.Parameter] = field(default_factory=dict)  # by the id of the weight they stand in for
    _factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @contextmanager
    def draw(self, rows: Rows) -> Iterator[None]:
        """Forward passes inside this context run with the noise of the rows' pass; outside it without any."""
        self.fired = dict.fromkeys((layer.name for layer in self.layers), 0)
        number = only_pass(rows)
        if number != self._number:
            self._make(number)
        before = [(layer.module, layer.module.weight) for layer in self.layers]
        try:
            self._drawing = True
            for module, weight in before:
                module._parameters["weight"] = self._weights.get(id(weight), weight)
            yield
        finally:
            self._drawing = False
            for module, weight in before:
                module._parameters["weight"] = weight

    def add_to(self, layer: NoisyLayer) -> Any:
        """A forward hook that adds low-rank noise to a layer's output."""

        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            if not self._drawing:
                return None
            self.fired[layer.name] += 1
            factor_OA, factor_AI = self._factors[layer.name]
            return output + (args[0] @ factor_AI.T) @ factor_OA.T

        return hook

    def groups(self, passes: int) -> tuple[int, ...]:
        """Every pass is independent of the others."""
        return tuple(range(passes))

    def silent_sites(self) -> list[str]:
        """Layers that did not add low-rank noise since ``draw``; noise on a weight acts wherever the weight does."""
        return [] if self.family.rank is None else [name for name, count in self.fired.items() if count == 0]

    def heads(self, passes: int) -> None:
        """The vocabulary head takes no noise: one reads all members."""

    def report(self) -> dict[str, Any]:
        """What a run's record says of the family."""
        rate = self.family.rate
        return {
            "family": "weight-noise",
            "rate": rate,
            "noise": self.family.noise,
            "sites": [
                {"name": one.name, "kind": one.kind, "origin": NATIVE, "native_rate": None, "rate": rate}
                for one in self.layers
            ],
        }

    def _make(self, number: int) -> None:
        self._number, self._weights, self._factors = None, {}, {}  # the last pass's memory is free before this one's
        with torch.inference_mode(False), torch.no_grad():
            for layer in self.layers:
                weight = layer.module.weight
                if self.family.rank is not None:
                    self._factors[layer.name] = self._low_rank(layer, number, self.family.rank)
                elif id(weight) not in self._weights:  # a weight that two layers share has one noise
                    noise = normals(self.seed, number, layer.name, weight.numel(), weight.device)
                    noise.mul_(self.family.rate * _rms(weight)).add_(weight.detach().flatten())
                    noisy = noise.to(weight.dtype).view(weight.shape)
                    self._weights[id(weight)] = nn.Parameter(noisy, requires_grad=False)
        self._number = number

    def _low_rank(self, layer: NoisyLayer, number: int, rank: int) -> tuple[Tensor, Tensor]:
        weight, (outputs, inputs) = layer.module.weight, layer.sizes
        flat = normals(self.seed, number, f"{layer.name} rank {rank}", rank * (outputs + inputs), weight.device)
        factor_OA, factor_AI = flat[: outputs * rank].view(outputs, rank), flat[outputs * rank :].view(rank, inputs)
        scale = self.family.rate * _rms(weight) / math.sqrt(rank)
        return (factor_OA * scale).to(weight.dtype), factor_AI.to(weight.dtype)


def noisy_layers(model: Any, sites: str | Sequence[str]) -> list[NoisyLayer]:
    """The linear layers that ``sites`` names, in the order of the model's modules.

    Neither the vocabulary head nor a layer that shares the embedding's weight is ever among them.

    Raises:
        InputError: there is none, or their weights are quantised.
    """
    wanted = _parse(sites)
    untouched = {id(model.get_output_embeddings().weight), id(model.get_input_embeddings().weight)}
    inside = tuple(f"{name}." for name, _ in decoder_layers(model))
    attention = [f"{name}." for name, module in model.named_modules() if type(module).__name__.endswith("Attention")]
    found = []
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, Conv1D)) or id(module.weight) in untouched:
            continue
        kind = "mlp" if name.startswith(inside) else "other"
        kind = "attention" if name.startswith(tuple(attention)) else kind
        if NATIVE in wanted or kind in wanted:
            found.append(NoisyLayer(name, kind, module))
    if not found:
        raise InputError(f"{type(model).__name__} has no linear layer for --sites {','.join(wanted)} to put noise on")
    if strange := [layer.name for layer in found if not layer.module.weight.is_floating_point()]:
        raise InputError(f"the weight of {strange[0]} is quantised and takes no noise; load the model in 16 or 32 bit")
    return found


def normals(seed: int, number: int, name: str, count: int, device: torch.device) -> Tensor:
    """``count`` standard normal numbers, float32, that depend on the other arguments but the device.

    Each is one of 65,536 equally probable quantiles, between -4.3 and 4.3; mean 0 and variance 1 are exact over them.

    Args:
        seed: the run's.
        number: the pass.
        name: of the tensor they are for.
        count: how many.
        device: where they are made.
    """
    keys = keyed.row_keys(seed, [keyed.name_key("weights")], [number], device, " noise").at_site(keyed.name_key(name))
    table, out = _quantiles().to(device), torch.empty(count, device=device)
    for start in range(0, count, keyed.LANES * COUNTERS_AT_ONCE):
        part = out[start : start + keyed.LANES * COUNTERS_AT_ONCE]
        first = start // keyed.LANES
        counters_C = torch.arange(first, first + -(-len(part) // keyed.LANES), device=device)
        lanes = keys.lanes(counters_C).view(-1)[: len(part)].long()
        torch.take(table, lanes + pass_groups.RESOLUTION // 2, out=part)
    return out


@lru_cache(maxsize=1)
def _quantiles() -> Tensor:
    middle = (torch.arange(pass_groups.RESOLUTION, dtype=torch.float64) + 0.5) / pass_groups.RESOLUTION
    exact = torch.special.ndtri(middle)
    return (exact / exact.square().mean().sqrt()).float()


def _rms(weight: Tensor) -> float:
    return float(weight.detach().float().square().mean(dtype=torch.float64).sqrt())


def _parse(sites: str | Sequence[str]) -> tuple[str, ...]:
    names = tuple(n.strip() for n in (sites.split(",") if isinstance(sites, str) else sites) if n.strip())
    unknown = [name for name in names if name not in (NATIVE, *KINDS)]
    if unknown or not names:
        what = f"--sites {unknown[0]} takes no weight noise" if unknown else "--sites names no site"
        raise InputError(f"{what}; choose native (every linear layer but the vocabulary head), attention or mlp")
    return names
