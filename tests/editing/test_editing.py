import itertools

import numpy as np
import pytest
import torch
from pictures import TINY, scene
from torch import Tensor

from scvae_fast.codes import SparseCodes
from scvae_fast.editing import (
    add_noise,
    atom_energies,
    code_latents,
    fill_smoothly,
    inpaint,
    interpolate,
    mix_codes,
    random_mask,
    recode,
    scale_atoms,
    with_threshold,
)
from scvae_fast.editing.rating import psnr
from scvae_fast.models import SCVAE
from scvae_fast.tiling import decode_tiled, encode_latents_tiled, encode_tiled, latents_of, reconstruct_tiled

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
    monkeypatch.setattr("scvae_fast.editing.coding._CELLS_AT_ONCE", 40)  # two rows of fifteen cells at a time
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


@pytest.mark.parametrize("size", SIZES)
def test_without_noise_the_reconstruction(model: SCVAE, size: tuple[int, int]) -> None:
    picture = scene(*size)
    assert torch.equal(add_noise(picture, 0, seed=3), picture)
    assert torch.equal(recode(model, picture), reconstruct_tiled(model, picture).x_hat)


def test_shifts_average_what_the_cells_of_each_shift_give(model: SCVAE) -> None:
    found = recode(model, A, scale=2, shifts=2)
    coarse = with_threshold(model, 2)
    each = []
    for top, left in itertools.product((0, 1), (0, 1)):
        # Beyond its edges a picture goes on with its edge pixels.
        rows, columns = (torch.arange(-first, side).clamp_min(0) for first, side in ((top, 23), (left, 30)))
        each.append(reconstruct_tiled(coarse, A[:, rows][:, :, columns]).x_hat[:, top:, left:])
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    for shifts in (0, 3):
        with pytest.raises(ValueError, match="recode: shifts must be 1 … 2"):
            recode(model, A, shifts=shifts)


def test_noise_has_its_deviation_and_its_seed() -> None:
    noise = add_noise(torch.zeros(3, 100, 100), 25, seed=0)
    assert float(noise.std()) == pytest.approx(25 / 127.5, rel=0.02)  # 30,000 draws: 0.4 %
    assert torch.equal(noise, add_noise(torch.zeros(3, 100, 100), 25, seed=0))
    assert not torch.equal(noise, add_noise(torch.zeros(3, 100, 100), 25, seed=1))


def test_a_higher_threshold(model: SCVAE) -> None:
    other = with_threshold(model, 3)
    x = torch.randn(50, TINY.n_features)
    with torch.no_grad():
        D, c = model.bottleneck.dictionary, model.bottleneck.step
        b, theta = x @ D / c, 3 * TINY.sparsity / c
        z = torch.nn.functional.softshrink(b, float(theta))
        for _ in range(TINY.n_iter):
            z = torch.nn.functional.softshrink(b + z - z @ D.T @ D / c, float(theta))
        torch.testing.assert_close(other.bottleneck(x)[0], z, atol=1e-5, rtol=1e-4)
    assert other.bottleneck.dictionary is model.bottleneck.dictionary
    assert (model.bottleneck.sparsity, other.config.sparsity) == (TINY.sparsity, pytest.approx(3 * TINY.sparsity))
    counts = [encode_tiled(with_threshold(model, scale), A).n_entries for scale in (0.5, 1, 4)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2]


@pytest.mark.parametrize("block", [1, 4])
def test_known_pixels_are_kept(model: SCVAE, block: int) -> None:
    missing = random_mask((23, 30), 0.4, block=block, seed=0)
    spoilt = torch.where(missing, torch.nan, A)
    seen: list[Tensor] = []
    filled = inpaint(model, spoilt, missing, iterations=3, on_step=seen.append)
    assert len(seen) == 3
    for picture in seen:
        assert torch.equal(picture[:, ~missing], A[:, ~missing])
    assert torch.isfinite(filled).all()
    before = torch.where(missing, recode(model, seen[1]), A)
    assert torch.equal(filled, before)


def test_masks_are_blocks_of_a_share() -> None:
    mask = random_mask((32, 48), 0.25, block=8, seed=1)
    assert float(mask.double().mean()) == 0.25
    blocks = mask.reshape(4, 8, 6, 8).double().mean((1, 3))
    assert set(blocks.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(mask, random_mask((32, 48), 0.25, block=8, seed=1))
    assert not torch.equal(mask, random_mask((32, 48), 0.25, block=8, seed=2))
    assert 0 < int(random_mask((3, 2), 0.99, seed=0).sum()) < 6


def test_smooth_filling_by_hand() -> None:
    picture = torch.arange(7.0).expand(3, 1, 7).clone()
    missing = torch.tensor([[False, False, True, True, True, True, False]])
    filled = fill_smoothly(picture, missing)
    # Pixels 2 and 5 see 1 and 6 beside them, 3 and 4 both of these within two pixels, and one more of 0 … 6.
    np.testing.assert_allclose(filled[0, 0].numpy(), [0, 1, 1, 1, 6, 6, 6], atol=1e-6)
    colour = torch.tensor([0.1, -0.3, 0.7])[:, None, None].expand(3, 9, 9)
    torch.testing.assert_close(fill_smoothly(colour, random_mask((9, 9), 0.9, seed=0)), colour.contiguous())


def test_psnr_by_hand() -> None:
    x, where = torch.zeros(3, 2, 2), torch.tensor([[True, False], [False, False]])
    x_hat = x.clone()
    x_hat[:, 0, 0] = 0.2
    assert psnr(x_hat, x, where) == pytest.approx(20)
    assert psnr(x_hat, x) == pytest.approx(20 + 10 * np.log10(4))
    assert psnr(torch.full((3, 2, 2), 5.0), torch.ones(3, 2, 2)) == float("inf"), "clipped"


def test_arguments_that_can_not_be(model: SCVAE) -> None:
    codes = encode_tiled(model, A)
    with pytest.raises(ValueError, match="first and second must be of one size"):
        interpolate(model, A, scene(23, 31), [0.5])
    with pytest.raises(ValueError, match="first and second must be of one shape"):
        mix_codes(codes, encode_tiled(model, scene(16, 16)), 0.5)
    with pytest.raises(ValueError, match=r"atoms must be 0 … 23, got 24"):
        scale_atoms(codes, {24: 0.0})
    with pytest.raises(ValueError, match="factors must be finite"):
        scale_atoms(codes, {2: float("nan")})
    with pytest.raises(ValueError, match=r"dictionary must be \(n, 24\)"):
        atom_energies(codes, torch.zeros(16, 20))
    with pytest.raises(ValueError, match="sigma must be a finite number"):
        add_noise(A, -1, seed=0)
    with pytest.raises(ValueError, match="scale must be a finite number"):
        recode(model, A, scale=-1)
    with pytest.raises(ValueError, match=r"latents must be \(16, h, w\)"):
        code_latents(model, torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match=r"missing must be a mask of the picture's size, \(23, 30\)"):
        inpaint(model, A, torch.zeros(23, 31, dtype=torch.bool))
    with pytest.raises(ValueError, match="missing must leave a pixel"):
        fill_smoothly(A, torch.ones(23, 30, dtype=torch.bool))
    with pytest.raises(ValueError, match="iterations must be 0 or more"):
        inpaint(model, A, torch.zeros(23, 30, dtype=torch.bool), iterations=-1)
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        random_mask((4, 4), 1.0, seed=0)
