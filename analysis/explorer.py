"""The explorer: a run's tables as one self-contained page to read examples in, token by token.

From a run folder to the data of a page (``load_page``), and from these to HTML (``explorer_html``). The page is
static text from ``explorer_page/``; the data stand in it as JSON and reach its document as text only, never as markup.
What the page may do is fixed by its content security policy: run this script and this style, and load nothing.

Suffixes: M tokens of the whole run, C colours of a table.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analysis.colours import colours, text_colour
from analysis.explorer_measures import packed, packed_measure
from analysis.explorer_text import completion_blocks, snippet
from analysis.family_words import family_words
from analysis.heatmap import run_facts
from analysis.look import Look
from analysis.measure_names import NAMES, Name, measure_name, names_of
from analysis.token_text import Token, cut_middle
from uncertainty.errors import InputError
from uncertainty.scores import ALL_COLUMNS, measures_among, read_examples, read_run, read_scores

if TYPE_CHECKING:
    import pandas as pd

MAX_TOKENS = 200_000
STYLES = ("page.css", "text.css")
SCRIPTS = (
    "data.js", "numbers.js", "state.js", "text.js", "inspector.js", "histogram.js", "selection.js", "list.js",
    "keyboard.js", "start.js",
)  # fmt: skip
_KEPT_CHARACTERS = 2_000


def load_page(run: str | Path, *, limit: int | None = None, top: str | None = None) -> dict[str, Any]:
    """Read a run, or a part of its examples, as the data of a page.

    Args:
        run: A finished run's folder.
        limit: The most examples to take; all if None.
        top: Take those with the highest mean of this measure, as many as a page holds, instead of the first.

    Raises:
        InputError: not a finished run, an unknown measure, or more tokens than a page holds.
    """
    info = read_run(run)
    ids = _chosen(run, limit, top)
    examples = read_examples(run, example=ids)
    tokens = read_scores(run, example=ids)
    names = measures_among(tokens.columns)
    run_M: Mapping[str, np.ndarray] = {name: _column(tokens, name) for name in names}
    on_page_M = np.ones(len(tokens), dtype=bool)
    if ids is not None:
        table = read_scores(run, columns=["example_id", *names], as_="arrow")
        on_page_M = np.asarray(pc.is_in(table["example_id"], value_set=pa.array(ids, pa.string())))
        run_M = {name: table[name].to_numpy() for name in names}
    command = info.record.get("command", "")
    about = {
        "title": Path(run).resolve().name,
        "facts": run_facts(info),
        "fingerprint": info.fingerprint,
        "command": command if isinstance(command, str) else shlex.join(command),
        "part": _part(info.totals.get("examples", len(examples)), len(examples), top),
    }
    return page_data(tokens, examples, run_M, on_page_M, about, names_of(family_words(info)))


def page_data(
    tokens: pd.DataFrame,
    examples: pd.DataFrame,
    run_M: Mapping[str, np.ndarray],
    on_page_M: np.ndarray,
    about: Mapping[str, str],
    names: Mapping[str, Name] = NAMES,
) -> dict[str, Any]:
    """The data of a page, ready for JSON; arrays as text (``analysis.explorer_measures.packed``).

    Args:
        tokens: Rows of the token table, those of one example together and in order.
        examples: Their rows of the examples table, in the same order.
        run_M: Measure -> its values at all tokens of the run, float32; NaN where there is no prediction.
        on_page_M: Which of them are ``tokens``, in the same order.
        about: Title and origin of the run, to be shown.
        names: Of the measures, in the words of the run's family.
    """
    starts = np.concatenate([[0], np.cumsum(examples["n_completion_tokens"].to_numpy())])
    run_M = {name: np.asarray(run_M[name], dtype=np.float32) for name in measures_among(run_M)}
    known = [name for name, value_M in run_M.items() if not np.all(np.isnan(value_M))]
    return {
        "about": {**about, "tokens": len(on_page_M), "shown": int(starts[-1])},
        "colours": {theme: _hexadecimal(table_C3) for theme, table_C3 in _tables().items()},
        "measures": [packed_measure(name, run_M[name], on_page_M, names) for name in known],
        "tokens": {
            "id": packed(_column(tokens, "token_id"), "i4"),
            "position": packed(_column(tokens, "position"), "i4"),
            "rank": packed(tokens["label_rank"].fillna(-1).to_numpy(dtype=np.int32), "i4"),
            "passes": packed(_column(tokens, "n_passes"), "i4"),
        },
        "examples": {
            "start": starts.tolist(),
            "id": [str(one) for one in examples["id"]],
            "truncated": [bool(one) for one in examples["truncated"]],
            **_texts(tokens, examples, starts),
            "kept": _kept(examples),
            "statistics": {
                name: packed(_column(examples, name), "f8")
                for name in (f"{how}_{measure}" for how in ("mean", "max", "sum") for measure in known)
            },
        },
    }


def explorer_html(data: Mapping[str, Any]) -> str:
    """The page of some data: one document that loads nothing and opens from disk."""
    folder = resources.files("analysis") / "explorer_page"
    style = "\n".join((folder / name).read_text(encoding="utf-8") for name in STYLES) + _palette(data["colours"])
    inner = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{inner}}})();\n'
    # No "<" in the data: nothing in them can end the element they stand in, or begin another one.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(str(data["about"]["title"])),
        "style": style,
        "script": script,
        "data": text,
    }
    page = (folder / "page.html").read_text(encoding="utf-8")
    # In one pass, so that a part which holds the name of another one stays as it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


def _chosen(run: str | Path, limit: int | None, top: str | None) -> list[str] | None:
    """Ids of the examples to show, in the order of the run; None for all of them."""
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} leaves nothing to show; give at least 1")
    measure = None if top is None else measure_name(top)
    columns = ["id", "n_completion_tokens", *([] if measure is None else [f"mean_{measure}"])]
    table = read_examples(run, columns=columns)
    if not table["n_completion_tokens"].sum():
        raise InputError(f"{run} holds no scored token; score some examples first")
    order = np.arange(len(table))
    if measure is not None:
        means = table[f"mean_{measure}"].to_numpy(dtype=np.float64)
        if np.all(np.isnan(means)):
            raise InputError(f"no example of {run} has a value of {top}; leave --top out")
        order = np.argsort(-means, kind="stable")  # NaN last
    sizes = table["n_completion_tokens"].to_numpy()[order]
    fitting = int(np.searchsorted(np.cumsum(sizes), MAX_TOKENS, side="right"))
    wanted = len(order) if limit is None else min(limit, len(order))
    if fitting == 0 or (fitting < wanted and (measure is None or limit is not None)):
        raise InputError(_too_large(run, int(sizes[:wanted].sum()), wanted, fitting, top))
    taken = np.sort(order[: min(wanted, fitting)])
    return None if len(taken) == len(order) else [str(one) for one in table["id"].iloc[taken]]


def _too_large(run: str | Path, n_tokens: int, n_examples: int, fitting: int, top: str | None) -> str:
    what = f"{n_examples:,} examples of {run} have {n_tokens:,} tokens and a page shows at most {MAX_TOKENS:,}"
    if fitting == 0:
        return f"{what}: its first one alone is too long; score it again with a smaller --max-length"
    if top is not None:
        return f"{what}: give --limit {fitting} or leave --limit out"
    return f"{what}: give --limit {fitting}, or --top epistemic for those with the highest mean"


def _part(n_run: int, n_shown: int, top: str | None) -> str:
    if n_shown == n_run:
        return ""
    chosen = "the first" if top is None else f"those with the highest mean {measure_name(top)}"
    return f"{n_shown:,} of the run's {n_run:,} examples, {chosen}"


def _texts(tokens: pd.DataFrame, examples: pd.DataFrame, starts: np.ndarray) -> dict[str, list[Any]]:
    names = ("token", "char_start", "char_end", "is_special")
    read = [Token(str(t), int(a), int(b), bool(s)) for t, a, b, s in zip(*(tokens[n] for n in names), strict=True)]
    turns = [int(turn) for turn in tokens["turn"]]
    blocks, snippets = [], []
    rows = zip(examples["prompt"], examples["completion"], examples["messages"], strict=True)
    for index, (prompt, completion, messages) in enumerate(rows):
        here = slice(int(starts[index]), int(starts[index + 1]))
        said = json.loads(messages) if isinstance(messages, str) else messages
        blocks.append(completion_blocks(prompt, completion, read[here], turns[here], said))
        snippets.append(snippet(prompt, completion, said, min(turns[here], default=0)))
    return {"blocks": blocks, "snippet": snippets}


def _kept(examples: pd.DataFrame) -> dict[str, list[Any]]:
    """The data set's own columns that the run kept, as text or None."""
    statistics = {f"{how}_{name}" for how in ("mean", "sum", "max") for name in ALL_COLUMNS}
    names = [str(name) for name in examples.columns if name not in statistics and name not in _OWN_COLUMNS]
    return {name: [_as_text(value) for value in examples[name]] for name in names}


def _as_text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return cut_middle(str(value), _KEPT_CHARACTERS)


def _column(table: pd.DataFrame, name: str) -> np.ndarray:
    return table[name].to_numpy()


def _tables() -> dict[str, np.ndarray]:
    """The heatmap's colour map for a light and for a dark page, each 256 colours, high values away from the page.

    The lowest sixth fades into the page: the eye of someone who reads for long should rest on what is predicted well.
    """
    import matplotlib

    map_C3 = matplotlib.colormaps[Look.colour_map](np.linspace(0.12, 1, 256))[:, :3]
    share_C1 = np.clip(np.arange(256) / 42, 0, 1)[:, None]
    tables = {"light": colours(Look.colour_map).table_C3, "dark": map_C3}
    return {
        theme: share_C1 * table_C3 + (1 - share_C1) * np.array(_PAGE[theme]) / 255 for theme, table_C3 in tables.items()
    }


def _hexadecimal(table_C3: np.ndarray) -> list[str]:
    return ["".join(f"{round(float(part) * 255):02x}" for part in colour) for colour in table_C3]


def _palette(tables: Mapping[str, Sequence[str]]) -> str:
    """A class for each colour of both themes, with black or white text, whichever can be read on it."""
    rules = []
    for theme, table in tables.items():
        for index, colour in enumerate(table):
            red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4))
            text = "#000" if text_colour((red, green, blue)) == (0.0, 0.0, 0.0) else "#fff"
            rules.append(f"[data-theme={theme}] .c{index}{{background-color:#{colour};color:{text}}}")
    return "\n" + "\n".join(rules) + "\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


_PAGE = {"light": (251, 250, 248), "dark": (22, 23, 26)}  # --page in page.css
_OWN_COLUMNS = {
    "id", "prompt", "completion", "messages", "input_ids", "n_prompt_tokens", "n_completion_tokens", "truncated",
}  # fmt: skip
