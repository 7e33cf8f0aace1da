"""What a run is called in a figure or a table: its model and its data set, by names that say something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from uncertainty.scores import RunInfo

_FILES = (".jsonl", ".json", ".parquet", ".csv", ".txt")


def model_name(info: RunInfo) -> str:
    """The model's name: a hub id whole, of a path the last part."""
    return name_of(info.record.get("model")) or "unnamed"


def dataset_name(info: RunInfo) -> str:
    """The data set's name: a hub id whole, of a file its folder too (``gsm8k/test.jsonl``)."""
    return name_of(info.record.get("dataset")) or "unnamed"


def run_title(info: RunInfo) -> str:
    """Model and data set in one line; the embedded demo is ``demo``."""
    model, dataset = model_name(info), dataset_name(info)
    return model if model == dataset else f"{model} on {dataset}"


def name_of(record: Any) -> str:
    """The name in the record of a model or data set, or the bare name; empty where there is none."""
    name = str((record.get("name") or record.get("origin") or "") if isinstance(record, dict) else record or "")
    parts = Path(name).parts
    if parts[-3:] == ("uncertainty", "demo", "model") or parts[-4:-1] == ("uncertainty", "demo", "data"):
        return "demo"
    if not (Path(name).is_absolute() or name.startswith(".")):
        return name
    return "/".join(parts[-2:]) if Path(name).suffix in _FILES else parts[-1]
