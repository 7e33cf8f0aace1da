"""Sweeps for the tests: series made by hand, and folders of toy runs at several rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import toy_run

from analysis.sweep_runs import RateSeries, SweepRun
from uncertainty.run_folder import RunFolder
from uncertainty.run_info import RunInfo
from uncertainty.score_tables import shard_tables

PASSES = 20


def info(rate: float, sites: str = "attention", *, n_sites: int = 2, **settings: Any) -> RunInfo:
    kinds = ["attention"] if sites == "native" else sites.split(",")
    places = [{"name": f"{kind}.{number}", "kind": kind} for kind in kinds for number in range(n_sites)]
    family = {"family": "dropout", "rate": rate, "sites": places}
    decides = {"model": {"name": "toy"}, "data": {"name": "rows"}, "passes": PASSES, "seed": 0, "family": family}
    record = {"model": {"name": "toy"}, "dataset": {"origin": "rows"}, "resolved": {"sites": sites, "rate": rate}}
    return RunInfo(decides | settings, record)


def series(
    values: Mapping[float, Sequence[float]],
    example: Sequence[int] | None = None,
    *,
    standard_error: float = 0.0,
    sites: str = "attention",
    n_sites: int = 2,
    model: str = "toy",
) -> RateSeries:
    """A series with these values, rate -> one per token; by default four tokens of an example."""
    n_tokens = len(next(iter(values.values())))
    index = pd.Index(np.arange(n_tokens) // 4 if example is None else example, name="example")
    epistemic = pd.DataFrame({rate: np.asarray(column, dtype=float) for rate, column in values.items()}, index=index)
    error = pd.DataFrame(standard_error, index=index, columns=epistemic.columns)
    runs = tuple(
        SweepRun(Path(f"{sites}-{rate}"), info(rate, sites.replace("+", ","), n_sites=n_sites), rate, sites)
        for rate in values
    )
    return RateSeries(model, "rows", sites, epistemic, error, 0, runs)


def random_series(
    seed: int, n_examples: int, n_tokens: int, rates: Sequence[float], effect: float, **settings: Any
) -> RateSeries:
    """Log-normal values whose noise is shared within an example; log BALD grows by ``effect`` per step."""
    rng = np.random.default_rng(seed)
    example = np.repeat(np.arange(n_examples), n_tokens)
    shared = rng.normal(size=(n_examples, len(rates)))[example]
    log_values = shared + 0.5 * rng.normal(size=(len(example), len(rates))) + effect * np.arange(len(rates))
    values = {rate: np.exp(log_values[:, place]) for place, rate in enumerate(rates)}
    return series(values, example, **settings)


def write_run(path: Path, run: RunInfo, *, factor: float = 1.0, finish: bool = True) -> None:
    """A toy run whose epistemic values are ``factor`` times those of factor 1."""
    with RunFolder.open(path, run, toy_run.N_SHARDS) as folder:
        for shard in folder.todo if finish else folder.todo[:1]:
            texts = toy_run.texts(shard)
            blocks = [
                dataclasses.replace(
                    block, measures=block.measures | {"epistemic": factor * block.measures["epistemic"]}
                )
                for block in toy_run.scores(texts)
            ]
            folder.commit(shard, *shard_tables(blocks, texts, toy_run.kept()))
        if finish:
            folder.finish()


def write_sweep(folder: Path, rates: Sequence[float], sites: Sequence[str] = ("attention",), **settings: Any) -> Path:
    """A sweep in which epistemic is proportional to the rate, and to the place of the set of sites from 1 on."""
    for place, one in enumerate(sites, 1):
        for rate in rates:
            run = info(rate, one.replace("+", ","), n_sites=place, **settings)
            write_run(folder / f"{one}-{rate}", run, factor=place * rate)
    return folder
