"""One example as a heatmap: which text, which values on which scale, and what must be said beside them.

From the tables of a run to a ``Heatmap``, which says everything that a drawing needs and nothing about how it is
drawn: ``heatmap_figure.py`` draws it with matplotlib, ``heatmap_terminal.py`` with colour codes.

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

from analysis.colours import Colours, Scale, colours, make_scale
from analysis.look import Look
from analysis.token_text import Cluster, Token, completion_clusters, context_clusters, cut_middle
from uncertainty.errors import InputError
from uncertainty.scores import MEASURE_COLUMNS, RunInfo, read_examples, read_run, read_scores

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Block:
    """A stretch of one panel's text: a scored completion, or the unscored turn between two of them."""

    clusters: tuple[Cluster, ...]
    is_completion: bool


@dataclass(frozen=True, eq=False)
class Panel:
    """One measure of one example.

    Attributes:
        measure: Column of the score table.
        title: What it is, for a reader.
        unit: "nats" or "probability".
        values_N: The measure at each completion token; NaN where there is no prediction.
        scale: What turns it into positions of the colour map.
    """

    measure: str
    title: str
    unit: str
    values_N: np.ndarray
    scale: Scale

    @property
    def positions(self) -> np.ndarray:
        """Positions in the colour map, 0 to 1; NaN where there is no prediction."""
        return self.scale.positions(self.values_N)

    def legend(self) -> tuple[str, list[str]]:
        """What stands at the pale end of the colour bar, and at its dark end: the fullest wording first."""
        unit = "" if self.unit == "probability" else f" {self.unit}"
        if self.scale.kind == "percentile":
            middle, high = (f"{self.scale.value_at(position):.3g}" for position in (0.5, 0.99))
            short = f"100th percentile of {self.scale.reference_name}"
            return "0", [f"{short} (50th: {middle}, 99th: {high}{unit})", short, "100 %"]
        if self.unit == "probability":
            return "0", ["1"]
        end = f"{self.scale.upper:.3g}{unit}"
        of = "maximum" if self.scale.clip_percentile == 100 else f"{_ordinal(self.scale.clip_percentile)} percentile"
        return "0", [f"{end} ({of} of {self.scale.reference_name})", f"{end} ({of})", end]


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Everything that a drawing of one example shows.

    Attributes:
        example_id: Id of the example.
        prompt: Text before the completion, for grey; empty if it is not to be shown.
        blocks: The panels' text; all panels show the same.
        panels: One per measure.
        colours: The colour map of all panels.
        facts: Where the numbers come from (model, data set, passes, rate, sites, seed, run).
        notes: What a reader must know to read the colours, one sentence each.
    """

    example_id: str
    prompt: tuple[Cluster, ...]
    blocks: tuple[Block, ...]
    panels: tuple[Panel, ...]
    colours: Colours
    facts: str
    notes: tuple[str, ...]


def measure_name(name: str) -> str:
    """The score table's name of a measure; ``bald`` is ``epistemic``.

    Raises:
        InputError: no such measure; names the nearest one.
    """
    name = "epistemic" if name == "bald" else name
    if name not in MEASURE_COLUMNS:
        near = difflib.get_close_matches(name, [*MEASURE_COLUMNS, "bald"], n=1, cutoff=0.4)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"unknown measure {name!r}; {meant}there are {', '.join(MEASURE_COLUMNS)}")
    return name


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
    measures = [measure_name(name) for name in look.measures]
    info = read_run(run)
    tokens = read_scores(run, example=example_id)
    example = read_examples(run, example=example_id).iloc[0]
    reference = read_scores(run, columns=measures) if look.reference == "run" else tokens
    return make_heatmap(tokens, example, reference, look, run_facts(info))


def make_heatmap(
    tokens: pd.DataFrame, example: Mapping[str, Any] | pd.Series, reference: pd.DataFrame, look: Look, facts: str
) -> Heatmap:
    """One example's heatmap from its rows.

    Args:
        tokens: The example's rows of the token table, in order.
        example: Its row of the examples table: ``id, prompt, completion, messages, truncated``.
        reference: Rows whose measures set the scales: the whole run's, or ``tokens`` again.
        look: What to show.
        facts: Where the numbers come from.
    """
    places = ("token", "char_start", "char_end", "is_special")
    read = [Token(str(t), int(a), int(b), bool(s)) for t, a, b, s in zip(*(tokens[c] for c in places), strict=True)]
    clusters = completion_clusters(str(example["completion"]), read)
    panels = tuple(_panel(measure_name(name), tokens, reference, look) for name in look.measures)
    messages = json.loads(example["messages"]) if isinstance(example["messages"], str) else example["messages"]
    prompt = cut_middle(str(example["prompt"]), look.prompt_characters) if look.prompt_characters else ""
    return Heatmap(
        example_id=str(example["id"]),
        prompt=tuple(context_clusters(prompt)),
        blocks=_blocks(clusters, [int(turn) for turn in tokens["turn"]], messages, look),
        panels=panels,
        colours=colours(look.colour_map),
        facts=facts,
        notes=_notes(panels, look, bool(example["truncated"])),
    )


def run_facts(info: RunInfo) -> str:
    """One line by which a figure can be traced: model, data set, passes, rate, sites, seed, run."""
    resolved: dict[str, Any] = info.settings | info.record.get("resolved", {})
    model = _name_of(info.record.get("model", resolved.get("model", "")))
    dataset = _name_of(info.record.get("dataset", resolved.get("dataset", "")))
    known = [
        (f"model {model}", model),
        (f"data {dataset}", dataset),
        (f"{resolved.get('passes')} dropout passes", resolved.get("passes")),
        (f"rate {resolved.get('rate')}", resolved.get("rate")),
        (f"sites {_listed(resolved.get('sites'))}", resolved.get("sites")),
        (f"seed {resolved.get('seed')}", resolved.get("seed")),
        (f"run {info.fingerprint[:12]}", info.fingerprint),
    ]
    return " · ".join(text for text, value in known if value not in (None, ""))


def _name_of(record: Any) -> str:
    """A model's or data set's name from its record; of a path, the last part."""
    name = str((record.get("name") or record.get("origin") or "") if isinstance(record, dict) else record or "")
    return Path(name).name if Path(name).is_absolute() or name.startswith(".") else name


def _listed(sites: Any) -> str:
    return ", ".join(map(str, sites)) if isinstance(sites, list) else str(sites)


def _panel(measure: str, tokens: pd.DataFrame, reference: pd.DataFrame, look: Look) -> Panel:
    title, unit = _TITLES[measure]
    name = "the run" if look.reference == "run" else "this example"
    scale = make_scale(
        look.scale,
        reference[measure].to_numpy(dtype=np.float64),
        name,
        clip_percentile=look.clip_percentile,
        fixed_upper=1.0 if unit == "probability" and look.scale == "value" else None,
    )
    return Panel(measure, title, unit, tokens[measure].to_numpy(dtype=np.float64), scale)


def _ordinal(percentile: float) -> str:
    text = f"{percentile:g}"
    if "." in text or text[-2:] in ("11", "12", "13"):
        return text + "th"
    return text + {"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th")


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


def _notes(panels: Sequence[Panel], look: Look, truncated: bool) -> tuple[str, ...]:
    notes = []
    n_tokens = len(panels[0].values_N)
    if look.scale == "percentile":
        whose = "all tokens of the run" if look.reference == "run" else "the tokens of this example"
        notes.append(f"Colour is the percentile of a value among {whose}.")
    clipped = [(panel.measure, panel.scale.n_clipped(panel.values_N)) for panel in panels]
    if any(count for _, count in clipped):
        counts = ", ".join(f"{measure} {count}" for measure, count in clipped if count)
        notes.append(f"Tokens above the end of the scale have its darkest colour ({counts} of {n_tokens:,}).")
    missing_N = [np.isnan(panel.values_N) for panel in panels]
    unpredicted = int(np.sum(np.all(missing_N, axis=0)))
    if unpredicted:
        plural = "token is" if unpredicted == 1 else "tokens are"
        notes.append(f"{unpredicted} {plural} not predicted (nothing stands before) and left uncoloured.")
    for panel, missing in zip(panels, missing_N, strict=True):
        if np.sum(missing) > unpredicted:
            notes.append(f"{int(np.sum(missing))} of {n_tokens:,} tokens have no value of {panel.measure}.")
    if truncated:
        notes.append("The completion was cut at the maximum length.")
    return tuple(notes)


_TITLES = {
    "loss": ("Loss", "nats"),
    "entropy": ("Entropy", "nats"),
    "total": ("Total uncertainty", "nats"),
    "aleatoric": ("Aleatoric uncertainty", "nats"),
    "epistemic": ("Epistemic uncertainty (BALD)", "nats"),
    "epistemic_se": ("Standard error of epistemic uncertainty", "nats"),
    "mc_loss": ("Loss of the averaged prediction", "nats"),
    "label_prob": ("Probability of the token", "probability"),
}
