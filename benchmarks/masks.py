"""Balanced masks against iid ones: how much less each measure varies between runs, and which standard errors cover.

    python benchmarks/masks.py                                         the embedded demo model
    python benchmarks/masks.py --model FOLDER --dataset FILE --save NAME    another; writes benchmarks/results/NAME.json

Each design scores the same tokens with the same number of passes under many seeds. From these runs: the variance of
each measure between runs against that of iid masks, a geometric mean over tokens (a ratio of sums would be that of the
one or two tokens with rare, large swings); Spearman's correlation of two runs over the tokens; and how often a
symmetric interval around the corrected epistemic uncertainty of one run holds the value of all balanced runs together.
The runs of 20 passes are whole groups of those of 100. Also timed, side by side: ns per mask element.

Ratios and coverage leave out tokens without epistemic uncertainty to speak of; with --rare also those whose uncertainty
comes from rare switches, so that runs of 100 passes vary by much of their value: a few runs cannot tell a variance
there. Both kinds are counted.

Dimension key: S runs (seeds), K passes, G groups, N tokens, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from uncertainty import measures, pass_groups
from uncertainty.data.batches import collate, predictors, targets
from uncertainty.data.render import Example
from uncertainty.engine import inputs_of, member_rows
from uncertainty.families import balanced, keyed
from uncertainty.families.dropout import McDropout
from uncertainty.loading import load_model
from uncertainty.model import final_hidden, readout
from uncertainty.prepare import prepare
from uncertainty.settings import ScoreSettings

MEASURES = ("epistemic", "total", "aleatoric", "mc_loss")
PASSES, FEW = 100, 20
LEAST = 1e-4  # nats of epistemic uncertainty: below it there is no error to speak of
DESIGNS: dict[str, int | None] = {"iid": None, "balanced 1x100": 1, "balanced 5x20": 5, "balanced 10x10": 10}
# runs of 20 passes are cut from those of 100
SHORT = {"iid": "iid", "balanced 1x20": "balanced 5x20", "balanced 2x10": "balanced 10x10"}


@dataclass(frozen=True)
class Run:
    """What one run of a design gives: each measure, its error estimates, and the sums that runs are pooled from."""

    values: dict[str, Tensor]
    errors: dict[str, Tensor]
    corrected_N: Tensor
    mean_NV: Tensor


def main() -> int:
    """Measure, print the tables, and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="folder of the model (the embedded demo when not given)")
    parser.add_argument("--dataset", default="", help="its data set")
    parser.add_argument("--rates", default="0.05,0.1,0.3", help="dropout rates (default: 0.05,0.1,0.3)")
    parser.add_argument("--sites", default="native", help="as unc-score --sites (default: native)")
    parser.add_argument("--runs", type=int, default=10, help="runs of every design (default: 10)")
    parser.add_argument("--examples", type=int, default=2, help="examples to score (default: 2)")
    parser.add_argument("--tokens", type=int, default=16, help="completion tokens of each (default: 16)")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of the shortest (default: 0)")
    parser.add_argument(
        "--rare", type=float, help="leave out tokens whose runs vary by more than this share of their value"
    )
    parser.add_argument("--save", help="name of the file to write to benchmarks/results")
    options = parser.parse_args()
    settings = ScoreSettings(model=options.model, dataset=options.dataset, limit=200)
    started = time.monotonic()
    prepared = prepare(settings)
    model = load_model(settings.model_source, prepared.tokenizer, device="cpu", dtype="float32").model
    examples = shorten(prepared.examples, options.skip, options.examples, options.tokens)
    rates = options.rates.split(",")
    found = {rate: compare(model, examples, float(rate), options) for rate in rates}
    cost = mask_cost()
    seconds = time.monotonic() - started
    name = Path(settings.model).name or "demo"
    layers = model.config.num_hidden_layers
    print(f"{name}, {layers} layers, sites {options.sites}, {options.runs} runs, {seconds:.0f} s\n")
    scored = sum(sum(e.completion) for e in examples)
    for rate, one in found.items():
        print(
            f"rate {rate}: mean epistemic {one['mean_epistemic']:.4f} nats; counted {one['tokens']} of {scored} "
            f"tokens, {one['rare']} left out for their rare switches"
        )
    print(table(found))
    print(f"\nns per mask element (attention, 4 rows, one thread): {cost}")
    if options.save:
        record = {
            "model": name,
            "layers": layers,
            "options": vars(options) | {"model": name, "dataset": Path(options.dataset).name},
            "tokens": scored,
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "seconds": seconds,
            "found": found,
            "ns_per_element": cost,
        }
        path = Path(__file__).parent / "results" / f"{options.save}.json"
        path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return 0


def shorten(examples: list[Example], skip: int, count: int, tokens: int) -> list[Example]:
    """The shortest examples but the first ``skip``, cut after their first ``tokens`` completion tokens."""
    chosen = []
    for example in sorted(examples, key=lambda e: len(e.input_ids)):
        scored = [i for i, done in enumerate(example.completion) if done and i > 0][:tokens]
        if len(scored) == tokens:
            end = scored[-1] + 1
            completion = [i in set(scored) for i in range(end)]
            chosen.append(replace(example, input_ids=example.input_ids[:end], completion=completion))
    if len(chosen) < skip + count:
        raise SystemExit(f"only {len(chosen)} examples have {tokens} completion tokens; ask for fewer --tokens")
    return chosen[skip : skip + count]


def compare(model: Any, examples: list[Example], rate: float, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one rate."""
    long, short = {}, {}
    for name, groups in DESIGNS.items():
        family = McDropout(rate, options.sites, masks="iid" if groups is None else "balanced", groups=groups)
        drawn = [members(model, examples, family, seed) for seed in range(options.runs)]
        long[name] = [one_run(log_probs_KNV, label_N, groups or 10) for log_probs_KNV, label_N in drawn]
        for few, whole in SHORT.items():
            if whole == name:
                short[few] = [
                    one_run(log_probs_KNV[k : k + FEW], label_N, 2)
                    for log_probs_KNV, label_N in drawn
                    for k in range(0, PASSES, FEW)
                ]
    truth_N = pooled([run for name in long if name != "iid" for run in long[name]])
    spread_N = torch.cat([torch.stack([run.values["epistemic"] for run in runs]) for runs in long.values()]).std(0)
    some_N = truth_N >= LEAST
    counted_N = some_N if options.rare is None else some_N & (spread_N <= options.rare * truth_N)
    return {
        "mean_epistemic": float(truth_N.mean()),
        "tokens": int(counted_N.sum()),
        "rare": int((some_N & ~counted_N).sum()),
        str(PASSES): {
            name: figures(runs, long["iid"], truth_N, counted_N, DESIGNS[name] or 10) for name, runs in long.items()
        },
        str(FEW): {name: figures(runs, short["iid"], truth_N, counted_N, 2) for name, runs in short.items()},
    }


@torch.inference_mode()
def members(model: Any, examples: list[Example], family: McDropout, seed: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of one run's members at all scored tokens, ``[K, N, V]``, and the labels."""
    parts, labels = [], []
    with family.active(model, seed=seed) as drawn:
        for example in examples:
            batch = collate([example])
            at = targets(batch)
            ids_BT, _ = inputs_of(batch, model)
            with drawn.draw(member_rows(batch, range(PASSES), PASSES)):
                hidden_KTD = final_hidden(model, ids_BT.repeat(PASSES, 1))
            hidden_KND = hidden_KTD[:, predictors(batch, at)[1]]
            parts.append(torch.log_softmax(readout(model, hidden_KND), -1))
            labels.append(at.label_N)
    return torch.cat(parts, 1), torch.cat(labels)


def one_run(log_probs_KNV: Tensor, label_N: Tensor, groups: int) -> Run:
    """The measures of one run and the candidates for a standard error of its epistemic uncertainty."""
    scores = measures.decompose(log_probs_KNV, label_N)
    probs_GNV = log_probs_KNV.double().exp().unflatten(0, (groups, -1)).mean(1)
    mean_NV = probs_GNV.mean(0)
    divergence_KN = (log_probs_KNV.double().exp() * (log_probs_KNV.double() - mean_NV.log())).sum(-1)
    errors = {"as if independent": scores.epistemic_se_N}
    corrected_N = scores.epistemic_N
    if groups > 1:
        aleatoric_GN = torch.stack([measures.expected_entropy(part) for part in log_probs_KNV.chunk(groups)])
        left_out_GN = torch.stack(
            [
                _entropy((mean_NV * groups - probs_GNV[g]) / (groups - 1))
                - (aleatoric_GN.sum(0) - aleatoric_GN[g]) / (groups - 1)
                for g in range(groups)
            ]
        )
        whole_N = _entropy(mean_NV) - aleatoric_GN.mean(0)
        corrected_N = groups * whole_N - (groups - 1) * left_out_GN.mean(0)
        spread_N = (left_out_GN - left_out_GN.mean(0)).square().sum(0)
        errors["group jackknife"] = (spread_N * (groups - 1) / groups).sqrt()
        errors["group means"] = divergence_KN.unflatten(0, (groups, -1)).mean(1).std(0) / groups**0.5
    values = {name: getattr(scores, f"{name}_N") for name in MEASURES}
    return Run(values, errors, corrected_N, mean_NV)


def pooled(runs: list[Run]) -> Tensor:
    """Epistemic uncertainty of all runs' members together: what a single run estimates."""
    mean_NV = torch.stack([run.mean_NV for run in runs]).mean(0)
    return _entropy(mean_NV) - torch.stack([run.values["aleatoric"] for run in runs]).mean(0)


def figures(runs: list[Run], iid: list[Run], truth_N: Tensor, counted_N: Tensor, groups: int) -> dict[str, Any]:
    """Variance against iid runs, agreement of runs in rank, bias and coverage."""
    found: dict[str, Any] = {"variance_ratio": {}, "rank_agreement": {}}
    for name in MEASURES:
        values_SN = torch.stack([run.values[name] for run in runs])
        iid_SN = torch.stack([run.values[name] for run in iid])
        ratio_N = iid_SN.var(0) / values_SN.var(0)
        found["variance_ratio"][name] = float(ratio_N[counted_N].log().mean().exp())
        found["rank_agreement"][name] = statistics.mean(
            float(stats.spearmanr(a, b).statistic) for a, b in pairwise(values_SN)
        )
    epistemic_SN = torch.stack([run.values["epistemic"] for run in runs])[:, counted_N]
    corrected_SN = torch.stack([run.corrected_N for run in runs])[:, counted_N]
    value_N = truth_N[counted_N]
    found["sd_of_epistemic"] = float((epistemic_SN.std(0) / value_N).median())
    found["bias_plug_in"] = float((epistemic_SN.mean(0) / value_N - 1).median())
    found["bias_corrected"] = float((corrected_SN.mean(0) / value_N - 1).median())
    found["coverage"] = {}
    for name, count in degrees(runs[0], groups).items():
        error_SN = torch.stack([run.errors[name] for run in runs])[:, counted_N]
        inside_SN = (corrected_SN - value_N).abs() <= float(stats.t.ppf(0.975, count)) * error_SN
        ratio_N = error_SN.square().mean(0) / corrected_SN.var(0)
        found["coverage"][name] = {
            "inside": float(inside_SN.double().mean()),
            "error_over_sd": float(ratio_N.log().mean().exp().sqrt()),
        }
    return found


def degrees(run: Run, groups: int) -> dict[str, int]:
    """Degrees of freedom of each standard error; that of independent passes is a jackknife over ten blocks of them."""
    return {name: (10 if name == "as if independent" else groups) - 1 for name in run.errors}


def table(found: dict[str, Any]) -> str:
    """Markdown: one line per rate, number of passes and design."""
    lines = [
        "| rate | passes | masks | iid variance / this one's: epistemic | total | aleatoric | mc_loss "
        "| two runs agree in rank: epistemic | total | sd of epistemic / its value | bias, plug-in | bias, corrected "
        "| 95 % interval covers: as if independent | group jackknife | group means |",
        "|" + "---|" * 15,
    ]
    for rate, at_rate in found.items():
        for passes in (str(FEW), str(PASSES)):
            for name, one in at_rate[passes].items():
                cells = [f"{one['variance_ratio'][m]:.1f}" for m in MEASURES]
                cells += [f"{one['rank_agreement'][m]:.3f}" for m in ("epistemic", "total")]
                cells += [f"{100 * one['sd_of_epistemic']:.1f} %"]
                cells += [f"{100 * one[key]:+.1f} %" for key in ("bias_plug_in", "bias_corrected")]
                cells += [
                    _covers(one["coverage"].get(key)) for key in ("as if independent", "group jackknife", "group means")
                ]
                lines.append("| " + " | ".join([rate, passes, name, *cells]) + " |")
    return "\n".join(lines)


def mask_cost(rounds: int = 15) -> dict[str, float]:
    """Median ns per element of one attention mask, kinds taking turns."""
    rows, heads, queries, length = 4, 8, 64, 128
    device, ids = torch.device("cpu"), list(range(rows))
    kinds: dict[str, keyed.RowKeys] = {
        "iid": keyed.row_keys(0, ids, [0] * rows, device),
        "balanced": balanced.row_keys(0, ids, [0] * rows, pass_groups.group_sizes(PASSES, 0.1), device),
    }
    weights = torch.ones(rows, heads, queries, length)
    seconds: dict[str, list[float]] = {name: [] for name in (*kinds, "F.dropout")}
    for _ in range(rounds):
        for name, keys in kinds.items():
            with _clock(seconds[name]):
                keyed.keep_attention(keys, heads, range(queries), length, 0.1)
        with _clock(seconds["F.dropout"]):
            torch.nn.functional.dropout(weights, 0.1)
    return {name: round(1e9 * statistics.median(some) / weights.numel(), 2) for name, some in seconds.items()}


@contextmanager
def _clock(into: list[float]) -> Iterator[None]:
    """Add the seconds spent inside to a list."""
    started = time.perf_counter()
    yield
    into.append(time.perf_counter() - started)


def _entropy(probs_NV: Tensor) -> Tensor:
    return -torch.xlogy(probs_NV, probs_NV).sum(-1)


def _covers(one: dict[str, float] | None) -> str:
    return "" if one is None else f"{100 * one['inside']:.0f} % ({one['error_over_sd']:.2f})"


if __name__ == "__main__":
    sys.exit(main())
