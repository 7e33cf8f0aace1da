"""How far the estimates of epistemic uncertainty and their intervals can be trusted: bias and coverage, measured.

Members of known distributions are drawn again and again, K at a time, and every estimate is held against the truth:

- *gaussian S*: logits of a peaked prediction, each with noise of deviation S in every member;
- *switch Q*: a member predicts something else altogether with probability Q;
- *dirichlet A*: members drawn from a Dirichlet distribution of weight A around a Zipf prediction: the truth is known in
  closed form;
- *dropout*: real passes of the embedded demo model under dropout 0.1, at a few tokens; the stored passes are the
  population, members are drawn from it with replacement, and its own mutual information is the truth.

Run ``python -m benchmarks.coverage`` (a minute on one core); ``--out FILE`` keeps the table. The table stands in
docs/estimators.md.

Dimensions: R replicates, K members, V vocabulary, P members of a population, N tokens.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.special import digamma, stdtrit
from torch import Tensor

from uncertainty import measures
from uncertainty.engine import Rows
from uncertainty.estimators import epistemic_high, epistemic_low, group_jackknife, unresolved
from uncertainty.families.dropout import McDropout
from uncertainty.loading import load_model
from uncertainty.member_terms import member_terms
from uncertainty.pass_groups import jackknife_sizes
from uncertainty.prepare import prepare
from uncertainty.settings import ScoreSettings

VOCABULARY = 50
POPULATION = 200_000  # draws behind the truth of a distribution without a closed form
DEPTH = 3000  # passes of the demo model that are stored


@dataclass(frozen=True)
class Ensemble:
    """A distribution of members.

    Attributes:
        name: of the row.
        draw: so many members -> log-probabilities ``[n, V]``.
        truth: their mutual information in nats.
    """

    name: str
    draw: Callable[[int], Tensor]
    truth: float


@dataclass(frozen=True)
class Row:
    """What was measured of one ensemble, all as fractions.

    Attributes:
        name: of the ensemble.
        truth: nats.
        bias: of the plug-in value and of the corrected one, of the truth.
        bias_error: Monte Carlo error of the corrected value's bias.
        sd: of the corrected value, of the truth.
        plug_in, delta, leave_one_out, grouped: share of the 95 % intervals that hold the truth. ``plug_in`` is
            value +- 1.96 sd(KL) / sqrt K around the plug-in value; ``delta`` the same error around the corrected value,
            with a t quantile; ``leave_one_out`` its own jackknife error; ``grouped`` ten groups and t of 9 degrees.
        interval: the same for ``epistemic_low`` to ``epistemic_high``: ten groups, upwards in proportion.
        unresolved: share of the replicates that the flag marks.
    """

    name: str
    truth: float
    bias: float
    bias_corrected: float
    bias_error: float
    sd: float
    plug_in: float
    delta: float
    leave_one_out: float
    grouped: float
    interval: float
    unresolved: float


def measure(ensemble: Ensemble, members: int, replicates: int) -> Row:
    """Draw ``members`` members ``replicates`` times, and hold every estimate against the truth."""
    log_probs_KRV = ensemble.draw(members * replicates).unflatten(0, (members, replicates))
    value_R = measures.bald(log_probs_KRV)
    single = group_jackknife(log_probs_KRV, members)
    error_R = measures.bald_standard_error(log_probs_KRV)
    delta_R = member_terms(log_probs_KRV).divergence_KN.std(0) / math.sqrt(members)
    groups = len(jackknife_sizes(members))

    def covers(centre_R: Tensor, se_R: Tensor, quantile: float) -> float:
        return ((centre_R - ensemble.truth).abs() <= quantile * se_R).double().mean().item()

    t_members, t_groups = float(stdtrit(members - 1, 0.975)), float(stdtrit(groups - 1, 0.975))
    corrected_R = single.corrected_N
    inside_R = (epistemic_low(log_probs_KRV) <= ensemble.truth) & (ensemble.truth <= epistemic_high(log_probs_KRV))
    spread = corrected_R.std().item() / ensemble.truth
    return Row(
        ensemble.name,
        ensemble.truth,
        bias=value_R.mean().item() / ensemble.truth - 1,
        bias_corrected=corrected_R.mean().item() / ensemble.truth - 1,
        bias_error=spread / math.sqrt(replicates),
        sd=spread,
        plug_in=covers(value_R, delta_R, 1.96),
        delta=covers(corrected_R, delta_R, t_members),
        leave_one_out=covers(corrected_R, single.error_N, t_members),
        grouped=covers(corrected_R, error_R, t_groups),
        interval=inside_R.double().mean().item(),
        unresolved=unresolved(log_probs_KRV).mean().item(),
    )


def gaussian(sd: float, seed: int = 0) -> Ensemble:
    """Noise in every logit."""
    generator = torch.Generator().manual_seed(seed)
    shared_V = 4 * torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)

    def draw(count: int) -> Tensor:
        noise_nV = torch.randn(count, VOCABULARY, generator=generator, dtype=torch.float64)
        return (shared_V + sd * noise_nV).log_softmax(-1)

    return Ensemble(f"gaussian {sd:g}", draw, _information(draw))


def switch(rate: float, seed: int = 0) -> Ensemble:
    """Another prediction in a share of the members."""
    generator = torch.Generator().manual_seed(seed)
    shared_V = 4 * torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)

    def draw(count: int) -> Tensor:
        other_n1 = torch.rand(count, 1, generator=generator, dtype=torch.float64) < rate
        noise_nV = 0.1 * torch.randn(count, VOCABULARY, generator=generator, dtype=torch.float64)
        return (torch.where(other_n1, shared_V.flip(0), shared_V) + noise_nV).log_softmax(-1)

    return Ensemble(f"switch {100 * rate:g} %", draw, _information(draw))


def dirichlet(weight: float, seed: int = 0, vocabulary: int = 200) -> Ensemble:
    """Members around a Zipf prediction; ``I = H(m) - (psi(A + 1) - sum_v m_v psi(A m_v + 1))``."""
    generator = torch.Generator().manual_seed(seed)
    mean_V = 1 / torch.arange(1, vocabulary + 1, dtype=torch.float64)
    mean_V /= mean_V.sum()

    def draw(count: int) -> Tensor:
        gamma_nV = torch._standard_gamma((weight * mean_V).expand(count, vocabulary), generator=generator)
        return gamma_nV.clamp(min=1e-300).log().log_softmax(-1)

    conditional = digamma(weight + 1) - float((mean_V * torch.special.digamma(weight * mean_V + 1)).sum())
    return Ensemble(f"dirichlet {weight:g}", draw, float(-(mean_V * mean_V.log()).sum() - conditional))


def dropout(tokens: int = 4, depth: int = DEPTH, seed: int = 0) -> list[Ensemble]:
    """The embedded demo model's own members at a few tokens, from the most to the least uncertain quarter."""
    log_probs_PNV = demo_members(depth)
    truth_N = measures.bald(log_probs_PNV)
    ranked = truth_N.argsort(descending=True)
    chosen = [int(ranked[int((place + 0.5) * len(ranked) / tokens)]) for place in range(tokens)]
    return [_stored(f"dropout {place + 1}", log_probs_PNV[:, n], seed) for place, n in enumerate(chosen)]


def demo_members(depth: int) -> Tensor:
    """``depth`` passes of one example of the demo, ``[P, N, V]``: its tokens' predictions under dropout 0.1."""
    settings = ScoreSettings(limit=1)
    prepared = prepare(settings)
    model = load_model(settings.model_source, prepared.tokenizer, dtype="float32", device="cpu").model
    example = prepared.examples[0]
    # The prediction of a token stands one position before it.
    at_N = [position - 1 for position, inside in enumerate(example.completion) if inside and position]
    parts = []
    with McDropout(settings.rate).active(model) as family, torch.inference_mode():
        for first in range(0, depth, 250):
            passes = tuple(range(first, min(first + 250, depth)))
            input_ids_RT = torch.tensor([example.input_ids]).expand(len(passes), -1)
            with family.draw(Rows((example.id,) * len(passes), passes)):
                parts.append(model(input_ids=input_ids_RT).logits[:, at_N].float().log_softmax(-1))
    return torch.cat(parts).clone()


def _stored(name: str, log_probs_PV: Tensor, seed: int) -> Ensemble:
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return log_probs_PV[torch.randint(len(log_probs_PV), (count,), generator=generator)]

    return Ensemble(name, draw, measures.bald(log_probs_PV[:, None]).item())


def _information(draw: Callable[[int], Tensor]) -> float:
    """The mutual information of so many draws that its own bias and noise are far below what is measured."""
    return measures.bald(draw(POPULATION)[:, None]).item()


def ensembles() -> list[Ensemble]:
    """All rows of the table."""
    return [
        *(gaussian(sd) for sd in (0.1, 0.5, 1.5)),
        *(dirichlet(weight) for weight in (1000, 100, 10)),
        *dropout(),
        *(switch(rate) for rate in (0.2, 0.1, 0.05, 0.03, 0.02, 0.01)),
    ]


def table(rows: Sequence[Row], members: int, replicates: int) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"K = {members}, {replicates} replicates of each; percent, truth in nats.",
        "",
        "| members | truth | bias, plug-in | bias, corrected | sd | plug-in ± 1.96 sd(KL)/√K | corrected, sd(KL)/√K, t "
        "| corrected, leave-one-out, t | corrected, 10 groups, t9 | **the same, upwards in proportion** | unresolved |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = (row.plug_in, row.delta, row.leave_one_out, row.grouped, row.interval)
        lines.append(
            f"| {row.name} | {row.truth:.3g} | {100 * row.bias:+.1f} | {100 * row.bias_corrected:+.1f} ± "
            f"{100 * row.bias_error:.1f} | {100 * row.sd:.0f} | "
            + " | ".join(f"{100 * share:.1f}" for share in shares)
            + f" | {100 * row.unresolved:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, nargs="+", default=[100], help="K; several give a table each")
    parser.add_argument("--replicates", type=int, default=1000, help="estimates of each ensemble (default: 1000)")
    parser.add_argument("--out", type=Path, help="write the tables there too")
    options = parser.parse_args(argv)
    rows = ensembles()
    tables = [
        table([measure(one, members, options.replicates) for one in rows], members, options.replicates)
        for members in options.members
    ]
    print("\n".join(tables))
    if options.out is not None:
        options.out.write_text("\n".join(tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
