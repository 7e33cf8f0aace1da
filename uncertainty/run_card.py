"""The card of a scoring run: what decides its numbers, what describes it, and what it took."""

from __future__ import annotations

import hashlib
import platform
import resource
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from uncertainty.budget import Budget
from uncertainty.measure_columns import columns_of, parse_measures
from uncertainty.model import LoadedModel
from uncertainty.prepare import Prepared
from uncertainty.provenance import git_state, package_versions

PACKAGES = ("token-uncertainty", "torch", "transformers", "tokenizers", "numpy", "pyarrow")


def deciding(
    prepared: Prepared, loaded: LoadedModel, report: dict[str, Any], budget: Budget, ends: Sequence[int]
) -> dict[str, Any]:
    """The settings that decide the numbers; a folder is resumed only where all of them agree."""
    settings, source, model = prepared.settings, prepared.source, loaded.record
    # Masks of the stock kernels depend on which rows share a forward, keyed ones do not.
    plan = {} if settings.rng == "keyed" else {"tokens_per_batch": budget.tokens_per_batch}
    # Named only where it is set: a run from before there was a target goes on under its old fingerprint.
    target = {} if settings.target is None else {"target_se": settings.target.record() | {"looks": ends}}
    names = ("id_column", "limit", "keep_columns", "passes", "seed", "vocabulary", "shard_examples")
    ways = (("weights_sha256",), ("files",), ("name", "revision"))
    identity = {name: model[name] for name in next(way for way in ways if way[0] in model)}
    return {
        "model": {
            **identity,
            **{name: model[name] for name in ("architecture", "parameters", "dtype", "attention")},
            "device": model["device"].split(":")[0],
        },
        "data": {
            **({"files": source.files} if source.files else {"name": source.origin, "revision": source.revision}),
            "split": settings.split,
            "format": source.format,
            "template": {"name": prepared.template.name, "sha256": prepared.template.sha256},
            "max_length": prepared.max_length,
            "sample_by": settings.sample_by,
        },
        **{name: getattr(settings, name) for name in names},
        "measures": list(columns_of(parse_measures(settings.measures))),
        **plan,
        **target,
        "family": report,
        "versions": package_versions(PACKAGES),
    }


def identified_by_weights(loaded: LoadedModel) -> LoadedModel:
    """The caller's own model, identified by what is in memory: its name and files say nothing of later training."""
    digest = hashlib.sha256()
    for name, tensor in loaded.model.state_dict().items():
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return replace(loaded, record={**loaded.record, "weights_sha256": digest.hexdigest()})


def description(prepared: Prepared, loaded: LoadedModel, command: Sequence[str] | None) -> dict[str, Any]:
    """What describes the run without deciding its numbers; the same at every resume on one machine."""
    return {
        "model": loaded.record,
        "dataset": {"origin": prepared.source.origin, "kind": prepared.source.kind, "columns": prepared.source.columns},
        "template": asdict(prepared.template),
        "skipped": dict(Counter(skip["reason"] for skip in prepared.skipped)),
        "resolved": asdict(prepared.settings),
        "command": None if command is None else list(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": git_state(),
    }


def timings(model: Any, budget: Budget, seconds: float, tokens: int, estimate: dict[str, float]) -> dict[str, Any]:
    """What a run took, on what, beside what was expected of it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, kibibytes here
    cuda = model.device.type == "cuda"
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "peak_resident_bytes": usage.ru_maxrss * scale,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "tokens_per_batch": budget.tokens_per_batch,
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "estimate": estimate,
    }
