import pytest
import torch
from pictures import TINY, photographs

from scvae_fast.data import CropSettings, RandomCrops
from scvae_fast.models import SCVAE, SCVAEConfig
from scvae_fast.training.start import start_as_linear_coder


def crops(size: int, count: int) -> torch.Tensor:
    data = RandomCrops(photographs(), CropSettings(size=size))
    return torch.stack([data[i] for i in range(count)])


def test_model_reconstructs_from_the_start() -> None:
    config = SCVAEConfig.preset("pictures64", ch=12, ch_mult=(1, 2, 4, 8), norm_out=False, norm_groups=4, lmbda=0.02)
    model, x = SCVAE(config).eval(), crops(64, 12)
    start_as_linear_coder(model, x)
    with torch.no_grad():
        output = model(x)
    left = (output.x_hat - x).square().mean() / (x - x.mean((2, 3), keepdim=True)).square().mean()
    assert left < 0.1
    assert (output.codes != 0).float().mean() < 0.4


def test_components_are_orthonormal_and_go_along_distinct_atoms() -> None:
    model = SCVAE(TINY)
    start_as_linear_coder(model, crops(16, 16))
    weight = model.encoder.down[0].downsample.conv.weight[:, :3].flatten(1)  # (6, 3 · 9): all six channels are used
    torch.testing.assert_close(weight @ weight.T, torch.eye(6), atol=1e-5, rtol=0)
    along = model.encoder.conv_out.weight[:, :6, 1, 1]  # (n, 6)
    matches = (along[:, :, None] == model.bottleneck.dictionary[:, None, :]).all(0)  # (6, K)
    assert matches.sum(1).tolist() == [1] * 6
    assert len(matches.int().argmax(1).unique()) == 6


def test_everything_still_learns() -> None:
    model, x = SCVAE(TINY), crops(16, 8)
    start_as_linear_coder(model, x)
    (model(x).x_hat - x).square().mean().backward()
    weights = dict(model.named_parameters())
    for name in (
        "encoder.conv_in.weight",
        "encoder.conv_out.weight",
        "decoder.conv_out.weight",
        "bottleneck.dictionary",
    ):
        assert weights[name].grad.abs().max() > 0, name
    assert weights["decoder.up.0.block.0.conv2.weight"].grad.abs().max() > 0


def test_models_that_are_not_linear_or_too_narrow_are_refused() -> None:
    with pytest.raises(ValueError, match="norm_out=False"):
        start_as_linear_coder(SCVAE(SCVAEConfig.preset("pictures64", norm_out=True)), crops(64, 1))
    with pytest.raises(ValueError, match="at least 3 channels"):
        start_as_linear_coder(SCVAE(SCVAEConfig(**{**TINY.to_dict(), "ch": 2})), crops(16, 1))
