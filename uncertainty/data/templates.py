"""The ways of writing a conversation down: the tokenizer's chat template, or a plain one named here."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from uncertainty.data.continuation import continuation
from uncertainty.data.formats import Message, UnusableRow
from uncertainty.errors import InputError


@dataclass(frozen=True)
class Template:
    """How conversations of a run are written.

    Attributes:
        name: "chat", "plain", "alpaca", "raw", "verbatim", or the path of a Jinja file.
        kind: "chat" (a Jinja template, tokenised as a whole) or "plain" (segments, tokenised each on its own).
        sha256: of ``text``, hexadecimal.
        text: the Jinja template, or the plain template's pieces as JSON.
    """

    name: str
    kind: str
    sha256: str
    text: str


@dataclass(frozen=True)
class Pattern:
    """A plain template: what stands around the messages. After every assistant turn comes the tokenizer's EOS.

    Attributes:
        preamble: opens a conversation that has no system message.
        preamble_with_input: the same where the first user message has an Alpaca input.
        system, user: around the message's ``{content}``.
        user_with_input: around ``{content}`` and ``{input}``.
        assistant: opens an assistant turn; the content follows at once.
        between: after an assistant turn's EOS, where another message follows.
    """

    preamble: str = ""
    preamble_with_input: str = ""
    system: str = "{content}"
    user: str = "{content}"
    user_with_input: str = "{content}"
    assistant: str = ""
    between: str = ""


class Segment(NamedTuple):
    """A piece of text that is tokenised on its own.

    Attributes:
        text: the text.
        turn: index of the message whose completion it is, -1 in the prompt.
        ends: an EOS token follows and is part of it.
    """

    text: str
    turn: int = -1
    ends: bool = False


def choose_template(name: str, tokenizer: Any, format: str) -> Template:
    """Settle how the conversations of a run are written.

    ``auto`` takes the tokenizer's chat template for conversations, ``plain`` where it has none, ``raw`` for prompts and
    completions that are strings, and ``verbatim`` for plain text, which is always written so.

    Args:
        name: "auto", "chat", a name in ``PATTERNS``, "verbatim", or the path of a ``.jinja`` file.
        tokenizer: of transformers.
        format: the data set's format.

    Raises:
        InputError: no such template or file, a template that the tokenizer or the format cannot have, a Jinja file
            with an error (its line is named).
    """
    if name.endswith(JINJA):
        chosen = _template(name, "chat", _read_jinja(name, tokenizer))
    else:
        chosen = _named(name, tokenizer, format)
    if (chosen.name == "verbatim") != (format == "text"):
        raise InputError(
            f"--template {name}: the format {format} is "
            f"{'plain text without turns' if format == 'text' else 'a conversation'}; use --template auto"
        )
    if chosen.kind == "plain":
        continuation(tokenizer)  # refuses a tokenizer that cannot do it now, not at the first row
        if chosen.name != "verbatim" and tokenizer.eos_token_id is None:
            raise InputError(
                f"--template {chosen.name} ends assistant turns with EOS and the tokenizer has no EOS token; set its "
                "eos_token, or use a chat template"
            )
    return chosen


def segments(messages: Sequence[Message], template: Template) -> list[Segment]:
    """Write a conversation by a plain template; neighbouring pieces of the prompt are one segment.

    Raises:
        UnusableRow: a message with a role that the template does not have.
    """
    if template.name == "verbatim":
        return [Segment(message["content"], turn) for turn, message in enumerate(messages)]
    pattern = PATTERNS[template.name]
    written: list[Segment] = []
    prompt = _opening(messages, pattern)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            prompt += _filled(message, pattern)
            continue
        prompt += pattern.assistant
        if message.get("scored") == "no":
            written.append(Segment(prompt + message["content"], ends=True))
        else:
            written += [Segment(prompt), Segment(message["content"], index, ends=True)]
        prompt = pattern.between
    return written  # what follows the last assistant turn predicts nothing


def _named(name: str, tokenizer: Any, format: str) -> Template:
    if name == "auto":
        name = {"text": "verbatim", "prompt-completion": "raw"}.get(format, "")
        name = name or ("chat" if tokenizer.chat_template else "plain")
    if name == "chat":
        return _template(name, "chat", _own_template(tokenizer))
    if name == "verbatim":
        return _template(name, "plain", "{content}")
    if name in PATTERNS:
        return _template(name, "plain", json.dumps(asdict(PATTERNS[name]), sort_keys=True))
    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(f"--template {name} is unknown; choose {', '.join(NAMES)} or the path of a .jinja file{hint}")


def _own_template(tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        raise InputError("--template chat: the tokenizer has no chat template; use plain, or the path of a .jinja file")
    try:
        return _with_fixed_date(tokenizer.get_chat_template())
    except ValueError as error:  # several templates, none of them named "default"
        raise InputError(
            "--template chat: the tokenizer has several chat templates and none is the default; save the one you mean "
            "to a .jinja file and give its path"
        ) from error


def _read_jinja(name: str, tokenizer: Any) -> str:
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        text = _with_fixed_date(Path(name).expanduser().read_text(encoding="utf-8"))
        # one message has it compiled; what the template says to the message is seen row by row
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], chat_template=text, tokenize=False)
    except TemplateSyntaxError as error:
        raise InputError(f"--template {name} line {error.lineno}: {error.message}; mend the template") from error
    except (TemplateError, TypeError):
        return text
    except OSError as error:
        raise InputError(f"--template {name}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--template {name} is not UTF-8; save it as UTF-8") from error
    return text


def _with_fixed_date(text: str) -> str:
    """Make a template that writes today's date write the same date on every day, or no run could be repeated."""
    return FIXED_DATE + text if "strftime_now" in text else text


def _template(name: str, kind: str, text: str) -> Template:
    return Template(name, kind, hashlib.sha256(text.encode("utf-8")).hexdigest(), text)


def _opening(messages: Sequence[Message], pattern: Pattern) -> str:
    if messages and messages[0]["role"] == "system":
        return ""
    with_input = any(message.get("input") for message in messages[:1])
    return pattern.preamble_with_input if with_input else pattern.preamble


def _filled(message: Message, pattern: Pattern) -> str:
    role, content = message["role"], message["content"]
    if role == "system":
        return pattern.system.replace("{content}", content)
    if role != "user":
        raise UnusableRow("unknown_role", f"the plain templates have no place for the role {role!r}")
    extra = message.get("input", "")
    if extra and "{input}" in pattern.user_with_input:
        before, after = pattern.user_with_input.split("{content}")
        middle, after = after.split("{input}")
        return before + content.removesuffix(f"\n\n{extra}") + middle + extra + after
    return pattern.user.replace("{content}", content)


JINJA: Final = (".jinja", ".jinja2", ".j2")

# Llama 3's own date where none is given: a Friday
FIXED_DATE: Final = (
    '{%- macro strftime_now(format) -%}{{ format | replace("%d", "26") | replace("%b", "Jul") | replace("%B", "July")'
    ' | replace("%m", "07") | replace("%Y", "2024") | replace("%y", "24") | replace("%A", "Friday")'
    ' | replace("%a", "Fri") | replace("%H", "12") | replace("%I", "12") | replace("%M", "00") | replace("%S", "00")'
    ' | replace("%p", "PM") }}{%- endmacro %}'
)

PATTERNS: Final = {
    # For base models. The role stands on a line of its own, so that the completion begins with its own first letter
    # (after "Assistant: " it would begin with a space, or the prompt end in one, and both tokenise badly).
    "plain": Pattern(system="{content}\n\n", user="User:\n{content}\n\n", assistant="Assistant:\n", between="\n\n"),
    # Stanford Alpaca's two prompts, with the line end after "### Response:" that its followers write (the original
    # code joins the response to the colon). A system message takes the place of the preamble.
    "alpaca": Pattern(
        preamble=(
            "Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.\n\n"
        ),
        preamble_with_input=(
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n"
        ),
        system="{content}\n\n",
        user="### Instruction:\n{content}\n\n",
        user_with_input="### Instruction:\n{content}\n\n### Input:\n{input}\n\n",
        assistant="### Response:\n",
        between="\n\n",
    ),
    # The contents one after the other and nothing between, as TRL does with prompts and completions
    "raw": Pattern(),
}
NAMES: Final = ("auto", "chat", *PATTERNS)
