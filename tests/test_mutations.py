"""Tests of the tests: bugs planted in the road from a model to its scores, each caught by the check named beside it.

Every check passes on the code as it is. Bugs of the bare formulas are planted in tests/test_measures.py (``MUTANTS``);
here they are planted where they would really stand, by replacing a function of the package.

Dimensions: K members, N tokens, V vocabulary.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import TINY
from scipy import special

from uncertainty import divergence_measures, engine, estimators, measures, member_sweep, member_terms, pass_groups
from uncertainty.data.batches import collate
from uncertainty.data.render import Example
from uncertainty.engine import Rows, score
from uncertainty.families import keyed
from uncertainty.families.dropout import McDropout
from uncertainty.measures import decompose, token_loss

PASSES = 12
ROW = Example("row", [5, 9, 33, 7, 60, 11, 80, 41], [False] * 3 + [True] * 5, [-1] * 3 + [1] * 5, False, [])


# Checks. Each raises AssertionError where something is wrong.


def members(K: int = 20, N: int = 6, V: int = 30) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shared_NV = 3 * torch.randn(N, V, generator=generator, dtype=torch.float64)
    return (shared_NV + torch.randn(K, N, V, generator=generator, dtype=torch.float64)).log_softmax(-1)


def formulas() -> None:
    """The columns of every run against scipy's entropies."""
    log_probs_KNV, label_N = members(), torch.arange(6)
    p_KNV = log_probs_KNV.exp().numpy()
    mean_NV, found = p_KNV.mean(0), decompose(log_probs_KNV, label_N)
    np.testing.assert_allclose(found.total_N, special.entr(mean_NV).sum(-1), rtol=1e-9)
    np.testing.assert_allclose(found.aleatoric_N, special.entr(p_KNV).sum(-1).mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.epistemic_N, special.rel_entr(p_KNV, mean_NV).sum(-1).mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.mc_loss_N, -np.log(mean_NV[np.arange(6), np.arange(6)]), rtol=1e-9)
    np.testing.assert_allclose(token_loss(log_probs_KNV[0], label_N), -log_probs_KNV[0, range(6), range(6)])
    np.testing.assert_allclose(measures.entropy(log_probs_KNV[0]), special.entr(p_KNV[0]).sum(-1), rtol=1e-9)


def jackknife() -> None:
    """Corrected value and both errors against leaving out and computing anew."""
    log_probs_KNV = members()
    p_KNV = log_probs_KNV.exp().numpy()

    def information(rows: np.ndarray) -> np.ndarray:
        return special.entr(rows.mean(0)).sum(-1) - special.entr(rows).sum(-1).mean(0)

    single = np.array([information(np.delete(p_KNV, k, 0)) for k in range(20)])
    expected_N = 20 * information(p_KNV) - 19 * single.mean(0)
    np.testing.assert_allclose(estimators.epistemic_corrected(log_probs_KNV), expected_N, rtol=1e-8)
    pairs = np.array([information(np.delete(p_KNV, [2 * g, 2 * g + 1], 0)) for g in range(10)])
    error_N = np.sqrt(0.9 * ((pairs - pairs.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(measures.bald_standard_error(log_probs_KNV), error_N, rtol=1e-8)


def pairs() -> None:
    """The pairwise divergence against all pairs."""
    log_probs_KNV = members(5)
    p = log_probs_KNV.exp().numpy()
    expected_N = np.mean([special.rel_entr(a, b).sum(-1) for a, b in itertools.permutations(p, 2)], axis=0)
    np.testing.assert_allclose(divergence_measures.expected_pairwise_kl(log_probs_KNV), expected_N, rtol=1e-8)


def loop() -> None:
    """The engine on a real model against a plain loop in float64: one forward pass per member, nothing shared."""
    model, family, ids = TINY["llama"](), McDropout(rate=0.2), torch.tensor([ROW.input_ids])
    with family.active(model) as drawn, torch.inference_mode():
        off_TV = model(input_ids=ids).logits[0].double().log_softmax(-1)
        passes = []
        for k in range(PASSES):
            with drawn.draw(Rows(("row",), (k,))):
                passes.append(model(input_ids=ids).logits[0].double().softmax(-1))
    p_KNV = torch.stack(passes)[:, 2:7].numpy()
    (block,) = score(model, [collate([ROW])], McDropout(rate=0.2), passes=PASSES)
    labels = ROW.input_ids[3:]
    assert block.position_N.tolist() == [3, 4, 5, 6, 7]
    np.testing.assert_allclose(block.measures["loss"], [-off_TV[2 + n, y] for n, y in enumerate(labels)], atol=2e-5)
    mean_NV = p_KNV.mean(0)
    np.testing.assert_allclose(block.measures["mc_loss"], -np.log(mean_NV[range(5), labels]), atol=2e-5)
    np.testing.assert_allclose(block.measures["total"], special.entr(mean_NV).sum(-1), atol=2e-5)
    expected_N = special.rel_entr(p_KNV, mean_NV).sum(-1).mean(0)
    np.testing.assert_allclose(block.measures["epistemic"], expected_N, atol=2e-5)


def draws() -> None:
    """Passes differ from each other, as many different ones as asked for, and another seed gives others."""
    model, ids = TINY["llama"](), torch.tensor([ROW.input_ids])
    seen = []
    for seed in (0, 1):
        with McDropout(rate=0.2).active(model, seed=seed) as drawn, torch.inference_mode():
            for k in range(6):
                with drawn.draw(Rows(("row",), (k,))):
                    seen.append(model(input_ids=ids).logits[0, -1])
    distance = torch.cdist(torch.stack(seen), torch.stack(seen)) + torch.eye(12)
    assert distance.min() > 1e-4


def drop_rate() -> None:
    """A site of rate 0.2 drops that share, and scales what stays so that the mean is kept."""
    with McDropout(rate=0.2).active(TINY["phi3"]()) as drawn:
        (site, *_) = [one for one in drawn.sites if one.kind == "residual"]
        with drawn.draw(Rows(("row",), (0,))):
            kept = drawn.drop_features(site, torch.ones(1, 400, 64))
    assert abs((kept == 0).double().mean().item() - 0.2) < 0.01  # 25,600 draws: sd 0.0025
    assert abs(kept.double().mean().item() - 1) < 0.0125


CHECKS = {check.__name__: check for check in (formulas, jackknife, pairs, loop, draws, drop_rate)}


# Bugs: (the check that catches it, module, name, what takes its place given the function itself).

Original = Callable[..., object]


def scaled(factor: float) -> Callable[[Original], Original]:
    return lambda true: lambda *args, **more: true(*args, **more) * factor


def _swapped(true: Original) -> Original:
    def terms(*args, **more):
        found = true(*args, **more)
        return found._replace(aleatoric_N=found.aleatoric_N + found.divergence_KN.mean(0))

    return terms


def _geometric(true: Original) -> Original:
    """The mean of log-probabilities where the mean of probabilities belongs."""

    def terms(log_probs_KNV, *args, **more):
        found = true(log_probs_KNV, *args, **more)
        mean_NV = log_probs_KNV.mean(0).log_softmax(-1)
        return found._replace(divergence_KN=(log_probs_KNV.exp() * (log_probs_KNV - mean_NV)).sum(-1))

    return terms


def _first_dropped(true: Original) -> Original:
    """The last pass counted twice, and the first not at all."""
    return lambda log_probs_KNV, *args, **more: true(torch.cat([log_probs_KNV[1:], log_probs_KNV[-1:]]), *args, **more)


def _later_label(true: Original) -> Original:
    return lambda log_probs, label: true(log_probs, (label + 1) % log_probs.shape[-1])


def _late_predictors(true: Original) -> Original:
    def predictors(*args):
        row_N, column_N = true(*args)
        return row_N, column_N + 1

    return predictors


def _slipped_mask(true: Original) -> Original:
    """The completion taken to begin and end one token later than it does."""

    def targets(batch):
        at = true(batch)
        last = batch.input_ids_BT.shape[1] - 1
        later_N = (at.position_N + 1).clamp(max=last)
        return at._replace(position_N=later_N, label_N=batch.input_ids_BT[at.row_N, later_N])

    return targets


def _same_seed(true: Original) -> Original:
    return lambda seed, *args: true(0, *args)


def _same_pass(true: Original) -> Original:
    return lambda seed, examples, passes, device: true(seed, examples, [k // 2 for k in passes], device)


def _half_rate(true: Original) -> Original:
    return lambda rate: true(rate / 2)


def _no_rescale(true: Original) -> Original:
    return lambda rate: 0.0


def _one_pass_repeated(true: Original) -> Original:
    return lambda batch, passes, *total: true(batch, [passes[0]] * len(passes), *total)


def _last_pass_twice(true: Original) -> Original:
    return lambda batch, passes, *total: true(batch, [*passes[:-1], passes[0]], *total)


BUGS: dict[str, tuple[str, object, str, Callable[[Original], Original]]] = {
    "entropies to base 2": ("formulas", measures, "entropy", scaled(1 / math.log(2))),
    "loss to base 2": ("formulas", measures, "at_label", scaled(1 / math.log(2))),
    "total and aleatoric swapped": ("formulas", measures, "member_terms", _swapped),
    "mean of logits": ("formulas", measures, "member_terms", _geometric),
    "the first pass dropped": ("formulas", measures, "member_terms", _first_dropped),
    "the label one to the right": ("formulas", measures, "at_label", _later_label),
    "deviation about zero": (
        "jackknife", member_terms, "corrected", lambda true: lambda pseudo_GN, sizes: 0 * true(pseudo_GN, sizes),
    ),
    "deviation over K - 1 of K": ("jackknife", measures, "standard_error", scaled(math.sqrt(9 / 10))),
    "deviation not divided by root K": ("jackknife", measures, "standard_error", scaled(math.sqrt(10))),
    "leaving out not undone": ("jackknife", member_sweep, "removal_terms", scaled(0.0)),
    "half of the bias taken off": (
        "jackknife", estimators, "pseudo_values", lambda true: lambda d, b, sizes: true(d, 0.5 * b, sizes),
    ),
    "the divergence the other way round": (
        "pairs", member_sweep.Tile, "log_ratio_Knv", lambda true: property(lambda tile: -true.func(tile)),
    ),
    "the token predicted from itself": ("loop", engine, "predictors", _late_predictors),
    "the last pass drawn twice": ("loop", engine, "member_rows", _last_pass_twice),
    "one pass drawn K times": ("loop", engine, "member_rows", _one_pass_repeated),
    "logits scaled": ("loop", engine, "readout", lambda true: lambda m, h, out: true(m, h, out=out).mul_(1.01)),
    "the completion mask slipped by one": ("loop", engine, "targets", _slipped_mask),
    "every run has the same seed": ("draws", keyed, "row_keys", _same_seed),
    "every pass drawn twice": ("draws", keyed, "row_keys", _same_pass),
    "half the rate": ("drop_rate", keyed, "threshold", _half_rate),
    "what stays is not scaled": ("drop_rate", pass_groups, "exact_rate", _no_rescale),
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_the_code_as_it_is_passes_every_check(check):
    CHECKS[check]()


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught_by_its_check(bug, monkeypatch):
    check, module, name, plant = BUGS[bug]
    monkeypatch.setattr(module, name, plant(vars(module)[name]))
    with pytest.raises(AssertionError):
        CHECKS[check]()
