"""One scoring run: data, model, engine and run folder joined together.

``prepare`` (in ``prepare.py``) reads and renders, ``open_job`` loads the model and proves that its dropout works,
``run_job`` scores shard by shard. ``score_dataset`` is the three in one call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from uncertainty.budget import Budget, predicted_peak, windows
from uncertainty.calibration import Calibration, calibrate
from uncertainty.data.batches import collate, plan_batches
from uncertainty.data.render import Example
from uncertainty.engine import StochasticFamily, look_ends, score
from uncertainty.errors import InputError
from uncertainty.family_choice import family_of
from uncertainty.loading import load_model
from uncertainty.measure_columns import parse_measures
from uncertainty.model import LoadedModel, vocabulary_size
from uncertainty.preflight import check_family, probe_batch
from uncertainty.prepare import Prepared, example_text, prepare
from uncertainty.run_card import deciding, description, identified_by_weights, timings
from uncertainty.run_folder import RunFolder
from uncertainty.run_info import RunInfo
from uncertainty.score_schema import kept_types
from uncertainty.score_tables import shard_tables
from uncertainty.scores import TokenScores, read_examples, read_scores
from uncertainty.settings import ScoreSettings, check_settings

BYTES_PER_TOKEN = 45  # of the token table on disk, measured on the demo and on GSM8K runs


@dataclass(frozen=True)
class Job:
    """A run that is ready to go.

    Attributes:
        prepared: settings, tokenizer and rendered examples.
        loaded: the model.
        family: how members are drawn.
        report: what the family found in the model (sites), or its members are.
        budget: memory bounds.
        calibration: how fast this machine runs this model, measured on one forward and one read-out.
        kept: types of the kept input columns.
        info: everything needed to repeat the run.
        ends: after how many passes to look whether an example has reached the target; the last is the most that it
            gets, and the only one where there is no target.
    """

    prepared: Prepared
    loaded: LoadedModel
    family: StochasticFamily
    report: dict[str, Any]
    budget: Budget
    calibration: Calibration
    kept: dict[str, pa.DataType]
    info: RunInfo
    ends: tuple[int, ...]

    @property
    def shards(self) -> list[range]:
        """Indices of the examples of each shard."""
        size, count = self.prepared.settings.shard_examples, len(self.prepared.examples)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    @property
    def vocabulary(self) -> int | None:
        """How many logits are read out; None for all."""
        if self.prepared.settings.vocabulary == "model":
            return None
        return min(len(self.prepared.tokenizer), vocabulary_size(self.loaded.model))

    def plan(self, shard: range) -> list[list[int]]:
        """Groups of examples of a shard that run together; indices into ``prepared.examples``."""
        lengths = [len(self.prepared.examples[i].input_ids) for i in shard]
        # All passes of a group's first round fill a forward, where they can share one.
        passes = self.ends[0] if self.family.shares_forward else 1
        groups = plan_batches(lengths, tokens_per_batch=self.budget.tokens_per_batch, passes=passes)
        return [[shard.start + i for i in group] for group in groups]

    def estimate(self) -> dict[str, float]:
        """Predicted seconds, peak bytes (by part and in sum) and bytes on disk of the whole run.

        With a target, of a run in which no example reaches it before its last pass.
        """
        passes = self.prepared.settings.passes
        shards = [[_shape([self.prepared.examples[i] for i in group]) for group in self.plan(s)] for s in self.shards]
        shapes = [shape for shard in shards for shape in shard]
        together = [sum(n for _, _, n in window) for shard in shards for window in self._windows(shard)]
        largest = max(b - a for a, b in pairwise((0, *self.ends))) if len(self.ends) > 1 else 0
        peak = predicted_peak(
            self.loaded.model,
            shapes,
            passes=passes,
            budget=self.budget,
            largest_round=largest,
            window_tokens=max(together, default=0),
            member_bytes=self.family.member_bytes(self.loaded.model),
        )
        forward = sum(b * t for b, t, _ in shapes) * (passes + 1) * self.calibration.seconds_per_row_token
        looks = sum(self.ends) / passes
        read = sum(n for _, _, n in shapes) * self.calibration.seconds_per_completion_token * looks
        drawn = len(together) * passes * self.calibration.seconds_per_member
        return {
            "seconds": forward + read + drawn,
            "peak_bytes": sum(peak.values()),
            "disk_bytes": self.prepared.completion_tokens * BYTES_PER_TOKEN,
            **{f"peak_bytes.{name}": size for name, size in peak.items()},
        }

    def _windows(self, shapes: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
        """The batches that run together under one member before the next is drawn; each alone with a target."""
        if self.family.shares_forward or len(self.ends) > 1:
            return [[shape] for shape in shapes]
        most = self.budget.window_tokens(self.loaded.model, self.prepared.settings.passes)
        return list(windows(shapes, lambda shape: shape[2], most))


@dataclass(frozen=True)
class Progress:
    """How far a run is: counts of this call, and what was there before it (``resumed_examples``)."""

    examples: int
    examples_total: int
    resumed_examples: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class ScoredRun:
    """A finished run: its folder and what its ``run.json`` says."""

    path: Path
    info: RunInfo

    def scores(self, columns: list[str] | None = None) -> pd.DataFrame:
        """The token table, one row per completion token."""
        return read_scores(self.path, columns=columns)

    def examples(self) -> pd.DataFrame:
        """The examples table."""
        return read_examples(self.path)


def score_dataset(
    model: str | Path | LoadedModel = "",
    dataset: str | Path = "",
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> ScoredRun:
    """Score every completion token of a data set by Monte Carlo dropout, or another family, into a run folder.

    Args:
        model: a folder, a hub id, or a ``LoadedModel`` (``adopt_model(model, tokenizer)`` makes one of your own
            objects); with no ``dataset`` either, the embedded demo.
        dataset: a file, a folder or a hub id.
        out: the run folder (out/demo for the demo; else it must be given); called again with the same settings, an
            interrupted run goes on and a finished one is returned at once.
        overwrite: start anew.
        on_progress: called after every batch.
        **settings: fields of ``ScoreSettings``, such as ``passes=100, rate=0.1, limit=200``.

    Returns:
        the run; ``.scores()`` is its token table as a pandas frame.

    Raises:
        InputError: anything the caller gave that cannot be used.
        TypeError: a setting that does not exist.
    """
    given = identified_by_weights(model) if isinstance(model, LoadedModel) else None
    name = given.record["name"] if given is not None else model
    resolved = ScoreSettings(model=str(name), dataset=str(dataset), **settings)
    if out is None and not resolved.is_demo:
        raise InputError("score_dataset needs out=, the folder to write the run to")
    check_settings(resolved)
    family_of(resolved)
    job = open_job(prepare(resolved, given), given)
    return run_job(job, out or "out/demo", overwrite=overwrite, on_progress=on_progress)


def open_job(prepared: Prepared, loaded: LoadedModel | None = None, *, command: Sequence[str] | None = None) -> Job:
    """Load the model, prove that its members differ where they should, and time it.

    Args:
        prepared: from ``prepare``.
        loaded: the model if it is loaded already.
        command: the command line, for the record and for the message that says how to resume.

    Raises:
        InputError: see ``load_model`` and ``check_family``.
    """
    settings = prepared.settings
    family = family_of(settings, prepared.tokenizer)
    kept = kept_types({name: row.fields.get(name) for name in settings.keep_columns} for row in prepared.rows)
    if loaded is None:
        loaded = load_model(
            settings.model_source,
            prepared.tokenizer,
            dtype=settings.dtype,
            device=settings.device,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            allow_pickle=settings.allow_pickle,
        )
    ends: tuple[int, ...] = (settings.passes,)
    if settings.target is not None:
        ends = look_ends(loaded.model, family, settings.passes)
    budget = Budget.for_device(next(loaded.model.parameters()).device, settings.tokens_per_batch)
    probe = probe_batch(loaded.model, prepared.examples)
    report = check_family(loaded.model, probe, family, seed=settings.seed)
    calibration = calibrate(loaded.model, probe, family, passes=settings.passes, seed=settings.seed, budget=budget)
    info = RunInfo(deciding(prepared, loaded, report, budget, ends), description(prepared, loaded, command))
    return Job(prepared, loaded, family, report, budget, calibration, kept, info, ends)


def run_job(
    job: Job,
    out: str | Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ScoredRun:
    """Score what is missing in ``out`` and finish it.

    Raises:
        InputError: ``out`` holds another run; or no example of the first shard gives finite logits, or uncertainty.
    """
    started = time.monotonic()
    shards = job.shards
    with RunFolder.open(Path(out), job.info, len(shards), overwrite=overwrite) as folder:
        missing = list(folder.todo)
        resumed = sum(len(shard) for k, shard in enumerate(shards) if k not in missing)
        done = [0, 0]
        for k in missing:
            blocks = []
            for block in _score_shard(job, shards[k]):
                blocks.append(block)
                done[0] += len(block.ids)
                done[1] += len(block.position_N)
                if on_progress is not None:
                    seconds = time.monotonic() - started
                    on_progress(Progress(done[0], len(job.prepared.examples), resumed, done[1], seconds))
            _commit(job, folder, k, shards[k], blocks)
        seconds = time.monotonic() - started
        took = timings(job.loaded.model, job.budget, seconds, done[1], job.estimate()) if missing else {}
        finished = folder.finish(skipped=job.prepared.skipped, timings=took)
    return ScoredRun(Path(out), finished)


def _score_shard(job: Job, shard: range) -> Iterable[TokenScores]:
    settings = job.prepared.settings
    batches = (collate([job.prepared.examples[i] for i in group]) for group in job.plan(shard))
    return score(
        job.loaded.model,
        batches,
        job.family,
        passes=settings.passes,
        seed=settings.seed,
        budget=job.budget,
        vocabulary=job.vocabulary,
        measures=parse_measures(settings.measures),
        target=settings.target,
    )


def _commit(job: Job, folder: RunFolder, k: int, shard: range, blocks: list[TokenScores]) -> None:
    """Write one shard; a first one without a single sound result stops the run.

    Only a first one: earlier shards prove the model and its dropout sound, and the last may be one short example.
    """
    prepared = job.prepared
    unusable = {name: why for block in blocks for name, why in block.unusable.items()}
    if len(unusable) == len(shard) and not folder.receipts():
        name, why = next(iter(unusable.items()))
        raise InputError(
            f"every example of shard {k} gives results that are not finite in {job.loaded.record['dtype']} "
            f"(first: id {name}, {why}); try --dtype bfloat16 or float32"
        )
    if _no_uncertainty(job, blocks) and not folder.receipts():
        raise InputError(
            f"epistemic uncertainty is zero at all {sum(len(block.position_N) for block in blocks)} tokens of a shard "
            f"although the members of {job.report['family']} differ elsewhere; raise --rate, or choose other --sites "
            "or --members"
        )
    texts = [
        example_text(prepared.examples[i], prepared.rows[i], prepared.tokenizer, prepared.settings.keep_columns)
        for i in shard
    ]
    skipped = [
        {
            "row": prepared.rows[i].number,
            "where": prepared.rows[i].where,
            "id": prepared.examples[i].id,
            "reason": "not_finite",
            "detail": unusable[prepared.examples[i].id],
        }
        for i in shard
        if prepared.examples[i].id in unusable
    ]
    tokens, examples = shard_tables(blocks, texts, job.kept, parse_measures(prepared.settings.measures))
    folder.commit(k, tokens, examples, skipped)


def _no_uncertainty(job: Job, blocks: list[TokenScores]) -> bool:
    """A BALD of zero everywhere is a fault of the set-up, not a result; rate 0 and one pass are asked-for controls."""
    if job.family.deterministic or job.prepared.settings.passes == 1:
        return False
    epistemic_N = np.concatenate([block.measures["epistemic"] for block in blocks])
    return not np.nanmax(epistemic_N, initial=0.0) > 0.0


def _shape(group: list[Example]) -> tuple[int, int, int]:
    return len(group), max(len(e.input_ids) for e in group), sum(sum(e.completion) for e in group)
