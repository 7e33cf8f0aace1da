"""The demo model's card, ``model/README.md``, written from the record of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_CARD: Final = """\
# Demo model

A Llama of {parameters:,} parameters ({layers} layers, width {hidden_size}, attention dropout {attention_dropout})
that speaks the generated language of `uncertainty/demo/language.py`, whose conditional distribution is known
at every token. It is here so that scores can be held against the truth; it knows nothing else.

Made by `{command}`: seed {seed}, {steps:,} steps of {conversations_per_batch} conversations,
each read once, AdamW, learning rate {learning_rate} with linear warm-up and decay, loss on completion tokens, attention
dropout on; {minutes:.0f} minutes on one core ({machine}, torch {torch}, transformers {transformers}).
All settings, versions and the loss curve: `training.json`. Generated data, no licence beyond the repository's.

Held-out conversations (`../data/held_out.jsonl`; no such opening question in training), dropout off, nats a token.
*True loss* is -log of the true probability of the tokens that stand there, the loss of a perfect model;
*excess* is the difference, which estimates the reducible error.

| tokens of class | n | loss | true loss | excess | true entropy |
|---|---:|---:|---:|---:|---:|
{rows}
"""


def model_card(record: Mapping[str, Any]) -> str:
    """Return the card as Markdown; ``record`` is the content of ``model/training.json``."""
    groups: Mapping[str, Mapping[str, float]] = record["held_out"]
    return _CARD.format(
        **record["settings"],
        **{name: record["versions"][name] for name in ("torch", "transformers")},
        command=record["command"],
        machine=record["machine"],
        parameters=record["parameters"],
        minutes=record["cpu_seconds"] / 60,
        rows="\n".join(_row(name, groups[name]) for name in sorted(groups, key=_order)),
    )


def _order(group: str) -> tuple[bool, bool, int, str]:
    """Put "all" first, classes next by name, then facts by how often they were told."""
    told = group.removeprefix("fact, told ").removesuffix(" times")
    is_bin = told != group
    return group != "all", is_bin, int(told.rstrip("+").split("-")[0]) if is_bin else 0, group


def _row(name: str, group: Mapping[str, float]) -> str:
    excess = group["loss"] - group["true_loss"]
    return (
        f"| {name} | {group['tokens']} | {group['loss']:.3f} | {group['true_loss']:.3f} "
        f"| {excess:.3f} | {group['true_entropy']:.3f} |"
    )
