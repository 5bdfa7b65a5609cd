"""VQGAN's encoder and decoder, and their blocks. The reference cases of test_golden.py hold their numbers."""

import pytest
import torch
import torch.nn.functional as F

from scvae_fast.models import Decoder, Encoder
from scvae_fast.models.blocks import AttnBlock, Downsample, ResnetBlock, Upsample, group_norm
from scvae_fast.ops import normalisation

WIDTHS = {"ch": 8, "ch_mult": (1, 2, 3), "num_res_blocks": 2, "attn_levels": (1,), "norm_groups": 4}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Encoder(3, 5, **WIDTHS)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return Decoder(5, 3, **WIDTHS)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (20, 4), (64, 64)])
def test_any_multiple_of_the_stride(encoder, decoder, height, width):
    x = torch.randn(2, 3, height, width)
    latents = encoder(x)
    assert latents.shape == (2, 5, height // 4, width // 4)
    assert decoder(latents).shape == x.shape


@pytest.mark.parametrize("shape", [(1, 3, 6, 8), (1, 3, 8, 7), (1, 3, 0, 8), (1, 3, 2, 4)])
def test_sizes_that_the_stride_does_not_divide(encoder, shape):
    message = f"^Encoder: height and width of x must be positive multiples of 4, got {shape[2]} x {shape[3]}"
    with pytest.raises(ValueError, match=message):
        encoder(torch.zeros(shape))


def test_wrong_pictures(encoder):
    with pytest.raises(ValueError, match=r"Encoder: x must be \(B, 3, H, W\), got \(1, 1, 8, 8\)"):
        encoder(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"Encoder: x must be \(B, 3, H, W\), got \(3, 8, 8\)"):
        encoder(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match=r"Encoder: x must be floating point .* got torch.uint8"):
        encoder(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_wrong_latents(decoder):
    with pytest.raises(ValueError, match=r"Decoder: latents must be \(B, 5, h, w\), got \(1, 4, 2, 2\)"):
        decoder(torch.zeros(1, 4, 2, 2))


def test_an_empty_batch(encoder, decoder):
    latents = encoder(torch.zeros(0, 3, 8, 8))
    assert latents.shape == (0, 5, 2, 2)
    assert decoder(latents).shape == (0, 3, 8, 8)


def test_attention_is_where_it_is_asked_for(encoder, decoder):
    for levels in (encoder.down, decoder.up):
        assert [len(level.attn) > 0 for level in levels] == [False, True, False]
    assert encoder.mid.attn_1 is not None
    without = Encoder(3, 5, **WIDTHS, mid_attention=False)
    assert not [name for name in without.state_dict() if "mid.attn" in name]


def test_attention_is_softmax_of_scaled_products():
    torch.manual_seed(0)
    block = AttnBlock(6, norm_groups=3).double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    h = block.norm(x)
    q, k, v = (project(h).flatten(2) for project in (block.q, block.k, block.v))  # (B, C, H·W)
    weights = (q.transpose(1, 2) @ k / 6**0.5).softmax(-1)  # (B, query, key)
    attended = (v @ weights.transpose(1, 2)).view(x.shape)
    torch.testing.assert_close(block(x), x + block.proj_out(attended))


def test_residual_block_is_two_convolutions_of_swish(monkeypatch):
    monkeypatch.setattr(normalisation, "_WORTHWHILE", 0)
    block = ResnetBlock(6, 8, dropout=0.0, norm_groups=4)
    x = torch.randn(2, 6, 5, 7)
    h = block.conv1(F.silu(block.norm1(x)))
    expected = block.nin_shortcut(x) + block.conv2(F.silu(block.norm2(h)))
    torch.testing.assert_close(block(x), expected)
    names = {name.rpartition(".")[0] for name, _ in block.named_parameters()}
    assert names == {"norm1", "conv1", "norm2", "conv2", "nin_shortcut"}


def test_downsampling_pads_right_and_bottom():
    block = Downsample(1)
    torch.nn.init.ones_(block.conv.weight)
    torch.nn.init.zeros_(block.conv.bias)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    expected = torch.tensor([[[[45.0, 39.0], [66.0, 50.0]]]])
    assert torch.equal(block(x), expected)


def test_upsampling_repeats_before_it_convolves():
    block = Upsample(1)
    torch.nn.init.dirac_(block.conv.weight)
    torch.nn.init.zeros_(block.conv.bias)
    x = torch.randn(1, 1, 2, 3)
    torch.testing.assert_close(block(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_upsampling_in_one_step_is_the_same_as_in_two():
    block = Upsample(3).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    in_two = block.conv(torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest"))
    weights = torch.randn_like(in_two)
    arguments = (x, *block.parameters())
    torch.testing.assert_close(block(x), in_two)
    expected = torch.autograd.grad(in_two, arguments, weights)
    torch.testing.assert_close(torch.autograd.grad(block(x), arguments, weights), expected)


def test_the_last_normalisation_takes_the_contrast_away():
    x = torch.randn(1, 3, 8, 8)
    ratios = []
    for norm_out in (True, False):
        torch.manual_seed(0)
        encoder = Encoder(3, 5, **WIDTHS, norm_out=norm_out)
        ratios.append((encoder(1e6 * x).std() / encoder(1e3 * x).std()).item())
    assert ratios[0] == pytest.approx(1, rel=0.1)
    assert ratios[1] == pytest.approx(1e3, rel=0.1)


@pytest.mark.parametrize(("channels", "groups"), [(32, 32), (64, 32), (48, 16), (40, 8), (33, 1), (7, 1)])
def test_groups_are_the_greatest_common_divisor(channels, groups):
    assert group_norm(channels, 32).num_groups == groups


def test_channels_last_goes_through(encoder, decoder):
    x = torch.randn(2, 3, 8, 8)
    expected = decoder(encoder(x))
    for module in (encoder, decoder):
        module.to(memory_format=torch.channels_last)
    actual = decoder(encoder(x.to(memory_format=torch.channels_last)))
    assert actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual, expected)
