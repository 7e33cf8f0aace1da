"""Checkpoint ensemble: members are whole models, of which one at a time is in memory beside the given one.

Inside ``CheckpointEnsemble.active(model)`` drawing a member loads it, unless it is the one that was drawn last: the
engine therefore runs many batches under one member before it goes on to the next. The deterministic pass is the given
model, which is not touched; it may be one of the members. Members may differ from it in everything but the width of
their final hidden states and the vocabulary. Each member's hidden states are read by its own vocabulary head, and those
heads that differ from the model's are kept in memory until all members are drawn.

A member is the same for all examples: it depends on its number alone, and no random number is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from uncertainty.adapters import TOKENIZER, is_adapter, read_adapter
from uncertainty.errors import InputError
from uncertainty.families.adapter_ensemble import refuse_twins
from uncertainty.families.rows import Rows, only_pass
from uncertainty.families.sites import eval_mode
from uncertainty.head import Head, head_of
from uncertainty.loading import load_config, load_model, load_tokenizer
from uncertainty.model import file_hashes, hidden_size, is_local, vocabulary_size

REVISION = "@"  # marks a member that is a revision of the given model on the hub


@dataclass(frozen=True)
class Checkpoint:
    """One member: a model folder, or a revision of a hub id.

    Attributes:
        source: folder (of a model, or of an adapter that is merged into its base) or hub id.
        revision: of the hub id.
    """

    source: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.source if self.revision is None else f"{self.source}{REVISION}{self.revision}"

    def identity(self, *, trust_remote_code: bool = False) -> dict[str, Any]:
        """What tells it from others: the SHA-256 of its files, or the commit on the hub."""
        if is_adapter(self.source):
            adapter = read_adapter(self.source, allow_pickle=True)
            base = Path(adapter.base).expanduser()
            return {"files": adapter.hashes(), "base": file_hashes(base) if is_local(base) else adapter.base}
        if is_local(self.source):
            return {"files": file_hashes(Path(self.source))}
        config = load_config(self.source, revision=self.revision, trust_remote_code=trust_remote_code)
        return {"name": self.source, "revision": getattr(config, "_commit_hash", None) or self.revision}


@dataclass(frozen=True)
class CheckpointEnsemble:
    """Several models of one vocabulary as a stochastic family.

    Attributes:
        members: at least two, see ``checkpoint_members``.
        tokenizer: the given model's, see ``check_tokenizers``; None takes each member's own.
        trust_remote_code: run code that comes with a member.
        allow_pickle: read .bin weights, which can run code.
    """

    members: tuple[Checkpoint, ...]
    tokenizer: Any = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    deterministic: ClassVar[bool] = False
    keyed: ClassVar[bool] = True
    shares_forward: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise InputError(f"an ensemble of {len(self.members)} checkpoints has no spread; give at least 2 --members")

    @property
    def n_members(self) -> int:
        """K."""
        return len(self.members)

    def member_bytes(self, model: Any) -> int:
        """Bytes of one more model and of the vocabulary heads of all members (a head like the model's costs none)."""
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        return weights + self.n_members * _head_bytes(model)

    @contextmanager
    def active(self, model: Any, *, seed: int = 0) -> Iterator[CheckpointMembers]:
        """Make ready to load members one by one, in the model's dtype and on its device; ``seed`` decides nothing.

        Raises:
            InputError: the configuration of a member has another vocabulary or another width.
        """
        for member in self.members:
            config = load_config(member.source, revision=member.revision, trust_remote_code=self.trust_remote_code)
            text = config.get_text_config()
            _require_same(model, member, text.vocab_size, text.hidden_size)
        members = CheckpointMembers(self, model)
        try:
            with eval_mode(model):
                yield members
        finally:
            members.release()


@dataclass
class CheckpointMembers:
    """The state inside the context: the member that is loaded, and the vocabulary heads of those that were."""

    family: CheckpointEnsemble
    model: Any
    _number: int | None = None
    _loaded: Any = None
    _heads: dict[int, Head] = field(default_factory=dict)

    @contextmanager
    def draw(self, rows: Rows) -> Iterator[Any]:
        """The model whose forward passes are the member that is the rows' pass."""
        number = only_pass(rows)
        if number != self._number:
            self.release()
            with torch.inference_mode(False):
                self._loaded = self._load(self.family.members[number])
            self._number = number
            self._heads.setdefault(number, self._own_head())
        yield self._loaded

    def release(self) -> None:
        """Let go of the member that is loaded, and of its memory at once, which the next one needs.

        A model may be a circle of references, which Python collects when it pleases; its tensors are not.
        """
        for module in () if self._loaded is None else self._loaded.modules():
            module._parameters.clear()
            module._buffers.clear()
        self._number = self._loaded = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def groups(self, passes: int) -> tuple[int, ...]:
        """Members were trained independently of each other, as far as we know."""
        return tuple(range(passes))

    def silent_sites(self) -> list[str]:
        """No site is planned: a member is a model of its own."""
        return []

    def heads(self, passes: int) -> list[Head] | None:
        """The vocabulary head of each member, all of which were drawn; None where all are like the model's."""
        own = head_of(self.model)
        found = [self._heads[number] for number in range(passes)]
        return None if all(head.weight_VD is own.weight_VD for head in found) else found

    def report(self) -> dict[str, Any]:
        """What a run's record says of the family: the SHA-256 of every member's files, or its commit on the hub.

        Raises:
            InputError: two members are the same.
        """
        trust = self.family.trust_remote_code
        found = [member.identity(trust_remote_code=trust) for member in self.family.members]
        refuse_twins([str(member) for member in self.family.members], [_weights(one) for one in found])
        return {"family": "checkpoint-ensemble", "members": found}

    def _load(self, member: Checkpoint) -> Any:
        model = load_model(
            member.source,
            self.family.tokenizer,
            dtype=str(self.model.dtype).removeprefix("torch."),
            device=str(next(self.model.parameters()).device),
            revision=member.revision,
            trust_remote_code=self.family.trust_remote_code,
            allow_pickle=self.family.allow_pickle,
        ).model
        _require_same(self.model, member, vocabulary_size(model), hidden_size(model))
        return model

    def _own_head(self) -> Head:
        """The loaded member's head: the model's own where they are equal, else a copy that outlives the member."""
        own, head = head_of(self.model), head_of(self._loaded)
        biases = (own.bias_V, head.bias_V)
        same_bias = all(one is None for one in biases) or (
            all(one is not None for one in biases) and torch.equal(own.bias_V, head.bias_V)  # type: ignore[arg-type]
        )
        if same_bias and own.steps == head.steps and torch.equal(own.weight_VD, head.weight_VD):
            return own
        bias_V = None if head.bias_V is None else head.bias_V.detach().clone()
        return Head(head.weight_VD.detach().clone(), bias_V, head.steps)


def checkpoint_members(names: Sequence[str], model: str, *, trust_remote_code: bool = False) -> tuple[Checkpoint, ...]:
    """Find the members of an ensemble; no weights are loaded.

    Args:
        names: folders, or ``@REVISION`` for a revision (branch, tag or commit) of ``model``.
        model: folder or hub id of the given model.
        trust_remote_code: run code that comes with a member.

    Raises:
        InputError: no such folder, no model in it, or a revision of a model that is a folder.
    """
    found = tuple(_checkpoint(name, model) for name in names)
    for member in found:
        load_config(member.source, revision=member.revision, trust_remote_code=trust_remote_code)
    return found


def check_tokenizers(members: Sequence[Checkpoint], tokenizer: Any, *, trust_remote_code: bool = False) -> None:
    """Refuse members whose tokenizer spells other tokens by the same numbers; a folder without one passes.

    Raises:
        InputError: names the member and the first token that differs.
    """
    own = tokenizer.get_vocab()
    for member in members:
        folder = Path(member.source).expanduser()
        if is_local(member.source) and not any((folder / name).is_file() for name in TOKENIZER):
            continue
        trust = trust_remote_code
        vocabulary = load_tokenizer(member.source, revision=member.revision, trust_remote_code=trust).get_vocab()
        if vocabulary != own:
            token = min(token for token, _ in set(vocabulary.items()) ^ set(own.items()))
            raise InputError(
                f"the member {member} has another vocabulary than the model: {token!r} is {vocabulary.get(token)} "
                f"there and {own.get(token)} here; members must share one tokenizer"
            )


def _checkpoint(name: str, model: str) -> Checkpoint:
    if name.startswith(REVISION):
        if is_local(model):
            raise InputError(f"--members {name}: {model} is a folder, which has no revisions; give folders")
        return Checkpoint(model, name[len(REVISION) :])
    if not is_local(name):
        raise InputError(
            f"--members {name}: there is no such folder; give model folders, or {REVISION}REVISION for revisions of "
            "the --model on the hub"
        )
    return Checkpoint(name)


def _require_same(model: Any, member: Checkpoint, vocabulary: int, width: int) -> None:
    if vocabulary != vocabulary_size(model):
        raise InputError(
            f"the member {member} has {vocabulary:,} logits and the model {vocabulary_size(model):,}; members must "
            "share one vocabulary"
        )
    if width != hidden_size(model):
        raise InputError(
            f"the final hidden states of the member {member} are {width} wide and the model's {hidden_size(model)}; "
            "members must be of one width"
        )


def _head_bytes(model: Any) -> int:
    weight = model.get_output_embeddings().weight
    return int(weight.numel() * weight.element_size())


def _weights(identity: dict[str, Any]) -> Any:
    """What of an identity decides the numbers; a tokenizer or a log beside the weights does not."""
    files = identity.get("files")
    if files is None:
        return identity
    kept = {name: value for name, value in files.items() if name.endswith((".safetensors", ".bin"))}
    return kept | {"base": identity.get("base")}
