"""Families on the tiny Llama for tests: its saved folder, adapters on it and checkpoints beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from adapter_folders import save_adapter
from conftest import save_tiny

from uncertainty.families.adapter_ensemble import AdapterEnsemble, adapter_members
from uncertainty.families.checkpoint_ensemble import CheckpointEnsemble, checkpoint_members
from uncertainty.families.dropout import McDropout
from uncertainty.families.weight_noise import WeightNoise
from uncertainty.loading import load_model


def save_members(folder: Path) -> Path:
    """Save a base, three adapters on it and three checkpoints, of which the last has the base's vocabulary head."""
    base = save_tiny("llama", folder / "base")
    for seed in range(3):
        save_adapter(base, folder / f"adapter-{seed}", seed=seed)
        save_checkpoint(base, folder / f"checkpoint-{seed}", seed=seed, head=seed < 2)
    return base


def save_checkpoint(base: Path, folder: Path, *, seed: int, head: bool = True) -> Path:
    """The base with other random numbers added to its weights, as after some more training."""
    loaded = load_model(base, device="cpu")
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if head or not name.startswith("lm_head"):
                parameter.add_(torch.randn(parameter.shape, generator=drawn), alpha=0.05)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def family_named(name: str, base: Path) -> Any:
    """One of ``CASES``."""
    beside = [str(base.parents[1] / f"{name.partition('-')[0]}-{k}") for k in range(3)]
    if name == "adapter-ensemble":
        return AdapterEnsemble(adapter_members(beside, str(base)))
    if name == "checkpoint-ensemble":
        return CheckpointEnsemble(checkpoint_members(beside, str(base)))
    return SEEDED[name]


SEEDED = {
    "dropout": McDropout(0.2),
    "dropout, balanced": McDropout(0.2, masks="balanced"),
    "dropout everywhere": McDropout(0.2, "native,residual,embedding,mlp"),
    "weight-noise": WeightNoise(0.2),
    "weight-noise, low-rank": WeightNoise(0.2, noise="low-rank:3"),
}
CASES = (*SEEDED, "adapter-ensemble", "checkpoint-ensemble")
PASSES = 3
