"""Where training by each selection comes to rest, solved through the real objectives for a known distribution.

One context, V labels; label y stands there in ``counts[y]`` of N tokens, so that p is known to the last bit and the
mean over the N tokens is the expectation.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from figures.fixed_point import by_own_loss, by_reference_loss, divergence, entropy, main, zipf
from uncertainty.objectives import masked_mle, masked_mle_distill, mle
from uncertainty.selection import Rule, TokenSignals, ranking_values, select
from uncertainty.terms import Predictions

COUNTS = (240, 120, 80, 60, 48, 40, 34, 30, 27, 24, 22, 20, 18, 17)  # Zipf's law, about
DISTRIBUTIONS = st.lists(st.integers(1, 200), min_size=2, max_size=30).map(
    lambda counts: np.array(counts) / sum(counts)
)
FRACTIONS = st.floats(0.02, 0.98)


def tokens(counts):
    """The labels of all tokens, shuffled, and p."""
    label_N = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    label_N = label_N[torch.randperm(len(label_N), generator=torch.Generator().manual_seed(0))]
    return label_N, torch.tensor(counts, dtype=torch.float64) / sum(counts)


def predictions(logits_V, label_N, p_V):
    """What the model (and p as the reference) predicts for every token of the context."""
    n_tokens = len(label_N)
    log_q_V = logits_V.log_softmax(-1)
    return Predictions(log_q_V.expand(n_tokens, -1), label_N, p_V.log().expand(n_tokens, -1))


def gradient(loss, logits_V, label_N, p_V):
    logits_V = logits_V.detach().requires_grad_()
    (found_V,) = torch.autograd.grad(loss(predictions(logits_V, label_N, p_V)), logits_V)
    return found_V


def stationary(loss, label_N, p_V):
    """Newton's method on the logits, from the uniform distribution; returns q."""

    def of_logits(logits_V):
        return loss(predictions(logits_V, label_N, p_V))

    logits_V = torch.zeros_like(p_V)
    for _ in range(30):
        gradient_V = gradient(loss, logits_V, label_N, p_V)
        if gradient_V.abs().max() < 1e-16:
            break
        hessian_VV = torch.autograd.functional.hessian(of_logits, logits_V)
        step_V = torch.linalg.pinv(hessian_VV, rtol=1e-12, hermitian=True) @ gradient_V
        logits_V = logits_V - step_V / max(1.0, float(step_V.abs().max()))  # at most one nat: far off it overshoots
    return logits_V.softmax(-1)


def selected_by(values_N, rule, fraction, *, step=0):
    places_N = torch.arange(len(values_N))
    return select(values_N, torch.zeros_like(places_N), places_N, rule, fraction=fraction, seed=0, step=step)


def shares(selected_N, label_N):
    """s(y): the share of each label's tokens that is selected."""
    return label_N[selected_N].bincount(minlength=int(label_N.max()) + 1) / label_N.bincount().double()


def test_maximum_likelihood_rests_at_p():
    label_N, p_V = tokens(COUNTS)
    torch.testing.assert_close(stationary(mle, label_N, p_V), p_V, rtol=0, atol=1e-15)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.1])
def test_with_distillation_it_rests_at_p_times_selected_plus_the_rest(fraction):
    """q*(y) = p(y) (1[y selected] + P(not selected)), where s is 1 or 0; at the edge, between."""
    label_N, p_V = tokens(COUNTS)
    selected_N = selected_by(-p_V.log()[label_N], Rule(), fraction)
    q_V = stationary(lambda p: masked_mle_distill(p, selected_N), label_N, p_V)
    is_selected_V = shares(selected_N, label_N)
    not_selected = (~selected_N).double().mean()
    torch.testing.assert_close(q_V, p_V * (is_selected_V + not_selected), rtol=0, atol=1e-15)
    assert ((is_selected_V > 0) & (is_selected_V < 1)).sum() <= 1
    assert q_V.argmax() == 0
    ratio_V = q_V / p_V
    assert 1 < ratio_V.max() < 2
    assert torch.allclose(ratio_V.min(), not_selected, rtol=0, atol=1e-14)
    expected = by_reference_loss(p_V.numpy(), float(selected_N.double().mean()), distilled=True)
    np.testing.assert_allclose(q_V, expected.q, rtol=0, atol=1e-15)


def test_a_threshold_on_the_references_loss_has_the_same_fixed_point():
    """Whole labels are selected, as in q*(y) = p(y) (1[y selected] + P(not selected))."""
    label_N, p_V = tokens(COUNTS)
    selected_N = selected_by(-p_V.log()[label_N], Rule(keep="threshold", threshold=3.0), 1.0)
    is_selected_V = -p_V.log() >= 3.0
    assert 0 < is_selected_V.sum() < len(COUNTS)
    q_V = stationary(lambda p: masked_mle_distill(p, selected_N), label_N, p_V)
    expected_V = p_V * (is_selected_V + p_V[~is_selected_V].sum())
    torch.testing.assert_close(q_V, expected_V, rtol=0, atol=1e-15)


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_without_distillation_common_labels_lose_all_their_probability(fraction):
    """At q*(y) = p(y) s(y) / f the gradient is zero, and q* is far from p."""
    label_N, p_V = tokens(COUNTS)
    selected_N = selected_by(-p_V.log()[label_N], Rule(), fraction)
    expected = by_reference_loss(p_V.numpy(), float(selected_N.double().mean()), distilled=False)
    q_V = torch.tensor(expected.q)
    logits_V = torch.where(q_V > 0, q_V.log(), -1e4)  # e^-10000 is 0 in float64
    assert gradient(lambda p: masked_mle(p, selected_N), logits_V, label_N, p_V).abs().max() < 1e-15
    assert gradient(lambda p: masked_mle(p, selected_N), p_V.log(), label_N, p_V).abs().max() > 0.1
    np.testing.assert_allclose(expected.s, shares(selected_N, label_N), rtol=0, atol=1e-13)
    assert q_V[0] == 0
    assert (q_V / p_V).max() == pytest.approx(1 / fraction, rel=1e-2)


# p = (8, 4, 2, 1, 1) / 16 and half of the tokens selected, worked by hand. Selected tokens of each label, and 16 q*.
BY_HAND = [
    (masked_mle, False, (2, 2, 2, 1, 1), (4, 4, 4, 2, 2)),
    (masked_mle_distill, True, (1, 3, 2, 1, 1), (5, 5, 3, 1.5, 1.5)),
]


@pytest.mark.parametrize(("objective", "distilled", "selected", "sixteenths"), BY_HAND)
def test_selected_by_its_own_loss_a_case_worked_by_hand(objective, distilled, selected, sixteenths):
    label_N, p_V = tokens((8, 4, 2, 1, 1))
    seen = dict.fromkeys(range(5), 0)
    selected_N = torch.zeros(16, dtype=torch.bool)
    for n, label in enumerate(label_N.tolist()):
        selected_N[n] = seen[label] < selected[label]
        seen[label] += 1
    q_V = stationary(lambda p: objective(p, selected_N), label_N, p_V)
    torch.testing.assert_close(q_V, torch.tensor(sixteenths, dtype=torch.float64) / 16, rtol=0, atol=1e-15)
    loss_N = -q_V.log()[label_N]
    assert loss_N[selected_N].min() > loss_N[~selected_N].max() - 1e-12  # it is a top half of the model's own losses
    found = by_own_loss(p_V.numpy(), 0.5, distilled=distilled)
    np.testing.assert_allclose(found.q, np.array(sixteenths) / 16, rtol=0, atol=1e-16)
    np.testing.assert_allclose(found.s, np.array(selected) / (8, 4, 2, 1, 1), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("objective", "distilled"), [(masked_mle, False), (masked_mle_distill, True)])
def test_training_that_selects_by_its_own_loss_moves_to_the_fixed_point(objective, distilled):
    """Plain gradient descent from p, the selection made anew in each step; it swings about q* by its step's size."""
    label_N, p_V = tokens((80, 40, 26, 20, 16, 7, 4))
    logits_V, total_V = p_V.log(), torch.zeros_like(p_V)
    for rate, n_steps in ((0.2, 400), (0.02, 300)):
        total_V.zero_()
        for _ in range(n_steps):
            selected_N = selected_by(-logits_V.log_softmax(-1)[label_N], Rule(), 0.25)
            logits_V = logits_V - rate * gradient(lambda p, s=selected_N: objective(p, s), logits_V, label_N, p_V)
            total_V += logits_V.softmax(-1) / n_steps
    expected = by_own_loss(p_V.numpy(), 0.25, distilled=distilled)
    assert len(set(expected.q.round(12))) < len(expected.q)  # some labels are at the threshold
    np.testing.assert_allclose(total_V, expected.q, rtol=0.02)
    assert np.abs(expected.q / p_V.numpy() - 1).max() > 0.2  # it was not there to begin with


@pytest.mark.parametrize("objective", [masked_mle, masked_mle_distill])
@pytest.mark.parametrize("by", ["entropy", "kl", "column"])
def test_a_label_free_selection_rests_at_p(objective, by):
    """Two contexts with the same labels: one is selected whole, and each rests at its own p."""
    rule = Rule(by=by, column="epistemic" if by == "column" else None)
    assert rule.label_free
    signal_N = torch.cat([torch.full((sum(counts),), value) for counts, value in ((COUNTS, 0.2), ((48,) * 5, 1.5))])
    zeros_N = torch.zeros_like(signal_N)
    signals = TokenSignals(zeros_N, signal_N, zeros_N, signal_N, signal_N)
    value_N = ranking_values(rule, signals, zeros_N.long(), torch.arange(len(signal_N)), seed=0, step=0)
    selected_N = selected_by(value_N, rule, 240 / len(value_N))
    assert selected_N.tolist() == [False] * sum(COUNTS) + [True] * 240
    for counts, part_N in ((COUNTS, selected_N[: sum(COUNTS)]), ((48,) * 5, selected_N[sum(COUNTS) :])):
        label_N, p_V = tokens(counts)
        found_V = gradient(lambda p, s=part_N: objective(p, s), p_V.log(), label_N, p_V)
        assert found_V.abs().max() < 1e-16


@pytest.mark.parametrize("objective", [masked_mle, masked_mle_distill])
def test_a_random_selection_rests_at_p(objective):
    """The mean gradient at p over many steps is zero within its standard error; by loss it is not."""
    label_N, p_V = tokens(COUNTS)
    n_tokens, n_steps = len(label_N), 80

    def mean_gradient(rule):
        found = []
        for step in range(n_steps):
            signals, places_N = TokenSignals(nll_N=-p_V.log()[label_N]), torch.arange(n_tokens)
            value_N = ranking_values(rule, signals, torch.zeros_like(places_N), places_N, seed=1, step=step)
            selected_N = selected_by(value_N, rule, 0.25, step=step)
            found.append(gradient(lambda p, s=selected_N: objective(p, s), p_V.log(), label_N, p_V))
        found = torch.stack(found)
        return found.mean(0), found.std(0) / n_steps**0.5

    mean_V, error_V = mean_gradient(Rule(by="random"))
    assert (error_V > 0).all()
    assert ((mean_V / error_V) ** 2).sum() < 36.1  # 14 squares of about 1; chi squared exceeds it in one of a thousand
    by_loss_V = mean_gradient(Rule(by="loss"))[0]
    assert by_loss_V.abs().max() > 20 * error_V.max()


@pytest.mark.parametrize("objective", [masked_mle, masked_mle_distill])
def test_by_rho_the_reference_is_a_fixed_point(objective):
    """Where the model is the reference every label has the same value, so the selection cannot tell them apart."""
    block_N, p_V = tokens((5, 3, 2, 1))
    label_N = block_N.repeat(4)
    nll_N = -p_V.log()[label_N]
    places_N = torch.arange(len(label_N))
    value_N = ranking_values(
        Rule(by="rho"), TokenSignals(nll_N, ref_nll_N=nll_N), torch.zeros_like(places_N), places_N, seed=0, step=0
    )
    selected_N = selected_by(value_N, Rule(by="rho"), 0.25)
    assert selected_N.tolist() == [True] * 11 + [False] * 33  # all tie: one block of the four, as good as any
    assert gradient(lambda p: objective(p, selected_N), p_V.log(), label_N, p_V).abs().max() < 1e-16


# --- the closed forms ---


@pytest.mark.parametrize("solve", [by_reference_loss, by_own_loss])
@pytest.mark.parametrize("distilled", [False, True])
@settings(max_examples=50)
@given(p=DISTRIBUTIONS, fraction=FRACTIONS)
def test_a_fixed_point_is_a_distribution_that_its_selection_leaves_where_it_is(solve, distilled, p, fraction):
    q, s = solve(p, fraction, distilled=distilled).__dict__.values()
    assert q.sum() == pytest.approx(1, abs=1e-13)
    assert (s >= -1e-12).all()
    assert (s <= 1 + 1e-12).all()
    assert (p * s).sum() == pytest.approx(fraction, abs=1e-13)
    np.testing.assert_allclose(q, p * (s + 1 - fraction) if distilled else p * s / fraction, rtol=0, atol=1e-13)
    # the selection is that of the losses: where some of a label is not selected, nothing less probable is left out
    seen = p if solve is by_reference_loss else q
    left_out, taken = seen[s < 1 - 1e-9], seen[s > 1e-9]
    assert not len(left_out) or left_out.min() >= taken.max() - 1e-12


@settings(max_examples=50)
@given(p=DISTRIBUTIONS, fraction=FRACTIONS)
def test_distillation_keeps_the_ratio_within_its_bounds_and_masked_mle_is_flatter(p, fraction):
    masked, distilled = (by_own_loss(p, fraction, distilled=on).q for on in (False, True))
    assert (distilled / p).min() >= 1 - fraction - 1e-12
    assert (distilled / p).max() <= 2 - fraction + 1e-12
    assert (masked / p).max() <= 1 / fraction * (1 + 1e-12)
    assert entropy(p) - 1e-12 <= entropy(distilled) <= entropy(masked) + 1e-12
    assert divergence(p, distilled) <= divergence(p, masked) + 1e-12


def test_divergence_and_entropy_by_hand():
    assert entropy(np.array([0.5, 0.25, 0.25, 0.0])) == pytest.approx(1.5 * np.log(2))
    assert divergence(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == pytest.approx(
        0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    )
    assert divergence(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == np.inf


def test_zipf_by_hand():
    np.testing.assert_allclose(zipf(3, 1.0), np.array([6, 3, 2]) / 11, rtol=1e-15)


# --- the picture ---


def test_the_script_draws_and_says_how_far_each_point_is_from_p(tmp_path, capsys):
    assert main(["--labels", "50", "--out", str(tmp_path / "x.png")]) == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 10
    said = capsys.readouterr().out
    p = zipf(50, 1.0)
    distance = divergence(p, by_own_loss(p, 0.25, distilled=True).q)
    assert (
        f"by own loss, masked MLE + distillation: entropy {entropy(by_own_loss(p, 0.25, distilled=True).q):.3f}" in said
    )
    assert f"KL(p || q*) {distance:.3f} nats, q*/p from 0.750 to 1.750" in said
    assert "by reference loss, masked MLE: " in said
    assert "KL(p || q*) inf nats, q*/p from 0.000 to 4.000" in said


@pytest.mark.parametrize("arguments", [["--fraction", "1"], ["--labels", "1"], ["--exponent", "400"]])
def test_what_cannot_be_drawn_is_one_line_and_exit_code_2(arguments, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path / "x.png")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fixed_point: ")
    assert said.count("\n") == 1
