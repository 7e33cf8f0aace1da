"""Weight noise: of the planned spread, the same everywhere, on the planned layers, and gone afterwards."""

import math

import pytest
import torch
from conftest import TINY
from scipy import stats
from transformers.pytorch_utils import Conv1D

from uncertainty.engine import Rows
from uncertainty.errors import InputError
from uncertainty.families import weight_noise
from uncertainty.families.weight_noise import WeightNoise, noisy_layers, normals
from uncertainty.model import final_hidden, vocabulary_size

CPU = torch.device("cpu")
ONE = Rows(("a",), (0,))


def tokens(model, rows=1):
    return torch.randint(3, vocabulary_size(model), (rows, 9), generator=torch.Generator().manual_seed(0))


def noisy_weights(model, family, number=0, seed=0):
    with family.active(model, seed=seed) as members, members.draw(Rows(("a",), (number,))):
        return {layer.name: layer.module.weight.detach().clone() for layer in members.layers}


def test_normal_numbers_are_normal():
    found = normals(0, 0, "w", 400_000, CPU).double()
    assert abs(float(found.mean())) < 4 / math.sqrt(len(found))
    assert abs(float(found.var()) - 1) < 4 * math.sqrt(2 / len(found))
    assert stats.kstest(found.numpy(), "norm").statistic < 1.95 / math.sqrt(len(found))
    assert abs(float((found[1:] * found[:-1]).mean())) < 4 / math.sqrt(len(found))


def test_the_quantiles_have_mean_zero_and_variance_one():
    table = weight_noise._quantiles().double()
    assert abs(float(table.mean())) < 1e-7
    assert float(table.square().mean()) == pytest.approx(1, abs=1e-6)
    assert 4.2 < float(table.max()) < 4.5


def test_normal_numbers_hang_on_seed_pass_and_tensor_and_not_on_how_many_are_made_at_once(monkeypatch):
    whole = normals(1, 2, "w", 1003, CPU)
    assert torch.equal(whole, normals(1, 2, "w", 1003, CPU))
    assert torch.equal(whole[:500], normals(1, 2, "w", 500, CPU))
    for other in (normals(0, 2, "w", 1003, CPU), normals(1, 1, "w", 1003, CPU), normals(1, 2, "v", 1003, CPU)):
        assert abs(float(torch.corrcoef(torch.stack([whole, other]))[0, 1])) < 4 / math.sqrt(1003)
    monkeypatch.setattr(weight_noise, "COUNTERS_AT_ONCE", 7)
    assert torch.equal(whole, normals(1, 2, "w", 1003, CPU))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_makes_the_same_numbers():
    assert torch.equal(normals(0, 0, "w", 5000, CPU), normals(0, 0, "w", 5000, torch.device("cuda")).cpu())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_gaussian_noise_has_the_rate_times_the_rms_of_each_tensor(name, tiny_model):
    model = tiny_model(name)
    for layer, noisy in noisy_weights(model, WeightNoise(0.1)).items():
        weight = model.get_submodule(layer).weight.detach()
        share = float((noisy - weight).double().square().mean().sqrt() / weight.double().square().mean().sqrt())
        assert share == pytest.approx(0.1, rel=4 / math.sqrt(2 * weight.numel())), layer


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_low_rank_noise_is_that_on_the_weight_and_has_the_same_spread(name, tiny_model):
    """Against the weight plus the noise written out, layer by layer, on both ways of keeping a weight."""
    model = tiny_model(name)
    shares = []
    with WeightNoise(0.1, noise="low-rank:4").active(model) as members, torch.inference_mode():
        with members.draw(ONE):
            for layer in members.layers:
                factor_OA, factor_AI = members._factors[layer.name]
                assert factor_OA.shape[1] == factor_AI.shape[0] == 4
                added_OI, weight = factor_OA @ factor_AI, layer.module.weight
                own_OI = weight.T if isinstance(layer.module, Conv1D) else weight
                x = torch.randn(3, own_OI.shape[1], generator=torch.Generator().manual_seed(1))
                bias = 0.0 if layer.module.bias is None else layer.module.bias
                torch.testing.assert_close(layer.module(x), x @ (own_OI + added_OI).T + bias, rtol=1e-4, atol=1e-4)
                shares.append(float(added_OI.square().mean().sqrt() / weight.square().mean().sqrt()))
        assert torch.linalg.matrix_rank(added_OI) == 4
    assert sum(shares) / len(shares) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("noise", ["gaussian", "low-rank:2"])
def test_noise_acts_in_every_architecture_and_the_model_is_the_same_objects_afterwards(name, noise, tiny_model):
    model = tiny_model(name)
    before = [(key, id(value), value.clone()) for key, value in model.named_parameters()]
    with torch.inference_mode():
        own = final_hidden(model, tokens(model))
        with WeightNoise(0.2, noise=noise).active(model) as members:
            with members.draw(ONE):
                first = final_hidden(model, tokens(model))
            assert members.silent_sites() == []
            with members.draw(Rows(("a",), (1,))):
                second = final_hidden(model, tokens(model))
            assert torch.equal(final_hidden(model, tokens(model)), own)
    assert not torch.allclose(first, own)
    assert not torch.allclose(first, second)
    for (key, identity, value), (name_now, now) in zip(before, model.named_parameters(), strict=True):
        assert (key, identity) == (name_now, id(now))
        assert torch.equal(value, now)
    assert not any(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("name", TINY)
def test_every_linear_layer_but_the_head_takes_noise_and_kinds_part_them(name, tiny_model):
    model = tiny_model(name)
    found = noisy_layers(model, "native")
    linear = {n for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D))}
    head = {n for n, m in model.named_modules() if m is model.get_output_embeddings()}
    assert {layer.name for layer in found} == linear - head
    attention, mlp = ({one.name for one in noisy_layers(model, kind)} for kind in ("attention", "mlp"))
    assert attention
    assert mlp
    assert not attention & mlp
    assert attention | mlp == linear - head
    assert all("attn" in n or "attention" in n for n in attention)


def test_a_weight_that_two_layers_share_has_one_noise():
    model = TINY["llama"]()
    first, second = (layer.mlp.up_proj for layer in model.model.layers)
    second.weight = first.weight
    noisy = noisy_weights(model, WeightNoise(0.1))
    assert torch.equal(noisy["model.layers.0.mlp.up_proj"], noisy["model.layers.1.mlp.up_proj"])


def test_noise_of_one_pass_is_made_once_and_only_one_pass_is_held(tiny_model, monkeypatch):
    made = []
    numbers = weight_noise.normals
    monkeypatch.setattr(weight_noise, "normals", lambda *a: made.append(a[1]) or numbers(*a))
    model = tiny_model("llama")
    family = WeightNoise(0.1)
    with family.active(model) as members:
        for number in (0, 0, 1, 1, 0):
            with members.draw(Rows(("a",), (number,))):
                held = sum(p.numel() * p.element_size() for p in members._weights.values())
                assert held == family.member_bytes(model)
    layers = len(members.layers)
    assert made == [0] * layers + [1] * layers + [0] * layers


def test_rate_zero_is_the_deterministic_model(tiny_model):
    model, family = tiny_model("phi3"), WeightNoise(0.0)
    assert family.deterministic
    for layer, noisy in noisy_weights(model, family).items():
        assert torch.equal(noisy, model.get_submodule(layer).weight)


def test_16_bit_weights_are_rounded_once():
    model = TINY["llama"]().to(torch.bfloat16)
    wide = TINY["llama"]().to(torch.bfloat16).float()
    noisy, exact = noisy_weights(model, WeightNoise(0.1)), noisy_weights(wide, WeightNoise(0.1))
    for layer, weight in noisy.items():
        assert weight.dtype == torch.bfloat16
        torch.testing.assert_close(weight, exact[layer].bfloat16(), rtol=2**-7, atol=0)


def test_quantised_weights_and_models_without_layers_are_refused():
    model = TINY["llama"]()
    projection = model.model.layers[0].mlp.up_proj
    projection.weight = torch.nn.Parameter(projection.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(InputError, match=r"weight of model\.layers\.0\.mlp\.up_proj is quantised"):
        noisy_layers(model, "native")
    for layer in model.model.layers:
        layer.mlp = torch.nn.Identity()
    with pytest.raises(InputError, match="has no linear layer for --sites mlp"):
        noisy_layers(model, "mlp")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rate": -0.1}, "--rate -0.1 is not a scale of noise; give a number from 0"),
        ({"rate": math.inf}, "--rate inf is not a scale"),
        ({"rate": math.nan}, "--rate nan is not a scale"),
        ({"noise": "low-rank"}, "--noise low-rank is not known; choose gaussian, or low-rank:RANK as in low-rank:8"),
        ({"noise": "low-rank:0"}, "--noise low-rank:0 is not known"),
        ({"sites": "residual"}, "--sites residual takes no weight noise; choose native"),
        ({"sites": ""}, "--sites names no site"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        WeightNoise(**given)


def test_the_report_names_each_layer_and_the_scale(tiny_model):
    with WeightNoise(0.05, "attention", "low-rank:8").active(tiny_model("llama")) as members:
        report = members.report()
    assert (report["family"], report["rate"], report["noise"]) == ("weight-noise", 0.05, "low-rank:8")
    assert report["sites"][0] == {
        "name": "model.layers.0.self_attn.q_proj",
        "kind": "attention",
        "origin": "native",
        "native_rate": None,
        "rate": 0.05,
    }
    assert len(report["sites"]) == 8
