"""From a row to a conversation: one function per data set format, chosen by name or from column names alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from uncertainty.data.jsonlines import kind_of, locate
from uncertainty.data.text_file import Place
from uncertainty.errors import InputError

Message = dict[str, str]
"""``role`` ("system", "user", "assistant" or "text") and ``content``. Two more keys may be there: ``input``, the
part of an Alpaca instruction that is its input (``content`` ends with it), and ``scored`` = "no" on an assistant turn
that belongs to the prompt."""


@dataclass(frozen=True)
class Row:
    """One row of a data set.

    Attributes:
        number: its index in the data set, from 0, over all files.
        id: unique in the data set.
        fields: column -> value.
        where: file and line, or file and row, for a person.
        place: where it begins, in files that are text.
    """

    number: int
    id: str
    fields: dict[str, Any]
    where: str
    place: Place | None = None


class UnusableRow(ValueError):  # noqa: N818 - not a fault of the program or the user: a row to skip and count
    """A row with nothing to score: skipped and counted, the run goes on.

    Attributes:
        reason: a short snake_case word to count by.
        detail: what was found, for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def conversation(row: Row, format: str) -> list[Message]:
    """Turn a row into messages.

    Args:
        row: a row whose columns fit the format.
        format: a name in ``FORMATS``.

    Raises:
        UnusableRow: nothing to score: an empty or missing completion, no assistant turn, a role we do not know.
        InputError: a value of the wrong type, with file, line and column; or an unknown format.
    """
    check_format(format)
    return FORMATS[format](row)


def choose_format(columns: Sequence[str], format: str | None, origin: str) -> str:
    """Return the format to use: the one asked for, or the only one whose columns are all there.

    Column names decide, never values.

    Raises:
        InputError: the format is unknown or lacks a column; no format or more than one fits.
    """
    if format is not None:
        check_format(format)
        if not any(set(names) <= set(columns) for names in (*NEEDS[format], *ALSO.get(format, ()))):
            _no_columns(f"format {format} needs {_needs(format)}", columns, origin)
        return format
    fitting = [name for name, ways in NEEDS.items() if any(set(names) <= set(columns) for names in ways)]
    fitting = [name for name in fitting if name != "prompt-completion-messages"]  # told from its twin by type
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        _no_columns(f"the columns fit the formats {' and '.join(fitting)}; say which with --format", columns, origin)
    needs = ", ".join(f"{name} ({_needs(name)})" for name in NEEDS if name != "prompt-completion-messages")
    _no_columns(f"no format has these columns; rename them to one of: {needs}", columns, origin)


def settle_format(rows: Sequence[Row], format: str) -> str:
    """Tell prompt-completion of strings from prompt-completion of messages by the type of the first prompt there is."""
    if format == "prompt-completion":
        first = next((v for row in rows if (v := row.fields.get("prompt")) is not None), "")
        return "prompt-completion-messages" if isinstance(first, list) else format
    return format


def check_format(format: str) -> None:
    """Refuse a format that is not in ``FORMATS``, naming the nearest."""
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"--format {format} is unknown; choose one of {', '.join(FORMATS)}{hint}")


def messages(row: Row) -> list[Message]:
    """Chat messages: a list of ``{"role", "content"}`` in ``messages`` (or ``conversation``)."""
    column = next((name for name in MESSAGE_COLUMNS if name in row.fields), "messages")
    return _with_completion(_messages(row, column), column)


def sharegpt(row: Row) -> list[Message]:
    """ShareGPT: a list of ``{"from", "value"}`` in ``conversations``, and a ``system`` column where there is one."""
    turns = _list(row, ["conversations"])
    result = _system_message(row)
    for index, turn in enumerate(turns):
        keys: list[str | int] = ["conversations", index]
        _check_turn(row, keys, turn, "from", "value", "--format messages")
        speaker = _text(row, [*keys, "from"])
        if speaker not in SPEAKERS:
            raise UnusableRow("unknown_role", f"conversations[{index}] is from {speaker!r}")
        result.append({"role": SPEAKERS[speaker], "content": _text(row, [*keys, "value"])})
    return _with_completion(result, "conversations")


def alpaca(row: Row) -> list[Message]:
    """Alpaca: ``instruction``, ``input`` (empty or none: no input), ``output``, and ``system`` where there is one."""
    if row.fields.get("history"):
        raise UnusableRow("history_column", "earlier turns in the column 'history' are not part of the Alpaca format")
    instruction = _text(row, ["instruction"], "missing_prompt")
    extra = _text(row, ["input"]) if row.fields.get("input") is not None else ""
    if not (instruction + extra).strip():
        raise UnusableRow("empty_prompt", "instruction and input are empty")
    content = f"{instruction}\n\n{extra}" if extra else instruction
    user = {"role": "user", "content": content} | ({"input": extra} if extra else {})
    return [*_system_message(row), user, _completion(row, "output")]


def gsm8k(row: Row) -> list[Message]:
    """GSM8K: ``question`` and ``answer``, calculator marks and the final ``####`` line included."""
    return [_prompt(row, "question"), _completion(row, "answer")]


def prompt_completion(row: Row) -> list[Message]:
    """Prompt and completion as strings; an empty prompt is allowed."""
    prompt = {"role": "user", "content": _text(row, ["prompt"], "missing_prompt")}
    return [prompt, _completion(row, "completion")]


def prompt_completion_messages(row: Row) -> list[Message]:
    """Prompt and completion as lists of messages; only the completion's assistant turns are scored."""
    prompt = [
        message | {"scored": "no"} if message["role"] == "assistant" else message
        for message in _messages(row, "prompt")
    ]
    return [*prompt, *_with_completion(_messages(row, "completion"), "completion")]


def text(row: Row) -> list[Message]:
    """Plain text: every token is scored."""
    content = _text(row, ["text"], "missing_text")
    if not content.strip():
        raise UnusableRow("empty_text", "the text is empty")
    return [{"role": "text", "content": content}]


def _messages(row: Row, column: str) -> list[Message]:
    result = []
    for index, turn in enumerate(_list(row, [column])):
        keys: list[str | int] = [column, index]
        _check_turn(row, keys, turn, "role", "content", "--format sharegpt")
        role = _text(row, [*keys, "role"], "missing_role")
        other = next((name for name in UNRENDERED if turn.get(name)), None)
        if other is not None:
            raise UnusableRow("unsupported_field", f"{column}[{index}] has {other}, which is not rendered")
        if role not in ("system", "user", "assistant"):
            raise UnusableRow("unknown_role", f"{column}[{index}] has the role {role!r}")
        reason = "missing_completion" if role == "assistant" else "missing_text"
        result.append({"role": role, "content": _text(row, [*keys, "content"], reason)})
    return result


def _with_completion(result: list[Message], column: str) -> list[Message]:
    """Refuse a conversation without an assistant turn, or with an empty one."""
    assistant = [message for message in result if message["role"] == "assistant"]
    if not assistant:
        raise UnusableRow("no_assistant_turn", f"{column} has {len(result)} messages, none of the assistant")
    if any(not message["content"].strip() for message in assistant):
        raise UnusableRow("empty_completion", f"{column} has an assistant turn without text")
    return result


def _system_message(row: Row) -> list[Message]:
    if row.fields.get("system") is None or not (content := _text(row, ["system"])).strip():
        return []
    return [{"role": "system", "content": content}]


def _prompt(row: Row, column: str) -> Message:
    content = _text(row, [column], "missing_prompt")
    if not content.strip():
        raise UnusableRow("empty_prompt", f"{column} is empty")
    return {"role": "user", "content": content}


def _completion(row: Row, column: str) -> Message:
    content = _text(row, [column], "missing_completion")
    if not content.strip():
        raise UnusableRow("empty_completion", f"{column} is empty")
    return {"role": "assistant", "content": content}


def _text(row: Row, keys: list[str | int], reason: str = "missing_text") -> str:
    """Return the string under a path of keys; null or no key is `UnusableRow`, another type stops the run."""
    value: Any = row.fields
    for key in keys:
        value = value.get(key) if isinstance(key, str) else value[key]
    if value is None:
        raise UnusableRow(reason, f"{_spelt(keys)} is missing")
    if not isinstance(value, str):
        _wrong_type(row, keys, value, "a string")
    return value


def _list(row: Row, keys: list[str | int]) -> list[Any]:
    value = row.fields.get(str(keys[0]))
    if value is None:
        raise UnusableRow("missing_messages", f"{_spelt(keys)} is missing")
    if not isinstance(value, list):
        _wrong_type(row, keys, value, "a list of messages")
    return value


def _check_turn(row: Row, keys: list[str | int], turn: Any, role: str, content: str, other: str) -> None:
    if not isinstance(turn, dict):
        _wrong_type(row, keys, turn, f"an object with {role} and {content}")
    if role not in turn and content not in turn:
        _stop(row, keys, f"{_spelt(keys)} has the keys {', '.join(turn) or '(none)'} and not {role}, {content}", other)


def _wrong_type(row: Row, keys: list[str | int], value: Any, needed: str) -> NoReturn:
    _stop(row, keys, f"{_spelt(keys)} is {kind_of(value)} where {needed} is needed", "another --format")


def _stop(row: Row, keys: list[str | int], what: str, other: str) -> NoReturn:
    where = row.where
    if row.place is not None:
        line, column = locate(row.place, keys)
        where = f"{row.place.path} line {line} column {column}"
    raise InputError(f"{where}: {what}; mend the row or choose {other}")


def _spelt(keys: list[str | int]) -> str:
    first, *rest = keys
    return str(first) + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in rest)


def _needs(format: str) -> str:
    return " or ".join(", ".join(names) for names in NEEDS[format])


def _no_columns(what: str, columns: Sequence[str], origin: str) -> NoReturn:
    raise InputError(f"{origin} has the columns {', '.join(columns) or '(none)'}: {what}")


MESSAGE_COLUMNS: Final = ("messages", "conversation", "conversations")
SPEAKERS: Final = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
# fields of a message that a chat template would render and we do not: leaving them out would change the conversation
UNRENDERED: Final = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")

FORMATS: Final[dict[str, Callable[[Row], list[Message]]]] = {
    "messages": messages,
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "gsm8k": gsm8k,
    "prompt-completion": prompt_completion,
    "prompt-completion-messages": prompt_completion_messages,
    "text": text,
}
# the columns that each format needs: any one of the tuples
NEEDS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "messages": (("messages",), ("conversation",)),
    "sharegpt": (("conversations",),),
    "alpaca": (("instruction", "output"),),
    "gsm8k": (("question", "answer"),),
    "prompt-completion": (("prompt", "completion"),),
    "prompt-completion-messages": (("prompt", "completion"),),
    "text": (("text",),),
}
# columns that a format takes when it is asked for by name, but that do not make it the guess
ALSO: Final[dict[str, tuple[tuple[str, ...], ...]]] = {"messages": (("conversations",),)}
