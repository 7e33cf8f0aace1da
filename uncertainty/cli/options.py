"""The front end of every command: a frozen dataclass of options in; command line, YAML file and help out.

A command states its options once, as a dataclass whose fields come from ``option`` and ``positional``. ``parse`` builds
the argument parser from it; the order of precedence is defaults < ``--config`` file < command line. A value is read
by its option's type alone, with the same rules in the file as on the command line.

Only the standard library is imported here, and yaml when a file is read or written: ``--help`` must stay quick.
"""

import argparse
import os
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

from uncertainty.cli.fields import Option, nearest, option, option_table, positional, quoted, same_option
from uncertainty.cli.yaml_file import read_entries, yaml_text
from uncertainty.errors import InputError

__all__ = ["command", "dump_yaml", "option", "parse", "positional", "same_option"]

T = TypeVar("T")

SEE_HELP = "; --help lists the options"


def command(
    body: Callable[[T], int | None],
    options: type[T],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    description: str,
    epilog: str = "",
) -> int:
    """Run one command from its arguments to its exit code.

    Returns:
        What ``body`` returns (``None`` counts as 0); 2 for wrong usage or input, after one line on stderr; 130 when
        interrupted; 141 (128 + SIGPIPE, as other commands) when the reader of stdout has gone, as in ``| head``.
        Anything else that goes wrong propagates with its traceback, which ends in exit code 1.
    """
    try:
        try:
            given = parse(options, argv, prog=prog, description=description, epilog=epilog)
        except SystemExit as done:  # --help, --version and --print-config have printed what they were asked for
            code: int | None = done.code if isinstance(done.code, int) else 0
        else:
            code = body(given)
        sys.stdout.flush()
    except InputError as error:
        print(f"{prog}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends, and would complain of the same pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code or 0


def parse(options: type[T], argv: Sequence[str] | None, *, prog: str, description: str, epilog: str = "") -> T:
    """Read the options of a command: defaults, then the ``--config`` file, then the command line.

    Args:
        options: a dataclass whose fields all come from ``option`` or ``positional``.
        argv: the arguments after the command's name; ``None`` for those of this process.
        prog: name of the command, as the user types it.
        description: what the command does: the first lines of its help.
        epilog: the last lines of its help, such as examples.

    Raises:
        InputError: an unknown, missing or unreadable option, or a value that the dataclass's own ``__post_init__``
            refuses: one line that names the option and the mend.
        SystemExit: code 0, after printing what ``--help``, ``--version`` or ``--print-config`` asked for.
    """
    table = option_table(options)
    given, arguments = _split(sys.argv[1:] if argv is None else argv, table, _parser(table, prog, description, epilog))
    files = given.pop("config", [])
    if len(files) > 1:
        raise InputError("--config: given more than once; put all the options in one file")
    printing = given.pop("print_config", False)
    values = (_from_file(Path(files[0]), table) if files else {}) | _from_command_line(given, arguments, table)
    for one in table.values():
        if one.default is MISSING and one.name not in values:
            raise InputError(f"{one.shown} is missing: {one.help}")
    result = options(**values)
    if printing:
        print(dump_yaml(result), end="")
        raise SystemExit(0)
    return result


def dump_yaml(options: Any) -> str:
    """Write resolved options as a YAML file that reproduces the run when given back with ``--config``.

    All options are written, those left at their default too: a later version with other defaults then still does the
    same run. Relative paths stay relative to the folder in which the command is run.
    """
    lines = ["# Every option of a run: give this file back with --config."]
    group = None
    for one in option_table(type(options)).values():
        if one.group != group:
            group = one.group
            lines += ["", f"# {group or 'general'}"]
        unit = f"  # {one.unit}" if one.unit else ""
        lines.append(f"{one.key}: {yaml_text(getattr(options, one.name))}{unit}")
    return "\n".join(lines) + "\n"


class _Parser(argparse.ArgumentParser):
    """argparse, with an error that is one line and not the whole usage."""

    def error(self, message: str) -> typing.NoReturn:
        raise InputError(message.removeprefix("argument "))


class _Version(argparse.Action):
    """Print the version and end; it is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> typing.NoReturn:
        from importlib.metadata import version  # deferred: --help does not need it

        print(f"{parser.prog} {version('token-uncertainty')}")
        raise SystemExit(0)


class _Help(argparse.Action):
    """Print the help and end; ``const`` adds what only the help shows."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> typing.NoReturn:
        self.const()
        parser.print_help()
        raise SystemExit(0)


def _parser(table: Mapping[str, Option], prog: str, description: str, epilog: str) -> _Parser:
    """Build the parser of the named options; it collects texts and leaves arguments without a name over."""
    arguments = [one for one in table.values() if one.positional]
    parser = _Parser(
        prog=prog,
        usage=" ".join([prog, "[options]", *(_in_usage(one) for one in arguments)]).replace("%", "%%"),
        description=description,
        epilog=epilog,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30),
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    groups = {"arguments": parser.add_argument_group("arguments")}
    for one in table.values():
        title = one.group or "options"
        if one.positional:
            continue
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        how: dict[str, Any] = {"action": "append", "metavar": one.placeholder}
        if one.kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        groups[title].add_argument(one.flag, dest=one.name, help=one.full_help, **how)

    def show_arguments() -> None:
        for one in arguments:
            groups["arguments"].add_argument(one.name, metavar=one.shown, help=one.full_help)

    about = parser.add_argument_group("about the command")
    about.add_argument(
        "--config",
        metavar="FILE.yaml",
        action="append",
        help="read options from a YAML file ('name: value' lines); those on the command line win",
    )
    about.add_argument("--print-config", action="store_true", help="print every option as such a file, and end")
    about.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    about.add_argument("-h", "--help", action=_Help, nargs=0, const=show_arguments, help="print this text and end")
    return parser


def _in_usage(one: Option) -> str:
    name = f"{one.shown} ..." if one.many else one.shown
    return name if one.default is MISSING else f"[{name}]"


def _split(argv: Sequence[str], table: Mapping[str, Option], parser: _Parser) -> tuple[dict[str, Any], list[str]]:
    """Split a command line into what was given for named options and the arguments without a name."""
    flags = ["--config", "--print-config", "--version", "--help"]
    for one in table.values():
        if not one.positional:
            flags += [one.flag, "--no-" + one.flag[2:]] if one.kind is bool else [one.flag]
    end = argv.index("--") if "--" in argv else len(argv)
    given, left = parser.parse_known_args([_dashed(word, flags) for word in argv[:end]])
    for word in left:
        if word.startswith("-") and word != "-":
            name = word.partition("=")[0]
            hint = nearest(name.replace("_", "-"), flags)
            raise InputError(f"unknown option {name}{hint or SEE_HELP}")
    return vars(given), [*left, *argv[end + 1 :]]


def _dashed(word: str, flags: Iterable[str]) -> str:
    """Turn ``--batch_size=8`` into ``--batch-size=8`` where that is an option."""
    name, equals, value = word.partition("=")
    dashed = name.replace("_", "-")
    return dashed + equals + value if word.startswith("--") and dashed in flags else word


def _from_command_line(
    given: Mapping[str, Any], arguments: Sequence[str], table: Mapping[str, Option]
) -> dict[str, Any]:
    """Read the values given on the command line."""
    values = {}
    left = list(arguments)
    for one in table.values():
        if one.positional and left:
            taken, left = (left, []) if one.many else (left[:1], left[1:])
            values[one.name] = one.value(taken, one.shown, is_list=True)
        elif one.name in given and one.kind is bool:
            values[one.name] = given[one.name]
        elif one.name in given:
            texts = given[one.name] if one.repeat else given[one.name][-1:]
            values[one.name] = one.value(texts, one.shown)
    if left:
        raise InputError(f"unexpected argument {quoted(left[0])}; --help shows what the command takes")
    return values


def _from_file(path: Path, table: Mapping[str, Option]) -> dict[str, Any]:
    """Read the values given in a YAML file."""
    values: dict[str, Any] = {}
    for entry in read_entries(path):
        one = table.get(entry.key.replace("-", "_"))
        where = f"{entry.where}: {entry.key}"
        if one is None:
            hint = nearest(entry.key.replace("_", "-"), [one.key for one in table.values()]) or SEE_HELP
            raise InputError(f"{entry.where}: unknown option {quoted(entry.key)}{hint}")
        if one.name in values:
            raise InputError(f"{where}: given twice; keep one of the lines")
        if entry.texts is None and not one.is_optional:
            raise InputError(f"{where}: has no value; give one or leave the line out")
        if entry.is_list and not one.is_tuple:
            raise InputError(f"{where}: takes one value, not a list")
        is_list = entry.is_list or one.many
        values[one.name] = None if entry.texts is None else one.value(entry.texts, where, is_list=is_list)
    return values
