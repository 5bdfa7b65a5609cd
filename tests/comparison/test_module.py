import math

import pytest
import torch
from pictures import TINY, photographs
from torch.distributions import Normal, kl_divergence

from scvae_fast.comparison.module import SharedVariance, make_module
from scvae_fast.comparison.settings import METHODS, BottleneckSettings, ComparisonSettings, QuantiserSettings
from scvae_fast.comparison.training import count_parameters
from scvae_fast.data import CropSettings, RandomCrops

SMALL = QuantiserSettings(codebook_size=8)
SETTINGS = ComparisonSettings(
    network=TINY,
    bottlenecks=BottleneckSettings(
        vqgan=SMALL,
        vit_vqgan=QuantiserSettings(codebook_size=8, width=4, cosine=True),
        rq_vae=QuantiserSettings(codebook_size=8, codes=2, restart_below=1.0),
        mo_vqgan=QuantiserSettings(codebook_size=8, codes=2),
    ),
)


def crops(count: int = 8) -> torch.Tensor:
    data = RandomCrops(photographs(), CropSettings(size=16))
    return torch.stack([data[i] for i in range(count)])


@pytest.mark.parametrize("method", METHODS)
def test_encoders_and_decoders_begin_as_those_of_the_sc_vae_and_all_learn(method: str) -> None:
    module, ours = make_module(method, SETTINGS), make_module("sc-vae", SETTINGS)
    for part in ("encoder", "decoder"):
        theirs = getattr(module.model, part).state_dict()
        same = [name for name, value in getattr(ours.model, part).state_dict().items() if name in theirs]
        assert len(same) > 10
        assert all(torch.equal(theirs[name], getattr(ours.model, part).state_dict()[name]) for name in same)
    module.start_linearly(crops())
    ours.start_linearly(crops())
    theirs = module.model.encoder.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in ours.model.encoder.state_dict().items())
    module.train().objective(crops()).total.backward()
    for name in ("encoder.conv_in.weight", "decoder.conv_out.weight"):
        assert float(module.model.get_parameter(name).grad.abs().max()) > 0


@pytest.mark.parametrize("method", ["vae", "vqgan", "rq-vae", "mo-vqgan"])
def test_the_linear_start_rebuilds_more_than_means(method: str) -> None:
    module, x = make_module(method, SETTINGS), crops(16)
    module.start_linearly(x)
    with torch.no_grad():
        x_hat = module.eval().model(x).x_hat
    assert float((x_hat - x).square().mean()) < 0.9 * float((x - x.mean((2, 3), keepdim=True)).square().mean())


def test_loss_of_a_vae_is_its_evidence_bound_in_units_of_the_squared_error() -> None:
    module, x = make_module("vae", SETTINGS).eval(), crops(3)  # no sampling, σ² as it is
    objective = module.objective(x)
    output = module.model(x)
    q = Normal(output.code.mean, (0.5 * output.code.log_variance).exp())
    variance, values = 0.1**2, x[0].numel()
    log_likelihood = Normal(output.x_hat, 0.1).log_prob(x).flatten(1).sum(1)
    bound = log_likelihood - kl_divergence(q, Normal(0.0, 1.0)).flatten(1).sum(1)
    constant = 0.5 * values * math.log(2 * math.pi * variance)
    expected = 2 * variance / values * (-bound.mean() - constant)
    torch.testing.assert_close(objective.total, expected)


def test_shared_variance_follows_the_error_in_training_only() -> None:
    variance = SharedVariance(None, 0.1)
    for _ in range(2000):
        variance(torch.tensor(0.04))
    assert float(variance.eval()(torch.tensor(9.0))) == pytest.approx(0.04, rel=1e-3)
    fixed = SharedVariance(0.3, 0.1)
    assert float(fixed(torch.tensor(9.0))) == pytest.approx(0.09)


def test_codebooks_count_as_parameters() -> None:
    bottleneck = make_module("vqgan", SETTINGS).model.bottleneck
    assert count_parameters(bottleneck) == 8 * TINY.n_features


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="ComparisonSettings: steps must be 1 or more, got 0"):
        ComparisonSettings(network=TINY, steps=0)
    with pytest.raises(ValueError, match="QuantiserSettings: decay"):
        QuantiserSettings(decay=1.0)
    with pytest.raises(ValueError, match="unknown baseline 'gan'"):
        make_module("gan", SETTINGS)
