"""The training loss of SC-VAE, term by term."""

from typing import Literal, NamedTuple, get_args

from torch import Tensor

from scvae_fast.models.scvae import SCVAEOutput

Reduction = Literal["sum", "mean"]


class SCVAELoss(NamedTuple):
    """The loss and its terms, all scalars; `total` is the sum of the others, which include their weights."""

    total: Tensor
    image: Tensor
    latent: Tensor
    sparsity: Tensor


def scvae_loss(
    x: Tensor,
    output: SCVAEOutput,
    *,
    lmbda: float,
    reduction: Reduction = "sum",
    image_weight: float = 1.0,
    latent_weight: float = 1.0,
) -> SCVAELoss:
    """image_weight ‖x − x̂‖² + latent_weight Σ_ij α_ij ‖E_ij(x) − D z_ij‖² + lmbda Σ_ij α_ij ‖z_ij‖₁.

    The paper's loss (arXiv 2303.16666) is `lmbda=λ, reduction="sum"` and weights of 1. The authors'
    released code minimises `mean((x̂ − x)²) + mean(α (E(x) − D z)²)`: `lmbda=0, reduction="mean"`.

    Args:
        x: (B, C, H, W), the pictures.
        output: the model's output for them.
        lmbda: λ, the weight of the codes' absolute values; 0 leaves that term out.
        reduction: "sum" sums over a picture, as the paper's norms do, and averages over the batch. "mean"
            averages each term over all of its entries: pixels, (B, h, w, n) for the latents, (B, h, w, K) for
            the codes. Since α already sums to 1 over a picture, "mean" divides the last two terms by the
            number of positions twice; choose their weights accordingly.
        image_weight: weight of the first term.
        latent_weight: weight of the second term.

    For ‖z‖₁, the weight of a position is the mean of α over the last dimension of α.

    Raises:
        ValueError: x does not have x_hat's shape, or reduction is neither "sum" nor "mean".
    """
    if x.shape != output.x_hat.shape:
        raise ValueError(f"scvae_loss: x must be {tuple(output.x_hat.shape)}, as output.x_hat is, got {tuple(x.shape)}")
    if reduction not in get_args(Reduction):
        raise ValueError(f"scvae_loss: reduction must be one of {get_args(Reduction)}, got {reduction!r}")
    image = image_weight * _reduce((x - output.x_hat).square(), reduction)
    sq_err = (output.latents - output.latents_hat).square().permute(0, 2, 3, 1)  # (B, h, w, n)
    latent = latent_weight * _reduce(output.alpha * sq_err, reduction)
    if lmbda == 0:
        l1 = image.new_zeros(())
    else:
        position_weight = output.alpha.mean(-1, keepdim=True)  # (B, h, w, 1)
        l1 = lmbda * _reduce(position_weight * output.codes.abs(), reduction)
    return SCVAELoss(image + latent + l1, image, latent, l1)


def _reduce(values: Tensor, reduction: Reduction) -> Tensor:
    return values.mean() if reduction == "mean" else values.sum() / values.shape[0]
