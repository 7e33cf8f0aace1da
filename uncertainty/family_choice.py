"""The stochastic families that a user may choose: how each is built from the settings, and what is said of it.

A new family is a file in ``families/``, its name in ``settings.FAMILY_NAMES`` and its line in ``FAMILIES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from uncertainty import pass_groups
from uncertainty.engine import StochasticFamily
from uncertainty.errors import InputError
from uncertainty.families.adapter_ensemble import AdapterEnsemble, adapter_members
from uncertainty.families.checkpoint_ensemble import CheckpointEnsemble, check_tokenizers, checkpoint_members
from uncertainty.families.dropout import McDropout
from uncertainty.families.sites import parse_kinds
from uncertainty.families.weight_noise import WeightNoise
from uncertainty.settings import ScoreSettings

OPTIONS = ("rate", "sites", "rng", "masks", "noise", "members", "seed", "target_se")  # that not every family takes


@dataclass(frozen=True)
class Choice:
    """One family.

    Attributes:
        build: from the settings and, where it is loaded already, the model's tokenizer.
        options: those of ``OPTIONS`` that it takes.
        about: what it acts on, one line each, from the settings and the family's report.
        way: how its passes are drawn, in the line of the plan.
    """

    build: Callable[[ScoreSettings, Any], StochasticFamily]
    options: tuple[str, ...]
    about: Callable[[ScoreSettings, dict[str, Any]], list[str]]
    way: Callable[[ScoreSettings], str]


def family_of(settings: ScoreSettings, tokenizer: Any = None) -> StochasticFamily:
    """How members are drawn; known, and refused, before any data is read or model loaded.

    Args:
        settings: of the run.
        tokenizer: the model's; where it is given, members that bring tokenizers of their own are held against it.

    Raises:
        InputError: a rate, a site, an rng, masks or members that do not exist, or do not go together; an option that
            the family does not take.
    """
    choice = FAMILIES[settings.family]
    defaults = {field.name: field.default for field in fields(ScoreSettings)}
    for name in OPTIONS:
        value = getattr(settings, name)
        if name not in choice.options and value != defaults[name]:
            shown = ",".join(value) if isinstance(value, tuple) else value
            raise InputError(
                f"--{name.replace('_', '-')} {shown} is not an option of --family {settings.family}; leave it out"
            )
    return choice.build(settings, tokenizer)


def about_family(settings: ScoreSettings, report: dict[str, Any]) -> list[str]:
    """What the family acts on, one line each."""
    return FAMILIES[settings.family].about(settings, report)


def way_of_drawing(settings: ScoreSettings) -> str:
    """How passes are drawn, as in ``iid masks (keyed), seed 0``."""
    return FAMILIES[settings.family].way(settings)


def _dropout(settings: ScoreSettings, tokenizer: Any) -> McDropout:
    parse_kinds(settings.sites)
    # Whole groups are drawn, so with a target they are as small as they may be.
    small = settings.target is not None and settings.masks == "balanced"
    groups = pass_groups.most_groups(settings.passes, settings.rate) if small else None
    return McDropout(settings.rate, settings.sites, settings.rng, settings.masks, groups)  # type: ignore[arg-type]


def _adapters(settings: ScoreSettings, tokenizer: Any) -> AdapterEnsemble:
    found = adapter_members(settings.members, settings.model_source, allow_pickle=settings.allow_pickle)
    return AdapterEnsemble(found)


def _checkpoints(settings: ScoreSettings, tokenizer: Any) -> CheckpointEnsemble:
    trust = settings.trust_remote_code
    members = checkpoint_members(settings.members, settings.model_source, trust_remote_code=trust)
    if tokenizer is not None:
        check_tokenizers(members, tokenizer, trust_remote_code=trust)
    return CheckpointEnsemble(members, tokenizer, trust, settings.allow_pickle)


def _noise(settings: ScoreSettings, tokenizer: Any) -> WeightNoise:
    return WeightNoise(settings.rate, settings.sites, settings.noise)


def _about_dropout(settings: ScoreSettings, report: dict[str, Any]) -> list[str]:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for site in report["sites"]:
        groups.setdefault((site["kind"], site["origin"], site["native_rate"], site["rate"]), []).append(site["name"])
    lines = []
    for (kind, origin, native, rate), names in groups.items():
        was = "" if native is None else f", {native:g} as loaded"
        lines.append(f"dropout: {len(names)} {origin} {kind} sites at rate {rate:.6g}{was} (first: {names[0]})")
    return lines


def _about_adapters(settings: ScoreSettings, report: dict[str, Any]) -> list[str]:
    return [
        f"adapters: {len(report['members'])} members on one base, which is the deterministic pass "
        f"(first: {settings.members[0]})"
    ]


def _about_checkpoints(settings: ScoreSettings, report: dict[str, Any]) -> list[str]:
    return [
        f"checkpoints: {len(report['members'])} members, one at a time beside the model given, which is the "
        f"deterministic pass (first: {settings.members[0]})"
    ]


def _about_noise(settings: ScoreSettings, report: dict[str, Any]) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for site in report["sites"]:
        kinds.setdefault(site["kind"], []).append(site["name"])
    return [
        f"noise: {report['noise']} on the weights of {len(names)} {kind} layers, {report['rate']:g} of each one's root "
        f"mean square (first: {names[0]})"
        for kind, names in kinds.items()
    ]


FAMILIES: dict[str, Choice] = {
    "dropout": Choice(
        _dropout,
        ("rate", "sites", "rng", "masks", "seed", "target_se"),
        _about_dropout,
        lambda settings: f"{settings.masks} masks ({settings.rng}), seed {settings.seed}",
    ),
    "adapter-ensemble": Choice(_adapters, ("members",), _about_adapters, lambda settings: "an adapter each"),
    "checkpoint-ensemble": Choice(_checkpoints, ("members",), _about_checkpoints, lambda settings: "a model each"),
    "weight-noise": Choice(
        _noise,
        ("rate", "sites", "noise", "seed", "target_se"),
        _about_noise,
        lambda settings: f"noise shared by all examples, seed {settings.seed}",
    ),
}
