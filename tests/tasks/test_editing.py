import numpy as np
import pytest
import torch
from pictures import TINY, scene

from scvae_fast.codes import SparseCodes
from scvae_fast.codes.tiling import decode_tiled, encode_latents_tiled, encode_tiled, latents_of, reconstruct_tiled
from scvae_fast.metrics.psnr import psnr
from scvae_fast.models import SCVAE
from scvae_fast.tasks.editing import (
    atom_energies,
    code_latents,
    interpolate,
    mix_codes,
    scale_atoms,
)

SIZES = [(16, 16), (23, 30)]  # one that goes whole, one in tiles
A, B = scene(23, 30, seed=1), scene(23, 30, seed=2)


@pytest.fixture(scope="module")
def model() -> SCVAE:
    torch.manual_seed(0)
    return SCVAE(TINY).eval()


@pytest.mark.parametrize("size", SIZES)
def test_interpolation_ends_in_the_reconstructions(model: SCVAE, size: tuple[int, int]) -> None:
    ends = scene(*size, seed=1), scene(*size, seed=2)
    found = interpolate(model, *ends, [0.0, 0.25, 1.0])
    for index, end in ((0, ends[0]), (2, ends[1])):
        rebuilt = reconstruct_tiled(model, end).x_hat
        assert torch.equal(found.by_codes[index], rebuilt)
        torch.testing.assert_close(found.by_latents[index], rebuilt, atol=1e-4, rtol=1e-4)
        assert torch.equal(found.by_pixels[index], end)
    torch.testing.assert_close(found.by_pixels[1], 0.75 * ends[0] + 0.25 * ends[1])


def test_mixed_codes_are_linear_in_the_latents(model: SCVAE) -> None:
    first, second = encode_tiled(model, A), encode_tiled(model, B)
    mixed = mix_codes(first, second, 0.3)
    expected = 0.7 * latents_of(model, first) + 0.3 * latents_of(model, second)
    torch.testing.assert_close(latents_of(model, mixed), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed.dense(), 0.7 * first.dense() + 0.3 * second.dense())


def test_coded_latents_are_the_codes(model: SCVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scvae_fast.tasks.editing.coding._CELLS_AT_ONCE", 40)  # two rows of fifteen cells at a time
    codes = code_latents(model, encode_latents_tiled(model, A))
    torch.testing.assert_close(codes.dense(), encode_tiled(model, A).dense(), atol=1e-4, rtol=1e-4)


def test_atoms_are_scaled_one_by_one(model: SCVAE) -> None:
    codes = encode_tiled(model, A)
    expected = codes.dense().clone()
    expected[..., 3] = 0
    expected[..., 5] *= -2
    torch.testing.assert_close(scale_atoms(codes, {3: 0.0, 5: -2.0}).dense(), expected, rtol=0, atol=0)
    kept = torch.zeros_like(expected)
    kept[..., 5] = codes.dense()[..., 5]
    torch.testing.assert_close(scale_atoms(codes, {5: 1.0}, others=0).dense(), kept, rtol=0, atol=0)


def test_without_atoms_zeros_are_decoded(model: SCVAE) -> None:
    empty = scale_atoms(encode_tiled(model, A), {}, others=0)
    assert empty.n_entries == 0
    zeros = SparseCodes.of(torch.zeros(12, 15, TINY.n_atoms))
    assert torch.equal(decode_tiled(model, empty, (23, 30)), decode_tiled(model, zeros, (23, 30)))


def test_energies_by_hand(model: SCVAE) -> None:
    codes, D = encode_tiled(model, A), model.bottleneck.dictionary.detach()
    each = torch.einsum("hwk,nk->hwnk", codes.dense().double(), D.double())
    torch.testing.assert_close(atom_energies(codes, D), each.square().sum((0, 1, 2)))


def test_psnr_by_hand() -> None:
    x = torch.zeros(3, 2, 2)
    x_hat = x.clone()
    x_hat[:, 0, 0] = 0.2
    assert psnr(x_hat, x) == pytest.approx(20 + 10 * np.log10(4))
    assert psnr(torch.full((3, 2, 2), 5.0), torch.ones(3, 2, 2)) == float("inf"), "clipped"


def test_invalid_arguments(model: SCVAE) -> None:
    codes = encode_tiled(model, A)
    with pytest.raises(ValueError, match="first and second must have the same size"):
        interpolate(model, A, scene(23, 31), [0.5])
    with pytest.raises(ValueError, match="first and second must have the same shape"):
        mix_codes(codes, encode_tiled(model, scene(16, 16)), 0.5)
    with pytest.raises(ValueError, match=r"atoms must be 0 … 23, got 24"):
        scale_atoms(codes, {24: 0.0})
    with pytest.raises(ValueError, match="factors must be finite"):
        scale_atoms(codes, {2: float("nan")})
    with pytest.raises(ValueError, match="multiplied by factors must be finite in float32"):
        scale_atoms(SparseCodes.of(torch.tensor([[[8.0]]])), {0: 1e38})
    with pytest.raises(ValueError, match=r"dictionary must be \(n, 24\)"):
        atom_energies(codes, torch.zeros(16, 20))
    with pytest.raises(ValueError, match=r"latents must be \(16, h, w\)"):
        code_latents(model, torch.zeros(3, 4, 4))
