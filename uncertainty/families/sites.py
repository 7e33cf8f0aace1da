"""Dropout sites: where a model can drop units, found in its modules and by watching one tiny forward pass.

A *site* is a module, where its rate is kept, and the gate that switches it on. Decoders of today keep their attention
dropout as a number on the attention module, and have no ``nn.Dropout`` at all; ``model.train()`` and "switch every
nn.Dropout on" both give identical passes there. So a site is searched for in three places: attention modules,
``nn.Dropout`` modules, and calls of ``torch.nn.functional.dropout`` made by other modules. What a model lacks can be
*injected* by hooks: dropout on the output of a residual branch, on the embedding, or on the input of an MLP's last
projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from uncertainty.errors import InputError

Kind = Literal["attention", "residual", "embedding", "mlp", "adapter", "other"]
Mechanism = Literal["attention", "module", "functional", "output", "input"]
KINDS = ("attention", "residual", "embedding", "mlp")  # those a user may ask for by name
NATIVE = "native"

ATTENTION_RATES = ("attention_dropout", "attn_dropout", "dropout")  # where attention modules keep their rate
DROPOUT_KINDS: dict[str, Kind] = {  # the names that transformers gives nn.Dropout modules
    "resid_dropout": "residual",
    "resid_attn_dropout": "residual",
    "resid_mlp_dropout": "residual",
    "post_attention_dropout": "residual",
    "post_mlp_dropout": "residual",
    "dropout": "residual",
    "drop": "embedding",
    "emb_dropout": "embedding",
    "embd_dropout": "embedding",
    "embed_dropout": "embedding",
}
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2")
LAST_PROJECTIONS = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "w2", "fc_out")
POST_NORMS = (
    "post_attention_layernorm",
    "post_feedforward_layernorm",
)  # both present: norms on the branch outputs


@dataclass(frozen=True)
class Site:
    """One place where dropout acts.

    Attributes:
        name: dotted module name, with ``#i`` for the i-th functional call and ``:out`` / ``:in`` for injected ones.
        kind: attention, residual, embedding, mlp, adapter (a LoRA's own dropout) or other.
        origin: ``native`` (the architecture has it) or ``injected``.
        mechanism: how it is reached.
        native_rate: the rate the model was loaded with; None for injected sites.
        module: the module that is hooked or gated.
        rate_name: the attribute that holds an attention module's rate.
    """

    name: str
    kind: Kind
    origin: Literal["native", "injected"]
    mechanism: Mechanism
    native_rate: float | None
    module: nn.Module
    rate_name: str = ""

    def record(self, rate: float) -> dict[str, Any]:
        """The site as a run's record has it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "origin": self.origin,
            "native_rate": self.native_rate,
            "rate": rate,
        }


def plan_sites(model: Any, wanted: str | Sequence[str]) -> list[Site]:
    """The sites that ``wanted`` names, in the order of the model's modules.

    Args:
        model: a transformers causal language model.
        wanted: ``native`` (every site the architecture has), or one or several of ``KINDS`` (comma separated or a
            sequence); a kind that the architecture lacks is injected.

    Raises:
        InputError: an unknown name, no site at all, or a kind that cannot be injected into this architecture; lists
            what was looked for and what was found.
    """
    names = parse_kinds(wanted)
    native = native_sites(model)
    if names == (NATIVE,):
        if not native:
            raise InputError(
                f"{type(model).__name__} has no dropout site (looked for attention modules with "
                f"{' / '.join(ATTENTION_RATES)}, nn.Dropout modules, functional dropout); every pass would be the "
                "same. Inject dropout with --sites attention, residual, embedding or mlp"
            )
        return native
    sites: list[Site] = []
    for name in names:
        own = native if name == NATIVE else [site for site in native if site.kind == name]
        found = own or INJECTORS[name](model)
        sites += [site for site in found if site.name not in {known.name for known in sites}]
    return sites


def parse_kinds(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """``"attention,mlp"`` or a sequence -> a tuple of known names.

    Raises:
        InputError: an unknown name or none.
    """
    names = tuple(n.strip() for n in (wanted.split(",") if isinstance(wanted, str) else wanted) if n.strip())
    unknown = [name for name in names if name not in (NATIVE, *KINDS)]
    if unknown or not names:
        what = f"--sites {unknown[0]} is not known" if unknown else "--sites names no site"
        raise InputError(f"{what}; choose native, or one or several of {', '.join(KINDS)} (comma separated)")
    return names


def native_sites(model: Any) -> list[Site]:
    """Every dropout site that the architecture has, whatever its rate is set to."""
    attention = attention_sites(model)
    holders = {id(getattr(site.module, site.rate_name)) for site in attention}
    modules = [
        Site(name, _dropout_kind(name), "native", "module", float(module.p), module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout) and id(module) not in holders
    ]
    return attention + modules + functional_sites(model, attention)


def attention_sites(model: Any) -> list[Site]:
    """The attention modules that keep a dropout rate."""
    sites = []
    for name, module in model.named_modules():
        if not type(module).__name__.endswith("Attention"):
            continue
        for rate_name in ATTENTION_RATES:
            holder = getattr(module, rate_name, None)
            if isinstance(holder, (float, int, nn.Dropout)):
                rate = float(holder.p if isinstance(holder, nn.Dropout) else holder)
                sites.append(Site(name, "attention", "native", "attention", rate, module, rate_name))
                break
    return sites


def functional_sites(model: Any, attention: Sequence[Site]) -> list[Site]:
    """Calls of ``torch.nn.functional.dropout`` outside attention and ``nn.Dropout``, seen in one tiny forward."""
    inside = {id(site.module) for site in attention}
    names = {id(module): name for name, module in model.named_modules()}
    seen: list[tuple[nn.Module, int, float]] = []

    def watch(owner: nn.Module, ordinal: int, x: torch.Tensor, rate: float) -> torch.Tensor:
        if id(owner) not in inside and not isinstance(owner, nn.Dropout):
            seen.append((owner, ordinal, rate))
        return x

    with eval_mode(model), functional_dropout(list(model.modules()), watch), torch.no_grad():
        model.get_decoder()(input_ids=_two_tokens(model), use_cache=False)
    return [
        Site(f"{names[id(owner)]}#{ordinal}", "residual", "native", "functional", rate, owner)
        for owner, ordinal, rate in seen
    ]


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module's training flag off; each as it was afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def functional_dropout(
    owners: Sequence[nn.Module], replace: Callable[[nn.Module, int, torch.Tensor, float], torch.Tensor]
) -> Iterator[None]:
    """Hand every ``F.dropout(x, p)`` made inside ``owners`` to ``replace(owner, ordinal, x, p)``.

    ``ordinal`` counts the calls of one owner within one of its forward passes.
    """
    stack: list[list[Any]] = []

    def push(module: nn.Module, args: Any) -> None:
        stack.append([module, 0])

    def pop(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()

    class Intercept(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is nn.functional.dropout and stack:
                bound = dict(zip(("input", "p"), args, strict=False)) | (kwargs or {})
                owner, ordinal = stack[-1]
                stack[-1][1] += 1
                return replace(owner, ordinal, bound["input"], float(bound.get("p", 0.5)))
            return func(*args, **(kwargs or {}))

    handles = [m.register_forward_pre_hook(push, prepend=True) for m in owners]
    handles += [m.register_forward_hook(pop, always_call=True) for m in owners]
    try:
        with Intercept():
            yield
    finally:
        for handle in handles:
            handle.remove()


def inject_attention(model: Any) -> list[Site]:
    """Attention dropout needs an attention module; there is no hook inside one."""
    raise InputError(
        f"{type(model).__name__} has no attention module with a dropout rate (looked for modules named *Attention "
        f"with {' / '.join(ATTENTION_RATES)}); choose other --sites"
    )


def inject_residual(model: Any) -> list[Site]:
    """Dropout on what each attention and MLP branch adds to the residual stream."""
    sites = []
    for layer_name, layer in decoder_layers(model):
        children = dict(layer.named_children())
        if all(name in children for name in POST_NORMS):
            branches = list(POST_NORMS)
        else:
            attention = [n for n, m in children.items() if type(m).__name__.endswith("Attention")]
            mlp = [n for n in MLP_NAMES if n in children][:1]
            branches = attention + mlp
            if len(branches) < 2:
                raise _cannot("residual", layer, "an attention child and one of " + ", ".join(MLP_NAMES))
        sites += [_output_site(f"{layer_name}.{n}", "residual", children[n]) for n in branches]
    return sites


def inject_embedding(model: Any) -> list[Site]:
    """Dropout on the token embeddings."""
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    return [_output_site(name, "embedding", embedding)]


def inject_mlp(model: Any) -> list[Site]:
    """Dropout on the hidden activation of every MLP, the input of its last projection."""
    sites = []
    for layer_name, layer in decoder_layers(model):
        found = [
            (name, module)
            for name, module in layer.named_modules()
            if name.split(".")[-1] in LAST_PROJECTIONS and "attn" not in name and "attention" not in name
        ]
        if not found:
            raise _cannot("mlp", layer, "a projection named " + ", ".join(LAST_PROJECTIONS))
        sites += [Site(f"{layer_name}.{n}:in", "mlp", "injected", "input", None, m) for n, m in found]
    return sites


INJECTORS: dict[str, Callable[[Any], list[Site]]] = {
    "attention": inject_attention,
    "residual": inject_residual,
    "embedding": inject_embedding,
    "mlp": inject_mlp,
}


def decoder_layers(model: Any) -> list[tuple[str, nn.Module]]:
    """The decoder's layers, by name.

    Raises:
        InputError: no list of layers as long as the configuration says.
    """
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return [(f"{name}.{i}", layer) for i, layer in enumerate(module)]
    raise InputError(f"{type(model).__name__} has no list of {count} layers to inject dropout into; use --sites native")


def _output_site(name: str, kind: Kind, module: nn.Module) -> Site:
    return Site(f"{name}:out", kind, "injected", "output", None, module)


def _dropout_kind(name: str) -> Kind:
    if "lora_dropout" in name:
        return "adapter"
    return DROPOUT_KINDS.get(name.split(".")[-1], "other")


def _cannot(kind: str, layer: nn.Module, wanted: str) -> InputError:
    children = ", ".join(name for name, _ in layer.named_children())
    return InputError(
        f"--sites {kind} cannot be injected into {type(layer).__name__}: it has no {wanted} (it has {children})"
    )


def _two_tokens(model: Any) -> torch.Tensor:
    return torch.zeros(1, 2, dtype=torch.int64, device=model.get_input_embeddings().weight.device)
