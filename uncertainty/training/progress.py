"""Progress of a training run on a terminal, or as plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

QUIET_SECONDS = 30.0  # between two plain lines
SHOWN = ("loss", "fraction_kept", "nll_rest", "kl_rest")  # of what is logged, beside the losses of held-out sets


@contextmanager
def progress_callback(say: Callable[[str], None]) -> Iterator[TrainerCallback]:
    """A bar where stderr is a terminal; else a line now and then, and one for every evaluation.

    Args:
        say: takes the lines.
    """
    shown = _Bar() if sys.stderr.isatty() else _Lines(say)
    try:
        yield shown
    finally:
        shown.close()  # an interrupted bar must not stand before the next line


class _Lines(TrainerCallback):
    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.shown = self.started = time.monotonic()
        self.first = 0

    def close(self) -> None:
        """Nothing is left to do."""

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
        shown = _shown(logs)
        text = ", ".join(f"{name.removeprefix('eval_')} {value:.4g}" for name, value in shown.items())
        until = f", {left:.0f} s left" if done and not evaluated else ""
        self.say(f"step {state.global_step:,} of {state.max_steps:,}: {text}{until}")


class _Bar(TrainerCallback):
    def __init__(self) -> None:
        self.bar: Any = None

    def close(self) -> None:
        """Leave the bar as it stands, and its line; may be called again."""
        if self.bar is not None:
            self.bar.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from tqdm import tqdm

        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, unit="step", file=sys.stderr, dynamic_ncols=True
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and _shown(logs):
            self.bar.set_postfix({name.removeprefix("eval_"): f"{value:.4g}" for name, value in _shown(logs).items()})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()


def _shown(logs: Any) -> dict[str, float]:
    held_out = (name for name in logs if name.startswith("eval_") and name.endswith("_loss"))
    return {name: logs[name] for name in (*SHOWN, *held_out) if name in logs}
