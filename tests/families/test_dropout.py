"""Monte Carlo dropout: members differ where planned, at the right rate, and the model is as before afterwards."""

import copy

import pytest
import torch
from conftest import TINY

from uncertainty import pass_groups
from uncertainty.engine import Rows
from uncertainty.errors import InputError
from uncertainty.families.dropout import McDropout
from uncertainty.families.keyed_attention import BLOCKS
from uncertainty.families.sites import KINDS
from uncertainty.model import final_hidden, vocabulary_size


def tokens(model, rows=2, length=11, seed=0):
    return torch.randint(3, vocabulary_size(model), (rows, length), generator=torch.Generator().manual_seed(seed))


def snapshot(model):
    """Everything that dropout may touch: flags, rates, hooks, attention implementation."""
    state = []
    for name, module in model.named_modules():
        rates = {key: value for key, value in vars(module).items() if isinstance(value, (int, float, bool, str))}
        state.append((name, rates, len(module._forward_hooks), len(module._forward_pre_hooks)))
    configs = [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]
    return copy.deepcopy(state), configs, torch.get_rng_state()


def same(a, b):
    return a[:2] == b[:2] and torch.equal(a[2], b[2])


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("rng", ["keyed", "kernel"])
def test_all_planned_sites_act_and_members_differ(name, rng, tiny_model):
    model = tiny_model(name)
    with McDropout(rate=0.3, rng=rng).active(model) as members, torch.inference_mode():
        off = final_hidden(model, tokens(model))
        with members.draw(Rows(("a", "b"), (0, 0))):
            first = final_hidden(model, tokens(model))
        assert members.silent_sites() == []
        assert len(members.fired) == len(members.sites) > 0
        with members.draw(Rows(("a", "b"), (1, 1))):
            second = final_hidden(model, tokens(model))
        with members.draw(Rows(("a", "b"), (0, 0))):
            again = final_hidden(model, tokens(model))
        after = final_hidden(model, tokens(model))
    assert torch.equal(first, again)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, off)
    torch.testing.assert_close(after, off)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_site_acts_in_every_family(name, kind, tiny_model):
    model = tiny_model(name)
    before = snapshot(model)
    with McDropout(rate=0.3, sites=kind).active(model) as members, torch.inference_mode():
        off = final_hidden(model, tokens(model))
        with members.draw(Rows(("a", "b"), (0, 0))):
            on = final_hidden(model, tokens(model))
    assert members.silent_sites() == []
    assert not torch.allclose(on, off)
    assert same(snapshot(model), before)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("rng", ["keyed", "kernel"])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_exactly_as_before_also_after_an_exception(name, rng, training):
    model = TINY[name]()
    model.train(training)
    next(model.children()).training = not training  # a mixed state must come back too
    before = snapshot(model)

    def interrupted():
        with McDropout(rate=0.25, sites="native", rng=rng).active(model) as members:
            with members.draw(Rows(("a", "b"), (0, 0))), torch.inference_mode():
                final_hidden(model, tokens(model))
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert same(snapshot(model), before)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("masks", ["iid", "balanced"])
def test_a_row_is_the_same_whatever_shares_its_batch(name, masks, tiny_model):
    model = tiny_model(name)
    both = tokens(model)
    sites = "native" if name == "opt" else "native,residual,embedding,mlp"
    with McDropout(rate=0.3, sites=sites, masks=masks).active(model) as members, torch.inference_mode():
        with members.draw(Rows(("a", "b"), (0, 4), total=10)):
            together = final_hidden(model, both)
        with members.draw(Rows(("b",), (4,), total=10)):
            alone = final_hidden(model, both[1:])
        pad = torch.zeros(1, 3, dtype=torch.int64)
        mask = torch.cat([torch.zeros_like(pad), torch.ones_like(both[1:])], 1)
        with members.draw(Rows(("b",), (4,), starts=(3,), total=10)):
            left = final_hidden(model, torch.cat([pad, both[1:]], 1), mask)
        with members.draw(Rows(("b",), (4,), total=10)):
            shorter = final_hidden(model, both[1:, :7])
    torch.testing.assert_close(alone, together[1:], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(left[:, 3:], together[1:], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(shorter, together[1:, :7], rtol=1e-5, atol=2e-5)


def test_keyed_attention_without_dropout_is_the_models_own_attention(tiny_model):
    for name in TINY:
        model = tiny_model(name)
        with torch.inference_mode():
            own = final_hidden(model, tokens(model, length=40))
            with McDropout().active(model):
                ours = final_hidden(model, tokens(model, length=40))
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=2e-5)


def test_attention_in_blocks_of_queries_equals_the_whole(tiny_model, monkeypatch):
    model = tiny_model("llama")

    def run():
        with McDropout(rate=0.2).active(model) as members, torch.inference_mode():
            with members.draw(Rows(("a", "b"), (0, 1))):
                return final_hidden(model, tokens(model, length=50))

    whole = run()
    monkeypatch.setitem(BLOCKS, "cpu", (64, 7))
    torch.testing.assert_close(run(), whole, rtol=1e-5, atol=1e-5)


def test_balanced_attention_is_dropped_in_rate_times_k_passes():
    """With values of one and uniform attention, a query loses exactly rate * K of each of its weights over K passes."""
    model = TINY["llama"]()
    attention = model.model.layers[0].self_attn
    seen = []
    attention.v_proj.weight.data.zero_()
    attention.q_proj.weight.data.zero_()
    attention.v_proj.register_forward_hook(lambda module, args, output: torch.ones_like(output))
    attention.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    ids = tokens(model, rows=1, length=30).repeat(20, 1)
    with McDropout(rate=0.25, masks="balanced", groups=1).active(model) as members, torch.inference_mode():
        with members.draw(Rows(("a",) * 20, tuple(range(20)), total=20)):
            final_hidden(model, ids)
    torch.testing.assert_close(seen[-1].mean(0), torch.ones_like(seen[-1][0]))


@pytest.mark.parametrize("rng", ["keyed", "kernel"])
def test_the_effective_rate_and_scale_of_attention_dropout(rng, tiny_model):
    """With values of one, attention returns the kept weight over 1 - rate: its mean is 1, its spread tells the rate."""
    model = TINY["llama"]()
    attention = model.model.layers[0].self_attn
    seen = []
    attention.v_proj.weight.data.zero_()
    attention.q_proj.weight.data.zero_()  # uniform weights: 1 / (number of keys)
    attention.v_proj.register_forward_hook(lambda module, args, output: torch.ones_like(output))
    attention.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    rows = 400
    ids = tokens(model, rows=1, length=30).repeat(rows, 1)
    with McDropout(rate=0.1, rng=rng).active(model) as members, torch.inference_mode():
        with members.draw(Rows(("a",) * rows, tuple(range(rows)))):
            final_hidden(model, ids)
    heads = seen[-1].unflatten(-1, (4, -1))[..., 0]  # [rows, T, heads]
    last = heads[:, -1].double()
    error = (0.1 / 0.9 / 30 / last.numel()) ** 0.5
    assert abs(float(last.mean()) - 1) < 4 * error
    assert float(last.var()) == pytest.approx(0.1 / 0.9 / 30, rel=0.15)
    first = heads[:, 0].double()  # a single key is kept or lost whole
    assert float((first == 0).double().mean()) == pytest.approx(0.1, abs=4 * (0.09 / first.numel()) ** 0.5)


def test_rate_zero_is_the_deterministic_model(tiny_model):
    model = tiny_model("phi3")
    with McDropout(rate=0.0).active(model) as members, torch.inference_mode():
        off = final_hidden(model, tokens(model))
        with members.draw(Rows(("a", "b"), (0, 0))):
            on = final_hidden(model, tokens(model))
    assert torch.equal(on, off)
    assert McDropout(rate=0.0).deterministic


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan"), 1e-7, 0.999999])
def test_rates_that_are_none_are_refused(rate):
    with pytest.raises(InputError, match="--rate"):
        McDropout(rate=rate)


def test_an_unknown_generator_is_refused():
    with pytest.raises(InputError, match="--rng fast is not known; choose keyed or kernel"):
        McDropout(rng="fast")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"masks": "latin"}, "--masks latin is not known; choose iid or balanced"),
        (
            {"masks": "balanced", "rng": "kernel"},
            "--masks balanced needs masks of our own; give --rng keyed, or --masks",
        ),
        ({"masks": "balanced", "groups": 0}, "0 groups of balanced masks are too few; give at least 1"),
    ],
)
def test_masks_that_cannot_be_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        McDropout(**given)


@pytest.mark.parametrize("total", [None, 4])
def test_balanced_masks_need_the_number_of_passes(total, tiny_model):
    with McDropout(masks="balanced").active(tiny_model("llama")) as members:
        with pytest.raises(InputError, match=f"balanced masks need the number of passes: pass 4 of {total}"):
            with members.draw(Rows(("a", "b"), (0, 4), total=total)):
                pass


def test_groups_of_passes_are_those_that_are_independent(tiny_model):
    with McDropout(masks="iid").active(tiny_model("llama")) as members:
        assert members.groups(4) == (0, 1, 2, 3)
    with McDropout(masks="balanced").active(tiny_model("llama")) as members:
        assert members.groups(100) == tuple(k // 10 for k in range(100))
        assert members.groups(20) == tuple(range(20))  # a single group says nothing of its error
    with McDropout(masks="balanced", groups=2).active(tiny_model("llama")) as members:
        assert members.groups(5) == (0, 0, 0, 1, 1)


def test_the_report_says_native_and_injected_sites_and_their_rates(tiny_model):
    with McDropout(rate=0.1, sites="attention,residual").active(tiny_model("llama")) as members:
        report = members.report()
    assert (report["rng"], report["masks"]) == ("keyed", "iid")
    attention, residual = report["sites"][0], report["sites"][-1]
    assert attention == {
        "name": "model.layers.0.self_attn",
        "kind": "attention",
        "origin": "native",
        "native_rate": 0.0,
        "rate": pass_groups.exact_rate(0.1),
    }
    assert residual["origin"] == "injected"
    assert residual["native_rate"] is None


def test_a_model_cannot_be_in_two_contexts_at_once(tiny_model):
    model = tiny_model("llama")
    before = snapshot(model)
    with McDropout().active(model), pytest.raises(RuntimeError, match="inside another McDropout context"):
        with McDropout().active(model):
            pass
    assert same(snapshot(model), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("masks", ["iid", "balanced"])
def test_masks_and_scores_on_a_gpu_are_those_of_the_cpu(masks, tiny_model):
    model = TINY["llama"]()
    states = []
    for device in ("cpu", "cuda"):
        model = model.to(device)
        with McDropout(rate=0.3, masks=masks).active(model) as members, torch.inference_mode():
            with members.draw(Rows(("a", "b"), (0, 1), total=10)):
                states.append(final_hidden(model, tokens(model).to(device)).cpu())
    torch.testing.assert_close(states[1], states[0], rtol=1e-3, atol=1e-3)
