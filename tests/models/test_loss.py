"""The loss against the formulas, written out in loops."""

import pytest
import torch

from scvae_fast.models import SCVAEOutput
from scvae_fast.models.loss import scvae_loss

B, C, SIDE, N, K, H, W = 2, 3, 8, 4, 6, 2, 3


def random_output(alpha_features=1):
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    output = SCVAEOutput(
        x_hat=rand(B, C, SIDE, SIDE),
        codes=rand(B, H, W, K) - 0.5,
        latents=rand(B, N, H, W),
        latents_hat=rand(B, N, H, W),
        alpha=rand(B, H, W, alpha_features),
    )
    return rand(B, C, SIDE, SIDE), output


@pytest.mark.parametrize("alpha_features", [1, N])
def test_paper(alpha_features):
    x, output = random_output(alpha_features)
    image = latent = sparsity = 0.0
    for b in range(B):
        image += (x[b] - output.x_hat[b]).square().sum() / B
        for i in range(H):
            for j in range(W):
                error = (output.latents - output.latents_hat)[b, :, i, j]
                alpha = output.alpha[b, i, j]
                latent += (alpha * error.square()).sum() / B
                sparsity += 0.3 * alpha.mean() * output.codes[b, i, j].abs().sum() / B
    loss = scvae_loss(x, output, lmbda=0.3)
    torch.testing.assert_close(loss.image, image)
    torch.testing.assert_close(loss.latent, latent)
    torch.testing.assert_close(loss.sparsity, sparsity)
    torch.testing.assert_close(loss.total, image + latent + sparsity)


def test_released_code():
    x, output = random_output()
    sq_err = (output.latents - output.latents_hat).square().permute(0, 2, 3, 1)
    loss = scvae_loss(x, output, lmbda=0.0, reduction="mean")
    expected = torch.nn.functional.mse_loss(output.x_hat, x) + (output.alpha * sq_err).mean()
    torch.testing.assert_close(loss.total, expected)
    assert loss.sparsity == 0


@pytest.mark.parametrize("alpha_features", [1, N])
def test_mean_of_the_sparsity_term(alpha_features):
    x, output = random_output(alpha_features)
    loss = scvae_loss(x, output, lmbda=0.3, reduction="mean")
    expected = 0.3 * (output.alpha.mean(-1, keepdim=True) * output.codes.abs()).mean()
    torch.testing.assert_close(loss.sparsity, expected)


def test_constant_alpha_gives_the_mean_latent_error():
    x, output = random_output()
    output = output._replace(alpha=torch.full((B, H, W, N), 1 / (H * W * N), dtype=torch.float64))
    loss = scvae_loss(x, output, lmbda=0.3)
    torch.testing.assert_close(loss.latent, (output.latents - output.latents_hat).square().mean())
    torch.testing.assert_close(loss.sparsity, 0.3 / N * output.codes.abs().sum(-1).mean())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_weights(reduction):
    x, output = random_output()
    plain = scvae_loss(x, output, lmbda=0.3, reduction=reduction)
    weighted = scvae_loss(x, output, lmbda=0.6, reduction=reduction, image_weight=0.5, latent_weight=4.0)
    torch.testing.assert_close(weighted.image, 0.5 * plain.image)
    torch.testing.assert_close(weighted.latent, 4 * plain.latent)
    torch.testing.assert_close(weighted.sparsity, 2 * plain.sparsity)
    torch.testing.assert_close(weighted.total, weighted.image + weighted.latent + weighted.sparsity)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_batch_costs_the_mean_of_its_pictures(reduction):
    x, output = random_output()
    whole = scvae_loss(x, output, lmbda=0.3, reduction=reduction)
    single = [
        scvae_loss(
            x[i : i + 1],
            SCVAEOutput(*(tensor[i : i + 1] for tensor in output)),
            lmbda=0.3,
            reduction=reduction,
        )
        for i in range(B)
    ]
    for term, terms in zip(whole, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(term, torch.stack(terms).mean())


def test_gradients_reach_every_output():
    x, output = random_output()
    output = SCVAEOutput(*(tensor.requires_grad_() for tensor in output))
    scvae_loss(x, output, lmbda=0.3).total.backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in output)


def test_wrong_shape():
    x, output = random_output()
    with pytest.raises(ValueError, match=r"scvae_loss: x must be \(2, 3, 8, 8\).*got \(2, 3, 4, 8\)"):
        scvae_loss(x[:, :, :4], output, lmbda=0.0)


def test_wrong_reduction():
    x, output = random_output()
    with pytest.raises(ValueError, match=r"reduction must be one of .*, got 'none'"):
        scvae_loss(x, output, lmbda=0.0, reduction="none")
