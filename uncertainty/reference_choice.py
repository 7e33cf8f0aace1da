"""What a user names as the reference -> the reference, proved to belong to the student.

A name is ``base``, or the folder of a cache, of an adapter, or of a model (or a model's hub id): what lies in the
folder tells them apart. It must speak the student's vocabulary, and an adapter must have the student's base.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uncertainty.adapters import AdapterFolder, is_adapter, read_adapter
from uncertainty.data.render import Example
from uncertainty.errors import InputError
from uncertainty.loading import load_model, load_tokenizer
from uncertainty.lora import adapter_layers
from uncertainty.model import LoadedModel, file_hashes, is_local
from uncertainty.reference import AdapterReference, BaseReference, ModelReference, Reference
from uncertainty.reference_cache import CachedReference
from uncertainty.reference_shards import is_cache

BASE = "base"


def choose_reference(
    text: str,
    student: LoadedModel,
    *,
    examples: Sequence[Example] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Reference:
    """The reference that ``text`` names.

    With a student that is an adapter, ``base`` and adapter folders cost no second model. With one that is trained
    whole, the base changes under them, so both are loaded as a second model.

    Args:
        text: ``base``, a cache's, adapter's or model's folder, or a hub id.
        student: ``model`` is the one in training, a PeftModel or a model trained whole, bare of wrappers;
            ``tokenizer`` and ``record`` are of its base, as ``load_model`` gave them.
        examples: that will be trained on; a cache must hold them all.
        revision: of a hub id.
        trust_remote_code: as for ``load_model``.
        allow_pickle: as for ``load_model``.

    Raises:
        InputError: nothing is there, or it does not belong to the student: another vocabulary, another base, other
            data.
    """
    is_adapter_student = bool(adapter_layers(student.model))
    if text == BASE:
        if is_adapter_student:
            return BaseReference(student.model, student.record)
        text = str(student.record["name"])
    if is_cache(text):
        return _cached(text, student, examples)
    if is_adapter(text):
        adapter = read_adapter(text, allow_pickle=allow_pickle)
        check_same_base(adapter, student.record)
        check_same_vocabulary(student.tokenizer, load_tokenizer(text), text)
        if is_adapter_student:
            return AdapterReference(student.model, adapter)
    loaded = load_model(
        text,
        dtype=student.record["dtype"] if student.record["dtype"] in ("float32", "bfloat16", "float16") else "auto",
        device=str(next(student.model.parameters()).device),
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    check_same_vocabulary(student.tokenizer, loaded.tokenizer, text)
    return ModelReference(loaded.model, loaded.record)


def check_same_vocabulary(student_tokenizer: Any, reference_tokenizer: Any, name: str) -> None:
    """Refuse a reference whose token ids mean other tokens than the student's.

    Raises:
        InputError: says how many tokens each has, and the first id on which they disagree.
    """
    own, other = student_tokenizer.get_vocab(), reference_tokenizer.get_vocab()
    if own == other:
        return
    by_id = [{number: token for token, number in vocabulary.items()} for vocabulary in (own, other)]
    first = min(n for n in by_id[0].keys() | by_id[1].keys() if by_id[0].get(n) != by_id[1].get(n))
    names = [repr(one[first]) if first in one else "no token" for one in by_id]
    raise InputError(
        f"the reference {name} has another vocabulary than the student ({len(other)} and {len(own)} tokens; id {first} "
        f"is {names[1]} and {names[0]}); a reference must come from the same tokenizer"
    )


def vocabulary_sha256(tokenizer: Any) -> str:
    """SHA-256 of the tokens and their ids."""
    digest = hashlib.sha256()
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
        digest.update(f"{number}:{token}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def check_same_base(adapter: AdapterFolder, record: dict[str, Any]) -> None:
    """Refuse an adapter that was trained on another base than the student's.

    Folders are compared by the checksums of their weights, so a copy under another name is the same base; hub ids by
    their names.

    Raises:
        InputError: names both bases.
    """
    name = str(record["name"])
    if is_local(adapter.base) and is_local(name):
        if Path(adapter.base).expanduser().resolve() == Path(name).expanduser().resolve():
            return
        if _weights(file_hashes(Path(adapter.base))) == _weights(record.get("files") or file_hashes(Path(name))):
            return
    elif adapter.base == name and adapter.revision in (None, record.get("revision")):
        return
    raise InputError(
        f"the adapter {adapter.path} was trained on the base {adapter.base}, and the student's base is {name}; give an "
        "adapter of that base, or merge it and give the merged model's folder"
    )


def _cached(text: str, student: LoadedModel, examples: Sequence[Example] | None) -> CachedReference:
    cache = CachedReference(text, student=student.model, examples=examples)
    if cache.vocabulary_sha256 != vocabulary_sha256(student.tokenizer):
        raise InputError(
            f"the reference cache {text} was made with another vocabulary than the student's ({len(student.tokenizer)} "
            f"tokens); build it again from a reference of the student's tokenizer"
        )
    return cache


def _weights(files: dict[str, str]) -> dict[str, str]:
    return {name: sha for name, sha in files.items() if name.endswith((".safetensors", ".bin"))}
