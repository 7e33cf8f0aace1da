"""YAML as options use it: a flat mapping of texts, read without guessing types, and its writer.

YAML readers guess a plain scalar's type, and the versions of YAML disagree: ``no`` is false in 1.1, ``1e-1`` is text,
``010`` is eight and ``1:30`` is ninety. Here every value stays the text that was written; the option it is for decides
what it means, with the rules of the command line. Only ``null`` and its spellings mean nothing, where they stand
without quotes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncertainty.errors import InputError

_NULLS = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Entry:
    """One ``key: value`` of a file; ``texts`` is None for null."""

    key: str
    texts: tuple[str, ...] | None
    is_list: bool
    where: str  # "run.yaml line 3", for messages


def read_entries(path: Path) -> list[Entry]:
    """Read a YAML file that is one flat mapping from names to texts or lists of texts.

    Raises:
        InputError: the file cannot be read, is not YAML, or holds anything but such a mapping.
    """
    import yaml  # deferred: --help does not need it

    try:
        text = path.read_text(encoding="utf-8-sig")
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except OSError as error:
        raise InputError(f"--config: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{path}{place}: not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply; options are a flat list of 'name: value'") from None
    if root is None:  # empty, or comments alone
        return []
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}: holds no 'name: value' lines; write one option on each")
    return [_entry(key, value, path) for key, value in root.value]


def yaml_text(value: Any) -> str:
    """Write one value (None, bool, number, text, path or a tuple of them) on one line of YAML."""
    import yaml  # deferred: --help does not need it

    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    texts = [str(item) for item in value] if isinstance(value, tuple) else [str(value)]
    style = None if all(text.isprintable() for text in texts) else '"'
    flow = yaml.safe_dump(
        texts, default_flow_style=True, default_style=style, width=float("inf"), allow_unicode=True
    ).strip()
    return flow if isinstance(value, tuple) else flow.removeprefix("[").removesuffix("]")


def _entry(key: Any, value: Any, path: Path) -> Entry:
    import yaml

    where = f"{path} line {key.start_mark.line + 1}"
    if not isinstance(key, yaml.ScalarNode):
        raise InputError(f"{where}: a name of an option is wanted before ':', not a list or a mapping")
    if isinstance(value, yaml.MappingNode):
        raise InputError(f"{where}: {key.value}: holds further 'name: value' lines; options are not nested")
    if isinstance(value, yaml.ScalarNode):
        is_null = value.style is None and value.value in _NULLS
        return Entry(key.value, None if is_null else (_scalar(value, key, where),), False, where)
    texts: Sequence[str] = [_scalar(item, key, where) for item in value.value]
    return Entry(key.value, tuple(texts), True, where)


def _scalar(node: Any, key: Any, where: str) -> str:
    """Take the text of a scalar; an explicit tag would be a type of its own, which options do not have."""
    if node.id != "scalar" or node.tag != "tag:yaml.org,2002:str":
        raise InputError(f"{where}: {key.value}: plain values are wanted, without tags and not nested")
    return str(node.value)
