"""A fixed set of examples scored in the middle of training, each time as a run folder like that of ``unc-score``.

``open_probe`` proves once that the live model can be scored, ``run_probe`` scores it as it is now. Neither changes
anything that training depends on: training flags, ``requires_grad``, gradients, buffers, and the random numbers of
torch, NumPy and Python are afterwards what they were, so that a training run with probes ends with the same weights
as one without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from uncertainty.errors import InputError
from uncertainty.families.sites import eval_mode
from uncertainty.model import adopt_model
from uncertainty.prepare import Prepared
from uncertainty.run_info import RunInfo
from uncertainty.scoring import Job, Progress, ScoredRun, open_job, run_job


@dataclass(frozen=True)
class Probe:
    """A live model and a fixed set of examples, checked and ready.

    Attributes:
        job: examples, model, family and budget; its ``info`` says nothing of any step yet.
        run: what identifies the training run, such as the fingerprint of its settings.
        name: what reports call the model.
    """

    job: Job
    run: str
    name: str


def open_probe(model: Any, prepared: Prepared, *, run: str, name: str) -> Probe:
    """Prove that a model in training can be scored on some examples; a few forward passes, once per training.

    Args:
        model: the live model, whole in this process and unwrapped (no DDP, no FSDP, and no forward that
            ``accelerate`` has put under autocast): a ``PeftModel``, whose active adapter is scored without being
            merged, or a causal language model. It may be in any mode.
        prepared: the examples and, in ``prepared.settings``, passes, rate, sites and seed of the members. The sites
            are those of the base model and, where ``sites`` is native and the adapter has dropout, the adapter's.
        run: what identifies the training run: a folder that another run's probe wrote is then refused.
        name: what reports call the model; the step is added to it.

    Raises:
        InputError: ``readout`` does not fit the model, or dropout does not act, see ``scoring.open_job``.
    """
    base = _base_of(model)
    with _left_as_it_was(base):
        loaded = adopt_model(base, prepared.tokenizer, name=f"{name}, in training")
        return Probe(open_job(prepared, loaded), run, name)


def run_probe(
    probe: Probe, step: int, folder: str | Path, *, on_progress: Callable[[Progress], None] | None = None
) -> ScoredRun:
    """Score the model as it is now into ``folder``, with the schema of ``unc-score``.

    A folder that this training run finished at this step is kept as it is, an unfinished one is completed: what is
    there was scored with the same weights, as far as resuming the training is exact.

    Args:
        probe: from ``open_probe``; the model in it has been trained since.
        step: optimizer steps done so far.
        folder: where to write, see ``probe_folder``.
        on_progress: called after every batch.

    Raises:
        InputError: the folder holds something else (another step, run or setting), or no result is finite.
    """
    with _left_as_it_was(probe.job.loaded.model):
        return run_job(replace(probe.job, info=_info(probe, step)), folder, on_progress=on_progress)


def probe_folder(run: str | Path, step: int) -> Path:
    """Where a training run keeps the probe of a step: names sort as the steps do.

    >>> str(probe_folder("out/a", 120))
    'out/a/probe/step-000120'
    """
    return Path(run) / "probe" / f"step-{step:06d}"


def _info(probe: Probe, step: int) -> RunInfo:
    """The job's information, of one step."""
    info, name = probe.job.info, f"{probe.name}, step {step}"
    settings = info.settings | {"training": {"run": probe.run, "step": step}}
    # The run and the step say which weights these are; a name may change when a folder moves.
    settings["model"] = {key: value for key, value in settings["model"].items() if key != "name"}
    return RunInfo(settings, info.record | {"model": info.record["model"] | {"name": name}})


def _base_of(model: Any) -> Any:
    """The causal language model itself; LoRA layers sit inside it and stay active.

    Raises:
        InputError: a wrapper that hides the model.
    """
    from peft import PeftModel  # heavy, and not needed for full fine-tuning

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        raise InputError(
            f"a probe needs the causal language model itself, not a {type(base).__name__}; unwrap it first"
        )
    return base


@contextmanager
def _left_as_it_was(model: Any) -> Iterator[None]:
    """Every training flag off inside, and no tensor of inference mode left behind."""
    with eval_mode(model):
        try:
            yield
        finally:
            for module in model.modules():
                for name, buffer in module._buffers.items():
                    # Some rotary embeddings make their frequencies anew in a forward pass; autograd refuses such
                    # tensors of inference mode in the next training step.
                    if buffer is not None and buffer.is_inference():
                        module._buffers[name] = buffer.clone()


__all__ = ["Probe", "open_probe", "probe_folder", "run_probe"]
