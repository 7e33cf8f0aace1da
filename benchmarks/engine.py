"""The engine against the loops that a user writes by hand: time and peak memory, same model, same data, one run.

    python benchmarks/engine.py                       two Llama-shaped models on this machine's CPU
    python benchmarks/engine.py --device cuda         Llama-3.2-1B's shape in bfloat16 on a GPU
    python benchmarks/engine.py --save NAME           also writes benchmarks/results/NAME.json and .md

Every variant runs in a process of its own, so that its peak memory is its own; variants take turns (A B C A B C ...),
so that a machine that slows down slows all of them. Both sides score the same completion tokens with attention
dropout 0.1 and as many passes; the time is that of scoring, model and libraries already loaded. Weights are random:
speed and memory depend on shapes only. Tables give medians, and ratios of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the script's neighbours, wherever it is started from
import machine  # noqa: E402
import networks  # noqa: E402

ENGINE = "engine"


@dataclass(frozen=True)
class Case:
    """A model's shape, the texts to score, and the batch sizes that the hand-written loop is tried at."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    prompt: int
    completion: int
    examples: int
    batch_sizes: tuple[int, ...]
    dtype: str = "float32"


CASES = {
    "V=32k": Case(32_000, 288, 768, 6, 6, 6, 60, 65, 2, (1, 2)),
    "V=128k": Case(128_256, 288, 768, 2, 6, 6, 20, 22, 2, (1, 2)),
}
CUDA_CASES = {"Llama-3.2-1B": Case(128_256, 2048, 8192, 16, 32, 8, 60, 65, 64, (1, 8, 32, 64), "bfloat16")}


def main() -> int:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="runs of every variant (default: 3)")
    parser.add_argument("--no-stack", action="store_true", help="leave out the loop that keeps everything")
    parser.add_argument("--save", help="name of the files to write to benchmarks/results")
    parser.add_argument("--worker", nargs=2, metavar=("CASE", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(*options.worker, device=options.device, passes=options.passes)))
        return 0
    cases = CASES if options.device == "cpu" else CUDA_CASES
    results = {name: compare(name, case, options) for name, case in cases.items()}
    text = "\n\n".join(table(name, cases[name], results[name], options.passes) for name in cases)
    print(text)
    if options.save:
        save(options, cases, results, text)
    return 0


def variants(case: Case, stack: bool) -> list[str]:
    """Names of what is compared: the engine, running sums at each batch size, and the stacking loop.

    ``-all`` is the loop as scripts often have it: every position measured, the completion picked from the result.
    """
    sums = [f"running_sums-{size}" for size in case.batch_sizes]
    return [ENGINE, *sums, "running_sums-1-all", *(["stack-1"] if stack else [])]


def compare(name: str, case: Case, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Run every variant in turn, ``rounds`` times."""
    names = variants(case, not options.no_stack)
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in names}
    for number in range(options.rounds):
        for variant in names:
            print(f"{name}: round {number + 1} of {options.rounds}, {variant}", file=sys.stderr)
            command = [sys.executable, __file__, "--worker", name, variant]
            command += ["--device", options.device, "--passes", str(options.passes)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(done.stderr.strip().splitlines()[-1:], file=sys.stderr)
                found[variant].append({"seconds": float("nan"), "peak_bytes": float("nan")})
            else:
                found[variant].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def measure(case_name: str, variant: str, *, device: str, passes: int) -> dict[str, float]:
    """Score the case's examples once with one variant; seconds and peak bytes above the loaded model."""
    import torch

    case = (CASES | CUDA_CASES)[case_name]
    model = networks.llama(case, device)
    ids, scored = texts(case)
    work = (
        engine_work(model, ids, scored, passes) if variant == ENGINE else hand_work(variant, model, ids, scored, passes)
    )
    with torch.inference_mode():  # the first forward of a process sets up kernels and thread pools
        model(input_ids=torch.tensor([ids[0][:8]], device=model.device), use_cache=False)
    with machine.peak_memory(model.device.type) as peak:
        started = time.perf_counter()
        work()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_bytes": peak.bytes}


def texts(case: Case) -> tuple[list[list[int]], list[list[bool]]]:
    """Random token ids of slightly different lengths, and which of them are completion."""
    import torch

    generator = torch.Generator().manual_seed(0)
    ids, scored = [], []
    for number in range(case.examples):
        length = case.prompt + case.completion - number % 4
        ids.append(torch.randint(3, case.vocabulary, (length,), generator=generator).tolist())
        scored.append([position >= case.prompt for position in range(length)])
    return ids, scored


def engine_work(model: Any, ids: list[list[int]], scored: list[list[bool]], passes: int) -> Callable[[], Any]:
    """The engine as ``unc-score`` drives it."""
    from uncertainty.budget import Budget
    from uncertainty.data.batches import collate, plan_batches
    from uncertainty.data.render import Example
    from uncertainty.engine import score
    from uncertainty.families.dropout import McDropout

    rows = [
        Example(str(i), row, flags, [0 if f else -1 for f in flags], False, [])
        for i, (row, flags) in enumerate(zip(ids, scored, strict=True))
    ]
    budget = Budget.for_device(model.device)
    groups = plan_batches([len(row) for row in ids], tokens_per_batch=budget.tokens_per_batch, passes=passes)
    return lambda: list(
        score(model, (collate([rows[i] for i in g]) for g in groups), McDropout(), passes=passes, budget=budget)
    )


def hand_work(
    variant: str, model: Any, ids: list[list[int]], scored: list[list[bool]], passes: int
) -> Callable[[], Any]:
    """One of the loops of ``hand_written.py`` at a batch size."""
    import hand_written

    name, size, *everywhere = variant.split("-")
    loop = getattr(hand_written, name)
    picked = None if everywhere else scored
    return lambda: loop(model, ids, batch_size=int(size), passes=passes, scored=picked)


def table(name: str, case: Case, found: dict[str, list[dict[str, float]]], passes: int) -> str:
    """Medians of one case, and how many times the engine's each is."""
    median = {
        variant: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for variant, runs in found.items()
    }
    base = median[ENGINE]
    lines = [
        f"{name}: {case.layers} layers, width {case.width}, {case.dtype}, {case.examples} examples of about "
        f"{case.prompt} + {case.completion} tokens, {passes} passes",
        "",
        "| variant | seconds, median (min to max) | times the engine's | peak MB above the model | times the engine's |",  # noqa: E501
        "|---|---|---|---|---|",
    ]
    for variant, runs in found.items():
        times, row = [run["seconds"] for run in runs], median[variant]
        lines.append(
            f"| {variant} | {row['seconds']:.2f} ({min(times):.2f} to {max(times):.2f}) "
            f"| {row['seconds'] / base['seconds']:.2f} | {row['peak_bytes'] / 1e6:.0f} "
            f"| {row['peak_bytes'] / base['peak_bytes']:.1f} |"
        )
    return "\n".join(lines)


def save(options: argparse.Namespace, cases: dict[str, Case], results: dict[str, Any], text: str) -> None:
    """Write the figures with hardware, versions and date."""
    where = machine.facts(options.device, ("torch", "transformers", "numpy"))
    where |= {"passes": options.passes, "rounds": options.rounds}
    content = {"where": where, "cases": {name: vars(case) for name, case in cases.items()}, "results": results}
    machine.save(options.save, "benchmarks/engine.py", content, text)


if __name__ == "__main__":
    sys.exit(main())
