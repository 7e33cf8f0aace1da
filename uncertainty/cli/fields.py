"""One option of a command: how it is stated, what its texts mean, and what to say where they mean nothing.

A value is read by its option's type alone, with the same rules on the command line as in a file: ``1e-1`` is a number
for a number, ``no`` is text for text, whatever a version of YAML would guess.
"""

import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal

from uncertainty.errors import InputError

_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WHOLE = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")
_DECIMAL = re.compile(r"[+-]?([0-9]+(_[0-9]+)*\.?([0-9]+(_[0-9]+)*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a finite number", Path: "a path", str: "text"}
_METAVARS = {bool: "", int: "N", float: "X", Path: "PATH", str: "TEXT"}


def option(
    default: Any,
    help: str,
    *,
    unit: str | None = None,
    choices: Sequence[str] | None = None,
    group: str | None = None,
    metavar: str | None = None,
    repeat: bool = False,
) -> Any:
    """State one ``--option`` of a command, as a dataclass field.

    The field's annotation says how its value is read: ``bool`` (``--flag``, ``--no-flag``), ``int``, ``float``,
    ``str``, ``Path``, ``Literal`` words, ``tuple[X, ...]`` (separated by commas), and unions of one of these with
    ``None`` or with ``Literal`` words (``int | Literal["auto"]``).

    Args:
        default: the value where neither file nor command line gives one; ``MISSING`` makes the option required.
        help: one or two sentences; the unit and the default are added to them.
        unit: unit of the value, such as ``"tokens"``.
        choices: the only texts allowed; for a tuple, the only ones allowed as its elements.
        group: title under which the help lists the option.
        metavar: what stands for the value in the help, instead of a word for its type.
        repeat: for a tuple: may be given several times, each adding its elements; otherwise the last one counts.
    """
    about = {"help": help, "unit": unit, "choices": choices, "group": group, "metavar": metavar, "repeat": repeat}
    return dataclasses.field(default=default, metadata={"about": about})


def positional(help: str, *, many: bool = False, default: Any = MISSING) -> Any:
    """State one argument without a name, as a dataclass field; required where it has no default.

    Args:
        help: one or two sentences.
        many: takes all the arguments that are left (at least one, where it has no default), each as it stands;
            the field is a ``tuple[X, ...]``.
        default: the value where neither file nor command line gives one.
    """
    return dataclasses.field(default=default, metadata={"about": {"help": help, "positional": True, "many": many}})


def same_option(options: type, name: str) -> Any:
    """State an option that another command has too, as a dataclass field: its default, help, unit and choices.

    Args:
        options: the other command's dataclass.
        name: of its field; the new field has the same name and annotation.
    """
    (one,) = (field for field in dataclasses.fields(options) if field.name == name)
    return dataclasses.field(default=one.default, metadata=one.metadata)


@dataclasses.dataclass(frozen=True)
class Option:
    """One field of the options: how its value is read and how the help shows it."""

    name: str
    kind: type  # bool, int, float, str or Path: of the value, or of each element of a tuple
    is_tuple: bool
    is_optional: bool
    words: tuple[str, ...]  # texts that stand for themselves beside the kind's own
    choices: tuple[str, ...]
    default: Any
    help: str
    unit: str | None = None
    group: str | None = None
    metavar: str | None = None
    repeat: bool = False
    positional: bool = False
    many: bool = False

    @property
    def key(self) -> str:
        """Its name in a file: ``batch-size``."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """Its name on the command line: ``--batch-size``."""
        return f"--{self.key}"

    @property
    def shown(self) -> str:
        """What messages call it: ``--batch-size``, or ``RUN`` for an argument without a name."""
        return self.key.upper() if self.positional else self.flag

    @property
    def placeholder(self) -> str:
        """What stands for its value in the help."""
        words = "|".join(self.choices or (*self.words, _METAVARS[self.kind]))
        return self.metavar or (f"{words},..." if self.is_tuple else words)

    @property
    def full_help(self) -> str:
        """Its help with unit, choices and default, ready for argparse."""
        notes = [self.unit] if self.unit else []
        if self.choices and self.metavar:
            notes.append("one of " + ", ".join(self.choices))
        if self.default not in (None, MISSING, ()):
            notes.append(f"default: {_as_typed(self.default)}")
        if self.default is MISSING and not self.positional:
            notes.append("required")
        return (self.help + (f" ({'; '.join(notes)})" if notes else "")).replace("%", "%%")

    def value(self, texts: Sequence[str], where: str, *, is_list: bool = False) -> Any:
        """Read the texts given for this option.

        Args:
            texts: the elements of a tuple, or one text.
            where: what messages name: the option, or the line of a file.
            is_list: the texts are elements already; otherwise those of a tuple are split at their commas.

        Raises:
            InputError: a text that is not one of the option's kind or choices.
        """
        if not self.is_tuple:
            # `none` takes back a number that a file gives; for text and paths it is a text like others.
            is_none = self.is_optional and self.kind in (int, float) and texts[-1] == "none"
            return None if is_none else self._one(texts[-1], where)
        if not is_list:
            texts = [part.strip() for text in texts if text.strip() for part in text.split(",")]
            if "" in texts:
                raise InputError(f"{where}: nothing between two commas; write them as a,b,c")
        return tuple(self._one(text, where) for text in texts)

    def _one(self, text: str, where: str) -> Any:
        if text in self.words or text in self.choices:
            return text
        if self.choices:
            listed = ", ".join(self.choices)
            raise InputError(f"{where}: {quoted(text)} is not one of {listed}{nearest(text, self.choices)}")
        try:
            return _read(self.kind, text)
        except ValueError:
            mend = "" if self.default in (None, MISSING, ()) else f"; the default is {_as_typed(self.default)}"
            expected = " or ".join([_EXPECTED[self.kind], *self.words])
            raise InputError(f"{where}: {quoted(text)} is not {expected}{mend}") from None


def option_table(options: Any) -> dict[str, Option]:
    """Read the options off the dataclass, in the order of its fields."""
    hints = typing.get_type_hints(options)
    table = {}
    for field in dataclasses.fields(options):
        where = f"{options.__name__}.{field.name}"
        if "about" not in field.metadata:
            raise TypeError(f"{where}: state it with option() or positional()")
        about = dict(field.metadata["about"])
        shape = _shape(hints[field.name], where)
        shape["choices"] = tuple(about.pop("choices", None) or shape["choices"])
        table[field.name] = Option(field.name, default=field.default, **shape, **about)
    return table


def nearest(text: str, names: Sequence[str]) -> str:
    """Say which name was perhaps meant, or nothing."""
    bare = {name.lstrip("-"): name for name in names}
    wanted = text.lstrip("-")
    close = difflib.get_close_matches(wanted, bare, 1) or [name for name in bare if wanted and name.startswith(wanted)]
    return f"; did you mean {bare[close[0]]}?" if close else ""


def quoted(text: str) -> str:
    """Show what the user gave, on one line and not at any length."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _read(kind: type, text: str) -> Any:
    """Read one value strictly; ValueError where the text is not one of the kind."""
    if kind is str:
        return text
    if kind is Path and text:
        return Path(os.path.expanduser(text))  # Path.expanduser raises where there is no such user
    if kind is bool and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if kind is int and _WHOLE.fullmatch(text):
        return int(text)
    if kind is float and _DECIMAL.fullmatch(text) and abs(float(text)) != float("inf"):
        return float(text)
    raise ValueError(text)


def _shape(annotation: Any, where: str) -> dict[str, Any]:
    """Take an annotation apart into kind, tuple, optional, words and choices."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    arms = typing.get_args(annotation) if is_union else (annotation,)
    words = tuple(word for arm in arms if typing.get_origin(arm) is Literal for word in typing.get_args(arm))
    rest = [arm for arm in arms if arm is not type(None) and typing.get_origin(arm) is not Literal]
    kind = rest[0] if rest else str
    is_tuple = typing.get_origin(kind) is tuple and typing.get_args(kind)[1:] == (...,)
    if is_tuple:
        kind = typing.get_args(kind)[0]
    if len(rest) > 1 or kind not in _EXPECTED or not all(isinstance(word, str) for word in words):
        raise TypeError(f"{where}: {annotation} is not a type that an option can have")
    words, choices = (words, ()) if rest else ((), words)
    is_optional = type(None) in arms
    return {"kind": kind, "is_tuple": is_tuple, "is_optional": is_optional, "words": words, "choices": choices}


def _as_typed(value: Any) -> str:
    """Show a value as the user would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(str(item) for item in value) if isinstance(value, tuple) else str(value)
