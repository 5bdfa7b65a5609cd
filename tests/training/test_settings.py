import pytest
import torch
from pictures import TINY, scene

from scvae_fast.models import SCVAE
from scvae_fast.training.settings import LossSettings, OptimiserSettings


def test_losses_are_the_formulas() -> None:
    x = torch.stack([scene(16, 16, seed=1), scene(16, 16, seed=2)]).double()
    model = SCVAE(TINY).double()
    output = model(x)
    error = (output.latents - output.latents_hat).square().permute(0, 2, 3, 1)
    mse = (x - output.x_hat).square().mean()

    paper = LossSettings(code_weight=3.0).of(x, output, 0.25)
    latent = (output.alpha * error).sum() / 2 / x[0].numel()
    l1 = (output.alpha.mean(-1) * output.codes.abs().sum(-1)).sum() / 2 / x[0].numel()
    torch.testing.assert_close(paper.image, mse)
    torch.testing.assert_close(paper.latent, 3 * latent)
    torch.testing.assert_close(paper.sparsity, 3 * 0.25 * l1)
    torch.testing.assert_close(paper.total, mse + 3 * latent + 3 * 0.25 * l1)
    assert LossSettings(lmbda=0.0).of(x, output, 0.25).sparsity == 0

    released = LossSettings(compat="official").of(x, output, 0.25)
    torch.testing.assert_close(released.image, mse)
    torch.testing.assert_close(released.total, mse + (output.alpha * error).mean())
    assert LossSettings(compat="official", lmbda=0.5).of(x, output, 0.25).sparsity > 0


def test_the_learning_rate_rises_and_falls() -> None:
    settings = OptimiserSettings(warm_up=0.1, last_learning_rate=0.2)
    assert settings.factor(0.0) == 0.01
    assert settings.factor(0.05) == pytest.approx(0.5)
    assert settings.factor(0.1) == pytest.approx(1.0)
    assert settings.factor(0.55) == pytest.approx(0.6), "half way down from 1 to 0.2"
    assert settings.factor(1.0) == pytest.approx(0.2)
    assert {OptimiserSettings().factor(share) for share in (0.0, 0.3, 1.0)} == {1.0}, "the released code's is constant"


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (LossSettings, "compat", "mse"),
        (LossSettings, "code_weight", -1.0),
        (LossSettings, "lmbda", float("nan")),
        (OptimiserSettings, "learning_rate", 0.0),
        (OptimiserSettings, "betas", (0.9, 1.0)),
        (OptimiserSettings, "betas", (0.9,)),
        (OptimiserSettings, "weight_decay", -0.1),
        (OptimiserSettings, "warm_up", 1.0),
        (OptimiserSettings, "last_learning_rate", 2.0),
    ],
)
def test_fields_are_checked(kind: type, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}: {field} must be"):
        kind(**{field: value})
