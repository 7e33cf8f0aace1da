"""What a report reads of its runs: the token table as a frame of small columns, and what ``run.json`` says.

3.5 million tokens take about 250 MB here: ids and tokens are integer codes, measures float32.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from analysis.curriculum import check_same_tokens
from analysis.family_words import family_summary, family_words
from uncertainty.errors import InputError
from uncertainty.scores import RunInfo, read_examples, read_run, read_scores, run_measures

_TEXTS = ("example_id", "token")
_PLACES = ("turn", "position", "index_in_completion", "token_id", "char_start", "char_end", "is_special")


@dataclass(frozen=True, eq=False)
class RunData:
    """One run, read.

    Attributes:
        name: what the report calls it: unique among its runs.
        slug: the name as part of a file name and an anchor.
        path: its folder, as it was given.
        info: what ``run.json`` says.
        tokens: one row per completion token: ``example`` (index into ``ids``), ``token`` (categorical), the places,
            the measures, ``n_passes``, ``is_best`` (the label is the most probable token), and ``rho`` with a
            reference.
        ids: the examples' ids, in the order of the run.
        n_truncated: examples cut at the maximum length.
        reference: name of the run whose loss ``rho`` subtracts, or "".
    """

    name: str
    slug: str
    path: Path
    info: RunInfo
    tokens: pd.DataFrame
    ids: tuple[str, ...]
    n_truncated: int
    reference: str = ""

    def picture(self, stem: str) -> str:
        """File stem of one of its pictures."""
        return f"{stem}-{self.slug}"

    @property
    def n_predicted(self) -> int:
        """Tokens that have a prediction: all but the first token of a sequence."""
        return int(self.tokens["loss"].notna().sum())


def load_runs(paths: Sequence[Path], reference: Path | None = None) -> list[RunData]:
    """Read runs, whole and checked.

    Args:
        paths: run folders.
        reference: a run of the same tokens by a reference model, for RHO = loss - its loss; it must hold the same
            tokens as every run.

    Raises:
        InputError: not a finished run, a damaged file, the same folder twice, no token, or other tokens in the
            reference.
    """
    resolved = [path.resolve() for path in paths]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise InputError(f"{paths[index]} is given twice; name each run once")
    infos = [read_run(path) for path in paths]  # before the tokens of the first are read, look at all
    names = step_names(infos) or run_names(paths)
    other = _load(reference, read_run(reference), reference.name, "reference") if reference else None
    runs = []
    for path, info, name, slug in zip(paths, infos, names, _slugs(names), strict=True):
        run = _load(path, info, name, slug)
        if other is not None:
            check_same_tokens(run.tokens, other.tokens, (str(path), str(reference)), (run.ids, other.ids))
            run.tokens["rho"] = run.tokens["loss"] - other.tokens["loss"].to_numpy()
            run = RunData(name, slug, path, info, run.tokens, run.ids, run.n_truncated, reference=other.name)
        runs.append(run)
    return runs


def run_names(paths: Sequence[Path]) -> list[str]:
    """Short names of runs: the last parts of their paths, as many as tell them apart.

    >>> run_names([Path("out/a/gsm8k"), Path("out/b/gsm8k")]), run_names([Path("x/demo")])
    (['a/gsm8k', 'b/gsm8k'], ['demo'])
    """
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(len(one) for one in parts) + 1):
        names = [_writable("/".join(one[-length:])) for one in parts]
        if len(set(names)) == len(names):
            break
    return names


def step_names(infos: Sequence[RunInfo]) -> list[str]:
    """``step 120`` for each run, where all are probes of one training at different steps; else nothing."""
    found = [_part(info.settings, "training") for info in infos]
    steps = [one.get("step") for one in found]
    one_training = len({str(one.get("run")) for one in found}) == 1
    if None in steps or not one_training or len(set(steps)) < len(steps):
        return []
    return [f"step {step:,}" for step in steps]


def texts_of(run: RunData, examples: Sequence[str]) -> pd.DataFrame:
    """``id`` and ``completion`` of some examples."""
    return read_examples(run.path, columns=["id", "completion"], example=list(dict.fromkeys(examples)))


def run_facts_table(run: RunData) -> list[tuple[str, str]]:
    """What was run, as pairs of a name and a value; only what ``run.json`` knows."""
    info, record = run.info, run.info.record
    resolved: dict[str, Any] = info.settings | _part(record, "resolved")
    model = _part(info.settings, "model") | _part(record, "model")
    data = _part(info.settings, "data")
    words = family_words(info)
    facts = [
        ("model", model.get("name") or model.get("id")),
        ("architecture", _joined(model.get("architecture"), _thousands(model.get("parameters"), "parameters"))),
        ("revision", model.get("revision")),
        ("computed in", _joined(model.get("dtype"), model.get("device"), model.get("attention"))),
        ("data", _part(record, "dataset").get("origin")),
        ("format", _joined(data.get("format"), _named("split", data.get("split")))),
        ("template", _part(data, "template").get("name")),
        ("longest example", _thousands(data.get("max_length"), "tokens")),
        ("only the first", _thousands(resolved.get("limit"), "rows")),
        (words.members, resolved.get("passes")),
        ("members" if words.is_given else words.family.replace("-", " "), family_summary(info)),
        ("passes until the error of epistemic is", resolved.get("target_se")),
        ("seed", None if words.is_given else resolved.get("seed")),
        ("skipped rows", skipped_summary(info)),
        ("reference for RHO", run.reference),
        ("run folder", run.path),
        ("run fingerprint", info.fingerprint[:16]),
    ]
    return [(name, _writable(value)) for name, value in facts if value not in (None, "")]


def skipped_summary(info: RunInfo) -> str:
    """Rows that were not scored, by reason: ``12 (empty_completion 10, nonfinite 2)``."""
    skipped = _part(info.totals, "skipped")
    if not skipped:
        return "none"
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(skipped.items()))
    return f"{sum(skipped.values()):,} ({reasons})"


def _load(path: Path, info: RunInfo, name: str, slug: str) -> RunData:
    texts = read_scores(path, columns=_TEXTS, as_="arrow")
    example = _coded(texts["example_id"])
    columns: dict[str, Any] = {"example": example.codes.astype(np.int32), "token": _coded(texts["token"])}
    del texts
    measures = run_measures(path)
    numbers = read_scores(path, columns=[*_PLACES, *measures, "label_rank", "n_passes"], as_="arrow")
    for column in _PLACES:
        columns[column] = numbers[column].to_numpy()
    for column in measures:
        columns[column] = numbers[column].to_pandas().to_numpy(dtype=np.float32)
    columns["n_passes"] = numbers["n_passes"].to_numpy()
    columns["is_best"] = numbers["label_rank"].fill_null(-1).to_numpy() == 0
    del numbers
    if not len(example):
        raise InputError(f"{path} has no scored token; score at least one example")
    truncated = read_examples(path, columns=["truncated"], as_="arrow")["truncated"]
    n_truncated = sum(truncated.to_pylist())
    tokens = pd.DataFrame(columns, copy=False)
    return RunData(name, slug, path, info, tokens, tuple(map(str, example.categories)), n_truncated)


def _coded(column: pa.ChunkedArray) -> pd.Categorical:
    """Strings as codes, numbered in the order in which they come."""
    encoded = column.dictionary_encode().combine_chunks()
    return pd.Categorical.from_codes(
        encoded.indices.to_numpy(), categories=pd.Index(encoded.dictionary.to_pylist(), dtype=object)
    )


def _slugs(names: Sequence[str]) -> list[str]:
    slugs: list[str] = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9]+", "-", name)[:40].strip("-").lower() or "run"
        slug, number = base, 2
        while slug in slugs:
            slug, number = f"{base}-{number}", number + 1
        slugs.append(slug)
    return slugs


def _writable(value: object) -> str:
    """A path may hold bytes that are no UTF-8; no table and no page can."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _part(values: dict[str, Any], name: str) -> dict[str, Any]:
    """A nested dict of a record, or an empty one: an older run may have another shape there."""
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _joined(*parts: object) -> str:
    return ", ".join(str(part) for part in parts if part not in (None, ""))


def _named(name: str, value: object) -> str:
    return "" if value in (None, "") else f"{name} {value}"


def _thousands(value: Any, unit: str) -> str:
    return f"{value:,} {unit}" if isinstance(value, int) else ""
