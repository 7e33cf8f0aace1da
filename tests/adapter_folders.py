"""Saved adapters for tests: a tiny base folder, and adapters on it whose updates are far from zero."""

from pathlib import Path
from typing import Any

import torch

from uncertainty.lora import LoraSettings, attach_lora

SMALL = LoraSettings(rank=4, alpha=8)


def bare_model(base: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The base's transformers model, with eager attention where it caps it."""
    from uncertainty.loading import load_model

    return load_model(base, device="cpu", dtype=str(dtype).removeprefix("torch.")).model


def trained_looking(base: Path, *, seed: int = 0, settings: LoraSettings = SMALL, dtype: Any = torch.float32) -> Any:
    """A PeftModel on ``base`` in eval mode whose adapter is random, as if it had been trained."""
    model = attach_lora(bare_model(base, dtype), settings, seed=seed)
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=drawn)
    return model.eval()


def save_adapter(base: Path, folder: Path, **options: Any) -> Path:
    """Save the adapter of ``trained_looking`` alone, as peft does."""
    trained_looking(base, **options).save_pretrained(folder)
    return folder
