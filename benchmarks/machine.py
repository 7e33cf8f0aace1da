"""The machine that a benchmark runs on: what it is, how much memory a piece of work took, and where figures go."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Peak:
    """Bytes above what was in use before the work."""

    bytes: int = 0


@contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """The highest memory of the work inside, above what was there before: of the GPU, or of this process."""
    import torch

    peak = Peak()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak that came before
    before = torch.cuda.memory_allocated() if device == "cuda" else _memory("VmRSS")
    yield peak
    peak.bytes = (torch.cuda.max_memory_allocated() if device == "cuda" else _memory("VmHWM")) - before


def facts(device: str, packages: Sequence[str]) -> dict[str, Any]:
    """Date, hardware and versions, for beside the figures."""
    import torch

    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device != "cpu" else _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def save(name: str, script: str, content: dict[str, Any], text: str) -> None:
    """Write ``results/NAME.json`` and ``results/NAME.md``; ``content["where"]`` are the facts."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    lines = "\n".join(f"- {key}: {value}" for key, value in content["where"].items())
    (RESULTS / f"{name}.md").write_text(f"# {script}\n\n{lines}\n\n{text}\n")


def _memory(name: str) -> int:
    """A line of this process's status in bytes: VmRSS is what is resident now, VmHWM its highest so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
