"""Progress of a training run on a terminal, or as plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

QUIET_SECONDS = 30.0  # between two plain lines


def progress_callback(say: Callable[[str], None]) -> TrainerCallback:
    """A bar where stderr is a terminal; else a line now and then, and one for every evaluation."""
    return _Bar() if sys.stderr.isatty() else _Lines(say)


class _Lines(TrainerCallback):
    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.shown = self.started = time.monotonic()
        self.first = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.shown = self.started = time.monotonic()
        self.first = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "train_runtime" in logs:
            return
        evaluated = any(name.startswith("eval_") for name in logs)
        if not evaluated and time.monotonic() - self.shown < QUIET_SECONDS:
            return
        self.shown = time.monotonic()
        done = state.global_step - self.first
        left = (time.monotonic() - self.started) * (state.max_steps - state.global_step) / done if done else 0.0
        shown = {name: value for name, value in logs.items() if name in SHOWN or name.endswith("_loss")}
        text = ", ".join(f"{name.removeprefix('eval_')} {value:.4g}" for name, value in shown.items())
        until = f", {left:.0f} s left" if done and not evaluated else ""
        self.say(f"step {state.global_step:,} of {state.max_steps:,}: {text}{until}")


class _Bar(TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from tqdm import tqdm

        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, unit="step", file=sys.stderr, dynamic_ncols=True
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        shown = {name: value for name, value in (logs or {}).items() if name in SHOWN or name.endswith("_loss")}
        if shown:
            self.bar.set_postfix({name.removeprefix("eval_"): f"{value:.4g}" for name, value in shown.items()})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


SHOWN = ("loss", "fraction_kept", "nll_rest", "kl_rest")
