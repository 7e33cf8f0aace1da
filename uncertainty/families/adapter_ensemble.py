"""Adapter ensemble: members are adapters (LoRA and its like), each trained on the same base.

Inside ``AdapterEnsemble.active(model)`` the adapters lie side by side in the base's layers; member k is the base with
adapter k switched on, and the deterministic pass the base with all of them off, which is the base bit for bit. A switch
costs nothing, so one set of weights serves all members. They run one at a time: peft can mix adapters within a forward,
but by another order of the arithmetic, and not for every kind of adapter. On leaving, the base is as before.

A member is the same for all examples: it depends on its number alone, and no random number is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from uncertainty.adapters import CONFIG, WEIGHTS, AdapterFolder, is_adapter, load_weights, read_adapter, read_config
from uncertainty.errors import InputError
from uncertainty.families.rows import Rows, only_pass
from uncertainty.families.sites import eval_mode
from uncertainty.lora import adapter_layers, switched, undisturbed_random_numbers, without_stale_warning
from uncertainty.model import file_hashes, is_local

IN_A_RUN = "adapter"  # where a training run folder keeps its result
WEIGHT_FILES = (".safetensors", ".bin")


@dataclass(frozen=True)
class AdapterEnsemble:
    """Several adapters of one base as a stochastic family.

    Attributes:
        members: at least two adapter folders, see ``adapter_members``.
    """

    members: tuple[AdapterFolder, ...]

    deterministic: ClassVar[bool] = False
    keyed: ClassVar[bool] = True
    shares_forward: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise InputError(f"an ensemble of {len(self.members)} adapters has no spread; give at least 2 --members")

    @property
    def n_members(self) -> int:
        """K."""
        return len(self.members)

    def member_bytes(self, model: Any) -> int:
        """Bytes of the adapters, held beside the base."""
        files = (path for one in self.members for path in one.path.iterdir() if path.suffix in WEIGHT_FILES)
        return sum(path.stat().st_size for path in files)

    @contextmanager
    def active(self, model: Any, *, seed: int = 0) -> Iterator[AdapterMembers]:
        """Put the adapters into ``model``, all of them off; ``seed`` decides nothing here.

        Raises:
            InputError: the model carries adapters already, or an adapter does not fit it, acts on the vocabulary head
                or brings whole layers of its own.
        """
        if adapter_layers(model):
            raise InputError(f"{type(model).__name__} carries adapters already; give the bare base of the members")
        with _modules_as_before(model):
            with torch.inference_mode(False):  # its tensors could not be changed by anyone later
                _insert(model, self.members)
            layers = adapter_layers(model)
            with eval_mode(model), switched(layers, None):
                yield AdapterMembers(self, layers)


@dataclass(frozen=True)
class AdapterMembers:
    """The state inside the context: the base's layers that carry the adapters."""

    family: AdapterEnsemble
    layers: list[Any]

    @contextmanager
    def draw(self, rows: Rows) -> Iterator[None]:
        """Forward passes inside this context run the base with the adapter whose number is the rows' pass."""
        with switched(self.layers, _name(only_pass(rows))):
            yield

    def groups(self, passes: int) -> tuple[int, ...]:
        """Members were trained independently of each other, as far as we know."""
        return tuple(range(passes))

    def silent_sites(self) -> list[str]:
        """No site is planned: an adapter acts wherever it was trained to."""
        return []

    def heads(self, passes: int) -> None:
        """The base's vocabulary head reads all members."""

    def report(self) -> dict[str, Any]:
        """What a run's record says of the family: the SHA-256 of every member's files.

        Raises:
            InputError: two members are the same files.
        """
        hashes = [one.hashes() for one in self.members]
        refuse_twins([str(one.path) for one in self.members], [(one.get(CONFIG), one.get(WEIGHTS)) for one in hashes])
        return {"family": "adapter-ensemble", "members": [{"files": one} for one in hashes]}

    @property
    def members(self) -> tuple[AdapterFolder, ...]:
        """The adapters, in the order of their numbers."""
        return self.family.members


def adapter_members(names: Sequence[str], base: str, *, allow_pickle: bool = False) -> tuple[AdapterFolder, ...]:
    """Find the adapters of an ensemble, and prove that all were trained on ``base``; no weights are loaded.

    Args:
        names: adapter folders, or run folders of unc-train with their adapter in ``adapter/``.
        base: folder or hub id of the model they are put on.
        allow_pickle: accept ``.bin`` weights.

    Raises:
        InputError: a folder is no adapter, it is damaged, or it belongs to another base.
    """
    if is_adapter(base):
        raise InputError(f"--model {base} is itself an adapter; give the base of the --members")
    return tuple(_on_base(_adapter_folder(name, allow_pickle), base) for name in names)


def refuse_twins(names: Sequence[str], identities: Sequence[Any]) -> None:
    """Refuse members that are the same: they would count twice and lower every uncertainty.

    Raises:
        InputError: names the first two.
    """
    for k, identity in enumerate(identities):
        first = identities.index(identity)
        if first < k:
            raise InputError(f"the members {names[first]} and {names[k]} hold the same files; give each member once")


def _adapter_folder(name: str, allow_pickle: bool) -> AdapterFolder:
    path = Path(name).expanduser()
    folder = next((found for found in (path, path / IN_A_RUN) if is_adapter(found)), None)
    if folder is None:
        what = "holds no adapter" if path.is_dir() else "does not exist"
        raise InputError(
            f"--members {name}: the folder {what} (looked for {CONFIG}, also in {IN_A_RUN}/); give folders that peft "
            "or unc-train wrote"
        )
    return read_adapter(folder, allow_pickle=allow_pickle)


def _on_base(adapter: AdapterFolder, base: str) -> AdapterFolder:
    same = adapter.base == base
    if not same and is_local(base) and is_local(adapter.base):
        here, there = Path(base).expanduser().resolve(), Path(adapter.base).expanduser().resolve()
        same = here == there or _weights(here) == _weights(there)
    if not same:
        raise InputError(f"the adapter {adapter.path} was trained on {adapter.base}, and the model given is {base}")
    return adapter


def _weights(folder: Path) -> dict[str, str]:
    return {name: value for name, value in file_hashes(folder).items() if name.endswith(WEIGHT_FILES)}


def _name(number: int) -> str:
    return f"member_{number}"


def _insert(model: Any, members: Sequence[AdapterFolder]) -> None:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped: Any = None
    for number, adapter in enumerate(members):
        config = read_config(adapter)
        if config.modules_to_save or getattr(config, "bias", "none") != "none":
            raise InputError(
                f"the adapter {adapter.path} carries whole layers or biases of its own, which cannot share a base; "
                "merge each member into the base, and use --family checkpoint-ensemble"
            )
        with undisturbed_random_numbers(0), without_stale_warning():
            try:
                if wrapped is None:
                    wrapped = PeftModel(model, config, adapter_name=_name(number))
                else:
                    wrapped.add_adapter(_name(number), config)
            except (ValueError, TypeError, RuntimeError) as error:
                why = " ".join(str(error).split())
                raise InputError(f"the adapter {adapter.path} does not fit the model: {why}") from error
        if isinstance(model.get_output_embeddings(), BaseTunerLayer):
            raise InputError(
                f"the adapter {adapter.path} acts on the vocabulary head, which all share here; merge each member into "
                "the base, and use --family checkpoint-ensemble"
            )
        load_weights(wrapped, adapter, _name(number))


@contextmanager
def _modules_as_before(model: nn.Module) -> Iterator[None]:
    """Every module, flag and attribute of the model as it was: peft replaces layers, freezes parameters and adds."""
    children = [(module, dict(module._modules)) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    attributes = set(vars(model))
    try:
        yield
    finally:
        for module, before in children:
            module._modules.clear()
            module._modules.update(before)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for name in set(vars(model)) - attributes:
            delattr(model, name)
