"""What tokens are ranked by, and which of them are kept: the names that users type, and one validated rule.

Nothing here imports torch, so that a command can check its options before it loads anything. The values themselves
are in ``selection_signals``, the selection in ``selection``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from uncertainty.errors import InputError
from uncertainty.selection_schedule import Schedule, parse_schedule


class Signal(NamedTuple):
    """One line of the table of signals: the value is ``field``, less ``minus`` where there is one.

    Attributes:
        field: of ``selection_signals.TokenSignals``; empty for numbers drawn at random.
        minus: a second field, or empty.
        label_free: the value does not depend on which token stands there, only on its context. Selection by such a
            signal leaves the fixed point of training where it was (see ``selection``).
        needs_reference: a reference (or, for rho, a holdout model) must be run.
        unit: of the value.
        meaning: in one phrase.
    """

    field: str
    minus: str
    label_free: bool
    needs_reference: bool
    unit: str
    meaning: str


# The paper does not write RHO out; after arXiv:2206.07137 and arXiv:2404.07965 it is the loss that another model,
# trained already, does not have: the reference's, or that of a model which never saw these rows.
SIGNALS: dict[str, Signal] = {
    "loss": Signal("nll_N", "", False, False, "nats", "-log p(label) of the model in training"),
    "entropy": Signal("entropy_N", "", True, False, "nats", "entropy of the prediction of the model in training"),
    "rho": Signal("nll_N", "ref_nll_N", False, True, "nats", "loss less that of the reference (or of a holdout model)"),
    "kl": Signal("kl_N", "", True, True, "nats", "KL(reference || model in training)"),
    "random": Signal("", "", True, False, "fraction", "uniform in (0, 1), drawn anew in every step"),
    "column": Signal("column_N", "", False, False, "its own", "a column of a score table, such as epistemic"),
}  # fmt: skip

# Columns of a score table that do not look at the label. Any other column counts as one that does.
LABEL_FREE_COLUMNS = (
    *("entropy", "margin", "total", "aleatoric", "epistemic", "epistemic_se", "epistemic_corrected", "epistemic_low"),
    *("epistemic_high", "epistemic_bound", "unresolved", "expected_pairwise_kl", "reverse_mutual_information"),
    *("expected_kl_to_deterministic", "prob_variance", "mean_prob_sd", "variation_ratio", "disagreement"),
    "zero_one_epistemic",
)

KEEPS = {
    "top": "the fraction with the highest values",
    "bottom": "the fraction with the lowest values",
    "band": "those between two quantiles of the values",
    "threshold": "those with a value at or above a number",
    "sampled": "the fraction drawn without replacement, in proportion to the value",
}
LEVELS = {
    "token": "every completion token by itself",
    "document": "whole examples, by the mean value of their completion tokens",
}
SCOPES = {
    "step": "exact over all completion tokens of the optimizer step",
    "micro": "approximation: over each micro-batch of each process by itself",
    "running": "approximation: above a running quantile of earlier micro-batches",
}


@dataclass(frozen=True)
class Rule:
    """Which completion tokens are selected.

    Attributes:
        by: a key of ``SIGNALS``.
        keep: a key of ``KEEPS``.
        fraction: share of the tokens (of the examples, at the level ``document``) to select, in (0, 1]; a number or
            the text of a schedule, see ``selection_schedule.parse_schedule``. ``band`` and ``threshold`` do not use
            it.
        band: for ``keep="band"``: two quantiles of the values, ascending, 0 the lowest and 1 the highest.
            ``(0.75, 1.0)`` is the top quarter.
        threshold: for ``keep="threshold"``: in the unit of the signal. ``0.693`` by loss keeps what is less probable
            than one half. It may select none.
        column: for ``by="column"``: which column of the score table.
        level: a key of ``LEVELS``.
        scope: a key of ``SCOPES``: what "the tokens" are that a fraction is a fraction of. Measured on 16 sequences
            of random tokens in a tiny Llama, ``micro`` changes the gradient by 23 % (micro-batches of 4 sequences)
            to 43 % (of 1) against ``step``, which changes it by less than 4e-7 under any split; on a byte-level
            model trained from scratch with 32 sequences a step the Jaccard overlap of ``micro`` with ``step`` was
            0.81 (1 sequence), 0.90 (4), 0.93 (8), 0.95 (16). For ``running`` see ``running_quantile``.

    Raises:
        InputError: an unknown word, a missing or superfluous number, or parts that do not go together.
    """

    by: str = "loss"
    keep: str = "top"
    fraction: float | str = 0.25
    band: tuple[float, float] | None = None
    threshold: float | None = None
    column: str | None = None
    level: str = "token"
    scope: str = "step"

    def __post_init__(self) -> None:
        for name, value, table in (
            ("by", self.by, SIGNALS),
            ("keep", self.keep, KEEPS),
            ("level", self.level, LEVELS),
            ("scope", self.scope, SCOPES),
        ):
            if value not in table:
                raise InputError(f"selection: {name} must be one of {', '.join(table)}, got {value!r}")
        for owner, wanted, number in (
            ("keep", "band", self.band),
            ("keep", "threshold", self.threshold),
            ("by", "column", self.column),
        ):
            chosen = getattr(self, owner)
            if number is None and chosen == wanted:
                raise InputError(f"selection: {owner}={wanted} needs a {wanted}; give one")
            if number is not None and chosen != wanted:
                mend = f"give {owner}={wanted}, or no {wanted}"
                raise InputError(f"selection: a {wanted} ({number}) means nothing with {owner}={chosen}; {mend}")
        if self.band is not None and not (len(self.band) == 2 and 0 <= self.band[0] < self.band[1] <= 1):
            raise InputError(
                f"selection: band must be two ascending quantiles from 0 to 1, got {self.band}; e.g. 0.5, 0.75"
            )
        if self.threshold is not None and self.threshold != self.threshold:
            raise InputError("selection: the threshold is not a number; give one in the unit of the signal")
        is_constant = self.schedule.is_constant  # reads the fraction, whether or not it is used
        if self.keep in ("band", "threshold") and not is_constant:
            raise InputError(f"selection: keep={self.keep} has no fraction to schedule; give keep=top, or no schedule")
        if self.scope == "running" and (self.keep != "top" or self.level != "token"):
            raise InputError(
                f"selection: scope=running is for keep=top, level=token only, got keep={self.keep}, "
                f"level={self.level}; give scope=step"
            )

    @property
    def schedule(self) -> Schedule:
        """The fraction, step by step."""
        return parse_schedule(self.fraction)

    @property
    def label_free(self) -> bool:
        """Whether the selection cannot depend on the label; False for a column that is not known not to."""
        return SIGNALS[self.by].label_free or self.column in LABEL_FREE_COLUMNS

    @property
    def needs_reference(self) -> bool:
        """Whether the values ask for a reference."""
        return SIGNALS[self.by].needs_reference


def scheduled_fraction(rule: Rule, step: int, total_steps: int) -> float:
    """The share to select at one step: a fraction in (0, 1].

    Of a band it is the distance of its quantiles, of a threshold 1: as many as there are above it.

    Args:
        rule: which tokens are selected.
        step: optimizer steps done before it, 0 for the first.
        total_steps: optimizer steps of the whole run, at least 1.

    Raises:
        ValueError: a negative step, or no step at all.

    >>> scheduled_fraction(Rule(fraction="cosine:1.0:0.25"), step=50, total_steps=101)
    0.625
    """
    share = rule.schedule.at(step, total_steps)
    if rule.band is not None:
        return rule.band[1] - rule.band[0]
    return 1.0 if rule.threshold is not None else share
