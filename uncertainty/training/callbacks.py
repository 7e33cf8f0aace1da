"""What a training run writes into its folder while it trains: everything logged, and the probes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from accelerate import PartialState
from transformers import TrainerCallback

from uncertainty.prepare import Prepared
from uncertainty.training.folder import TrainFolder
from uncertainty.training.probe import Probe, open_probe, probe_folder, run_probe
from uncertainty.training.settings import TrainSettings


def folder_callbacks(
    settings: TrainSettings, prepared: Prepared, model: Any, folder: TrainFolder, state: PartialState
) -> list[TrainerCallback]:
    """The callbacks that write into the run folder; only those of the first process do.

    Args:
        settings: of the run.
        prepared: its data.
        model: in training, unwrapped.
        folder: of the run.
        state: of the processes.
    """
    own: list[TrainerCallback] = [_Metrics(folder)] if state.is_main_process else []
    if settings.probe:
        own.append(_Probes(settings, prepared, model, folder, state))
    return own


class _Metrics(TrainerCallback):
    """Everything that is logged, one line each, in ``metrics.jsonl``."""

    def __init__(self, folder: TrainFolder) -> None:
        self.folder = folder

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.folder.log({"step": state.global_step, **(logs or {})})


class _Probes(TrainerCallback):
    """Scores a fixed set of training examples as a table, before, while and after training."""

    def __init__(
        self, settings: TrainSettings, prepared: Prepared, model: Any, folder: TrainFolder, state: PartialState
    ) -> None:
        count = min(settings.probe, len(prepared.examples))
        chosen = np.linspace(0, len(prepared.examples) - 1, count).round().astype(int).tolist()
        self.prepared = replace(
            prepared,
            settings=replace(prepared.settings, passes=settings.probe_passes, seed=settings.seed),
            examples=[prepared.examples[i] for i in chosen],
            rows=[prepared.rows[i] for i in chosen],
            skipped=[],
        )
        self.every, self.model, self.folder, self.state = settings.probe_every, model, folder, state
        self.probe: Probe | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._score(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = self.every or max(1, state.max_steps // 2)
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            self._score(state.global_step)

    def _score(self, step: int) -> None:
        if self.state.is_main_process:
            if self.probe is None:
                run, name = self.folder.info.fingerprint, self.folder.path.name
                self.probe = open_probe(self.model, self.prepared, run=run, name=name)
            run_probe(self.probe, step, probe_folder(self.folder.path, step))
        self.state.wait_for_everyone()
