"""Text of a data set as tokens that continue a sequence: nothing put before it, no control token read out of it.

SentencePiece-like tokenizers put a space before whatever they are given ("dummy prefix"), and every tokenizer turns the
text ``</s>`` into the control token. Both are wrong for a piece of text in the middle of a rendered example, so a copy
of the tokenizer is made that does neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

from uncertainty.data.formats import Message, UnusableRow
from uncertainty.errors import InputError

SPACE_MARK: Final = "▁"  # how SentencePiece-like tokenizers write a space; the character itself decodes to one
ANCHOR: Final = "x"  # decoders treat the first token in a special way; the text under test never is the first


class Continuation:
    """A copy of a tokenizer that encodes text as the middle of a sequence.

    Attributes:
        unknown: id of the token for characters outside the vocabulary, None where there is none.
        control: ids that text must never become.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Make the copy.

        Raises:
            InputError: the tokenizer is not of the `tokenizers` library, so its steps cannot be told apart.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise InputError(
                f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json (fast) form, which the plain "
                "templates need; convert it, or use --template chat"
            )
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.unknown = tokenizer.unk_token_id if tokenizer.unk_token_id not in ends else None
        self.control = frozenset(control_tokens(tokenizer).values()) - {self.unknown}
        spec = json.loads(backend.to_str())
        self._uses_mark = SPACE_MARK in json.dumps([spec["normalizer"], spec["pre_tokenizer"]], ensure_ascii=False)
        self._tokenizer = Tokenizer.from_str(json.dumps(_without_additions(spec, tokenizer, self.unknown)))
        self._tokenizer.encode_special_tokens = True  # their text is text

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text in the middle of a sequence.

        Characters outside the vocabulary become ``unknown``; the tokenizer's own normalisation (NFC, say) is applied.

        Raises:
            UnusableRow: the ids would not spell the text: a control token among them, or characters lost or added.
        """
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids if text else []
        bad = next((token for token in ids if token in self.control), None)
        if bad is not None:
            name = self._tokenizer.id_to_token(bad)
            raise UnusableRow(
                "control_token_in_text", f"the tokenizer reads the control token {name} out of plain text"
            )
        self._check_spelling(text, ids)
        return ids

    def _check_spelling(self, text: str, ids: list[int]) -> None:
        """Compare what the ids spell with the text; an unknown token may stand for anything but nothing."""
        wanted, position, after_unknown = self._canonical(text), 0, False
        for run in _runs(ids, self.unknown):
            if run is None:
                after_unknown = True
                continue
            spelt = self._canonical(self._spell(run))
            found = wanted.find(spelt, position + 1) if after_unknown else position
            if not wanted.startswith(spelt, max(found, 0)) or found < 0:
                self._not_reversible(wanted, position, spelt)
            position, after_unknown = found + len(spelt), False
        if (position < len(wanted)) != after_unknown:
            self._not_reversible(wanted, position, "")

    def _spell(self, ids: Sequence[int]) -> str:
        whole = self._tokenizer.decode([*self._anchor, *ids], skip_special_tokens=False)
        return str(whole).removeprefix(self._anchor_text)

    def _canonical(self, text: str) -> str:
        """The text as the tokenizer's own normalisation leaves it, so that only other differences count."""
        normalizer = self._tokenizer.normalizer
        if normalizer is not None:
            text = normalizer.normalize_str(text)
        return text.replace(SPACE_MARK, " ") if self._uses_mark else text

    @cached_property
    def _anchor(self) -> list[int]:
        return list(self._tokenizer.encode(ANCHOR, add_special_tokens=False).ids)

    @cached_property
    def _anchor_text(self) -> str:
        return str(self._tokenizer.decode(self._anchor, skip_special_tokens=False))

    def _not_reversible(self, wanted: str, position: int, spelt: str) -> None:
        common = 0
        while common < min(len(spelt), len(wanted) - position) and spelt[common] == wanted[position + common]:
            common += 1
        raise UnusableRow(
            "text_not_reversible",
            f"the tokenizer spells {spelt[common : common + 20]!r} where the text has "
            f"{wanted[position + common : position + common + 20]!r} (character {position + common})",
        )


def continuation(tokenizer: Any) -> Continuation:
    """Return the tokenizer's `Continuation`, made once per tokenizer."""
    facts = _facts(tokenizer)
    if "continuation" not in facts:
        facts["continuation"] = Continuation(tokenizer)
    made: Continuation = facts["continuation"]
    return made


def control_tokens(tokenizer: Any, template: str | None = None) -> dict[str, int]:
    """Return the control tokens, text -> id: the special ones, and added ones that the chat template writes.

    Args:
        tokenizer: of transformers.
        template: text of the chat template; None takes the tokenizer's own.
    """
    text = str(tokenizer.chat_template or "") if template is None else template
    known = _facts(tokenizer).setdefault("control", {})
    if text not in known:
        special = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens}
        added = {
            token.content: id
            for id, token in tokenizer.added_tokens_decoder.items()
            if token.special or (token.content in text and not token.content.isspace())
        }
        known[text] = special | added
    found: dict[str, int] = known[text]
    return found


def contains_special_text(messages: Sequence[Message], tokenizer: Any) -> bool:
    """Whether the text of a message spells a control token, which a chat template then turns into one."""
    names = [re.escape(name) for name in control_tokens(tokenizer) if name]
    pattern = _facts(tokenizer).setdefault("pattern", re.compile("|".join(names) or "(?!)"))
    return any(pattern.search(message["content"]) for message in messages)


def _without_additions(spec: dict[str, Any], tokenizer: Any, unknown: int | None) -> dict[str, Any]:
    """The tokenizer's description without prefix space, post-processing, truncation and padding."""
    control = control_tokens(tokenizer)
    model = dict(spec["model"])
    if model["type"] == "BPE" and model.get("unk_token") is None and unknown is not None:
        # without it characters outside the vocabulary vanish from the text (transformers 5 rebuilds some so)
        model["unk_token"] = tokenizer.unk_token
    return spec | {
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "added_tokens": [token | {"special": token["content"] in control} for token in spec["added_tokens"]],
        "normalizer": _without_prefix(spec["normalizer"]),
        "pre_tokenizer": _without_prefix(spec["pre_tokenizer"]),
        "model": model,
    }


def _without_prefix(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer, with all steps inside it, that puts nothing before the text."""
    if step is None or step["type"] == "Prepend":
        return None
    for name in ("normalizers", "pretokenizers"):
        if name in step:
            inside = [_without_prefix(inner) for inner in step[name]]
            return step | {name: [inner for inner in inside if inner is not None]}
    if step["type"] == "Metaspace":
        return step | {"prepend_scheme": "never"}
    return step | {"add_prefix_space": False} if "add_prefix_space" in step else step


def _runs(ids: list[int], unknown: int | None) -> list[list[int] | None]:
    """Cut ids at the unknown token, which is None in the result."""
    runs: list[list[int] | None] = []
    for token in ids:
        if token == unknown:
            runs.append(None)
        elif runs and runs[-1] is not None:
            runs[-1].append(token)
        else:
            runs.append([token])
    return runs


def _facts(tokenizer: Any) -> dict[str, Any]:
    """What was derived from a tokenizer; forgotten with it, and when tokens are added or its template changes."""
    state = (len(tokenizer), str(tokenizer.chat_template))
    known = _KNOWN.get(tokenizer)
    if known is None or known["state"] != state:
        known = _KNOWN[tokenizer] = {"state": state}
    return known


_KNOWN: Final[WeakKeyDictionary[Any, dict[str, Any]]] = WeakKeyDictionary()
