"""What training selected, window by window: which kinds of tokens are trained on, and how that changes.

Dimension key: N completion tokens of one optimizer step, V vocabulary, C token classes.

``CurriculumRecord`` sums up optimizer steps and gives one row per *logging window*; ``curriculum_rows`` says what is in
a row, and keeps the rows of a run. The record holds counts and sums, and one bit for every completion token of the
data set, and is exact under resume. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from uncertainty.token_classes import CLASSES, VocabularyClasses

LISTED = 10  # token types named as entering and as leaving the selection
AT_LEAST = 10  # tokens of a type that both windows must have before its change of rate is looked at


@dataclass(frozen=True, eq=False)
class Window:
    """What one optimizer step selected, all processes together, ordered by (example, position), each token once.

    Attributes:
        step: optimizer step.
        epoch: passes over the data so far.
        fraction: share that was asked for; 1 for objectives without selection.
        example_N: int64, number of the example in the data set.
        position_N: int64, position of the token in the example.
        label_N: int64, token id.
        selected_N: bool.
        nll_N: float64, loss in nats.
        value_N: float64, what was ranked.
        kl_N: float64, KL(reference || student) in nats; None without a reference.

    Raises:
        ValueError: arrays of different lengths, tokens out of order or twice, a loss or a KL that is not finite.
    """

    step: int
    epoch: float
    fraction: float
    example_N: np.ndarray
    position_N: np.ndarray
    label_N: np.ndarray
    selected_N: np.ndarray
    nll_N: np.ndarray
    value_N: np.ndarray
    kl_N: np.ndarray | None = None

    def __post_init__(self) -> None:
        arrays = {name: value for name, value in vars(self).items() if name.endswith("_N") and value is not None}
        shapes = {name: np.shape(value) for name, value in arrays.items()}
        if len(set(shapes.values())) != 1 or len(shapes["example_N"]) != 1:
            raise ValueError(f"arrays of one window differ in shape: {shapes}")
        example_step, position_step = np.diff(self.example_N), np.diff(self.position_N)
        if not np.all((example_step > 0) | ((example_step == 0) & (position_step > 0))):
            raise ValueError("tokens of a window must be ordered by (example, position), each once")
        for name in ("nll_N", "kl_N"):
            if name in arrays and not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} of step {self.step} is not finite")


class CurriculumRecord:
    """Sums over optimizer steps; ``row`` closes a logging window.

    Attributes:
        classes: of the tokenizer's vocabulary.
        spell: token id -> text, for the rows.
    """

    def __init__(self, classes: VocabularyClasses, spell: Callable[[int], str]) -> None:
        self.classes = classes
        self.spell = spell
        self._sums = _empty_sums()
        self._counts_2V = np.zeros((2, len(classes)), dtype=np.int64)  # of each token: seen, selected
        self._before_2V: np.ndarray | None = None  # the same in the window before
        # Example -> number of its tokens, and whether each was selected when it was last seen, eight to a byte.
        self._seen: dict[int, tuple[int, bytes]] = {}

    def add(self, window: Window) -> None:
        """Take in one optimizer step.

        Raises:
            ValueError: an example has other tokens than the last time; the first step of a window is out of order; a
                selected value is not finite.
        """
        sums, chosen_N = self._sums, np.asarray(window.selected_N, dtype=bool)
        if sums["n_steps"] == 0:
            sums["first_step"] = window.step
        sums["step"], sums["epoch"] = window.step, window.epoch
        sums["n_steps"] += 1
        sums["fraction"] += window.fraction
        for name, part_N in (("selected", chosen_N), ("rest", ~chosen_N)):
            sums[f"n_{name}"] += int(part_N.sum())
            sums[f"nll_{name}"] += math.fsum(window.nll_N[part_N])
            if window.kl_N is not None:
                sums[f"n_kl_{name}"] += int(part_N.sum())
                sums[f"kl_{name}"] += math.fsum(window.kl_N[part_N])
        if chosen_N.any():
            self._add_threshold(window.step, float(np.min(window.value_N[chosen_N])))
        self._add_classes(window, chosen_N)
        self._add_overlap(window, chosen_N)

    def row(self) -> dict[str, Any] | None:
        """The row of the steps since the last one, and the start of the next window; None where there were none.

        Returns:
            plain JSON: the keys of ``curriculum_rows.COLUMNS``, numbers, null or (``entering``, ``leaving``) lists.
        """
        if self._sums["n_steps"] == 0:
            return None
        sums = self._sums
        n_tokens = sums["n_selected"] + sums["n_rest"]
        row: dict[str, Any] = {name: sums[name] for name in ("step", "first_step", "n_steps", "epoch")}
        row |= {"n_tokens": n_tokens, "n_selected": sums["n_selected"]}
        row["fraction_asked"] = sums["fraction"] / sums["n_steps"]
        row["fraction_kept"] = _ratio(sums["n_selected"], n_tokens)
        row["threshold"] = _ratio(sums["threshold"], sums["n_thresholds"])
        for edge in ("threshold_low", "threshold_high"):
            row[edge] = sums[edge] if sums["n_thresholds"] else None
        row |= _means(sums, "nll", "n") | _means(sums, "kl", "n_kl")
        for code, name in enumerate(CLASSES):
            key = name.replace(" ", "_")
            of_all = _ratio(sums[f"class_{code}"], n_tokens)
            of_set = _ratio(sums[f"class_selected_{code}"], sums["n_selected"])
            row[f"share_of_tokens/{key}"], row[f"share_of_selected/{key}"] = of_all, of_set
            row[f"enrichment/{key}"] = None if of_set is None or not of_all else of_set / of_all
        row |= _overlap(sums)
        row["entering"], row["leaving"] = self._moves()
        self._before_2V, self._counts_2V = self._counts_2V, np.zeros_like(self._counts_2V)
        self._sums = _empty_sums()
        return row

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything the next rows depend on, as NumPy arrays without objects (``numpy.savez`` holds them)."""
        examples = sorted(self._seen)
        state = {f"sum.{name}": np.array(value) for name, value in self._sums.items()}
        state["counts"] = self._counts_2V
        state["before"] = np.zeros((0, 0), dtype=np.int64) if self._before_2V is None else self._before_2V
        state["seen.example"] = np.array(examples, dtype=np.int64)
        state["seen.tokens"] = np.array([self._seen[example][0] for example in examples], dtype=np.int64)
        bits = b"".join(self._seen[example][1] for example in examples)
        state["seen.bits"] = np.frombuffer(bits, dtype=np.uint8)
        return {name: array.copy() for name, array in state.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from ``state_dict``: rows are those of a record that was never stopped.

        Raises:
            ValueError: the state is of another vocabulary.
        """
        if state["counts"].shape != self._counts_2V.shape:
            raise ValueError(f"the state counts {state['counts'].shape[1]} tokens, the vocabulary {len(self.classes)}")
        self._sums = {name: state[f"sum.{name}"].item() for name in _empty_sums()}
        self._counts_2V = state["counts"].astype(np.int64)
        self._before_2V = state["before"].astype(np.int64) if state["before"].size else None
        n_tokens = state["seen.tokens"].tolist()
        bits, start = state["seen.bits"].tobytes(), 0
        self._seen = {}
        for example, count in zip(state["seen.example"].tolist(), n_tokens, strict=True):
            end = start + (count + 7) // 8
            self._seen[example], start = (count, bits[start:end]), end

    def _add_threshold(self, step: int, value: float) -> None:
        if not math.isfinite(value):
            raise ValueError(f"the smallest selected value of step {step} is {value}")
        sums = self._sums
        is_first = sums["n_thresholds"] == 0
        sums["threshold_low"] = value if is_first else min(sums["threshold_low"], value)
        sums["threshold_high"] = value if is_first else max(sums["threshold_high"], value)
        sums["threshold"] += value
        sums["n_thresholds"] += 1

    def _add_classes(self, window: Window, chosen_N: np.ndarray) -> None:
        follows_N = np.zeros(len(chosen_N), dtype=bool)
        follows_N[1:] = (np.diff(window.example_N) == 0) & (np.diff(window.position_N) == 1)
        code_N = self.classes.in_text(window.label_N, follows_N)
        for code in range(len(CLASSES)):
            self._sums[f"class_{code}"] += int((code_N == code).sum())
            self._sums[f"class_selected_{code}"] += int((code_N[chosen_N] == code).sum())
        self._counts_2V[0] += _count(window.label_N, len(self.classes))
        self._counts_2V[1] += _count(window.label_N[chosen_N], len(self.classes))

    def _add_overlap(self, window: Window, chosen_N: np.ndarray) -> None:
        for example, now_M in _by_example(window.example_N, chosen_N):
            if example in self._seen:
                count, bits = self._seen[example]
                if count != len(now_M):
                    raise ValueError(f"example {example} had {count} completion tokens and has {len(now_M)} now")
                before_M = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=count).astype(bool)
                self._sums["n_seen_before"] += count
                self._sums["n_now"] += int(now_M.sum())
                self._sums["n_before"] += int(before_M.sum())
                self._sums["n_both"] += int((now_M & before_M).sum())
            self._seen[example] = (len(now_M), np.packbits(now_M).tobytes())

    def _moves(self) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]:
        """Token types whose rate of selection changed most, upwards and downwards; equal changes by token id."""
        if self._before_2V is None:
            return None, None
        (n_V, chosen_V), (n_before_V, chosen_before_V) = self._counts_2V, self._before_2V
        common = np.flatnonzero((n_V >= AT_LEAST) & (n_before_V >= AT_LEAST))
        rate, before = chosen_V[common] / n_V[common], chosen_before_V[common] / n_before_V[common]
        change = rate - before

        def listed(order: np.ndarray) -> list[dict[str, Any]]:
            return [
                {
                    "token_id": int(common[place]),
                    "token": self.spell(int(common[place])),
                    "rate": float(rate[place]),
                    "rate_before": float(before[place]),
                    "n": int(n_V[common[place]]),
                    "n_before": int(n_before_V[common[place]]),
                }
                for place in order[:LISTED]
            ]

        order = np.lexsort((common, -change)), np.lexsort((common, change))
        return listed(order[0][change[order[0]] > 0]), listed(order[1][change[order[1]] < 0])


def _by_example(example_N: np.ndarray, chosen_N: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    if not len(example_N):
        return
    starts = np.flatnonzero(np.diff(example_N, prepend=example_N[0] - 1))
    for start, part in zip(starts, np.split(chosen_N, starts[1:]), strict=True):
        yield int(example_N[start]), part


def _count(token_N: np.ndarray, vocabulary: int) -> np.ndarray:
    return np.bincount(np.asarray(token_N, dtype=np.int64), minlength=vocabulary)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _means(sums: Mapping[str, Any], name: str, count: str) -> dict[str, float | None]:
    selected, rest = sums[f"{count}_selected"], sums[f"{count}_rest"]
    return {
        name: _ratio(sums[f"{name}_selected"] + sums[f"{name}_rest"], selected + rest),
        f"{name}_selected": _ratio(sums[f"{name}_selected"], selected),
        f"{name}_rest": _ratio(sums[f"{name}_rest"], rest),
    }


def _overlap(sums: Mapping[str, Any]) -> dict[str, Any]:
    n, now, before, both = (sums[name] for name in ("n_seen_before", "n_now", "n_before", "n_both"))
    by_chance = _ratio(now * before, n) or 0.0  # tokens that two random sets have in common
    return {
        "jaccard": _ratio(both, now + before - both),
        "jaccard_chance": _ratio(by_chance, now + before - by_chance),
        "n_seen_before": n,
    }


def _empty_sums() -> dict[str, Any]:
    classes = [f"class{part}_{code}" for part in ("", "_selected") for code in range(len(CLASSES))]
    return dict.fromkeys((*_WHOLE, *classes), 0) | dict.fromkeys(_PARTS, 0.0)


_WHOLE = (
    *("step", "first_step", "n_steps", "n_selected", "n_rest", "n_kl_selected", "n_kl_rest", "n_thresholds"),
    *("n_seen_before", "n_now", "n_before", "n_both"),
)
_PARTS = (
    *("epoch", "fraction", "threshold", "threshold_low", "threshold_high"),
    *("nll_selected", "nll_rest", "kl_selected", "kl_rest"),
)
