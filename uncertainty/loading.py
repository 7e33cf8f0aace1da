"""Tokenizer, configuration and model from a folder or a hub id: safetensors only, no foreign code, unless asked for."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from uncertainty.errors import InputError
from uncertainty.model import LoadedModel, adopt_model, is_local, resolve_device, resolve_dtype


def load_tokenizer(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a model folder or hub id.

    Raises:
        InputError: there is no such folder, no tokenizer in it, or the hub cannot be reached and has no copy here.
    """
    from transformers import AutoTokenizer

    _check_exists(name)
    return _from_pretrained(AutoTokenizer.from_pretrained, name, revision=revision, trust_remote_code=trust_remote_code)


def load_config(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the configuration of a model folder or hub id, without its weights.

    Raises:
        InputError: as ``load_tokenizer``.
    """
    from transformers import AutoConfig

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
) -> LoadedModel:
    """Load a causal language model from a folder or hub id and check that ``readout`` fits it.

    Args:
        name: a local folder or a hub id.
        tokenizer: the tokenizer if it is loaded already.
        dtype: ``auto`` (as the checkpoint says), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (a GPU where there is one), or a torch device such as ``cpu`` or ``cuda:1``.
        revision: a hub revision.
        trust_remote_code: run model code that comes with the checkpoint.
        allow_pickle: read ``.bin`` weights, which can run code, where there are no safetensors.

    Raises:
        InputError: the model cannot be had, is not a causal language model, holds a tensor that is not finite, or
            post-processes its logits in a way that ``readout`` does not know.
    """
    from transformers import AutoModelForCausalLM

    if tokenizer is None:
        tokenizer = load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)
    config = load_config(name, revision=revision, trust_remote_code=trust_remote_code)
    target = resolve_device(device)
    model, info = _from_pretrained(
        AutoModelForCausalLM.from_pretrained,
        name,
        revision=revision,
        trust_remote_code=trust_remote_code,
        dtype="auto" if dtype == "auto" else resolve_dtype(dtype),
        use_safetensors=None if allow_pickle else True,
        attn_implementation=_attention_for(config),
        output_loading_info=True,
    )
    if info["missing_keys"]:  # transformers would go on with random numbers in their place
        raise InputError(
            f"{name} lacks {len(info['missing_keys'])} tensors of {type(model).__name__} "
            f"(first: {sorted(info['missing_keys'])[0]}); is it a whole causal language model?"
        )
    model = model.to(target).eval()
    return adopt_model(model, tokenizer, name=str(name), revision=revision)


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
