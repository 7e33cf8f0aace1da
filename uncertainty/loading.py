"""Tokenizer, configuration and model from a folder or a hub id: safetensors only, no foreign code, unless asked for.

The folder of a saved adapter stands for its base with the adapter merged into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from uncertainty.adapters import AdapterFolder, is_adapter, merge_adapter, read_adapter
from uncertainty.errors import InputError
from uncertainty.four_bit import four_bit_options, four_bit_record, keep_differentiable
from uncertainty.model import LoadedModel, adopt_model, is_local, resolve_device, resolve_dtype


def load_tokenizer(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a model folder or hub id; of an adapter folder its own, or the base's where it has none.

    Raises:
        InputError: there is no such folder, no tokenizer in it, or the hub cannot be reached and has no copy here.
    """
    from transformers import AutoTokenizer

    if is_adapter(name):
        adapter = read_adapter(name, allow_pickle=True)  # the weights are not touched here
        if not adapter.has_tokenizer:
            name, revision = adapter.base, adapter.revision or revision
    if not is_adapter(name):
        _check_exists(name)
    return _from_pretrained(AutoTokenizer.from_pretrained, name, revision=revision, trust_remote_code=trust_remote_code)


def load_config(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the configuration of a model folder or hub id, without its weights; of an adapter folder the base's.

    Raises:
        InputError: as ``load_tokenizer``.
    """
    from transformers import AutoConfig

    if is_adapter(name):
        adapter = read_adapter(name, allow_pickle=True)
        name, revision = adapter.base, adapter.revision or revision
    _check_exists(name)
    return _from_pretrained(AutoConfig.from_pretrained, name, revision=revision, trust_remote_code=trust_remote_code)


def load_model(
    name: str | Path,
    tokenizer: Any = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    four_bit: bool = False,
) -> LoadedModel:
    """Load a causal language model from a folder or hub id and check that ``readout`` fits it.

    Args:
        name: a local folder, of a model or of a saved adapter (merged into its base), or a hub id.
        tokenizer: the tokenizer if it is loaded already.
        dtype: ``auto`` (as the checkpoint says), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (a GPU where there is one), or a torch device such as ``cpu`` or ``cuda:1``.
        revision: a hub revision.
        trust_remote_code: run model code that comes with the checkpoint.
        allow_pickle: read ``.bin`` weights, which can run code, where there are no safetensors.
        four_bit: quantise the linear layers to 4 bit, for training an adapter on them; ``dtype`` is then that of the
            products and of all other weights (auto: bfloat16). Needs bitsandbytes; see ``four_bit`` for what was run.

    Raises:
        InputError: the model cannot be had, is not a causal language model, holds a tensor that is not finite, or
            post-processes its logits in a way that ``readout`` does not know.
    """
    from transformers import AutoModelForCausalLM

    if tokenizer is None:
        tokenizer = load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)
    adapter = read_adapter(name, allow_pickle=allow_pickle) if is_adapter(name) else None
    source = str(name) if adapter is None else adapter.base
    revision = revision if adapter is None else adapter.revision or revision
    config = load_config(source, revision=revision, trust_remote_code=trust_remote_code)
    target = resolve_device(device)
    options: dict[str, Any] = {"dtype": "auto" if dtype == "auto" else resolve_dtype(dtype)}
    if four_bit:
        _check_four_bit(name, adapter)
        options["dtype"] = resolve_dtype("bfloat16" if dtype == "auto" else dtype)
        options |= four_bit_options(options["dtype"], target)
    model, info = _from_pretrained(
        AutoModelForCausalLM.from_pretrained,
        source,
        revision=revision,
        trust_remote_code=trust_remote_code,
        use_safetensors=None if allow_pickle else True,
        attn_implementation=_attention_for(config),
        output_loading_info=True,
        **options,
    )
    if info["missing_keys"]:  # transformers would go on with random numbers in their place
        raise InputError(
            f"{source} lacks {len(info['missing_keys'])} tensors of {type(model).__name__} "
            f"(first: {sorted(info['missing_keys'])[0]}); is it a whole causal language model?"
        )
    if adapter is not None:
        model = merge_adapter(model, adapter)
    model = (model if four_bit else model.to(target)).eval()
    if four_bit:
        keep_differentiable(model)  # before anything runs it
    loaded = adopt_model(model, tokenizer, name=source, revision=revision)
    if four_bit:
        loaded = replace(loaded, record=loaded.record | four_bit_record(model))
    return loaded if adapter is None else _name_both(loaded, str(name), adapter)


def _name_both(loaded: LoadedModel, name: str, adapter: AdapterFolder) -> LoadedModel:
    """The record of a merged model: its ``files`` tell it from its base, and from other adapters of that base."""
    base = {key: loaded.record[key] for key in ("name", "revision", "files") if key in loaded.record}
    parts = base.get("files") or {"": f"{base['name']}@{base['revision']}"}
    files = adapter.hashes() | {f"base/{part}".rstrip("/"): value for part, value in parts.items()}
    return replace(loaded, record=loaded.record | {"name": name, "files": files, "base": base})


def _check_four_bit(name: str | Path, adapter: AdapterFolder | None) -> None:
    if adapter is not None:
        raise InputError(
            f"{name} is an adapter, and weights in 4 bit are too coarse to add it to; load it without four_bit, or "
            f"load its base {adapter.base} in 4 bit"
        )


def _attention_for(config: Any) -> str | None:
    # transformers 5.17 runs models with an attention soft cap under SDPA and drops the cap; later ones refuse.
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def _check_exists(name: str | Path) -> None:
    text = str(name)
    if is_local(text):
        if not (Path(text).expanduser() / "config.json").is_file():
            raise InputError(f"the folder {text} holds no config.json; give the folder of a transformers model")
        return
    if Path(text).expanduser().exists():
        raise InputError(f"{text} is a file; give the folder that holds the model's config.json")
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise InputError(f"there is no model folder {text}; check the path, or give a hub id such as org/name")
    near = _near_folder(Path(text))
    if near is not None:
        raise InputError(f"there is no model folder {text}; did you mean {near}?")


def _near_folder(path: Path) -> Path | None:
    """A folder beside ``path`` with nearly its name: a mistyped path rather than a hub id."""
    if len(path.parts) < 2 or not path.parent.is_dir():
        return None
    folders = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    return next((path.parent / name for name in get_close_matches(path.name, folders, n=1)), None)


def _from_pretrained(load: Callable[..., Any], name: str | Path, **options: Any) -> Any:
    """Call a transformers loader and say its failures in one line."""
    from safetensors import SafetensorError

    local = is_local(name)
    path = str(Path(name).expanduser()) if local else str(name)
    if not local:
        _check_hub(path, options.get("revision"))
    try:
        return load(path, local_files_only=local, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        what = (" ".join(str(error).split()) or type(error).__name__)[:300]
        raise InputError(f"cannot load {name}: {what}{_mend(str(error), options)}") from error


def _mend(message: str, options: dict[str, Any]) -> str:
    if "safetensors" in message and options.get("use_safetensors"):
        return " (only safetensors are read unless --allow-pickle is given)"
    if "trust_remote_code" in message:
        return " (its own code runs only with --trust-remote-code)"
    return ""


def _check_hub(repository: str, revision: str | None) -> None:
    """Fail at once, rather than after minutes of retries, where the hub is out of reach and nothing is cached."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    try:
        cached = try_to_load_from_cache(repository, "config.json", revision=revision)
    except ValueError as error:  # the hub's own check of what an id may look like
        raise InputError(f"{repository} is neither a folder here nor a hub id: {error}") from None
    if isinstance(cached, str):
        return
    if HF_HUB_OFFLINE:
        raise InputError(
            f"{repository} is not a folder here and not in the hub cache, and HF_HUB_OFFLINE is set; "
            "give a local folder, or unset it where there is a network"
        )
    if not reachable(ENDPOINT):
        raise InputError(
            f"{repository} is not a folder here and not in the hub cache, and {ENDPOINT} cannot be reached; "
            "give a local folder, or download the model where there is a network"
        )


def reachable(endpoint: str) -> bool:
    """Whether a hub answers within five seconds."""
    import urllib.error
    import urllib.request

    try:  # urllib honours the proxy settings that the hub's own client honours
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=5)
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, OSError):
        return False
    return True
