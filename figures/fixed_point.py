"""Where training comes to rest when the tokens are selected by their loss: the fixed points at one context.

The labels of one context are distributed as a known p; a share f of the tokens is selected, and the reference is p
itself, so that every number that differs from p is the selection's doing. No run is needed and nothing is sampled.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import StrMethodFormatter

from analysis.plot_style import INK, MUTED, STYLE
from figures.runs import save_picture
from uncertainty.cli.options import command, option
from uncertainty.errors import InputError

TITLE = "Fixed points of masked MLE, with and without distillation"
SELECTIONS = {
    "reference": "Selected by the reference's loss, $-\\log\\,p(y)$",
    "own": "Selected by the model's own loss, $-\\log\\,q(y)$",
}
NOTES = {
    "reference": "masked MLE: the common labels,\nnever selected, have $q^* = 0$",
    "own": "masked MLE: the common labels\nare all held at the threshold",
}
MASKED, DISTILLED, TRUTH = "#d55e00", "#1f7fc0", INK


@dataclass(frozen=True)
class FixedPointOptions:
    """The options of this script."""

    labels: int = option(1000, "labels that the context can have", unit="labels")
    exponent: float = option(1.0, "p(y) is proportional to the label's rank to the power of minus this")
    fraction: float = option(0.25, "share of the tokens that is selected")
    out: Path | None = option(None, "the picture, a .png (default: beside the script)", metavar="FILE")


@dataclass(frozen=True)
class FixedPoint:
    """Where one objective comes to rest: ``q`` and the share ``s`` of each label's tokens that is selected there."""

    q: np.ndarray
    s: np.ndarray


def zipf(labels: int, exponent: float) -> np.ndarray:
    """Probabilities that fall as a power of the rank, the largest first."""
    weights = np.arange(1, labels + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def by_reference_loss(p: np.ndarray, fraction: float, *, distilled: bool) -> FixedPoint:
    """The fixed point where the rarest labels are selected, until they are the fraction of all tokens.

    ``-log p(y)`` does not change in training, so neither does ``s``: 1 for rare labels, 0 for common ones, and between
    at the edge, where an exact count takes part of a label's tokens. Then

        q*(y) = p(y) s(y) / f               masked MLE
        q*(y) = p(y) (s(y) + 1 - f)         masked MLE + distillation

    Args:
        p: distribution of the labels, positive, sum 1.
        fraction: f, in (0, 1].
        distilled: with distillation from the reference (p) on the rest.
    """
    order = np.argsort(p, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
    s = np.empty_like(p)
    s[order] = np.clip((fraction - before) / p[order], 0.0, 1.0)
    return FixedPoint(p * (s + 1 - fraction) if distilled else p * s / fraction, s)


def by_own_loss(p: np.ndarray, fraction: float, *, distilled: bool) -> FixedPoint:
    """The fixed point where the labels that the model itself holds least probable are selected.

    Now ``s`` moves with the model. A label below the threshold is selected, so it rises; a label above it is not, so it
    falls; at rest it is below (``s = 1``), above (``s = 0``), or *at* the threshold t with whatever ``s`` holds it
    there:

        q*(y) = min(p(y) / f, t)                                masked MLE: rare labels over-weighted, the rest level
        q*(y) = median(p(y) (1 - f), t, p(y) (2 - f))           masked MLE + distillation

    and t is the one number for which the probabilities sum to 1. It is the quantile of ``q*`` that selects f. Training
    in steps of finite size moves to and fro about this point: labels at the threshold take turns.

    Args:
        p: distribution of the labels, positive, sum 1.
        fraction: f, in (0, 1].
        distilled: with distillation from the reference (p) on the rest.
    """
    low = p * (1 - fraction) if distilled else np.zeros_like(p)
    high = p * (2 - fraction) if distilled else p / fraction
    q = np.clip(_threshold(low, high), low, high)
    s = q / p - (1 - fraction) if distilled else q * fraction / p
    return FixedPoint(q, s)


def _threshold(low: np.ndarray, high: np.ndarray) -> float:
    """The t with ``sum(clip(t, low, high)) == 1``: the sum is piecewise linear in t, and rises."""
    knots = np.sort(np.concatenate([low, high]))
    above = bisect_left(knots, 1.0, key=lambda knot: np.clip(knot, low, high).sum())
    if above == 0 or above == len(knots):
        return float(knots[min(above, len(knots) - 1)])
    middle = (knots[above - 1] + knots[above]) / 2  # no label passes its bound within a piece
    moving = (low < middle) & (middle < high)
    if not moving.any():
        return float(knots[above])
    return float((1.0 - high[high <= middle].sum() - low[low >= middle].sum()) / moving.sum())


def entropy(q: np.ndarray) -> float:
    """Entropy in nats."""
    return float(-(q[q > 0] * np.log(q[q > 0])).sum())


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """``KL(p || q)`` in nats, ``inf`` where q is zero: the loss on new text above the least possible."""
    with np.errstate(divide="ignore"):
        return float((p * (np.log(p) - np.log(q))).sum())


def draw(options: FixedPointOptions) -> None:
    """Above q*, below its ratio to p; a column for each way of selecting by loss."""
    if options.labels < 2 or not 0 < options.fraction < 1:
        raise InputError("fixed_point needs at least 2 labels and a fraction between 0 and 1; e.g. --fraction 0.25")
    p = zipf(options.labels, options.exponent)
    if not p.min() > 0:
        raise InputError(f"--exponent {options.exponent:g} leaves labels without probability; give a smaller one")
    points = {
        (name, distilled): solve(p, options.fraction, distilled=distilled)
        for name, solve in (("reference", by_reference_loss), ("own", by_own_loss))
        for distilled in (False, True)
    }
    world = f"{options.labels:,} labels, p(y) ~ rank^-{options.exponent:g}"
    print(f"{world}, {options.fraction:.0%} selected; entropy of p {entropy(p):.3f} nats")
    for (name, distilled), point in points.items():
        objective = "masked MLE + distillation" if distilled else "masked MLE"
        ratio = point.q / p
        print(
            f"by {name} loss, {objective}: entropy {entropy(point.q):.3f} nats, KL(p || q*) "
            f"{divergence(p, point.q):.3f} nats, q*/p from {ratio.min():.3f} to {ratio.max():.3f}"
        )
    with matplotlib.rc_context({**STYLE, "text.parse_math": True}):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained", dpi=200)
        axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(1.5, 1))
        for column, name in zip(axes.T, SELECTIONS, strict=True):
            curves = points[name, False].q, points[name, True].q
            _probabilities(column[0], p, *curves)
            _ratios(column[1], p, *curves, options.fraction)
            column[0].set_title(SELECTIONS[name])
            column[0].text(0.04, 0.06, NOTES[name], transform=column[0].transAxes, fontsize=7.5, color=MASKED)
        axes[0, 0].set_ylabel("probability of the label, $q^*(y)$")
        axes[1, 0].set_ylabel("$q^*(y)\\,/\\,p(y)$")
        title = (
            f"Where training comes to rest: {options.fraction:.0%} of the tokens selected, "
            f"{options.labels:,} labels, $p \\propto$ rank$^{{-{options.exponent:g}}}$"
        )
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=3)
    save_picture(figure, __file__, options.out, TITLE, [])


def _probabilities(ax: Axes, p: np.ndarray, masked: np.ndarray, distilled: np.ndarray) -> None:
    ranks = np.arange(1, len(p) + 1)
    ax.plot(ranks, p, color=TRUTH, linewidth=2.6, alpha=0.35)
    for q, colour in ((masked, MASKED), (distilled, DISTILLED)):
        shown = q > 0
        ax.plot(ranks[shown], q[shown], color=colour, linewidth=1.5)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(1, len(p))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.grid(axis="y")


def _ratios(ax: Axes, p: np.ndarray, masked: np.ndarray, distilled: np.ndarray, fraction: float) -> None:
    ranks = np.arange(1, len(p) + 1)
    ax.axhline(1.0, color=TRUTH, linewidth=2.6, alpha=0.35)
    for q, colour in ((masked, MASKED), (distilled, DISTILLED)):
        ax.plot(ranks, q / p, color=colour, linewidth=1.5)
    for level, text in ((1 / fraction, "1/f"), (2 - fraction, "2-f"), (1 - fraction, "1-f")):
        ax.axhline(level, color=MUTED, linewidth=0.5, linestyle=":")
        ax.annotate(
            f"${text}={level:.3g}$",
            (1.01, level),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
            color=MUTED,
        )
    ax.set_ylim(-0.1, 1.08 / fraction)
    ax.set_xlabel("label, by rank in $p$")


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color=TRUTH, linewidth=2.6, alpha=0.35, label="$p$: MLE, and any label-free selection"),
        Line2D([], [], color=MASKED, linewidth=1.5, label="masked MLE"),
        Line2D([], [], color=DISTILLED, linewidth=1.5, label="masked MLE + distillation"),
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the script; returns its exit code."""
    return command(draw, FixedPointOptions, argv, prog="fixed_point", description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
