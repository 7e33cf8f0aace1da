"""What a training run leaves: the trained adapter or model under its final name, and the totals of its card."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState

from uncertainty.errors import InputError
from uncertainty.trainer import TokenTrainer
from uncertainty.training.folder import TrainFolder
from uncertainty.training.processes import on_main, smallest
from uncertainty.training.settings import TrainSettings
from uncertainty.training.sharding import own_part


def put_result(
    trainer: TokenTrainer, settings: TrainSettings, folder: TrainFolder, state: PartialState
) -> dict[str, Any]:
    """Save the trained adapter or model under its final name.

    Raises:
        InputError: it is not finite: the last step went wrong, after its loss was looked at.
    """
    model: Any = trainer.model
    trained = [own_part(weight) for weight in model.parameters() if weight.requires_grad]
    if not smallest(state, int(all(bool(torch.isfinite(weight).all()) for weight in trained))):
        raise InputError("the trained weights are not finite; train again with a lower --learning-rate")
    name = "model" if settings.tuning == "full" else "adapter"
    staged = folder.path / ".tmp" / name
    if state.is_main_process:
        folder.staging(name)
    state.wait_for_everyone()
    trainer.save_model(str(staged))
    state.wait_for_everyone()

    def put() -> None:
        (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle, with paths of this machine
        if name == "adapter":
            (staged / "README.md").unlink(missing_ok=True)  # peft's form, of which nothing is filled in
        folder.put(name, staged)

    on_main(state, put)
    evaluated = [row for row in trainer.state.log_history if any(key.startswith("eval_") for key in row)]
    return {
        "result": name,
        "steps": trainer.state.global_step,
        "examples": len(trainer.examples),
        "final": {k: v for k, v in evaluated[-1].items() if k.startswith("eval_")} if evaluated else {},
        "reference": None if trainer.recipe.reference is None else trainer.recipe.reference.record,
    }
