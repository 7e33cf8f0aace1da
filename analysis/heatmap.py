"""One example as a heatmap: which text, which values on which scale, and what must be said beside them.

From the tables of a run to a ``Heatmap``, which says everything that a drawing needs and nothing about how it is
drawn: ``heatmap_figure.py`` draws it with matplotlib, ``heatmap_terminal.py`` with colour codes, ``heatmap_html.py``
as a page; ``compare.py`` makes one of two runs.

Suffix N: completion tokens of the example.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.colours import Colours, colours
from analysis.family_words import DROPOUT, FamilyWords, family_words, masks_of
from analysis.look import Look
from analysis.measure_names import measure_name, names_of, require_measure
from analysis.panel import Panel, make_panel, panel_notes
from analysis.readings import Reading, token_readings
from analysis.run_title import name_of
from analysis.token_text import Cluster, Token, completion_clusters, context_clusters, cut_middle
from uncertainty.errors import InputError
from uncertainty.scores import RunInfo, read_examples, read_run, read_scores, run_measures

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Block:
    """A stretch of one panel's text: a scored completion, or the unscored turn between two of them."""

    clusters: tuple[Cluster, ...]
    is_completion: bool


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Everything that a drawing of one example shows.

    Attributes:
        example_id: Id of the example.
        prompt: Text before the completion, for grey; empty if it is not to be shown.
        blocks: The panels' text; all panels show the same.
        panels: One per measure; of two runs compared, three per measure, next to each other.
        colours: The colour map of all panels that have none of their own.
        facts: Where the numbers come from (model, data set, passes, rate, sites, seed, run).
        notes: What a reader must know to read the colours, one sentence each.
        readings: All that is known of each completion token, for tooltips and tables.
    """

    example_id: str
    prompt: tuple[Cluster, ...]
    blocks: tuple[Block, ...]
    panels: tuple[Panel, ...]
    colours: Colours
    facts: str
    notes: tuple[str, ...]
    readings: tuple[tuple[Reading, ...], ...]

    def colours_of(self, panel: Panel) -> Colours:
        """The colour map of a panel."""
        return panel.colours or self.colours

    @property
    def text_notes(self) -> tuple[str, ...]:
        """The notes where the text itself is coloured, and a character can have one colour only."""
        if all(len(cluster.tokens) <= 1 for block in self.blocks for cluster in block.clusters):
            return self.notes
        differences = "; of differences, the largest" if any(panel.scale.centred for panel in self.panels) else ""
        return (*self.notes, f"A character that several tokens spell shows the highest of them{differences}.")


def example_named(run: str | Path, example_id: str) -> str:
    """The id itself, if the run has it.

    Raises:
        InputError: it has not; names the nearest ids.
    """
    ids = list(read_examples(run, columns=["id"])["id"])
    if example_id in ids:
        return example_id
    near = difflib.get_close_matches(example_id, ids, n=3, cutoff=0.5) or ids[:3]
    listed = ", ".join(repr(one) for one in near)
    raise InputError(f"{run} has no scored example {example_id!r}; of its {len(ids):,} the nearest are {listed}")


def example_at(run: str | Path, index: int) -> str:
    """The id of the example at a place in the run, counted from 0.

    Raises:
        InputError: out of range.
    """
    ids = read_examples(run, columns=["id"])["id"]
    if not 0 <= index < len(ids):
        raise InputError(f"{run} has no example {index}; its {len(ids):,} examples are 0 to {len(ids) - 1}")
    return str(ids.iloc[index])


def top_example(run: str | Path, measure: str) -> str:
    """The id of the example whose tokens have the largest mean of a measure; the first of equals.

    Raises:
        InputError: unknown measure, or no example has a value of it.
    """
    column = f"mean_{measure_name(measure)}"
    require_measure(measure, run_measures(run), str(run))
    examples = read_examples(run, columns=["id", column])
    means = examples[column].to_numpy(dtype=np.float64)
    if np.all(np.isnan(means)):
        raise InputError(f"no example of {run} has a value of {measure}; choose one by its place or its id")
    return str(examples["id"].iloc[int(np.nanargmax(means))])


def load_heatmap(run: str | Path, example_id: str, look: Look) -> Heatmap:
    """Read one example of a run, and of the rest of it only what the scales need.

    Raises:
        InputError: not a finished run, no such example, an unknown measure or colour map.
    """
    for name in look.measures:
        measure_name(name)
    info = read_run(run)
    tokens = read_scores(run, example=example_id)
    measures = [require_measure(name, tokens.columns, str(run)) for name in look.measures]
    example = read_examples(run, example=example_id).iloc[0]
    reference = read_scores(run, columns=measures) if look.reference == "run" else tokens
    return make_heatmap(tokens, example, reference, look, run_facts(info), words=family_words(info))


def make_heatmap(
    tokens: pd.DataFrame,
    example: Mapping[str, Any] | pd.Series,
    reference: pd.DataFrame,
    look: Look,
    facts: str,
    reference_name: str | None = None,
    words: FamilyWords = DROPOUT,
) -> Heatmap:
    """One example's heatmap from its rows.

    Args:
        tokens: The example's rows of the token table, in order.
        example: Its row of the examples table: ``id, prompt, completion, messages, truncated``.
        reference: Rows whose measures set the scales: the whole run's, or ``tokens`` again.
        look: What to show.
        facts: Where the numbers come from.
        reference_name: What ``reference`` is, for the legend; None: "the run" or "this example", as ``look`` says.
        words: Of the run's family.
    """
    whose = reference_name or ("the run" if look.reference == "run" else "this example")
    places = ("token", "char_start", "char_end", "is_special")
    read = [Token(str(t), int(a), int(b), bool(s)) for t, a, b, s in zip(*(tokens[c] for c in places), strict=True)]
    clusters = completion_clusters(str(example["completion"]), read)
    names = names_of(words)
    panels = tuple(make_panel(measure_name(name), tokens, reference, look, whose, names) for name in look.measures)
    messages = json.loads(example["messages"]) if isinstance(example["messages"], str) else example["messages"]
    prompt = cut_middle(str(example["prompt"]), look.prompt_characters) if look.prompt_characters else ""
    return Heatmap(
        example_id=str(example["id"]),
        prompt=tuple(context_clusters(prompt)),
        blocks=_blocks(clusters, [int(turn) for turn in tokens["turn"]], messages, look),
        panels=panels,
        colours=colours(look.colour_map),
        facts=facts,
        notes=panel_notes(panels, look, whose, bool(example["truncated"])),
        readings=token_readings(tokens),
    )


def run_facts(info: RunInfo) -> str:
    """One line by which a figure can be traced: model, data set, passes or members, rate, sites, seed, run."""
    resolved: dict[str, Any] = info.settings | info.record.get("resolved", {})
    model = name_of(info.record.get("model", resolved.get("model", "")))
    dataset = name_of(info.record.get("dataset", resolved.get("dataset", "")))
    words = family_words(info)
    if words.is_given:
        resolved |= {"rate": None, "sites": None, "seed": None}
    known = [
        (f"model {model}", model),
        (f"data {dataset}", dataset),
        (f"{resolved.get('passes')} {words.members}", resolved.get("passes")),
        ("balanced masks", masks_of(info) == "balanced" or None),
        (f"rate {resolved.get('rate')}", resolved.get("rate")),
        (f"sites {_listed(resolved.get('sites'))}", resolved.get("sites")),
        (f"seed {resolved.get('seed')}", resolved.get("seed")),
        (f"run {info.fingerprint[:12]}", info.fingerprint),
    ]
    return " · ".join(text for text, value in known if value not in (None, ""))


def _listed(sites: Any) -> str:
    return ", ".join(map(str, sites)) if isinstance(sites, list) else str(sites)


def _blocks(
    clusters: Sequence[Cluster], turn_N: list[int], messages: list[dict[str, Any]] | None, look: Look
) -> tuple[Block, ...]:
    """Completions of one turn after the other, with what was said between them."""
    blocks: list[Block] = []
    current: list[Cluster] = []
    turn = turn_N[0] if turn_N else 0
    for cluster in clusters:
        here = turn_N[cluster.tokens[0]] if cluster.tokens else turn
        if here != turn:
            blocks.append(Block(tuple(current), is_completion=True))
            blocks.append(Block(tuple(_between(messages or [], turn, here, look)), is_completion=False))
            current, turn = [], here
        current.append(cluster)
    return (*blocks, Block(tuple(current), is_completion=True))


def _between(messages: list[dict[str, Any]], last: int, following: int, look: Look) -> list[Cluster]:
    said = [f"{message.get('role')}: {message.get('content')}" for message in messages[last + 1 : following]]
    text = "  ".join(said) or f"turn {following}"
    return context_clusters(cut_middle(text, max(look.prompt_characters // 2, len("user: …"))))
