"""The runs of a dropout sweep, read side by side: the same tokens at every rate.

A sweep is a folder of run folders that differ in the dropout rate and in the sites only. All runs of one model on one
data set under one set of sites make a ``RateSeries``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.family_words import family_name
from analysis.run_title import dataset_name, model_name
from uncertainty.errors import InputError
from uncertainty.scores import RunInfo, read_run, read_scores

# What may differ between the runs of one series: rate and sites, and what does not decide the numbers.
_MAY_DIFFER = ("family", "versions")
_COLUMNS = ["example_id", "index_in_completion", "epistemic", "epistemic_se"]


@dataclass(frozen=True)
class SweepRun:
    """One finished run of a sweep.

    Attributes:
        path: its folder.
        info: what its ``run.json`` says.
        rate: dropout rate that was asked for.
        sites: set of sites that was asked for, kinds joined by ``+``.
    """

    path: Path
    info: RunInfo
    rate: float
    sites: str

    @property
    def kinds(self) -> str:
        """The kinds of sites on which dropout acted, joined by ``+``: what ``native`` came to."""
        return "+".join(dict.fromkeys(site["kind"] for site in self.info.settings["family"]["sites"]))

    @property
    def n_sites(self) -> int:
        """Number of places where dropout acted."""
        return len(self.info.settings["family"]["sites"])


@dataclass(frozen=True, eq=False)
class RateSeries:
    """One model on one data set under one set of sites: the epistemic uncertainty of every token at every rate.

    Attributes:
        model: its name.
        dataset: its name.
        sites: the set of sites, such as ``attention`` or ``attention+mlp``.
        epistemic: nats; one row per predicted token, indexed by the ``example`` it belongs to (a number), one column
            per rate, ascending.
        standard_error: Monte Carlo standard error of the same, nats.
        n_left_out: tokens that not every run has, and that are therefore not in the frames.
        runs: the run of each column.
    """

    model: str
    dataset: str
    sites: str
    epistemic: pd.DataFrame
    standard_error: pd.DataFrame
    n_left_out: int
    runs: tuple[SweepRun, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """Dropout rates, ascending: the columns of the frames."""
        return tuple(run.rate for run in self.runs)

    @property
    def passes(self) -> int:
        """Members of each run."""
        return int(self.runs[0].info.settings["passes"])

    @property
    def label(self) -> dict[str, Any]:
        """The columns by which a table names the series."""
        return {"model": self.model, "dataset": self.dataset, "sites": self.sites}


def find_runs(folder: str | Path) -> tuple[list[SweepRun], list[Path]]:
    """The finished runs of a sweep's folder, and the folders of those that are not finished.

    Raises:
        InputError: no such folder, no run in it, a damaged ``run.json``, or a run that was not drawn by dropout.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; name the folder that unc-sweep wrote (its --out)")
    infos = {path.parent: read_run(path.parent) for path in sorted(folder.glob("*/run.json"))}
    finished = [_sweep_run(path, info) for path, info in infos.items() if info.status == "complete"]
    if not finished:
        there = f"{len(infos)} unfinished runs" if infos else "no run folder"
        raise InputError(f"{folder} holds {there}; run unc-sweep with --out {folder} until one is finished")
    return finished, [path for path, info in infos.items() if info.status != "complete"]


def read_series(runs: Iterable[SweepRun]) -> list[RateSeries]:
    """The runs as series: models in the order in which they first occur, of each the sites alone before those together.

    Raises:
        InputError: two runs of a series have the same rate, differ in more than rate and sites, or share no token.
    """
    models: dict[str, dict[str, list[SweepRun]]] = {}
    for run in runs:
        settings = run.info.settings
        sets = models.setdefault(json.dumps([settings["model"], settings["data"]]), {})
        sets.setdefault(run.sites, []).append(run)
    return [
        _series(sorted(sets[sites], key=lambda run: run.rate))
        for sets in models.values()
        for sites in sorted(sets, key=_place)
    ]


def _sweep_run(path: Path, info: RunInfo) -> SweepRun:
    if family_name(info) != "dropout":
        raise InputError(
            f"{path} was drawn by --family {family_name(info)}, and a sweep is of dropout rates; move it out of the "
            "sweep"
        )
    try:
        rate = float(info.settings["family"]["rate"])
        sites = str(info.record["resolved"]["sites"]).replace(",", "+")
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not say at which dropout rate it was scored; move it out of the sweep"
        ) from error
    return SweepRun(path, info, rate, sites)


def _series(runs: Sequence[SweepRun]) -> RateSeries:
    first = runs[0]
    for before, run in pairwise(runs):
        if run.rate == before.rate:
            raise InputError(f"{before.path} and {run.path} have the same model, data, sites and rate; move one away")
        _refuse_other_settings(first, run)
    columns = {run.rate: read_scores(run.path, columns=_COLUMNS).dropna(subset="epistemic") for run in runs}
    keys = [pd.MultiIndex.from_frame(frame[_COLUMNS[:2]]) for frame in columns.values()]
    common = keys[0]
    for other in keys[1:]:
        common = common if common.equals(other) else common.intersection(other, sort=False)
    if not len(common):
        raise InputError(f"{first.path} and the other runs beside it have no scored token in common")
    example = pd.Index(pd.factorize(common.get_level_values(0))[0], name="example")
    frames = {}
    for name in _COLUMNS[2:]:
        values = {rate: _at(common, key, frame[name]) for (rate, frame), key in zip(columns.items(), keys, strict=True)}
        frames[name] = pd.DataFrame(values, index=example)
    left_out = max(len(key) for key in keys) - len(common)
    names = model_name(first.info), dataset_name(first.info)
    return RateSeries(*names, first.sites, frames["epistemic"], frames["epistemic_se"], left_out, tuple(runs))


def _place(sites: str) -> tuple[int, list[int]]:
    kinds = sites.split("+")
    return len(kinds), [_ORDER.index(kind) for kind in kinds]


def _at(common: pd.MultiIndex, key: pd.MultiIndex, values: pd.Series) -> np.ndarray:
    """The values in the order of the common tokens, as float64."""
    found = values.to_numpy(dtype=np.float64)
    return found if common.equals(key) else found[key.get_indexer(common)]


def _refuse_other_settings(first: SweepRun, other: SweepRun) -> None:
    names = sorted((set(first.info.settings) | set(other.info.settings)) - set(_MAY_DIFFER))
    wrong = [name for name in names if first.info.settings.get(name) != other.info.settings.get(name)]
    if wrong:
        raise InputError(
            f"{first.path} and {other.path} differ in {', '.join(wrong)}; the runs of a sweep may differ in rate and "
            "sites only: move one of them away"
        )


_ORDER = ("native", "attention", "residual", "embedding", "mlp")
