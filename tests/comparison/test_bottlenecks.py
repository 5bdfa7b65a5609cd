import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from scvae_fast.comparison.bottlenecks import (
    GaussianBottleneck,
    Posterior,
    QuantiserBottleneck,
    kl_to_standard_normal,
    nats_to_bits,
    sample,
    squared_mmd,
)
from scvae_fast.comparison.modulation import Condition, ModulatedDecoder, ModulatedNorm
from scvae_fast.comparison.settings import GaussianSettings, QuantiserSettings
from scvae_fast.models.decoder import Decoder

LEVELS = {"ch": 6, "ch_mult": (1, 2), "num_res_blocks": 1, "mid_attention": True, "norm_groups": 2, "norm_out": True}


def latents(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 8, 4, 5, generator=torch.Generator().manual_seed(seed))


def test_kl_is_that_of_torchs_distributions() -> None:
    posterior = Posterior(latents(), latents(1))
    q = Normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    torch.testing.assert_close(kl_to_standard_normal(posterior), kl_divergence(q, Normal(0.0, 1.0)))


def test_samples_have_the_moments_of_the_posterior() -> None:
    posterior = Posterior(torch.full((20_000,), 2.0), torch.full((20_000,), math.log(0.25)))
    z = sample(posterior)
    assert abs(float(z.mean()) - 2) < 0.02
    assert abs(float(z.std()) - 0.5) < 0.02


def test_mmd_is_that_of_a_double_loop() -> None:
    x, y = torch.randn(5, 3, dtype=torch.float64), 1 + torch.randn(4, 3, dtype=torch.float64)

    def mean(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(math.exp(-float((p - q).square().sum()) / 6) for p in a for q in b) / (len(a) * len(b))

    assert float(squared_mmd(x, y)) == pytest.approx(mean(x, x) + mean(y, y) - 2 * mean(x, y), abs=1e-12)
    assert float(squared_mmd(x, x)) == pytest.approx(0, abs=1e-12)


def test_penalty_is_beta_times_the_kl_of_a_picture() -> None:
    bottleneck = GaussianBottleneck(8, GaussianSettings(kl=4.0))
    passed = bottleneck(latents())
    q = Normal(passed.code.mean, (0.5 * passed.code.log_variance).exp())
    expected = 4 * kl_divergence(q, Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    torch.testing.assert_close(passed.penalty, expected)


def test_evaluation_passes_the_mean_on() -> None:
    bottleneck = GaussianBottleneck(8, GaussianSettings()).eval()
    passed = bottleneck(latents())
    assert torch.equal(passed.latents_hat, passed.code.mean)


def test_info_vae_has_no_kl_and_pulls_latents_towards_the_prior() -> None:
    bottleneck = GaussianBottleneck(8, GaussianSettings(kl=0.0, mmd=1000.0))
    near, far = (bottleneck(scale * latents()).penalty.detach() for scale in (1.0, 30.0))
    assert 0 <= float(near) < float(far)


def test_gaussian_start_is_the_closed_form_of_a_linear_vae() -> None:
    mixing = torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.01, 0.0, 0.0, 0.0, 0.0]))
    x = torch.einsum("nm,bmhw->bnhw", mixing, torch.randn(40, 8, 6, 6)) + 2
    bottleneck = GaussianBottleneck(8, GaussianSettings(first_sigma=0.1)).eval()
    bottleneck.start(x)
    with torch.no_grad():
        posterior = bottleneck(x).code
    rows = posterior.mean.permute(0, 2, 3, 1).flatten(0, 2)
    variance = posterior.log_variance.exp()[0, :, 0, 0]
    signal = rows.var(0)
    torch.testing.assert_close(rows.mean(0), torch.zeros(8), atol=1e-3, rtol=0)
    # Principal components have variances 9, 1 and 0.25; noise of 0.01 in each.
    torch.testing.assert_close(variance[:3], 0.01 / torch.tensor([9, 1, 0.25]), rtol=0.1, atol=0)
    torch.testing.assert_close((signal + variance)[:3], torch.ones(3), rtol=1e-2, atol=0)
    torch.testing.assert_close(variance[3:], torch.ones(5))
    assert float(signal[3:].max()) < 0.02


@pytest.mark.parametrize("codes", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
def test_quantised_latents_are_made_of_codebook_vectors(codes: int, residual: bool) -> None:
    settings = QuantiserSettings(codebook_size=6, codes=codes)
    bottleneck = QuantiserBottleneck(8, settings, residual=residual, k_means=True)
    bottleneck.start(latents())
    with torch.no_grad():
        found = bottleneck.eval()(latents())
    chosen = bottleneck.codebook[found.code]  # (B, h, w, codes, width)
    expected = chosen.sum(3) if residual else chosen.flatten(3)
    assert found.code.shape == (3, 4, 5, codes)
    torch.testing.assert_close(found.latents_hat.permute(0, 2, 3, 1), expected)


def test_the_nearest_vector_is_chosen() -> None:
    bottleneck = QuantiserBottleneck(8, QuantiserSettings(codebook_size=6), residual=False, k_means=True)
    bottleneck.start(latents())
    rows = latents().permute(0, 2, 3, 1)
    nearest = torch.cdist(rows.reshape(-1, 8), bottleneck.codebook).argmin(1)
    assert torch.equal(bottleneck.eval()(latents()).code.flatten(), nearest)


def test_each_level_of_a_residual_quantiser_leaves_less() -> None:
    bottleneck = QuantiserBottleneck(8, QuantiserSettings(codebook_size=16, codes=4), residual=True, k_means=True)
    x = latents()
    for _ in range(30):
        bottleneck.train()(x)
    indices = bottleneck.eval()(x).code
    left = [
        float((x.permute(0, 2, 3, 1) - bottleneck.codebook[indices[..., :depth]].sum(3)).square().mean())
        for depth in range(1, 5)
    ]
    assert left == sorted(left, reverse=True)
    assert left[3] < 0.9 * left[0]


def test_commitment_loss_is_a_quarter_of_the_squared_error() -> None:
    bottleneck = QuantiserBottleneck(8, QuantiserSettings(codebook_size=6, decay=0.99), residual=False, k_means=True)
    bottleneck.start(latents())
    codebook = bottleneck.codebook.clone()
    passed = bottleneck.train()(latents())
    expected = 0.25 * (latents().permute(0, 2, 3, 1) - codebook[passed.code[..., 0]]).square().mean()
    torch.testing.assert_close(passed.penalty, expected)


def test_cosine_codes_are_looked_up_in_few_dimensions_whatever_the_length() -> None:
    settings = QuantiserSettings(codebook_size=6, width=4, cosine=True)
    bottleneck = QuantiserBottleneck(8, settings, residual=False, k_means=True)
    bottleneck.start(latents())
    with torch.no_grad():
        bottleneck.quantiser.project_in.bias.zero_()
    assert bottleneck.codebook.shape == (6, 4)
    torch.testing.assert_close(bottleneck.codebook.norm(dim=1), torch.ones(6))
    assert torch.equal(bottleneck.eval()(latents()).code, bottleneck(7 * latents()).code)


@pytest.mark.parametrize(
    "bottleneck",
    [
        GaussianBottleneck(8, GaussianSettings()),
        GaussianBottleneck(8, GaussianSettings(kl=0.0, mmd=10.0)),
        QuantiserBottleneck(8, QuantiserSettings(codebook_size=6), residual=False, k_means=False),
        QuantiserBottleneck(8, QuantiserSettings(codebook_size=6, width=4, cosine=True), residual=False, k_means=False),
        QuantiserBottleneck(8, QuantiserSettings(codebook_size=6, codes=3), residual=True, k_means=False),
        QuantiserBottleneck(8, QuantiserSettings(codebook_size=6, codes=2), residual=False, k_means=False),
    ],
)
def test_gradients_of_both_terms_reach_the_encoder(bottleneck: nn.Module) -> None:
    for pick in ("latents_hat", "penalty"):
        x = latents().requires_grad_()
        getattr(bottleneck.train()(x), pick).square().sum().backward()
        assert x.grad is not None
        assert float(x.grad.abs().max()) > 0, pick


def test_features_must_be_divisible() -> None:
    with pytest.raises(ValueError, match="must divide 8, got 3"):
        QuantiserBottleneck(8, QuantiserSettings(codes=3), residual=False, k_means=False)


def test_bits() -> None:
    assert nats_to_bits(math.log(2)) == pytest.approx(1)


def test_modulated_norm_begins_plain_and_follows_its_equation() -> None:
    condition, f, z = Condition(), torch.randn(2, 4, 6, 6), torch.randn(2, 3, 3, 3)
    norm = nn.GroupNorm(2, 4)
    modulated = ModulatedNorm(norm, 3, condition)
    condition.latents = z
    torch.testing.assert_close(modulated(f), norm(f))
    for conv in (modulated.scale, modulated.shift):
        nn.init.normal_(conv.weight)
    enlarged = z.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(modulated(f), norm(f) * modulated.scale(enlarged) + modulated.shift(enlarged))


def test_modulated_decoder_has_a_modulated_norm_for_each_plain_one_and_begins_alike() -> None:
    plain, modulated = Decoder(8, 3, **LEVELS), ModulatedDecoder(8, 3, **LEVELS)
    modulated.load_state_dict(plain.state_dict())
    modulated.modulate()
    norms = [
        sum(isinstance(m, kind) for m in net.modules())
        for net, kind in ((plain, nn.GroupNorm), (modulated, ModulatedNorm))
    ]
    assert norms[0] == norms[1] > 5
    z = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(modulated(z), plain(z))
    assert modulated.condition.latents is None
    with pytest.raises(RuntimeError, match="outside its decoder"):
        modulated.mid(modulated.conv_in(z))
