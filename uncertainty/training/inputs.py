"""What a training run reads before any weights are loaded, and what of it decides the result."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.model import file_hashes, is_local
from uncertainty.prepare import Prepared, prepare
from uncertainty.provenance import git_state, package_versions
from uncertainty.reference_shards import fingerprint_of, is_cache, read_header
from uncertainty.run_info import RunInfo
from uncertainty.scores import read_run
from uncertainty.training.settings import TrainSettings
from uncertainty.training.sharding import asks_for_fsdp
from uncertainty.training.windows import check_trainable

# Settings that decide no number: they may differ when a run is resumed.
VOLATILE = ("device", "keep_checkpoints", "report_to", "reference_cache", "save_every")
PACKAGES = ("token-uncertainty", "torch", "transformers", "peft", "accelerate", "tokenizers")


@dataclass(frozen=True)
class Inputs:
    """The data of a run; a run and the reference made for it share them.

    Attributes:
        prepared: what is trained on, rendered, with tokenizer and configuration.
        held_out: name -> examples to evaluate on.
        model_files: name -> SHA-256 of the files of a model folder; None of a hub id.
    """

    prepared: Prepared
    held_out: dict[str, list[Example]]
    model_files: dict[str, str] | None

    @property
    def every_held_out(self) -> list[Example]:
        """The examples of all held-out sets."""
        return [example for examples in self.held_out.values() for example in examples]


def read_inputs(settings: TrainSettings, prepared: Prepared | None = None) -> Inputs:
    """Read and render all data of a run.

    Args:
        settings: of the run.
        prepared: what is trained on, if it is rendered already.

    Raises:
        InputError: data that cannot be read, or in which there is no token to train or to evaluate on.
    """
    prepared = prepare(settings.data_settings) if prepared is None else prepared
    check_trainable(prepared.examples, prepared.source.origin)
    held_out = {name: _held_out(settings, name, path) for name, path in settings.held_out.items()}
    model = settings.data_settings.model_source
    return Inputs(prepared, held_out, file_hashes(Path(model)) if is_local(model) else None)


def info_of(settings: TrainSettings, inputs: Inputs, state: PartialState, command: Sequence[str] | None) -> RunInfo:
    """What the run card says at the start: the settings that decide the weights, and the record.

    A folder is resumed only where all of the settings agree. What a setting names is identified by its content, so
    that a model, reference or score table that was made anew under the same name is another one.

    Raises:
        InputError: a score table or a cache that cannot be read.
    """
    prepared, source = inputs.prepared, inputs.prepared.source
    stated = {name: value for name, value in asdict(settings).items() if name not in VOLATILE}
    deciding = stated | {
        "data": {
            **({"files": source.files} if source.files else {"name": source.origin, "revision": source.revision}),
            "format": source.format,
            "template": {"name": prepared.template.name, "sha256": prepared.template.sha256},
            "max_length": prepared.max_length,
        },
        "content": {
            "model": inputs.model_files,
            "reference": _content(settings.reference),
            "scores": read_run(settings.scores).totals if settings.scores else None,
        },
        "packages": package_versions([*PACKAGES, *(["bitsandbytes"] if settings.tuning == "qlora" else [])]),
        # Its checkpoints are of another kind; absent otherwise, as in runs made before.
        **({"sharding": "fsdp"} if asks_for_fsdp() else {}),
    }
    record = {
        "dataset": {"origin": source.origin, "kind": source.kind},
        "examples": len(prepared.examples),
        "completion_tokens": prepared.completion_tokens,
        "skipped": len(prepared.skipped),
        "processes": state.num_processes,
        "device": str(state.device),
        "resolved": asdict(settings),
        "command": None if command is None else list(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": git_state(),
        "working_folder": os.getcwd(),
    }
    return RunInfo(deciding, record)


def _held_out(settings: TrainSettings, name: str, path: str) -> list[Example]:
    data = replace(settings.data_settings, dataset=path, limit=settings.eval_limit, format=None, split=None)
    try:
        examples = prepare(data).examples
    except InputError as error:
        raise InputError(f"--eval-data {name}: {error}") from error
    if not any(any(example.completion[1:]) for example in examples):
        raise InputError(f"--eval-data {name}: no completion token of {path} is left; check --template, --max-length")
    return examples


def _content(reference: str) -> Any:
    """What identifies a reference that lies in a folder; None of any other."""
    if is_cache(reference):
        return fingerprint_of(read_header(Path(reference).expanduser()))
    return file_hashes(Path(reference)) if is_local(reference) else None
