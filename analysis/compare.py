"""One example under two runs: what training, or another rate or site, changed token by token.

A comparison is a ``Heatmap`` with three panels for each measure: the run compared against, the run itself, both on one
scale, and their difference on a scale centred at 0. Everything that draws a heatmap draws it.

Suffix N: completion tokens of the example; M: tokens that both runs scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.colours import Scale, difference_scale, diverging_colours
from analysis.family_words import DROPOUT, FamilyWords, family_words
from analysis.heatmap import Heatmap, make_heatmap, run_facts
from analysis.look import Look
from analysis.measure_names import measure_name, require_measure
from analysis.panel import Panel, panel_notes
from analysis.readings import token_readings, visible
from analysis.token_text import cut_middle
from uncertainty.errors import InputError
from uncertainty.scores import read_examples, read_run, read_scores

if TYPE_CHECKING:
    import pandas as pd

_KEY = ["example_id", "position", "token_id"]
_MAX_LABEL = 24
_NOISE = 1e-5


@dataclass(frozen=True, eq=False)
class Side:
    """One of two runs, and what it says of the example.

    Attributes:
        label: The run's short name, other than the other run's.
        tokens: The example's rows of the token table, in order.
        example: Its row of the examples table.
        reference: Rows that set the scales, with ``example_id, position, token_id``: the run's, or ``tokens`` again.
        facts: Where the numbers come from.
        words: Of the run's family.
    """

    label: str
    tokens: pd.DataFrame
    example: Mapping[str, Any] | pd.Series
    reference: pd.DataFrame
    facts: str
    words: FamilyWords = DROPOUT


def load_comparison(run: str | Path, against: str | Path, example_id: str, look: Look) -> Heatmap:
    """Read one example of two runs; the difference is ``run`` minus ``against``.

    Raises:
        InputError: not two finished runs, an example that one of them has not, or has with other tokens.
    """
    label, label_against = run_labels(run, against)
    after, before = _side(run, label, example_id, look), _side(against, label_against, example_id, look)
    return comparison(after, before, look)


def comparison(after: Side, before: Side, look: Look) -> Heatmap:
    """One example under two runs.

    Args:
        after: The run that is looked at.
        before: The run it is held against: differences are ``after`` minus ``before``.
        look: What to show. Differences are coloured by value on every scale: a difference of percentiles is no
            difference of uncertainty.

    Raises:
        InputError: the example has other tokens in the other run; says where they part.
    """
    import pandas as pd

    _refuse_other_tokens(after, before)
    measures = [measure_name(name) for name in look.measures]
    shared = pd.concat([side.reference[measures] for side in (before, after)], ignore_index=True)
    of_run = look.reference == "run"
    whose = "both runs" if of_run else "this example in both runs"
    old, new = (
        make_heatmap(side.tokens, side.example, shared, look, side.facts, whose, side.words) for side in (before, after)
    )
    differences = _differences(after.reference, before.reference, measures)
    of_differences = "the absolute differences" if of_run else "this example's absolute differences"
    panels: list[Panel] = []
    for first, second in zip(old.panels, new.panels, strict=True):
        scale = difference_scale(
            _without_noise(differences[first.measure], first.scale),
            of_differences,
            clip_percentile=look.clip_percentile,
        )
        difference_N = _without_noise(second.values_N - first.values_N, first.scale)
        panels += [
            replace(first, source=before.label),
            replace(second, source=after.label),
            replace(second, values_N=difference_N, scale=scale, source="difference", colours=diverging_colours()),
        ]
    truncated = bool(after.example["truncated"])
    return replace(
        new,
        panels=tuple(panels),
        facts=f"{after.label}: {after.facts} — {before.label}: {before.facts}",
        notes=(
            f"The difference is {after.label} minus {before.label}.",
            *panel_notes(panels, look, whose, truncated),
        ),
        readings=token_readings(after.tokens, before.tokens),
    )


def run_labels(run: str | Path, against: str | Path) -> tuple[str, str]:
    """Two short names by which two run folders can be told apart.

    Raises:
        InputError: they are one folder.

    >>> run_labels("out/tuned", "out/base"), run_labels("a/tuned/run", "a/base/run")
    (('tuned', 'base'), ('tuned/run', 'base/run'))
    """
    first, second = Path(run).resolve(), Path(against).resolve()
    if first == second:
        raise InputError(f"--against {against} is the run itself; name another run of the same examples")
    length = 1
    while first.parts[-length:] == second.parts[-length:]:
        length += 1
    one, other = ("/".join(path.parts[-length:]) for path in (first, second))
    shown = tuple(
        visible(cut_middle(name, _MAX_LABEL) if len(name) > 2 * _MAX_LABEL else name) for name in (one, other)
    )
    return (shown[0], shown[1]) if shown[0] != shown[1] else ("run", "against")


def _side(path: str | Path, label: str, example_id: str, look: Look) -> Side:
    tokens = read_scores(path, example=example_id)
    columns = [*_KEY, *(require_measure(name, tokens.columns, str(path)) for name in look.measures)]
    info = read_run(path)
    return Side(
        label=label,
        tokens=tokens,
        example=read_examples(path, example=example_id).iloc[0],
        reference=read_scores(path, columns=columns) if look.reference == "run" else tokens,
        facts=run_facts(info),
        words=family_words(info),
    )


def _differences(after: pd.DataFrame, before: pd.DataFrame, measures: Sequence[str]) -> Mapping[str, np.ndarray]:
    """Each measure's differences at all tokens that both runs scored: same example, position and token."""
    columns = [*_KEY, *measures]
    both = after[columns].merge(before[columns], on=_KEY, suffixes=("", " before"))
    return {name: both[name].to_numpy(np.float64) - both[f"{name} before"].to_numpy(np.float64) for name in measures}


def _without_noise(differences: np.ndarray, scale: Scale) -> np.ndarray:
    """Differences too small to mean anything as 0, so that two runs of one model do not look different.

    Float32 forward passes over other batches differ by about 3e-7 of the largest losses; 1e-5 is far above that, and
    far below what a colour could show.
    """
    return np.where(np.abs(differences) <= _NOISE * scale.upper, 0.0, differences)


def _refuse_other_tokens(after: Side, before: Side) -> None:
    """Only where both runs predicted the same token after the same text is a difference one of the models."""
    name = str(after.example["id"])
    mend = "compare runs of the same examples, template and tokenizer"
    ids = [[int(one) for one in side.example["input_ids"]] for side in (after, before)]
    known = [dict(zip(side.tokens["position"], side.tokens["token"], strict=True)) for side in (after, before)]
    for position, (here, there) in enumerate(zip(*ids, strict=False)):
        if here != there:
            said = [
                f"id {one}{f' {token!r}' if (token := texts.get(position)) is not None else ''} in {side.label}"
                for one, texts, side in zip((here, there), known, (after, before), strict=True)
            ]
            raise InputError(f"example {name!r} parts at position {position}: {said[0]}, {said[1]}; {mend}")
    if len(ids[0]) != len(ids[1]):
        counts = f"{len(ids[0])} tokens in {after.label}, {len(ids[1])} in {before.label}"
        end = min(map(len, ids))
        raise InputError(f"example {name!r} parts at position {end}, where one of them ends: {counts}; {mend}")
    for position in sorted(known[0].keys() | known[1].keys()):
        texts = [one.get(position) for one in known]
        if texts[0] != texts[1]:
            said = [
                f"{'not scored' if text is None else f'{text!r}'} in {side.label}"
                for text, side in zip(texts, (after, before), strict=True)
            ]
            raise InputError(f"example {name!r} parts at position {position}: {said[0]}, {said[1]}; {mend}")
