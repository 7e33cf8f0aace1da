"""A training run of a second: a tiny model, nine short questions, five steps; and what such a run leaves.

``python training_runs.py OBJECTIVE FOLDER FIRST STEP`` kills it at the FIRST, FIRST + STEP, ... system call that
changes the disk until a run comes through, gives the same command again each time, and prints the number of points;
the first difference from an uninterrupted run is an error.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from conftest import save_tiny
from kill_run import die_at, in_a_fork

from uncertainty.training.run import TrainedRun, train_model

torch.set_num_threads(1)

# Five steps of four of nine examples: the third is short, the fourth begins the second epoch.
SMALL: dict[str, Any] = {
    "device": "cpu",
    "batch": 4,
    "micro_batch": 2,
    "epochs": 2.0,
    "max_steps": 5,
    "save_every": 1,
    "log_every": 2,
    "lora_rank": 4,
    "learning_rate": 1e-2,
}


def write_questions(path: Path, count: int = 9, first: int = 0) -> Path:
    """Questions with short answers of different lengths, as JSON lines."""
    rows = [
        {"id": f"q{i}", "question": f"{i} + {i} = ?", "answer": f"{i + i}" + " and more" * (i % 3)}
        for i in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_inputs(folder: Path) -> tuple[Path, Path, Path]:
    """A tiny model, data to train on, data to evaluate on."""
    data = write_questions(folder / "train.jsonl"), write_questions(folder / "held_out.jsonl", 3, 20)
    return save_tiny("llama", folder), *data


def train(inputs: tuple[Path, Path, Path], out: Path, **changes: Any) -> TrainedRun:
    """The small run, with some settings changed."""
    model, data, held_out = inputs
    settings = SMALL | {"eval_data": (f"held={held_out}",)} | changes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train_model(model, data, out, **settings)


def result(run: Path) -> dict[str, bytes]:
    """What must not depend on interruptions: the result, the record, what was measured; of the reference too."""
    names = [p for p in sorted(run.rglob("*")) if p.is_file() and {"adapter", "model"} & {*p.relative_to(run).parts}]
    names += sorted(run.rglob("curriculum.jsonl"))
    found = {str(path.relative_to(run)): path.read_bytes() for path in names}
    for path in sorted(run.rglob("metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        # The Trainer's mean of the training loss begins anew where a run goes on, and so do its times.
        kept = [{k: v for k, v in row.items() if k != "loss"} for row in rows if "train_runtime" not in row]
        found[str(path.relative_to(run))] = json.dumps(kept).encode()
    return found


def main(objective: str, folder: Path, first: int, step: int) -> int:
    inputs = make_inputs(folder)
    run = partial(train, inputs, objective=objective, save_every=2)
    whole, out = folder / "whole", folder / "run"
    assert in_a_fork(lambda: run(whole) and None) == 0
    expected = result(whole)

    def killed(point: int) -> None:
        die_at(point)
        run(out)

    def resumed() -> None:
        run(out)
        found = result(out)
        different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        assert not different, f"{different} differ after a kill"

    for count, point in enumerate(itertools.count(first, step)):
        shutil.rmtree(out, ignore_errors=True)
        status = in_a_fork(partial(killed, point))
        if status == 0:
            print(f"{count} points")
            return 0
        if status != -signal.SIGKILL or in_a_fork(resumed):
            print(f"{objective}: wrong after a kill at call {point} (status {status})")
            return 1
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
