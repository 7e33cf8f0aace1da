"""A saved adapter: the folder it stands in, the base it belongs to, and its weights in a model or merged into it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncertainty.errors import InputError
from uncertainty.lora import adapter_layers, undisturbed_random_numbers, without_stale_warning
from uncertainty.model import is_local

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt")
TOKENIZER_MORE = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
BASE_KEY = "base_model_name_or_path"


@dataclass(frozen=True)
class AdapterFolder:
    """A folder that peft saved.

    Attributes:
        path: of the folder.
        base: of the model it was trained on: a folder on this machine, or a hub id.
        revision: of the base on the hub, None where it was not recorded.
    """

    path: Path
    base: str
    revision: str | None

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer was saved beside the adapter."""
        return any((self.path / name).is_file() for name in TOKENIZER)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the files that decide what the adapter computes, by name; logs beside it do not."""
        names = (CONFIG, WEIGHTS, PICKLED, *TOKENIZER, *TOKENIZER_MORE)
        return {name: _sha256(self.path / name) for name in sorted(names) if (self.path / name).is_file()}


def is_adapter(name: str | Path) -> bool:
    """Whether ``name`` is a folder with a saved adapter."""
    return is_local(name) and (Path(name).expanduser() / CONFIG).is_file()


def read_adapter(name: str | Path, *, allow_pickle: bool = False) -> AdapterFolder:
    """Find the base and the weights of an adapter folder, reading neither.

    A relative path of the base is tried from the adapter's folder first, then from the working folder, which is what
    peft writes.

    Raises:
        InputError: the configuration is damaged or names no base, the base is not there, or the weights are not (or
            are pickled, which can run code, and ``allow_pickle`` was not given).
    """
    path = Path(name).expanduser()
    try:
        config = json.loads((path / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path / CONFIG} cannot be read ({_one_line(error)}); save the adapter again") from error
    recorded = config.get(BASE_KEY) if isinstance(config, dict) else None
    if not isinstance(recorded, str) or not recorded:
        raise InputError(f"{path / CONFIG} does not name the adapter's base; set its {BASE_KEY}")
    if not (path / WEIGHTS).is_file() and not (allow_pickle and (path / PICKLED).is_file()):
        pickled = " (only safetensors are read unless --allow-pickle is given)" if (path / PICKLED).is_file() else ""
        raise InputError(f"the adapter folder {path} holds no {WEIGHTS}{pickled}; give a folder that peft saved")
    return AdapterFolder(path, _find_base(path, recorded), config.get("revision"))


def merge_adapter(model: Any, adapter: AdapterFolder) -> Any:
    """Add an adapter to the weights of its base.

    Each layer is added up in float32 and rounded to its dtype once. In 16 bit that rounding can be as large as a small
    update: load the base with dtype float32 where the last digits matter.

    Args:
        model: the base, changed in place.
        adapter: of this base.

    Returns:
        the base without adapters, its weights changed.

    Raises:
        InputError: the adapter does not fit the base, is of a kind that has no weights to add (prompts), or sits on an
            embedding that the head shares.
    """
    import torch
    from peft import PeftModel

    config = read_config(adapter)
    with undisturbed_random_numbers(0), without_stale_warning():
        try:
            wrapped: Any = PeftModel(model, config)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(_unfit(adapter, _one_line(error))) from error
    load_weights(wrapped, adapter, "default")
    _check_tied(wrapped, adapter)
    for layer in adapter_layers(wrapped):
        base: Any = layer.get_base_layer()
        dtype = base.weight.dtype
        narrow = dtype in (torch.float16, torch.bfloat16)
        base.to(torch.float32 if narrow else dtype)
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise InputError(f"the adapter {adapter.path} cannot be merged: {_one_line(error)}") from error
        base.to(dtype)
    return wrapped.base_model.unload()


def read_config(adapter: AdapterFolder) -> Any:
    """The configuration of an adapter as peft's object, for inference.

    Raises:
        InputError: peft does not know it, or it is one whose weights are not additions to layers (prompts).
    """
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(adapter.path))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{adapter.path / CONFIG} is not understood: {_one_line(error)}") from error
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise InputError(
            f"the adapter {adapter.path} is of type {config.peft_type.value}, learnt prompts that change the sequence "
            "itself; only adapters on layers (such as LoRA) are supported"
        )
    config.inference_mode = True
    return config


def load_weights(wrapped: Any, adapter: AdapterFolder, adapter_name: str) -> None:
    """Fill the adapter ``adapter_name`` of a PeftModel with the saved weights: all of them, and no others.

    Raises:
        InputError: names or shapes differ from those the model has.
    """
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
    from safetensors import SafetensorError

    try:
        saved = load_peft_weights(str(adapter.path), device="cpu")
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{adapter.path / WEIGHTS} cannot be read ({_one_line(error)}); save it again") from error
    own = set(get_peft_model_state_dict(wrapped, adapter_name=adapter_name, save_embedding_layers=False))
    if missing := sorted(own - set(saved)):
        raise InputError(_unfit(adapter, f"it lacks {len(missing)} of the tensors that are needed, first {missing[0]}"))
    if strange := sorted(set(saved) - own):
        raise InputError(_unfit(adapter, f"it holds {len(strange)} tensors that have no place, first {strange[0]}"))
    try:
        set_peft_model_state_dict(wrapped, saved, adapter_name=adapter_name)
    except RuntimeError as error:
        raise InputError(_unfit(adapter, _one_line(error)[:300])) from error


def _check_tied(wrapped: Any, adapter: AdapterFolder) -> None:
    head = wrapped.get_output_embeddings()
    for layer in adapter_layers(wrapped):
        if layer is not head and layer.get_base_layer().weight is head.weight:
            raise InputError(
                f"the adapter {adapter.path} sits on the token embedding, which is also the vocabulary head; merging "
                "would change both: merge it where it was trained, into an untied copy"
            )


def _find_base(folder: Path, recorded: str) -> str:
    path = Path(recorded).expanduser()
    for candidate in (folder / path, path):  # an absolute path swallows the folder
        if candidate.is_dir():
            if (candidate / CONFIG).is_file():
                raise InputError(
                    f"the base of adapter {folder} is itself an adapter, {candidate}; merge that one first"
                )
            return str(candidate)
    if path.is_absolute() or recorded.startswith((".", "~")) or recorded.count("/") > 1:
        raise InputError(
            f"the adapter {folder} belongs to the base {recorded}, which is not here; put the base there, or set "
            f"{BASE_KEY} in {folder / CONFIG} to where it is"
        )
    return recorded


def _unfit(adapter: AdapterFolder, why: str) -> str:
    return (
        f"the adapter {adapter.path} does not fit the model it is to be put on (its own base is {adapter.base}): {why}"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
