"""Heatmaps in a notebook: ``heatmap(scores, example)`` displays itself, from a frame of ``read_scores``."""

from __future__ import annotations

import difflib
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.family_words import DROPOUT, family_words
from analysis.heatmap import Heatmap, make_heatmap, run_facts
from analysis.heatmap_html import heatmap_html
from analysis.heatmap_spans import heatmap_fragment
from analysis.heatmap_terminal import heatmap_text
from analysis.look import Look, Page
from analysis.measure_names import measure_name
from uncertainty.errors import InputError
from uncertainty.scores import RunInfo, read_examples, read_run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_TEXT_CELLS = 100
_NEEDED = ("example_id", "turn", "position", "token", "char_start", "char_end", "is_special")


@dataclass(frozen=True, eq=False)
class ShownHeatmap:
    """A heatmap that displays itself: coloured text in a notebook, plain text where it is printed.

    Attributes:
        heatmap: What is shown.
    """

    heatmap: Heatmap

    def figure(self, page: Page = Page()) -> Figure:  # noqa: B008  (frozen)
        """The heatmap as a matplotlib figure, for a paper; ``savefig`` writes it."""
        from analysis.heatmap_figure import heatmap_figure  # matplotlib is slow to load, and few notebooks need it

        return heatmap_figure(self.heatmap, page)

    def page(self) -> str:
        """The heatmap as a whole HTML page, to be written to a file."""
        return heatmap_html(self.heatmap)

    def _repr_html_(self) -> str:
        return heatmap_fragment(self.heatmap)

    def __str__(self) -> str:
        """The heatmap as text: a line of shades below each line."""
        return heatmap_text(self.heatmap, _TEXT_CELLS, "none")

    def __repr__(self) -> str:
        """The same: consoles show what an expression's ``repr`` is."""
        return str(self)


def heatmap(
    scores: pd.DataFrame,
    example: str | int,
    *,
    examples: pd.DataFrame | None = None,
    look: Look = Look(),  # noqa: B008
) -> ShownHeatmap:
    """One example of a score frame, each token coloured by a measure; the last line of a cell displays it.

    >>> scores = read_scores("out/gsm8k")    # doctest: +SKIP
    >>> heatmap(scores, "train-17")          # doctest: +SKIP

    Args:
        scores: What ``uncertainty.read_scores`` gave, or a part of its rows; these rows set the colours' scale.
        example: Id of the example, or its place among the frame's examples, counted from 0.
        examples: What ``uncertainty.read_examples`` gave, for the texts; None: read from the run the frame came from.
        look: Measures, scale and colour map.

    Raises:
        InputError: no such example, a column that is missing, or no way to the texts.
    """
    measures = [measure_name(name) for name in look.measures]
    missing = [name for name in (*_NEEDED, *measures) if name not in scores.columns]
    if missing:
        raise InputError(
            f"the frame of scores has no column {missing[0]!r}; read it with all columns: read_scores(run)"
        )
    example_id = _example_id(scores, example)
    tokens = scores[scores["example_id"] == example_id].sort_values("position", kind="stable")
    if tokens["position"].duplicated().any():
        raise InputError(f"the frame holds example {example_id!r} more than once; give the scores of one run")
    row = _example_row(scores, example_id, examples)
    reference = scores if look.reference == "run" else tokens
    whose = "the frame" if look.reference == "run" else "this example"
    info = _info(scores)
    facts = _fingerprint(scores) if info is None else run_facts(info)
    words = DROPOUT if info is None else family_words(info)
    return ShownHeatmap(make_heatmap(tokens, row, reference, look, facts, whose, words))


def _example_id(scores: pd.DataFrame, example: str | int) -> str:
    ids = [str(one) for one in scores["example_id"].unique()]
    if not isinstance(example, str):
        index = operator.index(example)
        if not 0 <= index < len(ids):
            raise InputError(f"the frame has no example {index}; its {len(ids):,} examples are 0 to {len(ids) - 1}")
        return ids[index]
    if example not in ids:
        near = ", ".join(map(repr, difflib.get_close_matches(example, ids, n=3, cutoff=0.5) or ids[:3]))
        raise InputError(f"the frame has no example {example!r}; of its {len(ids):,} the nearest are {near}")
    return example


def _example_row(scores: pd.DataFrame, example_id: str, examples: pd.DataFrame | None) -> Any:
    if examples is None:
        examples = read_examples(_run(scores), example=example_id)
    found = examples[examples["id"] == example_id]
    if len(found) != 1:
        raise InputError(
            f"the frame of examples has {len(found)} rows of {example_id!r}; give read_examples of the same run"
        )
    return found.iloc[0]


def _run(scores: pd.DataFrame) -> Path:
    path = scores.attrs.get("run", {}).get("path")
    if path is None or not Path(path).is_dir():
        said = "does not say which run it came from" if path is None else f"came from {path}, which is not there"
        raise InputError(f"the frame of scores {said}; give the texts too: heatmap(..., examples=read_examples(run))")
    return Path(path)


def _info(scores: pd.DataFrame) -> RunInfo | None:
    """What is known of the run that a frame came from; None where that run is not there."""
    run = scores.attrs.get("run", {})
    path = run.get("path")
    if path is None or not (Path(path) / "run.json").is_file():
        return None
    info = read_run(path)
    return info if info.fingerprint == run.get("fingerprint") else None


def _fingerprint(scores: pd.DataFrame) -> str:
    run = scores.attrs.get("run", {})
    return f"run {run['fingerprint'][:12]}" if run.get("fingerprint") else ""
